"""A tokenizer to which every token is a character: equal texts are equal tokens."""

from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from gradsim_assets.core.models.tokenization import ChatTokenizer

#: Messages one after the other, with nothing between or behind them.
PLAIN = "{% for m in messages %}{{ m['content'] }}{% endfor %}"

_FIRST = 0x4E00


def character_tokenizer(vocabulary: int, template: str = PLAIN) -> ChatTokenizer:
    """Token i is the i-th character behind U+4E00; the last one is EOS."""
    tokens = {chr(_FIRST + i): i for i in range(vocabulary - 1)} | {"<eos>": vocabulary - 1}
    fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab=tokens, merges=[])), eos_token="<eos>")
    fast.backend_tokenizer.decoder = decoders.Fuse()
    return ChatTokenizer(fast, template)


def text_of(tokens: list[int]) -> str:
    """The text of tokens."""
    return "".join(chr(_FIRST + token) for token in tokens)
