"""One home with its server for all tests of pages."""

from collections.abc import Iterator

import pytest

from gradsim_assets_tests.support.report_case import Case
from gradsim_assets_tests.support.web_home import WebHome


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebHome]:
    folder = tmp_path_factory.mktemp("web") / "home"
    folder.mkdir()
    with WebHome(folder, Case()) as served:
        yield served
