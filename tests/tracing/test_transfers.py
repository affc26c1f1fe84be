"""States put elsewhere: from another prompt, and from a later layer of the same run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dst
from dst.core.case import Case
from dst.core.errors import InterventionError
from dst.core.sites import Site, site_of_state
from dst.models.hooks import HooksBackend
from dst.testbed.planted import KINDS, build, sample
from dst.tracing.prepare import prepare
from tests import tiny
from tests.tracing.patched import PROMPT, case, contrast, ids_of, put, state

SOURCE = "A guitar and a drum play a song."
QUIET: dict[str, Any] = {"show_progress": False, "controls": 2}


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> Any:
    return tiny.backend(request.param)


@pytest.mark.parametrize("site", ["resid_pre", "mlp_out", "v"])
def test_every_pair_of_layers_is_a_whole_run(model: Any, site: str) -> None:
    grid = dst.cross_patch(
        model, case(), SOURCE, at="subject", source_at=[-2, 3], site=site, **QUIET
    )
    here = prepare(model, case()).tokenized.positions_of("subject")
    assert len(here) == 2
    own, other = ids_of(model, PROMPT), ids_of(model, SOURCE)
    there = [len(other) - 2, 3]
    for i in range(model.spec.n_layers):
        for j in range(model.spec.n_layers):
            value = state(model, other, Site(j, site))[there]
            known = contrast(model, put(model, own, [(Site(i, site), here, value, None)]))
            assert grid.value()[i, j] == pytest.approx(known, abs=1e-4)
    assert grid.columns == ("layer 0", "layer 1", "layer 2")
    assert grid.technique == "cross-prompt patching"
    assert np.abs(grid.effect()).max() > 0.01
    assert grid.controls.self_patch_error < 1e-4
    assert grid.controls.donor_reason == "the source is another prompt"


def test_one_state_goes_into_all_positions_and_a_text_names_its_own(model: Any) -> None:
    source = Case(SOURCE, contextual="fish", subject="drum")
    by_role = dst.cross_patch(model, case(), source, at="subject", source_at="subject_1", **QUIET)
    by_text = dst.cross_patch(model, case(), SOURCE, at="subject", source_at="drum", **QUIET)
    np.testing.assert_allclose(by_role.values, by_text.values, atol=1e-6)
    assert by_role.fired.min() == 2
    some = dst.cross_patch(
        model,
        case(),
        SOURCE,
        at="bass",
        source_at="drum",
        layers=[2],
        source_layers=[0, 1],
        **QUIET,
    )
    np.testing.assert_allclose(some.value(), by_text.value()[[2], :2], atol=1e-5)


def test_own_states_at_their_own_layer_are_exact(model: Any) -> None:
    grid = dst.cross_patch(model, case(), PROMPT, at="bass", source_at="bass", **QUIET)
    np.testing.assert_array_equal(np.diag(grid.effect()), 0)
    assert np.abs(grid.effect()).max() > 0


@pytest.mark.parametrize("frozen", [False, True])
def test_a_later_state_is_put_back(model: Any, frozen: bool) -> None:
    grid = dst.backpatch(model, case(), at="subject", frozen=frozen, **QUIET)
    here = prepare(model, case()).tokenized.positions_of("subject")
    own, n = ids_of(model, PROMPT), model.spec.n_layers
    for i in range(n):
        for j in range(n):
            if i > j + 1:
                assert np.isnan(grid.value()[i, j])
                continue
            value = state(model, own, Site(j, "resid_post"))[here]
            states = range(i, j + 2) if frozen else [i]
            changes = [(site_of_state(s, n), here, value, None) for s in states]
            known = contrast(model, put(model, own, changes))
            assert grid.value()[i, j] == pytest.approx(known, abs=1e-4)
            assert grid.fired[0, i, j] == len(here) * len(changes)
            if i == j + 1:
                assert grid.effect()[i, j] == 0
    assert np.abs(np.nan_to_num(grid.effect())).max() > 0.01


def test_a_planted_lag_is_repaired_by_the_late_subject() -> None:
    plans = [plan for seed in range(4) for plan in sample(len(KINDS), seed=seed) if plan.lag]
    assert plans
    for plan in plans[:3]:
        planted = build(plan)
        model = HooksBackend(planted.model, planted.tokenizer, name="planted")
        reached, read = plan.context[0].blocks
        grid = dst.backpatch(model, planted.case, at="subject", **QUIET)
        found = grid.value()[read - 1, reached - 1]  # blocks of a plan count from 1
        assert found == pytest.approx(planted.truth.back_patched, abs=2e-3)
        assert abs(found - grid.base[0, 0]) > 0.1


def test_what_does_not_fit_is_said(model: Any) -> None:
    with pytest.raises(InterventionError, match="The source has 3 positions and the prompt 2"):
        dst.cross_patch(model, case(), SOURCE, at="subject", source_at=[1, 2, 3])
    with pytest.raises(InterventionError, match="The span 'violin' has no position"):
        dst.cross_patch(model, case(), SOURCE, at="subject", source_at="violin")
    with pytest.raises(InterventionError, match="An empty set of positions"):
        dst.backpatch(model, case(), at=[])
    with pytest.raises(InterventionError, match="changes nothing"):
        dst.backpatch(model, case(), at="subject", layers=[1], source_layers=[0])
    with pytest.raises(InterventionError, match="fires nowhere: every layer asked for comes after"):
        dst.backpatch(model, case(), at="subject", layers=[2], source_layers=[0])
