"""A conversation with all that one can have, for tests of whoever reads samples."""

from typing import Any

from gradsim_assets.core.samples import Sample

TOOLS = [
    {
        "type": "function",
        "function": {"name": "depth", "description": "Depth of a river", "parameters": {"type": "object"}},
    }
]

CALL = {"type": "function", "id": "c1", "function": {"name": "depth", "arguments": {"river": "Rhine"}}}

#: Ten turns of a user and an assistant, and what a system and a tool say.
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "You know the rivers of the country."},
    {"role": "user", "content": "How deep is the river that runs through the old town?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "9 metres", "tool_call_id": "c1"},
    {"role": "assistant", "content": "It is about nine metres deep in the middle of the town."},
    {"role": "user", "content": "Which towns lie on the banks of that same river?"},
    {"role": "assistant", "content": "Basel, Cologne and Rotterdam are the largest towns on its banks."},
    {"role": "user", "content": "Please tell me where the water of it comes from."},
    {"role": "assistant", "content": "Its water comes from glaciers and lakes high up in the Alps."},
    {"role": "user", "content": "And where does all of that water go in the end?"},
    {"role": "assistant", "content": "All of it goes into the North Sea, past the harbour of Rotterdam."},
]


def conversation(sample_id: str = "c") -> Sample:
    """The conversation as a sample."""
    return Sample.of(sample_id, MESSAGES, TOOLS)


def plain(sample_id: str, *texts: str) -> Sample:
    """A conversation of texts by user and assistant in turn."""
    roles = ("user", "assistant")
    return Sample.of(sample_id, [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)])
