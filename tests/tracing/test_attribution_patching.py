"""Attribution patching: exact where LD is linear, corrected where a softmax is saturated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import dst
from dst.core.errors import CapabilityError, CaseError, InputError, InterventionError
from dst.core.path_results import AttributionPatch
from dst.testbed.planted import Plant, Route, build
from dst.tracing.patching import patch
from dst.tracing.prepare import prepare
from tests import tiny
from tests.models.manual import FORWARD, recorded
from tests.tracing.test_attribution import PROMPT, case
from tests.tracing.test_path_patching import RELAYED, engine_of

SWAPPED = PROMPT.replace("lake", "city")


def check_controls(found: AttributionPatch) -> None:
    assert found.self_patch_error < 1e-5
    assert found.donor_error < 1e-5
    # The slope is of two runs in float32 that lie 2 % apart.
    assert found.slope_error < 5e-3 * np.abs(found["atp"]).max() + 1e-3


def by_role(found: AttributionPatch, role: str) -> np.ndarray:
    return found["atp"][:, found.columns.index(role)]


# -- closed forms ---------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["llama", "gpt2"])
@pytest.mark.parametrize("site", ["resid_pre", "resid_post", "attn_out", "v", "z"])
def test_where_the_answer_is_linear_in_the_site_the_estimate_is_exact(body: Any, site: str) -> None:
    """The planted route copies the cue's sense by values alone: no step of it bends."""
    planted = build(replace(RELAYED, body=body))
    found = dst.attribution_patch(
        engine_of(planted), planted.case, donor="swap", site=site, by="role", sample=None
    )
    whole = planted.truth.ld["swap"] - planted.truth.ld["x"]
    known = ~np.isnan(found.exact)
    np.testing.assert_allclose(found["atp"][known], found.exact[known], atol=2e-3)
    assert np.abs(found.exact[known]).max() == pytest.approx(abs(whole), abs=1e-3)
    if site == "resid_pre":  # read at the cue until block 2, at the relay until 4, then at i*
        expected = {"cue": (1, 1, 0, 0, 0), "relay": (0, 0, 1, 1, 0), "answer": (0, 0, 0, 0, 1)}
        for role, here in expected.items():
            np.testing.assert_allclose(by_role(found, role), whole * np.array(here), atol=2e-3)
    (plain, _) = found.agreement
    assert plain.sign_agreement == plain.top_overlap == 1
    assert plain.mean_error < 1e-3
    check_controls(found)


def test_a_saturated_softmax_has_no_gradient_and_is_recomputed() -> None:
    """The subject's query asks for the cue only as this noun, worked by hand.

    Score 144/sqrt(d) on the cue against 50/sqrt(d) on <bos> leaves p(1 - p) under 1e-6, so the
    gradient of the query is 0; with another noun's query the head reads <bos>, where nothing is,
    and all that the context brings is lost: LD changes by -alpha.
    """
    plan = Plant(
        n_layers=4,
        alpha=3.0,
        context=(Route(("cue", "subject", "answer"), (2, 3)),),
        one_noun_context=True,
    )
    planted = build(plan)
    engine = engine_of(planted)
    lost = -planted.truth.total_effect
    assert abs(lost) == pytest.approx(3.0)
    asked: dict[str, Any] = {"donor": "substitute", "site": "q", "sample": None}
    for by, column in (("role", "subject_1"), ("head", "head 0")):
        found = dst.attribution_patch(engine, planted.case, by=by, **asked)
        at = 1, found.columns.index(column)  # block 2
        assert found.exact[at] == pytest.approx(lost, abs=1e-3)
        assert abs(found["atp"][at]) < 1e-3
        assert found["softmax"][at] == pytest.approx(lost, abs=1e-3)
        # Dropping block 2 is dropping the node, dropping 3 cuts its way: 2 of the other 3 count.
        assert found["atp_star"][at] == pytest.approx(2 / 3 * abs(lost), abs=1e-3)
        assert found["graddrop"][at] < 1e-3
        quality = {one.estimate: one for one in found.agreement}
        assert quality["softmax"].mean_error < 1e-3 < quality["atp"].mean_error
        assert quality["softmax"].top_overlap == 1
        cell = f"layer 1, {column}"
        assert quality["atp"].worst[0] == cell
        assert quality["atp"].worst_exact[0] == pytest.approx(lost, abs=1e-3)


def test_effects_that_cancel_show_when_a_block_is_dropped() -> None:
    """Two routes of shares 1 and -1 in blocks (1, 3) and (2, 4): LD never sees the cue.

    Dropping any of the four blocks leaves one route, worth 2 alpha from one sense to the other;
    dropping the fifth leaves both, worth 0. So the mean over 5 blocks is 4/5 of 2 alpha.
    """
    routes = (
        Route(("cue", "relay_1", "answer"), (1, 3), share=1.0),
        Route(("cue", "relay_2", "answer"), (2, 4), share=-1.0),
    )
    planted = build(Plant(n_layers=5, alpha=2.0, context=routes))
    found = dst.attribution_patch(engine_of(planted), planted.case, by="role", sample=None)
    at = 0, found.columns.index("cue")
    assert found.exact[at] == pytest.approx(0, abs=1e-3)
    assert found["atp"][at] == pytest.approx(0, abs=1e-3)
    assert found["graddrop"][at] == pytest.approx(4 / 5 * 2 * 2.0, abs=1e-3)


def test_one_block_leaves_nothing_to_drop_inside_it() -> None:
    item = case(swap=SWAPPED)
    engine = tiny.backend("llama", num_hidden_layers=1)
    found = dst.attribution_patch(engine, item, site="z", by="head")
    assert found.estimates == ("atp",)
    assert "graddrop needs a second block to drop." in found.notes
    assert dst.attribution_patch(engine, item).estimates == ("atp", "graddrop")


# -- against other implementations ------------------------------------------------------------


@pytest.mark.parametrize("family", FORWARD)
@pytest.mark.parametrize("site", ["resid_pre", "mlp_out", "z", "k"])
def test_the_model_written_out_by_hand_gives_the_same(family: str, site: str) -> None:
    engine, item = tiny.backend(family), case(swap=SWAPPED)
    ready = prepare(engine, item, draws=0)
    base, donor = list(ready.tokenized.ids), list(ready.variants.swap[0].ids)
    _, theirs = recorded(family, engine.model, donor)
    own: list[torch.Tensor] = []

    def at(layer: int, kind: str, value: torch.Tensor) -> torch.Tensor:
        if kind == site:
            own.append(value)
        return value

    logits = FORWARD[family](engine.model, base, at)[-1]
    (plus,), (minus,) = ready.metric.plus, ready.metric.minus
    slopes = torch.autograd.grad(logits[plus] - logits[minus], own)
    by = "head" if site in ("z", "k") else "position"
    found = dst.attribution_patch(engine, item, site=site, by=by, sample=1)
    for layer in range(3):
        product = (theirs[layer, site] - own[layer].detach()) * slopes[layer]
        expected = product.sum((0, 2) if by == "head" else -1)
        np.testing.assert_allclose(found["atp"][layer], expected.numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("by", ["position", "head"])
def test_the_recomputed_pattern_is_that_of_the_formula(by: str) -> None:
    """By hand on a GPT-2: softmax of the scores with the donor's q or k, times its slope."""
    engine, item = tiny.backend("gpt2"), case(swap=SWAPPED)
    ready = prepare(engine, item, draws=0)
    base, donor = list(ready.tokenized.ids), list(ready.variants.swap[0].ids)
    _, theirs = recorded("gpt2", engine.model, donor)
    seen: dict[tuple[int, str], torch.Tensor] = {}

    def at(layer: int, kind: str, value: torch.Tensor) -> torch.Tensor:
        return seen.setdefault((layer, kind), value)

    logits = FORWARD["gpt2"](engine.model, base, at)[-1]
    (plus,), (minus,) = ready.metric.plus, ready.metric.minus
    patterns = [seen[layer, "pattern"] for layer in range(3)]
    slopes = torch.autograd.grad(logits[plus] - logits[minus], patterns)
    n = len(base)
    for site in ("q", "k"):
        found = dst.attribution_patch(engine, item, site=site, by=by, sample=1)
        for layer in range(3):
            for column in range(n if by == "position" else 4):
                q, k = seen[layer, "q"].detach().clone(), seen[layer, "k"].detach().clone()
                part = q if site == "q" else k
                where = (column, slice(None)) if by == "position" else (slice(None), column)
                part[where] = theirs[layer, site][where]
                scores = torch.einsum("qhd,khd->hqk", q, k) / 4
                scores = scores.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -torch.inf)
                change = scores.softmax(-1) - patterns[layer].detach()
                expected = float((change * slopes[layer]).sum())
                assert found["softmax"][layer, column] == pytest.approx(expected, abs=2e-6)


def test_exact_cells_are_those_of_patching() -> None:
    engine, item = tiny.backend("gemma2"), case(swap=SWAPPED)
    found = dst.attribution_patch(engine, item, site="mlp_out", by="position", sample=None)
    grid = patch(engine, item, donor="swap", site="mlp_out", by="position", controls=1)
    known = ~np.isnan(found.exact)
    assert known.sum() > 20
    np.testing.assert_allclose(found.exact[known], grid.effects("LD")[0][known], atol=1e-5)
    # What was not run has a donor that equals the base, which patching does not change.
    assert not grid.effects("LD")[0][found.fired == 0].any()


def test_nodes_are_those_of_transformer_lens() -> None:
    pytest.importorskip("transformer_lens")
    from transformer_lens.tools.analysis.attribution_patching import attribution_patch

    from dst.models.bridge import BridgeBackend

    engine, item = tiny.backend("gpt2"), case(swap=SWAPPED)
    ready = prepare(engine, item, draws=0)
    bridge = BridgeBackend(engine.model, engine.tokenizer).bridge
    (plus,), (minus,) = ready.metric.plus, ready.metric.minus
    theirs = attribution_patch(
        bridge,
        clean=torch.tensor([ready.variants.swap[0].ids]),
        corrupt=torch.tensor([ready.tokenized.ids]),
        metric_fn=lambda logits: (logits[:, -1, plus] - logits[:, -1, minus]).sum(),
    ).node_scores
    heads = np.zeros((3, 4))
    mlps = np.zeros((3, len(ready.tokenized.ids)))
    for node, score in theirs.items():
        if node.kind == "attn_head_out":
            heads[node.layer, node.head] += score
        elif node.kind == "mlp_out":
            mlps[node.layer, node.position] += score
    ours = dst.attribution_patch(engine, item, site="z", by="head", sample=1)
    np.testing.assert_allclose(ours["atp"], heads, atol=1e-6)
    ours = dst.attribution_patch(engine, item, site="mlp_out", sample=1)
    np.testing.assert_allclose(ours["atp"], mlps, atol=1e-6)
    assert np.abs(heads).max() > 1e-4


# -- every family -----------------------------------------------------------------------------


@tiny.families()
def test_the_estimate_is_the_slope_and_the_controls_hold(family: str) -> None:
    engine, item = tiny.backend(family), case(swap=SWAPPED)
    for site, by in (("resid_pre", "role"), ("k", "head"), ("q", "position")):
        found = dst.attribution_patch(engine, item, site=site, by=by, sample=16)
        check_controls(found)
        assert found.value.shape[1:] == (3, len(found.columns))
        if by == "head":
            assert len(found.columns) == engine.spec.heads_at(site)
        assert {one.estimate for one in found.agreement} == set(found.estimates)
        assert all(one.n <= 16 for one in found.agreement)
        # Estimated 0 and known to be 0 where the donor has nothing to put in.
        assert not found.value[:, found.fired == 0].any()
        assert not found.delta_norm[found.fired == 0].any()


# -- what a reader sees ---------------------------------------------------------------------


def test_agreement_is_on_a_stated_sample() -> None:
    engine, item = tiny.backend("llama"), case(swap=SWAPPED)
    found = dst.attribution_patch(engine, item, sample=5, seed=2)
    assert (~np.isnan(found.exact)).sum() == found.agreement[0].n == 5
    assert found.agreement[0].n_all == found.exact.size
    assert "a random sample of 5 of" in found.agreement[0].chosen
    assert "seed 2" in found.agreement[0].chosen
    again = dst.attribution_patch(engine, item, sample=5, seed=2)
    np.testing.assert_array_equal(found.exact, again.exact)
    other = dst.attribution_patch(engine, item, sample=5, seed=3)
    assert (np.isnan(found.exact) != np.isnan(other.exact)).any()
    every = dst.attribution_patch(engine, item, sample=None)
    assert every.agreement[0].chosen == "every cell whose donor differs"
    assert every.agreement[0].n == (every.fired > 0).sum()
    graddrop = every.agreement[1]
    assert np.isnan(graddrop.sign_agreement)
    assert graddrop.reason == "the estimate has no sign"


def test_a_donor_that_is_the_base_is_estimated_at_exactly_zero() -> None:
    found = dst.attribution_patch(tiny.backend("llama"), case(swap=PROMPT), site="k")
    assert not found.value.any()
    assert not found.fired.any()
    assert np.isnan(found.exact).all()
    assert found.agreement[0].n == 0
    assert "fewer than 3 cells" in found.agreement[0].reason
    assert found.slope_error == 0


def test_it_is_read_back_and_becomes_rows(tmp_path: Any) -> None:
    engine, item = tiny.backend("llama"), case(swap=SWAPPED)
    found = dst.attribution_patch(engine, item, site="q", by="head", sample=4)
    again = dst.open_result(found.save(tmp_path / "atp.npz"))
    np.testing.assert_array_equal(again.value, found.value)
    assert again.agreement[0].worst == found.agreement[0].worst
    rows = found.to_records()
    assert len(rows) == found.exact.size
    assert set(rows[0]) == {
        *("site", "layer", "head", "atp", "softmax", "graddrop", "atp_star"),
        *("exact", "fired", "delta_norm"),
    }
    assert found["softmax"][2, 1] == rows[2 * 4 + 1]["softmax"]
    with pytest.raises(KeyError, match="the estimates here are atp, softmax"):
        found["ig"]
    assert found.provenance.settings["sample"] == 4


def test_what_cannot_be_estimated_is_said() -> None:
    engine, item = tiny.backend("llama"), case(swap=SWAPPED)
    with pytest.raises(InterventionError, match="The site kind 'pattern' cannot be patched"):
        dst.attribution_patch(engine, item, site="pattern")
    with pytest.raises(InterventionError, match="The site mlp_out has no heads; expected q, k"):
        dst.attribution_patch(engine, item, site="mlp_out", by="head")
    with pytest.raises(InputError, match="by='layer' does not exist; expected position, role"):
        dst.attribution_patch(engine, item, by="layer")
    with pytest.raises(InputError, match="The sample has 0 cells; expected at least one"):
        dst.attribution_patch(engine, item, sample=0)
    with pytest.raises(CaseError, match="no clean variant"):
        dst.attribution_patch(engine, item, donor="clean")
    engine.can = engine.can - {"gradients"}
    with pytest.raises(CapabilityError, match="cannot do 'gradients'"):
        dst.attribution_patch(engine, item)
