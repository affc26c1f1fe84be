"""docs/importance.md runs as it stands, and what it says of its example holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.test_readme import REPOSITORY, blocks, run_code

PAGE = REPOSITORY / "docs" / "importance.md"


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    return run_code(PAGE)


def test_every_block_is_run() -> None:
    assert {block.language for block in blocks(PAGE)} == {"python"}
    assert not any(block.not_run for block in blocks(PAGE))
    assert PAGE.read_text("utf-8").count("```") == 2 * len(blocks(PAGE))


def test_the_example_is_what_the_page_says(names: dict[str, Any]) -> None:
    owed = names["owed"]
    assert (owed.sentences == 50).all()
    assert owed.control.shape[0] == 20
    assert owed.reason == ""
    assert names["largest"]["role"] == "cue"  # where the concepts are in the prompt
    assert np.argmax(owed.published) == 0
    assert names["places"].edges()
    assert names["theirs"].edges


def test_the_page_names_every_function() -> None:
    text = PAGE.read_text("utf-8")
    for name in ("concept_importance", "importance_published", "position_effects", "published_map"):
        assert f"dst.{name}" in text
