"""`lima`: the originals, out of LIMA on the hub or a file."""

from typing import Any

from gradsim_assets.core.datasets.sample_files import read_rows
from gradsim_assets.core.errors import InputError, ServiceError, first_line
from gradsim_assets.core.healing import may_heal
from gradsim_assets.core.samples import Sample, parse_samples

#: Stands for LIMA on the hub among the sources of originals.
LIMA_HUB = "lima"

LIMA_REPO = "allenai/tulu-v2-sft-mixture"


def load_originals(source: str, count: int = 0) -> list[Sample]:
    """The originals of a source ("lima" or a file) in order, the first `count` of them (0: all).

    Raises:
        InputError: the source is missing or malformed, or a sample is unsound; the sentence names file and line.
        ServiceError: the hub does not answer.
    """
    if source == LIMA_HUB:
        originals = parse_samples(_lima_from_hub(), LIMA_REPO)
    else:
        originals = parse_samples(read_rows(source, ("messages",)), source)
    return originals[:count] if count else originals


def _lima_from_hub() -> list[dict[str, Any]]:
    """The single-turn samples of LIMA out of the Tulu-v2 mixture."""
    from datasets import load_dataset

    try:
        mixture = load_dataset(LIMA_REPO, split="train")
    except Exception as error:  # the hub client has no common base for its errors
        kind = ServiceError if may_heal(error) else InputError
        raise kind(
            f"{LIMA_REPO} could not be loaded from the hub ({first_line(error)}); check the network and HF_TOKEN, or name a "
            "local file as data.originals."
        ) from error
    mixture = mixture.filter(
        lambda names, messages: [name == "lima" and len(m) == 2 for name, m in zip(names, messages, strict=True)],
        input_columns=["dataset", "messages"],
        batched=True,
    )
    return [{"id": row["id"], "messages": row["messages"]} for row in mixture]
