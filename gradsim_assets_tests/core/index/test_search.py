"""Search in sketches: the largest products, whatever parts they came in, and lists that are kept in a file."""

from pathlib import Path

import numpy as np
import pytest

from gradsim_assets.core.index import search
from gradsim_assets.core.index.search import Search

pytest.importorskip("faiss")  # of the extra `compute`

DIMENSION = 32


def sketches(count: int, seed: int = 0) -> np.ndarray:
    """Unit vectors in float16's numbers, in fp32 [n, d]."""
    rows = np.random.default_rng(seed).standard_normal((count, DIMENSION))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)


def names(count: int) -> list[str]:
    return [f"lima_{number}" for number in range(count)]


@pytest.mark.parametrize("part", [7, 100])
def test_the_best_are_those_with_the_largest_products(part: int) -> None:
    held, asked = sketches(100), sketches(3, 1)
    found = Search(names(100), lambda: (held[start : start + part] for start in range(0, 100, part)), DIMENSION).best(
        asked, 10
    )
    for query, own in zip(asked, found, strict=True):
        products = held @ query
        order = np.argsort(-products, kind="stable")[:10]
        assert [name for name, _ in own] == [f"lima_{place}" for place in order]
        np.testing.assert_allclose([product for _, product in own], products[order], atol=1e-6)


def test_no_more_are_found_than_there_are() -> None:
    (found,) = Search(names(3), lambda: [sketches(3)], DIMENSION).best(sketches(1, 1), 10)
    assert len(found) == 3


def unread() -> list[np.ndarray]:
    raise AssertionError("sketches are not read again")


def test_lists_find_nearly_all_and_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "LISTS_BEYOND", 1000)
    held = sketches(4000)
    cache = tmp_path / "lists" / "index.faiss"
    made = Search(names(4000), lambda: [held], DIMENSION, cache)
    own = made.best(held[:200], 1)
    # A sixteenth of the lists is searched; a sketch's own is the nearest to its own centre.
    assert np.mean([best[0][0] == name for best, name in zip(own, names(200), strict=True)]) > 0.95
    assert Search(names(4000), unread, DIMENSION, cache).best(held[:5], 3) == made.best(held[:5], 3)


@pytest.mark.parametrize("fault", ["none", "torn", "no index", "of other sketches"])
def test_what_was_kept_is_opened_unless_it_is_damaged_or_of_others(tmp_path: Path, fault: str) -> None:
    held, cache = sketches(100), tmp_path / "kept" / "index.faiss"
    expected = Search(names(100), lambda: [held], DIMENSION, cache).best(held[:5], 3)
    if fault == "none":
        assert Search(names(100), unread, DIMENSION, cache).best(held[:5], 3) == expected
        return
    if fault == "of other sketches":
        Search(names(90), lambda: [held[:90]], DIMENSION, tmp_path / "other.faiss")
        (tmp_path / "other.faiss").replace(cache)
    else:
        cache.write_bytes(cache.read_bytes()[:500] if fault == "torn" else b"no index at all")
    for parts in (lambda: [held], unread):  # made again, and kept again
        assert Search(names(100), parts, DIMENSION, cache).best(held[:5], 3) == expected
