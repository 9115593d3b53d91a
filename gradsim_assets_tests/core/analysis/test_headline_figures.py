"""The figures that one sees first are those of the table."""

import polars as pl
import pytest

from gradsim_assets.core.analysis.headline_figures import headline_figures


def test_the_best_component_is_named_with_its_figure():
    frame = pl.DataFrame({"component": ["a", "b", "c"], "accuracy": [0.25, 0.75, None]})
    assert headline_figures("accuracy_per_component", frame) == {
        "accuracy of the best component": 0.75,
        "best component": "b",
        "accuracy of the median component": 0.5,
        "accuracy of the worst component": 0.25,
    }


def test_methods_come_by_measure():
    frame = pl.DataFrame({"method": ["full_gradient", "bm25"], "accuracy": [0.9, 0.3], "mrr": [0.95, None]})
    assert list(headline_figures("retrieval", frame).items()) == [
        ("accuracy/full_gradient", 0.9),
        ("accuracy/bm25", 0.3),
        ("mrr/full_gradient", 0.95),
        ("mrr/bm25", None),
    ]


def test_a_sample_counts_once_however_many_components_it_has():
    rows = {"variant_id": ["x", "x", "y"], "full_gradient": [0.1, 0.1, 0.4], "best_component": [0.5, 0.5, 0.7]}
    found = headline_figures("self_similarity", pl.DataFrame(rows))
    assert list(found.values()) == pytest.approx([0.25, 0.6])


def test_greedy_selections_are_told_on_the_ids_that_they_were_chosen_on():
    frame = pl.DataFrame(
        {
            "criterion": ["accuracy", "accuracy", "agreement"],
            "evaluation": ["same_ids", "other_ids", "same_ids"],
            "value": [0.8, 0.9, 0.99],
        }
    )
    assert headline_figures("greedy_selection", frame) == {
        "most accuracy of any selection": 0.8,
        "most agreement of any selection": 0.99,
    }


@pytest.mark.parametrize("table", ["accuracy_per_component", "lima"])
def test_nothing_is_told_of_nothing(table):
    assert headline_figures(table, pl.DataFrame({"component": [], "accuracy": []})) == {}
