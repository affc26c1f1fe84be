"""Files are written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

import pytest

from dst.core.errors import ResultError
from dst.core.files import write_atomic, write_text_atomic


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_the_folder_is_made_and_only_the_file_is_in_it(tmp_path: Path) -> None:
    path = write_text_atomic(tmp_path / "a" / "b" / "note.txt", "Ωmega\n")
    assert path.read_text("utf-8") == "Ωmega\n"
    assert everything(tmp_path) == ["a", "a/b", "a/b/note.txt"]


def test_an_old_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    write_text_atomic(path, "new")
    assert path.read_text() == "new"


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = write_text_atomic(tmp_path / "x", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError, MemoryError])
def test_a_write_that_breaks_off_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, stop: type[BaseException]
) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def half(stream: IO[bytes]) -> None:
        stream.write(b"half")
        raise stop

    with pytest.raises(stop):
        write_atomic(path, half)
    assert path.read_text() == "old"
    assert everything(tmp_path) == ["x"]


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    def full(stream: IO[bytes]) -> None:
        stream.write(b"some")
        raise OSError(28, "No space left on device")

    with pytest.raises(ResultError, match=r"cannot be written \(No space left on device\)\. Give"):
        write_atomic(tmp_path / "x", full)
    assert everything(tmp_path) == []


def test_a_path_through_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot be written"):
        write_text_atomic(tmp_path / "file" / "x", "text")
    assert everything(tmp_path) == ["file"]


def test_a_folder_in_the_way_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(ResultError, match="cannot be written"):
        write_text_atomic(tmp_path / "x", "text")
    assert everything(tmp_path) == ["x"]


def test_a_name_that_is_too_long_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="cannot be written"):
        write_text_atomic(tmp_path / ("x" * 300), "text")
    assert everything(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc here")
def test_a_place_where_nobody_may_write_is_one_sentence() -> None:
    with pytest.raises(ResultError, match="cannot be written"):
        write_text_atomic("/proc/self/report.html", "text")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ResultError, match="Permission denied"):
            write_text_atomic(tmp_path / "x", "text")
    finally:
        tmp_path.chmod(0o700)
    assert everything(tmp_path) == []
