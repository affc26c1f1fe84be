"""`dst study report`: the page of a study, of several, and of none."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dst import cli
from tests.studies.study_example import table


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    made = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp("study")
        pq.write_table(table(seed=seed).arrow, folder / "results.parquet")
        made.append(str(folder))
    return made


def test_the_page_lies_in_the_studys_folder(
    folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["study", "report", folders[0], "--resamples", "50"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("50 cases on a model: 50% of the answered hallucinate.")
    assert (Path(folders[0]) / "report.html").read_text("utf-8").startswith("<!doctype html>")


def test_several_studies_make_one_page_where_it_is_wanted(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["study", "report", *folders, "--resamples", "50", "--out", str(tmp_path / "both.html")]
    assert cli.main(given) == 0
    assert capsys.readouterr().out.startswith("100 cases")
    assert (tmp_path / "both.html").exists()


def test_a_folder_without_a_study_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["study", "report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("dst: There is no study in")
