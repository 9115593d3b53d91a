"""Texts of single tokens: all together are the text of the whole, whatever a tokenizer does with spaces and characters."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gradsim_assets.core.models.token_texts import token_texts
from gradsim_assets.core.models.tokenization import ChatTokenizer

TEXT = "How long? Seven minutes 🥚, then  wait.\n\nDas dauert länger: 日本語 and ​."


def byte_level():
    """As those of GPT-2 and OLMo: bytes, a space stands before its word."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={sign: n for n, sign in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def llama_like():
    """As that of Llama 2: what is not known falls back to bytes, and the space that a text begins with is left out."""
    signs = sorted({*"▁".join(TEXT.split(" ")), "▁"} - set("🥚日"))
    vocab = {**{f"<0x{byte:02X}>": byte for byte in range(256)}, **{sign: 256 + n for n, sign in enumerate(signs)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def merging():
    """One that says a word in capitals behind a sign that stands before it, which no window of two tokens shows."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace("abc", "XYZ")])
    return tokenizer


def chat(tokenizer):
    return ChatTokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="."))


CASES = {"byte_level": (byte_level, TEXT), "llama_like": (llama_like, TEXT), "merging": (merging, "a b c a b c b")}


@pytest.mark.parametrize(("make", "text"), CASES.values(), ids=CASES)
def test_pieces_are_the_text(make, text):
    tokenizer = chat(make())
    ids = tokenizer.tokenizer(text)["input_ids"]
    found = token_texts(tokenizer, ids)
    assert len(found) == len(ids)
    assert "".join(found) == tokenizer.decode(ids, special_tokens=True)
    assert not any("\ufffd" in piece for piece in found)


def test_long_texts_are_decoded_a_few_tokens_at_a_time():
    class Counting(ChatTokenizer):
        decoded = 0

        def decode(self, tokens, special_tokens=False):
            self.decoded += len(tokens)
            return super().decode(tokens, special_tokens)

    tokenizer = Counting(PreTrainedTokenizerFast(tokenizer_object=byte_level(), eos_token="."))
    ids = tokenizer.tokenizer(TEXT * 20)["input_ids"]
    token_texts(tokenizer, ids)
    assert tokenizer.decoded < 8 * len(ids), "characters here have up to four tokens"
