"""docs/patching.md runs as it stands, and what it says of its examples holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_readme import REPOSITORY, blocks, run_code

PAGE = REPOSITORY / "docs" / "patching.md"


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
    grid = names["grid"]
    assert grid.value().shape == (grid.provenance.settings["layers"][-1] + 1, len(grid.tokens))
    assert grid.controls.self_patch_error < 1e-3
    assert grid.controls.donor_error < 1e-3
    assert names["heads"].column_kind == "head"
    assert names["parts"].column_kind == "head x span"
    assert names["several"].unit("kl") == "nats"
    assert names["wide"].window == 3
    assert names["noised"].values.shape[1] == 10
    assert names["other"].values.shape[1] == 8
    assert names["off"].recovery_reason
    assert np.isnan(names["many"].p).all()
    assert names["there"].columns == ("layer 0", "layer 1")


def test_only_the_words_that_differ_bring_the_donor(names: dict[str, Any]) -> None:
    """At the embedding, needed and enough alike."""
    for grid in (names["needed"], names["enough"]):
        differs = grid.delta_norm[:, 0].max(axis=0) > 0
        assert (grid.effect()[0, ~differs] == 0).all()
        if differs.sum() == 1 and not grid.recovery_reason:
            assert grid.recovery[0, differs] == pytest.approx(1, abs=1e-3)


def test_the_page_names_every_technique() -> None:
    text = Path(PAGE).read_text("utf-8")
    for name in ("patch", "causal_trace", "ablate", "cut_attention", "cross_patch", "backpatch",
                 "patch_effects"):  # fmt: skip
        assert f"dst.{name}(" in text
