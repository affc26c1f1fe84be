"""docs/drift.md runs as it stands, and what it says of its examples holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dst.analysis.drift import LEAST_ROWS, LEVEL, MEASURES
from dst.tracing.inspection import IDENTITY, PROMPTS
from tests.test_readme import REPOSITORY, blocks, run_code

PAGE = REPOSITORY / "docs" / "drift.md"


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("docs"))
        return run_code(PAGE)


def test_every_block_is_run() -> None:
    assert {block.language for block in blocks(PAGE)} == {"python"}
    assert not any(block.not_run for block in blocks(PAGE))
    assert PAGE.read_text("utf-8").count("```") == 2 * len(blocks(PAGE))


def test_the_examples_are_what_the_page_says(names: dict[str, Any]) -> None:
    found, scope, agreement = names["found"], names["scope"], names["agreement"]
    assert found.against == "swap"
    assert found.null == "neutral"
    undefined = np.isnan(found.z).all(axis=(0, 1)).tolist()
    assert undefined == [bool(reason) for reason in found.reasons]
    first = found.same_word.tolist().index(False)
    assert (found.drift[:, :, :first] == 0).all()
    assert len(scope.words) == len(scope.states)
    assert any("does not know the published" in note for note in scope.notes)
    assert agreement.precision[-1] == 1  # the last state is read as the model itself reads it
    assert agreement.plain_agrees.mean() < agreement.precision[1]
    mapping, told = names["mapping"], names["told"]
    assert mapping.weight.shape[1:] == (112, 96)
    assert told.target_states.tolist() == [0, 2, 3, 4, 6]
    assert names["held"].technique == names["late"].technique == "backpatching"


def test_the_page_says_the_numbers_that_the_code_has() -> None:
    text = PAGE.read_text("utf-8")
    assert PROMPTS[IDENTITY] in text
    assert "five contexts" in text
    assert LEAST_ROWS == 5
    assert f"{100 * (1 - LEVEL):.0f} % of runs" in text
    for measure in MEASURES:
        assert f"*{measure}*" in text
    for name in ("drift", "patchscope", "patchscope_agreement", "backpatch", "fit_patchscope_map"):
        assert f"dst.{name}(" in text
