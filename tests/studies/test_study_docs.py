"""docs/studies.md runs as it stands, and what it says of its examples holds."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import pytest

from dst.core.study_results import StudyTable
from dst.studies.rows import DEPTHS, MEASURES, columns
from tests.test_readme import REPOSITORY, blocks, run_code

PAGE = REPOSITORY / "docs" / "studies.md"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The page's names after its examples, and what these printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("docs"))
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            names = run_code(PAGE)
        return names, said.getvalue()


def test_the_examples_are_what_the_page_says(ran: tuple[dict[str, Any], str]) -> None:
    names, said = ran
    table = names["table"]
    assert isinstance(table, StudyTable)
    assert len(table) == 6
    assert "runs/world holds a study that was begun otherwise: draws was 2 and is 4." in said
    assert said.startswith("StudyTable(6 cases: ")
    assert names["rho"].score == "margin_causal@0.75"
    assert "margin_causal means margin_causal@0.75" in names["held"].note
    assert set(names["wrong"].column("outcome")) <= {"hallucination"}


def test_the_page_names_columns_that_there_are() -> None:
    text, known = PAGE.read_text("utf-8"), columns(MEASURES)
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    named = {
        part.split("`")[1]
        for line in rows
        for part in line.split("|")[1].split(", ")
        if part.count("`") == 2 and not part.split("`")[1].startswith((".", "finding"))
    }
    assert len(named) > 30
    assert named <= set(known)
    assert {f"dss_causal@{depth:g}" for depth in DEPTHS} <= set(known)


def test_every_python_block_is_run() -> None:
    assert {block.language for block in blocks(PAGE)} == {"python", "text"}
    assert not any(block.not_run for block in blocks(PAGE))
