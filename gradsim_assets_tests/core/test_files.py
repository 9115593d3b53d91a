"""Files and folders that are there whole or not at all: after failures, kills, and beside other writers."""

import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest
from upath import UPath

from gradsim_assets.core import files
from gradsim_assets.core.files import whole_file, whole_folder, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_the_place_of_the_old_one_when_it_is_finished(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.txt"  # its folder is made too
    write_whole(target, "old")
    with whole_file(target) as unfinished:
        unfinished.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(target.parent) == ["file.txt"]


def test_text_is_written_as_utf_8_and_bytes_as_they_are(tmp_path: Path) -> None:
    write_whole(tmp_path / "text", "ä\n")
    write_whole(tmp_path / "bytes", b"\x00\r\n")
    assert (tmp_path / "text").read_bytes() == b"\xc3\xa4\n"
    assert (tmp_path / "bytes").read_bytes() == b"\x00\r\n"


def test_a_file_has_the_permissions_that_the_user_gives_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", "content")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("failure", [OSError("the disk is full"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(failure: BaseException, tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_whole(target, "old")
    with pytest.raises(type(failure)), whole_file(target) as unfinished:
        unfinished.write_text("half")
        raise failure
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_failure_before_anything_is_written_is_what_is_told(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "file"):
        _ = 1 / 0
    assert names(tmp_path) == []


@pytest.mark.parametrize(("replaced", "left"), [(False, None), (True, "old")])
def test_a_failed_folder_leaves_what_was_there(replaced: bool, left: str | None, tmp_path: Path) -> None:
    target = tmp_path / "folder"
    if replaced:
        target.mkdir()
        (target / "file").write_text("old")
    with pytest.raises(OSError, match="full"), whole_folder(target, replace=True) as unfinished:
        (unfinished / "inner").mkdir()
        (unfinished / "inner" / "file").write_text("half")
        raise OSError("the disk is full")
    assert names(tmp_path) == (["folder"] if left else [])
    assert left is None or (target / "file").read_text() == left


def test_a_failed_folder_goes_although_a_thread_still_writes_into_it(tmp_path: Path) -> None:
    def write_on(folder: Path) -> None:
        with suppress(FileNotFoundError):  # there is nothing left to write into
            for number in range(5000):
                (folder / str(number)).mkdir()

    writer: Thread
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "folder", replace=True) as unfinished:
        writer = Thread(target=write_on, args=[unfinished])
        writer.start()
        while not (unfinished / "5").exists():
            time.sleep(0.001)
        1 / 0  # noqa: B018
    writer.join()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_replaces_another_with_all_that_is_in_it(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for content in ("first", "second"):
        with whole_folder(target, replace=True) as unfinished:
            (unfinished / content).write_text(content)
            (unfinished / "inner").mkdir()
            (unfinished / "inner" / "file").write_text(content)
    assert names(target) == ["inner", "second"]
    assert (target / "inner/file").read_text() == "second"
    assert names(tmp_path) == ["folder"]


def test_an_old_folder_comes_back_where_the_new_one_cannot_take_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "file").write_text("old")
    rename = os.rename

    def fails_for_the_new_one(source: Path, to: Path) -> None:
        if to == target and (source / "new").exists():
            raise PermissionError("no")
        rename(source, to)

    monkeypatch.setattr(files.os, "rename", fails_for_the_new_one)
    with pytest.raises(PermissionError), whole_folder(target, replace=True) as unfinished:
        (unfinished / "new").write_text("new")
    assert names(target) == ["file"]
    assert names(tmp_path) == ["folder"]


def test_of_two_writers_of_a_folder_the_first_to_finish_wins(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with whole_folder(target) as slower:
        (slower / "file").write_text("slower")
        with whole_folder(target) as quicker:
            (quicker / "file").write_text("quicker")
    assert (target / "file").read_text() == "quicker"
    assert names(tmp_path) == ["folder"]


def test_a_file_in_the_way_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(OSError, match="folder"), whole_folder(tmp_path / "folder") as unfinished:
        (unfinished / "file").write_text("new")
    assert (tmp_path / "folder").read_text() == "a file"


@pytest.mark.parametrize("kind", ["whole_file", "whole_folder"])
def test_a_kill_leaves_the_old_content_and_debris_that_the_next_writer_sweeps(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "target[1]"  # a name that means something to glob
    if kind == "whole_folder":
        target.mkdir()
    (target / "file" if kind == "whole_folder" else target).write_text("old")
    code = f"""
        import os, signal
        from pathlib import Path
        from gradsim_assets.core import files
        with files.{kind}(Path({str(target)!r})) as unfinished:
            (unfinished / "file" if unfinished.is_dir() else unfinished).write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (debris,) = set(tmp_path.iterdir()) - {target}
    assert (target / "file" if kind == "whole_folder" else target).read_text() == "old"

    def write_again() -> None:
        if kind == "whole_file":
            write_whole(target, "new")
        else:
            with whole_folder(target, replace=True) as unfinished:
                (unfinished / "file").write_text("new")

    write_again()
    assert debris.exists(), "its writer may still be at work"
    long_ago = time.time() - 7200
    os.utime(debris, (long_ago, long_ago))
    if kind == "whole_folder":
        write_again()
        assert debris.exists(), "a file in it was written just now"
        os.utime(debris / "file", (long_ago, long_ago))
        os.utime(debris, (long_ago, long_ago))
    write_again()
    assert names(tmp_path) == ["target[1]"]


def test_a_file_of_an_object_store_is_put_there_when_it_is_finished() -> None:
    target = UPath("memory://files-test/folder/file.txt")
    with whole_file(target) as unfinished:
        unfinished.write_text("content")
        assert not target.exists()
    assert target.read_text() == "content"
    assert not unfinished.exists()
    with pytest.raises(OSError, match="full"), whole_file(target) as unfinished:
        unfinished.write_text("half")
        raise OSError("the disk is full")
    assert target.read_text() == "content"
    assert not unfinished.exists()
