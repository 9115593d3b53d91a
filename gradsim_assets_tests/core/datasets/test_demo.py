"""The embedded default: a sound dataset, and a recipe that gives the same model every time."""

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from gradsim_assets.core.candidates.bm25 import Retriever
from gradsim_assets.core.datasets.text_overlap import overlaps
from gradsim_assets.core.models.encoded_sample import IGNORED
from gradsim_assets.core.models.tokenization import ChatTokenizer
from gradsim_assets.core.samples import check_variants, parse_samples
from gradsim_assets.demo import data
from gradsim_assets.demo.adapter import adapter_hash
from gradsim_assets.demo.model import EOS, PAD, RECIPE, TURNS, build_demo_model, content_hash, train_tokenizer
from gradsim_assets.demo.trained import weights_of

# The real recipe with fewer steps: the tests ask whether building is sound, not whether the model is good.
SHORT = dataclasses.replace(RECIPE, steps=4, warmup=2)


def folders(path: Path) -> list[Path]:
    """What lies there beside locks."""
    return [one for one in path.iterdir() if one.is_dir()]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def originals():
    return parse_samples(data.load_originals(), "demo originals")


@pytest.fixture(scope="module")
def paraphrases():
    return parse_samples(data.load_paraphrases(), "demo paraphrases")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    steps = []
    root = tmp_path_factory.mktemp("demo")
    folder = build_demo_model(root, progress=lambda done, total: steps.append((done, total)), recipe=SHORT)
    return folder, steps


def test_dataset_has_enough_sound_samples_with_a_paraphrase_each(originals, paraphrases):
    assert len(originals) >= 64
    assert [sample.id for sample in originals] == [sample.id for sample in paraphrases]
    check_variants(paraphrases, originals, "demo paraphrases")


def test_ids_have_gaps_as_lima_has(originals):
    numbers = [int(sample.id.removeprefix("demo_")) for sample in originals]
    assert numbers == sorted(numbers)
    assert numbers[-1] >= len(numbers)


def test_paraphrases_reword_prompt_and_answer(originals, paraphrases):
    for original, paraphrase in zip(originals, paraphrases, strict=True):
        assert original.user != paraphrase.user
        assert original.assistant != paraphrase.assistant
    assert len({sample.user for sample in (*originals, *paraphrases)}) == 2 * len(originals)


def test_dataset_is_varied(originals):
    answers = [sample.assistant for sample in originals]
    assert sum("```" in answer for answer in answers) >= 5, "code"
    assert sum("| ---" in answer for answer in answers) >= 2, "tables"
    assert sum(not answer.isascii() for answer in answers) >= 10, "non-ASCII"
    assert any("\u4e00" <= character <= "\u9fff" for answer in answers for character in answer), "CJK"
    assert max(len(answer.split()) for answer in answers) >= 100, "a long answer"
    assert min(len(answer.split()) for answer in answers) <= 25, "a short answer"


def test_candidates_are_look_alikes_that_prompts_and_texts_alone_mistake(originals, paraphrases):
    retriever = Retriever(originals)
    candidates = [[one.index for one in retriever.candidates(variant, 5)] for variant in paraphrases]
    own = np.arange(len(originals))
    assert 0.2 < np.mean([found[0] for found in candidates] == own) < 0.5, "BM25 of the prompts"
    variant, original = np.repeat(own, 5), np.array(candidates).ravel()
    answers = [[sample.assistant for sample in samples] for samples in (paraphrases, originals)]
    overlap = overlaps(*answers, variant, original).reshape(-1, 5)
    best = original.reshape(-1, 5)[own, overlap.argmax(axis=1)]
    assert 0.5 < np.mean(best == own) < 0.95, "overlap of the answers"


def test_fingerprint_covers_every_text(monkeypatch, tmp_path):
    before = data.fingerprint(), content_hash()
    changed = tmp_path / "samples.jsonl"
    changed.write_text(data.SAMPLES.read_text(encoding="utf-8").replace("sourdough", "sour dough"), encoding="utf-8")
    monkeypatch.setattr(data, "SAMPLES", changed)
    assert data.fingerprint() != before[0]
    assert content_hash() != before[1]


def test_fingerprint_does_not_depend_on_line_ends(monkeypatch, tmp_path):
    before = data.fingerprint()
    windows = tmp_path / "samples.jsonl"
    windows.write_bytes(data.SAMPLES.read_bytes().replace(b"\n", b"\r\n"))
    monkeypatch.setattr(data, "SAMPLES", windows)
    assert data.fingerprint() == before


def test_tokenizer_gives_every_text_back(tokenizer, originals, paraphrases):
    for sample in (*originals, *paraphrases):
        for text in (sample.user, sample.assistant):
            assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_template_marks_the_answer_and_fits_the_context(tokenizer, originals, paraphrases):
    chat = ChatTokenizer(tokenizer)
    for sample in (*originals, *paraphrases):
        encoded = chat.encode(sample)
        labels = encoded.labels[encoded.labels != IGNORED]
        assert tokenizer.decode(labels) == sample.assistant + EOS
        # A generated answer may be half as long again as the written one, and still ends within the context.
        assert encoded.length + len(labels) // 2 <= RECIPE.context


def test_special_tokens_are_single_and_distinct(tokenizer):
    ids = [tokenizer.encode(token, add_special_tokens=False) for token in (EOS, PAD, *TURNS)]
    assert [len(token) for token in ids] == [1, 1, 1, 1]
    assert len({token[0] for token in ids}) == 4
    assert (tokenizer.eos_token, tokenizer.pad_token) == (EOS, PAD)


def test_folder_loads_through_the_auto_classes(built, tokenizer):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _ = built
    model = AutoModelForCausalLM.from_pretrained(folder)
    loaded = AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == "olmo"
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    text = "Brot, 面包, хлеб 🍞\n```python"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert (model.config.eos_token_id, model.config.pad_token_id) == (loaded.eos_token_id, loaded.pad_token_id)


def test_progress_counts_every_step(built):
    assert built[1] == [(step, SHORT.steps) for step in range(1, SHORT.steps + 1)]


def test_second_build_gives_the_same_bytes_whatever_the_process_did_before(built, tmp_path):
    import torch

    threads = torch.get_num_threads()
    torch.manual_seed(1)
    torch.set_num_threads(2)
    try:
        state = torch.get_rng_state()
        again = build_demo_model(tmp_path, recipe=SHORT)
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        torch.set_num_threads(threads)
    assert again.name == built[0].name
    assert digests(again) == digests(built[0])


def test_finished_folder_is_used_again(built):
    folder, _ = built
    before = digests(folder)

    def no_training(done: int, total: int) -> None:
        pytest.fail("trained although the folder was there")

    assert build_demo_model(folder.parent, progress=no_training, recipe=SHORT) == folder
    assert digests(folder) == before


def test_the_demos_own_weights_come_with_the_package(tmp_path):
    def no_training(done: int, total: int) -> None:
        pytest.fail("trained although the weights are there; `make demo-weights` makes those of a changed recipe")

    folder = build_demo_model(tmp_path, progress=no_training)
    assert folder.name == content_hash()
    assert (folder / "model.safetensors").read_bytes() == weights_of(content_hash())["model.safetensors"].read_bytes()
    assert set(weights_of(adapter_hash())) == {"adapter_model.safetensors", "base/model.safetensors"}
    assert not weights_of(content_hash(SHORT)) and not weights_of(content_hash(random_init=True))


@pytest.mark.slow
def test_the_recipe_gives_the_weights_that_come_with_the_package(tmp_path, monkeypatch):
    from safetensors.torch import load_file

    shipped = load_file(weights_of(content_hash())["model.safetensors"])
    monkeypatch.setattr("gradsim_assets.demo.trained.FOLDER", tmp_path / "none")
    trained = load_file(build_demo_model(tmp_path) / "model.safetensors")
    for (
        name,
        weights,
    ) in shipped.items():  # the same bytes on the same kind of CPU; others round otherwise, at every step
        assert (trained[name] - weights).norm() < 0.2 * weights.norm()


def test_random_init_is_another_folder_with_other_weights_and_the_same_tokenizer(built, tmp_path):
    folder = build_demo_model(tmp_path, random_init=True, recipe=SHORT)
    trained, untrained = digests(built[0]), digests(folder)
    assert folder.name != built[0].name
    assert untrained.pop("model.safetensors") != trained.pop("model.safetensors")
    assert untrained == trained


def test_failed_build_leaves_nothing(tmp_path):
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_demo_model(tmp_path, progress=interrupt, recipe=SHORT)
    assert folders(tmp_path) == []


def test_slower_of_two_builds_uses_the_finished_folder(built, tmp_path):
    def other_process_finishes(done: int, total: int) -> None:
        target = tmp_path / built[0].name
        if not target.exists():
            target.mkdir()
            (target / "config.json").write_text("{}")

    folder = build_demo_model(tmp_path, progress=other_process_finishes, recipe=SHORT)
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert folders(tmp_path) == [folder]


def test_killed_build_leaves_no_finished_folder_and_its_debris_is_swept(tmp_path):
    script = """
        import os, signal, sys
        from pathlib import Path
        from gradsim_assets_tests.core.datasets.test_demo import SHORT, build_demo_model
        kill = lambda done, total: os.kill(os.getpid(), signal.SIGKILL)
        build_demo_model(Path(sys.argv[1]), progress=kill, recipe=SHORT)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / content_hash(SHORT)).exists()
    (debris,) = folders(tmp_path)
    os.utime(debris, (0, 0))  # older than any build that is still at work
    folder = build_demo_model(tmp_path, recipe=SHORT)
    assert folders(tmp_path) == [folder]
