"""A study's folder under kills: whatever moment it is, the same call ends with the same table.

Rows are made up here, so that only the writing is at stake; real ones, and real kills, are in
test_study.py and test_study_cli.py.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dst.core import files
from dst.core.case import Case
from dst.core.errors import InputError, ResultError
from dst.core.study_results import open_study
from dst.studies import store as module
from dst.studies import worker
from dst.studies.store import Store
from dst.studies.study import run_study
from tests.studies import study_cases


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Rows from the case's text alone; the ids of the cases that were measured."""
    measured: list[str] = []

    def row(model: Any, case: Case, **how: Any) -> dict[str, Any]:
        measured.append(case.case_id)
        draw = int(hashlib.sha256(case.text.encode()).hexdigest()[:8], 16) / 2**32
        return {"status": "ok", "outcome": "correct", "error": 0.0, "contrast": draw}

    monkeypatch.setattr(worker, "measured_row", row)
    return measured


def study(folder: Path, n: int = 7, **how: Any) -> bytes:
    """Run a study of made-up rows in batches of two; its table as bytes."""
    run_study(
        study_cases.model(), study_cases.cases(n), out=folder, batch_cases=2, draws=2,
        show_progress=False, **how,
    )  # fmt: skip
    return (folder / "results.parquet").read_bytes()


class Killed(BaseException):
    """What stands for a kill: nothing between here and the test catches it."""


def dying(monkeypatch: pytest.MonkeyPatch, after: int, moved: bool) -> Callable[[Any, Any], None]:
    """`os.replace` that kills at the write number ``after``, before or after the move."""
    left = iter(range(after, -1, -1))
    replace = os.replace

    def replacing(source: Any, target: Any) -> None:
        last = next(left) == 0
        if not last or moved:
            replace(source, target)
        if last:
            raise Killed

    monkeypatch.setattr(os, "replace", replacing)
    monkeypatch.setattr(files, "_remove", lambda temporary: None)  # a killed process tidies nothing
    return replacing


@pytest.mark.parametrize("moved", [False, True], ids=["before the move", "after it"])
def test_killed_at_any_write_the_study_ends_with_the_same_table(
    tmp_path: Path, quick: list[str], moved: bool
) -> None:
    whole = study(tmp_path / "whole")
    writes = 0
    while True:
        folder = tmp_path / f"killed-{writes}"
        with pytest.MonkeyPatch.context() as patch:
            dying(patch, writes, moved)
            try:
                study(folder)
                break
            except Killed:
                pass
        assert study(folder) == whole
        assert not list(folder.rglob(".*.part"))
        writes += 1
    assert writes == 7  # cases, manifest, four parts, the table: each was killed at


def test_killed_again_and_again_it_still_ends(tmp_path: Path, quick: list[str]) -> None:
    whole = study(tmp_path / "whole")
    folder, kills = tmp_path / "killed", 0
    while True:
        with pytest.MonkeyPatch.context() as patch:
            dying(patch, 2, moved=False)  # every run lives for two writes
            try:
                assert study(folder) == whole
                break
            except Killed:
                kills += 1
        assert kills <= 3
    assert kills == 3  # seven writes


def test_what_is_done_is_not_done_again(tmp_path: Path, quick: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        dying(patch, 4, moved=False)  # cases, manifest, two parts; the third is lost
        with pytest.raises(Killed):
            study(tmp_path)
    first = list(quick)
    assert len(first) == 6
    study(tmp_path)
    assert quick[len(first) :] == [*first[4:], *quick[-1:]]  # the lost batch, then the last one
    assert sorted(set(quick)) == [f"case-{i}" for i in range(7)]
    del quick[:]
    study(tmp_path)
    assert quick == []


@pytest.mark.parametrize("harm", ["cut off", "emptied", "of another batch", "of another study"])
def test_a_part_that_cannot_be_trusted_is_made_again(
    tmp_path: Path, quick: list[str], harm: str
) -> None:
    whole = study(tmp_path / "here")
    parts = tmp_path / "here" / "parts"
    part = parts / "000001.parquet"
    if harm == "cut off":
        part.write_bytes(part.read_bytes()[:-7])
    elif harm == "emptied":
        part.write_bytes(b"")
    elif harm == "of another batch":
        part.write_bytes((parts / "000002.parquet").read_bytes())
    else:
        study(tmp_path / "other", seed=1)
        part.write_bytes((tmp_path / "other" / "parts" / "000001.parquet").read_bytes())
    del quick[:]
    assert study(tmp_path / "here") == whole
    assert len(quick) == 2


def test_parts_of_a_study_that_was_being_removed_are_not_mixed_in(
    tmp_path: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study(tmp_path / "here")
    whole = study(tmp_path / "other", seed=1)
    unlink, left = Path.unlink, iter([True, True, True])

    def unlinking(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".parquet" and path.parent.name == "parts" and not next(left, False):
            raise Killed
        unlink(path, missing_ok=missing_ok)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", unlinking)
        with pytest.raises(Killed):
            study(tmp_path / "here", seed=1, fresh=True)
    assert list((tmp_path / "here" / "parts").glob("*.parquet"))
    assert study(tmp_path / "here", seed=1) == whole


def test_an_unfinished_study_says_so_when_it_is_opened(tmp_path: Path, quick: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        dying(patch, 4, moved=False)
        with pytest.raises(Killed):
            study(tmp_path)
    with pytest.raises(ResultError, match="is unfinished: 2 of 4 batches are done"):
        open_study(tmp_path)


def test_a_manifest_that_is_none_is_named(tmp_path: Path, quick: list[str]) -> None:
    study(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 77}')
    with pytest.raises(ResultError, match=r"no manifest of a study .* \(another format\)"):
        study(tmp_path)
    study(tmp_path, fresh=True)


def test_the_manifest_is_there_before_the_first_batch(tmp_path: Path, quick: list[str]) -> None:
    seen = []

    def row(model: Any, case: Case, **how: Any) -> dict[str, Any]:
        seen.append((tmp_path / "manifest.json").exists())
        return {"status": "ok"}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "measured_row", row)
        study(tmp_path)
    assert seen == [True] * 7


# -- the lock ------------------------------------------------------------------------------


def test_two_cannot_work_in_one_folder(tmp_path: Path) -> None:
    with Store(tmp_path), pytest.raises(InputError) as caught, Store(tmp_path):
        pass
    assert f"process {os.getpid()} on " in str(caught.value)
    assert f"is working on the study in {tmp_path}" in str(caught.value)


def test_nothing_is_left_of_a_study_that_was_not_begun(tmp_path: Path) -> None:
    with Store(tmp_path / "new" / "deep"):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine.txt").write_text("mine")
    with Store(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


HOLDER = """
import sys, time
from dst.studies.store import Store
with Store(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_lock_of_a_dead_process_is_taken_over(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    with pytest.raises(InputError, match=f"process {holder.pid} on"), Store(tmp_path):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with Store(tmp_path):
                return
        except InputError:
            time.sleep(0.05)
    pytest.fail("the lock was not given back")


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to"), Store(tmp_path / "file" / "x"):
        pass


# -- parts -----------------------------------------------------------------------------------


def test_a_part_tells_how_its_batch_ran(tmp_path: Path, quick: list[str]) -> None:
    study(tmp_path)
    told = pq.read_metadata(tmp_path / "parts" / "000000.parquet").metadata[module.BATCH_KEY]
    assert b'"halved": []' in told
    assert b'"batch": 0' in told
