"""Batched greedy answers against transformers' own `generate`, one prompt at a time."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from gradsim_assets.core.datasets.generation.answers import Generated, generate_answers
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.tokenization import ChatTokenizer
from gradsim_assets.core.samples import Sample

CONTEXT = 64
VOCABULARY = 256
EOS = 255
#: A random model hardly ever hits upon one token; with several end tokens answers end at many lengths.
ENDS = [EOS, 3, 17, 80, 200]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads on models this small are many times slower, not faster."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer() -> ChatTokenizer:
    """Every character is a token and every token a character: equal texts are equal tokens."""
    vocabulary = {chr(0x4E00 + i): i for i in range(VOCABULARY - 1)} | {"<eos>": EOS}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocab=vocabulary, merges=[])), eos_token="<eos>"
    )
    fast.backend_tokenizer.decoder = decoders.Fuse()
    return ChatTokenizer(fast, "{% for m in messages %}{{ m['content'] }}{% endfor %}")


def build(architecture: str) -> torch.nn.Module:
    """A random model whose answers end at different lengths: weights are wide, so that its text does not settle."""
    torch.manual_seed(7)
    size = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    tokens = {"eos_token_id": ENDS, "bos_token_id": None, "pad_token_id": None}
    if architecture == "llama":
        config = LlamaConfig(
            **size,
            **tokens,
            intermediate_size=64,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            initializer_range=0.3,
        )
        model = LlamaForCausalLM(config)
    elif architecture == "gpt2":  # learned positions: none exist beyond the context
        config = GPT2Config(
            vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=CONTEXT, **tokens, initializer_range=0.3
        )
        model = GPT2LMHeadModel(config)
    else:  # parallel blocks, partial rotary embedding, untied head
        config = GPTNeoXConfig(
            **size, **tokens, intermediate_size=64, max_position_embeddings=CONTEXT, initializer_range=0.3
        )
        model = GPTNeoXForCausalLM(config)
    return model.eval()


@pytest.fixture(scope="module", params=["llama", "gpt2", "gptneox"])
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    return build(request.param)


def prompts(count: int) -> list[Sample]:
    """Prompts of 3 to 60 tokens, in no order of length."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(3, 61, (count,), generator=generator).tolist()
    texts = [
        "".join(chr(0x4E00 + c) for c in torch.randint(20, 70, (n,), generator=generator).tolist()) for n in lengths
    ]
    return [Sample(f"s{i}", text, "-") for i, text in enumerate(texts)]


def one_by_one(model: torch.nn.Module, tokenizer: ChatTokenizer, sample: Sample) -> Generated:
    prompt = torch.tensor(tokenizer.prompt_ids(sample))[None]
    length = prompt.shape[1]
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=CONTEXT - length,
        eos_token_id=ENDS,
        pad_token_id=0,
    )[0, length:].tolist()
    ended = output[-1] in ENDS
    output = output[:-1] if ended else output
    return Generated(
        sample.id, tokenizer.tokenizer.decode(output, skip_special_tokens=True), length, len(output), not ended
    )


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return prompts(32)


@pytest.fixture(scope="module")
def expected(model: torch.nn.Module, tokenizer: ChatTokenizer, samples: list[Sample]) -> list[Generated]:
    answers = [one_by_one(model, tokenizer, sample) for sample in samples]
    # The comparison means something only if answers end in both ways, at many lengths.
    assert {answer.truncated for answer in answers} == {True, False}
    assert len({answer.completion_tokens for answer in answers}) > 5
    return answers


def answer(model, tokenizer, samples, **options):
    return generate_answers(model, tokenizer, samples, **{"max_positions": CONTEXT, "device": "cpu", **options})


@pytest.mark.parametrize("batch_size", [1, 5, None])
def test_batches_give_the_answers_of_one_by_one_decoding(model, tokenizer, samples, expected, batch_size):
    assert answer(model, tokenizer, samples, batch_size=batch_size) == expected


def test_exact_ties_are_decided_as_in_one_by_one_decoding(tokenizer, samples):
    """Every logit occurs twice, so each step is a tie that rounding decides."""
    model = build("llama")
    with torch.no_grad():
        model.lm_head.weight[128:] = model.lm_head.weight[:128]
    few = samples[:8]
    expected = [one_by_one(model, tokenizer, sample) for sample in few]
    assert answer(model, tokenizer, few, batch_size=4) == expected


def test_decoding_settings_of_the_model_do_not_leak_in(tokenizer, samples):
    model = build("llama")
    plain = answer(model, tokenizer, samples[:6])
    model.generation_config.update(
        do_sample=True, temperature=5.0, repetition_penalty=9.0, no_repeat_ngram_size=1, max_new_tokens=1
    )
    assert answer(model, tokenizer, samples[:6]) == plain
    # ... but its end tokens count: an instruction model may end its turn with another token than EOS.
    model.generation_config.eos_token_id = EOS
    assert answer(model, tokenizer, samples[:6]) != plain


def test_batches_are_halved_when_memory_runs_out(tokenizer, samples):
    model = build("gpt2")
    rows, said = [], []
    expected = answer(model, tokenizer, samples)

    def out_of_memory(_, args, kwargs):
        rows.append(len(kwargs["input_ids"]))
        # In the middle of decoding too: what has ended by then is not lost, the rest starts anew.
        if rows[-1] > 6 or (rows[-1] > 3 and len(rows) > 20):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = model.register_forward_pre_hook(out_of_memory, with_kwargs=True)
    assert answer(model, tokenizer, samples, batch_size=24, log=said.append) == expected
    hook.remove()
    assert said[:2] == [
        "Out of memory with 24 answers at a time; going on with 12.",
        "Out of memory with 12 answers at a time; going on with 6.",
    ]
    assert max(rows[rows.index(6) :]) == 6
    assert "going on with 3" in said[2]


def test_one_row_beyond_the_memory_is_told(tokenizer, samples):
    model = build("gpt2")

    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    model.register_forward_pre_hook(out_of_memory, with_kwargs=True)
    with pytest.raises(InputError, match=r"sample s\d+: the memory of cpu does not suffice"):
        answer(model, tokenizer, samples)


def test_errors_that_are_no_lack_of_memory_are_not_swallowed(tokenizer, samples):
    model = build("gpt2")

    def fault(*_):
        raise RuntimeError("device-side assert")

    model.register_forward_pre_hook(fault, with_kwargs=True)
    with pytest.raises(RuntimeError, match="device-side assert"):
        answer(model, tokenizer, samples)


def test_a_stopped_run_goes_on_where_it_stopped(tokenizer, samples, tmp_path: Path):
    model, store = build("llama"), tmp_path / "answers" / "shard.jsonl"
    expected = answer(model, tokenizer, samples)

    class StopError(Exception):
        pass

    def stop(done: int, total: int, note: str) -> None:
        if done == 10:
            raise StopError

    with pytest.raises(StopError):
        answer(model, tokenizer, samples, batch_size=4, store=store, progress=stop)
    lines = store.read_bytes().splitlines()
    assert len(lines) == 10
    store.write_bytes(b"\n".join(lines)[:-7])  # the kill came in the middle of the tenth
    said, reports = [], []
    again = answer(
        model,
        tokenizer,
        samples,
        batch_size=4,
        store=store,
        log=said.append,
        progress=lambda *args: reports.append(args),
    )
    assert again == expected
    assert said == [f"9 of 32 answers were finished before and are taken from {store}."]
    assert [done for done, _, _ in reports][-23:] == list(range(10, 33))
    assert reports[-1][1] == 32
    assert reports[-1][2].endswith("tokens/s")
    # Nothing is appended to the torn line: it stays alone, and all others are whole.
    assert answer(model, tokenizer, samples, store=store, log=said.append) == expected
    assert said[-1].startswith("32 of 32")


def test_stored_answers_are_those_of_the_same_model_and_prompt(tokenizer, samples, tmp_path: Path):
    model, store = build("llama"), tmp_path / "shard.jsonl"
    few, said = samples[:3], []

    def stored(**options) -> int:
        said.clear()
        answer(model, tokenizer, options.pop("samples", few), store=store, log=said.append, **options)
        return int(said[0].split()[0]) if said else 0

    assert stored(identity="revision 1") == 0
    assert stored(identity="revision 1") == 3
    assert stored(identity="revision 2") == 0
    assert stored(identity="revision 1", max_positions=CONTEXT - 1) == 0
    changed = [few[0], Sample(few[1].id, few[1].user + few[0].user[:2], "-")]
    assert stored(identity="revision 1", samples=changed) == 1


def test_a_prompt_that_fills_the_context_is_named(tokenizer):
    model = build("gpt2")
    full = Sample("lima_7", chr(0x4E30) * CONTEXT, "-")
    with pytest.raises(
        InputError, match=r"sample lima_7: its prompt has 64 tokens and fills the model's context of 64"
    ):
        answer(model, tokenizer, [full])
    almost = answer(model, tokenizer, [Sample("lima_8", full.user[:-1], "-")])[0]
    assert almost.prompt_tokens == 63
    assert almost.completion_tokens + (not almost.truncated) == 1


def test_the_model_is_left_in_its_mode(tokenizer, samples):
    model = build("gpt2").train()  # with dropout in force answers would be random
    first, second = (answer(model, tokenizer, samples[:4]) for _ in range(2))
    assert first == second
    assert model.training
