"""`gradsim init`: a first gradsim.toml, out of a few questions."""

import json
from pathlib import Path

import click

from gradsim_assets.core.errors import InputError, ServiceError

_FILE = Path("gradsim.toml")

_TEXT = """\
# Written by `gradsim init`; every key is documented in gradsim.example.toml.

[data]
# The samples that the model was fine-tuned on: {notes}.
originals = {originals}
# Their rewordings: a file with the same ids, or "openai" (asked of a chat model; OPENAI_API_KEY, see [paraphraser]).
paraphrases = {paraphrases}
# The first N originals only, for a first look; 0 = all.
samples = 0
# What the loss of a conversation is on: assistant (all answers), last, or all (every token).
loss_on = "assistant"

[[models]]
# hub id, hub id@revision, or a folder
id = {model}
# tulu | model (its tokenizer's own) | the text of a Jinja template: the one that the model was fine-tuned with
chat_template = {template}
"""


@click.command()
@click.option(
    "--data", help="What data.originals may be: a file, a folder of `datasets`, owner/name:split, lima, demo."
)
@click.option("--paraphrases", help='A file, "openai", or "demo".')
@click.option("--model", help="Hub id or folder.")
@click.option("--template", help='"tulu", "model", or the text of a Jinja template.')
def init(data: str | None, paraphrases: str | None, model: str | None, template: str | None) -> None:
    """Write a commented gradsim.toml into this folder; asks for what the options do not say.

    \b
    Examples:
      gradsim init
      gradsim init --data my_samples.jsonl --paraphrases openai --model amd/AMD-OLMo-1B-SFT --template model
    """
    if _FILE.exists():
        raise InputError(f"{_FILE.absolute()} is there already; edit it, or remove it first.")
    data = data or click.prompt("Samples that the model was fine-tuned on", default="demo")
    notes = _notes(data)
    for note in notes:
        click.echo(f"  {note}")
    at_first = "demo" if data == "demo" else "openai"
    paraphrases = paraphrases or click.prompt("Their paraphrases: a file, or openai", default=at_first)
    model = model or click.prompt("Model: hub id or folder", default="demo")
    template = template or click.prompt(
        "Chat template: tulu, or model for its own", default="tulu" if model == "demo" else "model"
    )
    written = {"originals": data, "paraphrases": paraphrases, "model": model, "template": template}
    quoted = {name: json.dumps(value, ensure_ascii=False) for name, value in written.items()}
    _FILE.write_text(_TEXT.format(notes="; ".join(notes).replace("\n", " "), **quoted), encoding="utf-8")
    click.echo(f"{_FILE.absolute()} is written. `gradsim check` looks at the samples, `gradsim run {model}` computes.")


def _notes(data: str) -> list[str]:
    """How samples will be read; a source that cannot be read now is refused."""
    from gradsim_assets.configuration import DataSettings
    from gradsim_assets.resources.sample_sources import SampleSources

    sources = SampleSources(originals=data, paraphrases=DataSettings().paraphrases, samples=0)
    try:
        originals = sources.read_originals()
    except ServiceError as error:
        return [f"not looked at ({error})"]
    return [*originals.notes, f"{len(originals.samples)} samples"]
