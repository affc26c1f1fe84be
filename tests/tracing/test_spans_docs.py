"""docs/spans.md runs as it stands, and says what its example shows."""

from __future__ import annotations

from typing import Any

import pytest

from tests.test_readme import REPOSITORY, blocks, run_code

PAGE = REPOSITORY / "docs" / "spans.md"


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("docs"))
        return run_code(PAGE)


def test_every_block_is_run() -> None:
    assert {block.language for block in blocks(PAGE)} == {"python"}
    assert not any(block.not_run for block in blocks(PAGE))


def test_the_example_is_a_hallucination_that_hangs_on_somebody_else_s_cue(
    names: dict[str, Any],
) -> None:
    found = names["found"]
    assert found.outcome == "hallucination"
    assert found.complete
    assert "cooking" in found.found[0].words
    assert names["published"].top(3, as_coded=True) == ()
    assert "cooking" in names["in_place"].html
    assert len(names["figure"].data) == 4
