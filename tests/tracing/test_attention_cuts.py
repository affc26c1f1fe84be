"""The grid of attention cuts against single cuts and against the other view of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dst
from dst.core.errors import CapabilityError, InterventionError
from dst.models.backend import Cut
from dst.models.hooks import HooksBackend
from dst.testbed.planted import KINDS, Plant, build, sample
from dst.tracing.columns import window_of
from dst.tracing.prepare import prepare
from tests import tiny
from tests.tracing.patched import PROMPT, case, contrast, ids_of


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> Any:
    return tiny.backend(request.param, scale=12.0 if request.param == "gpt2" else 3.0)


def cut(model: Any, **asked: Any) -> Any:
    return dst.cut_attention(model, case(), **{"controls": 3, "show_progress": False, **asked})


def test_one_layer_is_what_cut_effects_measures(model: Any) -> None:
    grid, other = cut(model), dst.cut_effects(model, case())
    for i, source in enumerate(other.sources):
        if source == "subject":  # all mentions there, each a role of its own here
            continue
        j = grid.columns.index(source)
        np.testing.assert_allclose(-grid.effect()[:, j], other.one_layer[i], atol=1e-4)
    together = cut(model, keys=["subject"])
    subject = other.sources.index("subject")
    np.testing.assert_allclose(-together.effect()[:, 0], other.one_layer[subject], atol=1e-4)


@pytest.mark.parametrize("window", [1, 2])
def test_heads_queries_and_windows_are_single_cuts(model: Any, window: int) -> None:
    grid = cut(model, keys=["lake", [5, 6]], queries=[-1, 8], heads="each", window=window)
    own = ids_of(model, PROMPT)
    assert grid.column_kind == "head x span"
    assert grid.columns[:2] == ("head 0: lake", "head 0: 5 6")
    for i in range(model.spec.n_layers):
        for j, keys in enumerate(grid.column_positions):
            cuts = [
                Cut(layer, [0], [8, len(own) - 1], list(keys), heads=[grid.column_heads[j]])
                for layer in window_of(i, window, model.spec.n_layers)
            ]
            known = contrast(model, model.run([own], cuts=cuts, logits_at=[-1]).last_logits[0])
            assert grid.value()[i, j] == pytest.approx(known, abs=1e-4)
            assert grid.fired[0, i, j] == 2 * len(keys) * len(cuts)
    assert np.abs(grid.effect()).max() > 0.001
    assert np.isnan(grid.delta_norm).all()


def test_nothing_reads_the_answer_position_later(model: Any) -> None:
    grid = cut(model)
    j = grid.columns.index("answer")
    assert np.isnan(grid.value()[:, j]).all()
    assert grid.reasons[j] == "no query comes after these keys"
    assert np.isfinite(np.delete(grid.value(), j, axis=1)).all()
    with pytest.raises(InterventionError, match="fires nowhere: no query comes after these keys"):
        cut(model, keys=[[-1]])


def test_random_keys_are_the_floor(model: Any) -> None:
    grid = cut(model, controls=25)
    found = grid.controls
    assert found.random_donor_is == "as many random keys, cut off from the same queries"
    assert found.donor_reason == "a cut has no donor run"
    assert np.isnan(found.self_patch_error)
    assert np.isnan(found.random_direction).all()
    assert grid.floor() == found.random_donor_floor[0] > 0
    answer = grid.columns.index("answer")
    assert answer not in found.random_columns
    again = cut(model, controls=25).controls
    np.testing.assert_array_equal(found.random_donor, again.random_donor)


@pytest.mark.parametrize("plan", sample(len(KINDS), seed=12), ids=lambda plan: plan.name)
def test_the_first_hop_is_where_it_was_planted(plan: Plant) -> None:
    planted = build(plan)
    model = HooksBackend(planted.model, planted.tokenizer, name="planted")
    grid = dst.cut_attention(model, planted.case, keys=["cue"], controls=0, show_progress=False)
    assert prepare(model, planted.case).tokenized.positions_of("cue") == list(
        grid.column_positions[0]
    )
    np.testing.assert_allclose(-grid.effect()[:, 0], planted.truth.cut_cue, atol=1e-3)


def test_a_short_window_still_has_later_queries() -> None:
    """Mistral's window of 5 hides early keys from late queries, not from the next ones."""
    grid = cut(tiny.backend("mistral"), keys="position")
    assert np.isfinite(grid.value()[:, :-1]).all()


def test_what_cannot_be_cut_is_said(model: Any) -> None:
    with pytest.raises(InterventionError, match="The head 9 does not exist at attention"):
        cut(model, heads=[9])
    with pytest.raises(InterventionError, match="The span 'violin' has no position"):
        cut(model, queries="violin")
    blind = tiny.backend("llama")
    blind.can = blind.can - {"cuts"}
    with pytest.raises(CapabilityError, match="cannot do 'cuts'"):
        cut(blind)
