"""The ids of models that commands take."""

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from gradsim_assets.cli.completion import models
from gradsim_assets.configuration import registered_id
from gradsim_assets.core.errors import InputError


class ModelId(click.ParamType):
    """A hub id, `id@revision`, or a local folder, whose relative path begins at the working directory."""

    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return registered_id(value, Path())
        except InputError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return models(ctx, param, incomplete)


MODEL_ID = ModelId()
