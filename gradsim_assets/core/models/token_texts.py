"""The texts of single tokens, such that all together are the text of the whole."""

from collections.abc import Sequence

from gradsim_assets.core.models.tokenization import ChatTokenizer


def token_texts(tokenizer: ChatTokenizer, token_ids: Sequence[int]) -> list[str]:
    """The text of every token, such that all of them together are the text of the whole.

    A character of several tokens stands with the last of them. Each token is decoded behind those of the last whole
    piece alone; where a tokenizer lets more than that decide what a token says, behind all before it.
    """
    whole = tokenizer.decode(token_ids, special_tokens=True)
    found = _behind_the_last_piece(tokenizer, token_ids)
    if "".join(found) == whole:
        return found
    return _behind_all(tokenizer, token_ids, whole)


def _behind_the_last_piece(tokenizer: ChatTokenizer, token_ids: Sequence[int]) -> list[str]:
    """In time that grows with the number of tokens."""
    found: list[str] = []
    known: dict[tuple[int, ...], str] = {}
    start = read = 0  # tokens from `start` to `read` are the last whole piece
    said = ""  # what they say
    for end in range(1, len(token_ids) + 1):
        text = tokenizer.decode(token_ids[start:end], special_tokens=True)
        if text.endswith("\ufffd"):
            found.append("")
            continue
        found.append(text[len(said) :])
        start, read = read, end
        piece = tuple(token_ids[start:read])
        if piece not in known:
            known[piece] = tokenizer.decode(piece, special_tokens=True)
        said = known[piece]
    return found


def _behind_all(tokenizer: ChatTokenizer, token_ids: Sequence[int], whole: str) -> list[str]:
    """In time that grows with the square of it: what a token adds to the length of the text, in the text as it is at its end."""
    found, said = [], 0
    for end in range(1, len(token_ids) + 1):
        text = tokenizer.decode(token_ids[:end], special_tokens=True)
        upto = said if text.endswith("\ufffd") else max(said, len(text))
        found.append(whole[said:upto])
        said = upto
    return [*found[:-1], found[-1] + whole[said:]] if found else []
