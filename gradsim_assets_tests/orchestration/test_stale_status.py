import gc

import pytest

from gradsim_assets.orchestration.stale_status import without_collecting


def test_garbage_is_collected_again_after_a_question_that_failed():
    with pytest.raises(KeyError), without_collecting():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()


def test_who_has_switched_collecting_off_finds_it_off():
    gc.disable()
    try:
        with without_collecting():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
