"""What a shell completes: names of tables, models, samples and components, from what this home has."""

from collections.abc import Callable, Iterable
from functools import wraps

import click
from click.shell_completion import CompletionItem

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _completes(names: Callable[[click.Context], Iterable[str]]) -> Complete:
    """A completion out of these names; nothing where they cannot be had, since a shell has no place for an error."""

    @wraps(names)
    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            found = [name for name in names(context) if name.startswith(incomplete)]
        except Exception:  # a home that is not there, a configuration with a fault
            return []
        return [CompletionItem(name) for name in dict.fromkeys(found)]

    return complete


@_completes
def tables(context: click.Context) -> Iterable[str]:
    """Names of tables, as the UI has them."""
    from gradsim_assets.core.tables.table_names import PATHS

    return sorted(PATHS)


@_completes
def models(context: click.Context) -> Iterable[str]:
    """Ids of the models of gradsim.toml, and of those that there are tables of."""
    from gradsim_assets.configuration import load_settings
    from gradsim_assets.core.partition_keys import model_id_of
    from gradsim_assets.core.tables.schemas import PARAMETERS_PER_COMPONENT
    from gradsim_assets.core.tables.storage import Tables

    settings = load_settings()
    there = Tables(settings.tables).sizes([PARAMETERS_PER_COMPONENT.name])
    return [*settings.configured, *settings.trajectories, *sorted(model_id_of(str(place.model)) for place in there)]


@_completes
def samples(context: click.Context) -> Iterable[str]:
    """Ids of the originals."""
    from gradsim_assets.configuration import load_settings
    from gradsim_assets.core.tables.schemas import LIMA
    from gradsim_assets.core.tables.storage import Tables

    return list(Tables(load_settings().tables).scan([LIMA.name]).select("id").collect()["id"])


@_completes
def methods(context: click.Context) -> Iterable[str]:
    """Ways of comparing gradients: by name, or by a component of any model that there are sizes of.

    Which model it is a shell does not say as long as the option lacks its value.
    """
    from gradsim_assets.configuration import load_settings
    from gradsim_assets.core.tables.schemas import PARAMETERS_PER_COMPONENT
    from gradsim_assets.core.tables.storage import Tables

    settings = load_settings()
    names = ["cosine", "dot_product", *settings.preconditioners.methods]
    tables = Tables(settings.tables)
    for place in tables.sizes([PARAMETERS_PER_COMPONENT.name]):
        names += tables.read([PARAMETERS_PER_COMPONENT.name], place)["component"].to_list()
    return names
