"""The text that is traced, looked at before anything is loaded for it."""

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.samples import Sample

#: What the traced text stands under in a pass.
TRACED = "traced"


class TextError(InputError):
    """This text cannot be traced; another one can."""


def checked_query(prompt: str, answer: str | None) -> Sample:
    """The text that is traced, with "" for an answer that the model is to give.

    Raises:
        TextError: a text is empty, or holds half of a character.
    """
    if not prompt.strip():
        raise TextError("the prompt is empty; give the text that the model is asked with.")
    if answer is not None and not answer.strip():
        raise TextError("the answer is empty, so it has no gradient; give a text, or none for the model's own.")
    for name, text in (("prompt", prompt), ("answer", answer or "")):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TextError(f"the {name} holds half of a character at {error.start + 1}; mend it.") from error
    return Sample(TRACED, prompt, answer or "")
