"""Sums over very many numbers stay exact, and a grid gives what pairs give."""

import numpy as np
import pytest
import torch

from gradsim_assets.core.sample_gradients import inner_products


def heavy_tailed(rows, length, seed=0):
    """Rows like an embedding's gradient: a few tokens carry most of the length."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.exp(2 * torch.randn(rows, length // 100 + 1, generator=generator)).repeat_interleave(100, 1)[
        :, :length
    ]
    return torch.randn(rows, length, generator=generator) * scales


@pytest.mark.parametrize("length", [100, 2_000, 2**11, 70_000, 5_000_000])
def test_squares_of_long_vectors_are_exact_where_one_sum_is_not(length):
    rows = heavy_tailed(2, length)
    exact = (rows.double() ** 2).sum(1)
    # 2^11 additions of numbers of one sign in fp32: 6e-8 each, partly cancelling.
    assert ((torch.stack([inner_products.dot(row, row) for row in rows]) - exact).abs() / exact).max() < 5e-6
    assert ((inner_products.squares(rows) - exact).abs() / exact).max() < 5e-6
    assert ((inner_products.grid(rows[:, None], rows[:, None])[0].diagonal() - exact).abs() / exact).max() < 5e-6
    if length == 5_000_000:
        assert ((torch.mm(rows, rows.T).diagonal() - exact).abs() / exact).max() > 1e-4


def test_a_grid_of_strided_rows_gives_what_pairs_give():
    wide = heavy_tailed(7, 9_000)
    ones, others = wide[:4, 100:8_300], wide[4:, 100:8_300]
    exact = ones.double() @ others.double().T
    lengths = torch.outer(ones.double().norm(dim=1), others.double().norm(dim=1))
    found = inner_products.grid(ones[:, None], others[:, None])[0]
    assert found.dtype == torch.float64
    assert ((found - exact).abs() / lengths).max() < 1e-6
    for rows, columns in (([0, 1, 2, 3], [2, 1, 0, 2]), ([3], [1]), ([1, 1, 2], [0, 1, 2])):
        for advantage in (0, 6):  # pair by pair, and as a grid
            pairs = np.asarray(rows), np.asarray(columns)
            values, cells = inner_products.of_pairs(ones[:, None], others[:, None], *pairs, advantage)
            assert ((values[0, cells] - exact[rows, columns]).abs() / lengths[rows, columns]).max() < 1e-6


@pytest.mark.parametrize("entries", [2**22, 20])
def test_a_grid_of_many_components_gives_what_each_of_them_gives(monkeypatch, entries):
    ones, others = heavy_tailed(3, 5 * 4_096).view(3, 5, 4_096), heavy_tailed(2, 5 * 4_096, 1).view(2, 5, 4_096)
    alone = [inner_products.grid(ones[:, c : c + 1], others[:, c : c + 1])[0] for c in range(5)]
    monkeypatch.setattr(inner_products, "_GRID_ENTRIES", entries)
    torch.testing.assert_close(inner_products.grid(ones, others), torch.stack(alone), rtol=1e-12, atol=0)
    squares = inner_products.squares(ones)
    for c in range(5):
        torch.testing.assert_close(squares[:, c], inner_products.squares(ones[:, c]), rtol=1e-12, atol=0)


def test_a_grid_is_summed_in_parts_of_bounded_memory(monkeypatch):
    rows = heavy_tailed(3, 50_000)[:, None]
    whole = inner_products.grid(rows, rows)
    monkeypatch.setattr(inner_products, "_GRID_ENTRIES", 20)
    torch.testing.assert_close(inner_products.grid(rows, rows), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("entries", [2**22, 3_000])
def test_pairs_of_short_vectors_are_taken_together_and_in_parts_of_bounded_memory(monkeypatch, entries):
    ones, others = heavy_tailed(4, 3 * 700).view(4, 3, 700), heavy_tailed(5, 3 * 700, 1).view(5, 3, 700)
    monkeypatch.setattr(inner_products, "_GRID_ENTRIES", entries)
    rows, columns = np.array([3, 0, 0, 2, 1]), np.array([4, 4, 1, 0, 3])
    values, cells = inner_products.of_pairs(ones, others, rows, columns, 0)
    assert values.dtype == torch.float64 and cells.tolist() == [0, 1, 2, 3, 4]
    exact = (ones[rows].double() * others[columns].double()).sum(-1).T
    lengths = (ones[rows].double().norm(dim=-1) * others[columns].double().norm(dim=-1)).T
    assert ((values - exact).abs() / lengths).max() < 1e-6
