"""What tables are called: by their assets, by their folders, and by users."""

import pytest

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.tables.schemas import TABLES
from gradsim_assets.core.tables.table_names import PATHS, asset_name, path_of_table


def test_every_table_has_a_name_of_one_part_for_each_of_its_parts() -> None:
    assert len(PATHS) == sum(max(1, len(schema.parts)) for schema in TABLES.values()), "two of them share a name"
    assert PATHS["dot_products_paraphrased"] == ("dot_products", "paraphrased")
    assert PATHS["paraphrased"] == ("paraphrased",)
    assert all("/" not in name for name in PATHS)


@pytest.mark.parametrize("name", PATHS)
def test_a_table_is_found_by_its_asset_and_by_its_folder(name: str) -> None:
    assert path_of_table(name) == path_of_table("/".join(PATHS[name])) == PATHS[name]
    assert asset_name(PATHS[name]) == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("retrieval", "retrieval exists once for each of paraphrased, model_generated; name one of them, such as "),
        ("retrieval/paraphrasd", "there is no table retrieval/paraphrasd; did you mean retrieval_paraphrased?"),
        ("greedy-selection_paraphrased", "did you mean greedy_selection_paraphrased?"),
        ("lima/paraphrased", "there is no table lima/paraphrased"),
        ("dot/products_paraphrased", "there is no table dot/products_paraphrased; did you mean"),
        ("", "there is no table ; known tables: accuracy_per_component_model_generated,"),
    ],
)
def test_a_name_of_no_table_is_told_with_the_right_one(name: str, said: str) -> None:
    with pytest.raises(InputError) as told:
        path_of_table(name)
    assert said in str(told.value)
