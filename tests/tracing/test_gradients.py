"""Gradients with respect to states: slopes of edited runs, of every family; nothing left behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import dst
from dst.analysis.readout import contrast
from dst.core.case import Case
from dst.core.errors import CapabilityError, CaseError, InterventionError
from dst.core.sites import HEAD_KINDS, KINDS, Site
from dst.models.backend import Edit, Through
from dst.models.check import check_model
from dst.models.hooks import HooksBackend
from dst.tracing.gradients import differentiable
from dst.tracing.swaps import Contrast
from tests import tiny
from tests.models.manual import FORWARD
from tests.tracing.test_attribution import case

ROW = [5, 9, 33, 7, 100, 6, 8]
LD = Contrast((17, 30), (41,))
"""Any ids do for random models."""


def slope(engine: Any, site: Site, direction: torch.Tensor, size: float) -> float:
    """Central difference of LD along a direction at a site, by edited runs."""
    state = engine.run([ROW], capture=[site]).states[site]
    edits = [
        Edit(site, [row], range(len(ROW)), state + sign * size * direction)
        for row, sign in enumerate((1, -1))
    ]
    up, down = LD(engine.run([ROW] * 2, edits=edits, logits_at=[-1]).last_logits)
    return float(up - down) / (2 * size)


# -- what a gradient is ---------------------------------------------------------------------


@tiny.families()
def test_a_gradient_is_the_slope_that_edited_runs_show(family: str) -> None:
    # With all experts chosen: where a router changes its choice the output jumps, without slope.
    every: dict[str, Any] = {"num_experts_per_tok": 4} if family.endswith("_moe") else {}
    engine = tiny.backend(family, **every)
    kinds = [kind for kind in KINDS if kind != "pattern"]
    sites = [Site(layer, kind) for layer in (0, 2) for kind in kinds]
    found = engine.gradients([ROW], sites=sites, metric=differentiable(LD))
    generator = torch.Generator().manual_seed(3)
    for site in sites:
        gradient = found.gradients[site]
        assert gradient.shape == found.states[site].shape
        random = torch.randn(gradient.shape, generator=generator)
        # Half along the gradient, so that the slope is no small difference of large numbers.
        direction = gradient / gradient.norm() + random / random.norm()
        direction = direction * found.states[site].norm() / direction.norm()
        expected = float((gradient * direction).sum())
        errors = [
            abs(slope(engine, site, direction, size) - expected) for size in (1e-2, 1e-3, 3e-4)
        ]
        assert min(errors) < 0.02 * abs(expected) + 1e-3, (site, expected, errors)


@pytest.mark.parametrize("family", FORWARD)
def test_gradients_are_those_of_the_model_written_out_by_hand(family: str) -> None:
    engine = tiny.backend(family)
    sites = [Site(layer, kind) for layer in range(3) for kind in KINDS]
    found = engine.gradients([ROW], sites=sites, metric=differentiable(LD))
    seen: dict[Site, torch.Tensor] = {}

    def at(layer: int, kind: str, value: torch.Tensor) -> torch.Tensor:
        value.requires_grad_() if value.is_leaf else value.retain_grad()
        return seen.setdefault(Site(layer, kind), value) if kind in KINDS else value

    logits = FORWARD[family](engine.model, ROW, at)[-1]
    value = logits[list(LD.plus)].logsumexp(0) - logits[list(LD.minus)].logsumexp(0)
    wanted = torch.autograd.grad(value, [seen[site] for site in sites])
    assert float(found.value) == pytest.approx(float(value.detach()), abs=1e-5)
    for site, own in zip(sites, wanted, strict=True):
        scale = float(own.abs().max())
        torch.testing.assert_close(found.gradients[site][0], own, rtol=0, atol=2e-5 * scale)


def test_the_metric_is_the_contrast_of_every_other_measure() -> None:
    logits = torch.randn(3, 2, 50, generator=torch.Generator().manual_seed(0)) * 5
    expected = contrast(logits[:, -1].numpy(), LD.plus, LD.minus)
    np.testing.assert_allclose(differentiable(LD)(logits).numpy(), expected, rtol=1e-5)


def test_any_differentiable_metric_will_do() -> None:
    engine, site = tiny.backend("llama"), Site(2, "resid_post")
    found = engine.gradients([ROW], sites=[site], metric=lambda logits: logits[:, -1, 7])
    assert float(found.value) == pytest.approx(float(engine.run([ROW]).logits[0, -1, 7]), abs=1e-6)
    # Of the last state the logit is a function of the last position alone.
    assert not found.gradients[site][0, :-1].any()
    assert found.gradients[site][0, -1].any()


def test_rows_of_a_batch_do_not_mix_and_padding_has_no_gradient() -> None:
    engine, rows = tiny.backend("llama"), [ROW, ROW[:4]]
    sites = [Site(1, "k"), Site(2, "resid_pre")]
    together = engine.gradients(rows, sites=sites, metric=differentiable(LD))
    for i, row in enumerate(rows):
        alone = engine.gradients([row], sites=sites, metric=differentiable(LD))
        assert float(together.value[i]) == pytest.approx(float(alone.value[0]), abs=1e-5)
        for site in sites:
            own = together.gradients[site][i]
            torch.testing.assert_close(own[: len(row)], alone.gradients[site][0], rtol=0, atol=1e-5)
            assert not own[len(row) :].any()


def test_a_gradient_is_taken_after_the_edits_at_its_site() -> None:
    engine, site = tiny.backend("llama"), Site(0, "resid_pre")
    value = torch.randn(7, 64, generator=torch.Generator().manual_seed(4))
    edit = Edit(site, [0], range(7), value)
    found = engine.gradients([ROW], sites=[site], metric=differentiable(LD), edits=[edit])
    assert torch.equal(found.states[site][0], value)
    plain = engine.gradients([ROW], sites=[site], metric=differentiable(LD))
    assert not torch.allclose(found.gradients[site], plain.gradients[site], rtol=0.1)


# -- what it goes through -------------------------------------------------------------------


def test_a_dropped_block_passes_no_gradient_back() -> None:
    engine = tiny.backend("llama")
    sites = [Site(1, "z"), Site(1, "mlp_out"), Site(1, "resid_pre"), Site(1, "resid_post")]
    found = engine.gradients([ROW], sites=sites, metric=differentiable(LD), drop=[1]).gradients
    assert not found[Site(1, "z")].any()
    assert torch.equal(found[Site(1, "resid_pre")], found[Site(1, "resid_post")])
    plain = engine.gradients([ROW], sites=sites, metric=differentiable(LD)).gradients
    assert torch.allclose(found[Site(1, "resid_post")], plain[Site(1, "resid_post")])
    assert not torch.allclose(found[Site(1, "resid_pre")], plain[Site(1, "resid_pre")], rtol=0.1)


@tiny.families()
def test_what_arrives_through_each_receiver_adds_up(family: str) -> None:
    """D LD / d resid_pre = the gradient behind the block + what its receivers pass on."""
    engine, layer = tiny.backend(family), 1
    spec = engine.spec
    through = [
        Through(Site(layer, kind), [head])
        for kind in ("q", "k", "v")
        for head in range(spec.heads_at(kind))
    ]
    through.append(Through(Site(layer, "mlp_out")))
    sites = [Site(layer, kind) for kind in ("resid_pre", "resid_post")]
    found = engine.gradients([ROW], sites=sites, metric=differentiable(LD), through=through)
    total = found.gradients[sites[1]].double() + sum(part.double() for part in found.through)
    wanted = found.gradients[sites[0]].double()
    assert float((total - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())
    assert all(part.any() for part in found.through)


# -- nothing is left behind -----------------------------------------------------------------


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_model_comes_out_as_it_went_in(mode: Any, frozen: bool) -> None:
    engine = tiny.backend("llama")
    model = engine.model.train()
    model.model.layers[1].eval()
    weights = {name: w.clone() for name, w in model.state_dict().items()}
    for weight in model.model.layers[0].parameters() if not frozen else model.parameters():
        weight.requires_grad_(False)
    flags = [weight.requires_grad for weight in model.parameters()]
    training = [module.training for module in model.modules()]
    sites = [Site(1, "pattern"), Site(1, "q")]
    with mode():
        found = engine.gradients([ROW], sites=sites, metric=differentiable(LD), drop=[2])
    assert found.gradients[sites[0]].any()
    assert not any(g.requires_grad for g in (*found.gradients.values(), *found.states.values()))
    assert [weight.requires_grad for weight in model.parameters()] == flags
    assert all(weight.grad is None for weight in model.parameters())
    assert [module.training for module in model.modules()] == training
    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(w, weights[name]) for name, w in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_nothing_is_left_behind_by_a_metric_that_fails() -> None:
    engine = tiny.backend("llama")

    def metric(logits: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        engine.gradients([ROW], sites=[Site(1, "q")], metric=metric)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in engine.model.modules())


# -- a case -------------------------------------------------------------------------------------


def test_of_a_case_it_is_the_gradient_of_its_contrast() -> None:
    model, sites = tiny.backend("gemma2"), [Site(1, "resid_pre")]
    found = dst.gradients(model, case(), sites)
    seen = dst.trace(model, case())
    assert float(found.value) == pytest.approx(seen.contrast, abs=1e-5)
    other = dst.gradients(model, case(), sites, metric=lambda logits: 2 * logits[:, -1, 5])
    assert float(other.value) == pytest.approx(2 * float(seen.logits[5]), abs=1e-5)


def test_one_form_a_side_makes_the_last_gradient_a_difference_of_rows() -> None:
    """Closed form: d LD / d (normed state) = U[A+] - U[A-], here behind a norm of gain 1."""
    engine = tiny.backend("llama")
    with torch.no_grad():
        engine.model.model.norm.weight.fill_(1.0)
    ld, site = Contrast((17,), (41,)), Site(2, "resid_post")
    found = engine.gradients([ROW], sites=[site], metric=differentiable(ld))
    h, rows = found.states[site][0, -1].double(), engine.directions([17, 41]).double()
    direction = rows[0] - rows[1]
    rms = (h.pow(2).mean() + engine.model.config.rms_norm_eps).sqrt()
    expected = direction / rms - h * (h @ direction) / (64 * rms**3)
    torch.testing.assert_close(
        found.gradients[site][0, -1].double(), expected, rtol=1e-4, atol=1e-6
    )


# -- errors and checks --------------------------------------------------------------------------


def test_what_cannot_be_asked_is_said() -> None:
    engine = tiny.backend("llama")
    metric = differentiable(LD)
    with pytest.raises(InterventionError, match=r"The metric returns shape \(1, 1\); expected one"):
        engine.gradients([ROW], sites=[], metric=lambda logits: logits[:, :, 3])
    with pytest.raises(InterventionError, match=r"shape \(1,\) without a gradient; expected one"):
        engine.gradients([ROW], sites=[], metric=lambda logits: logits[:, -1, 3].detach())
    with pytest.raises(InterventionError, match=r"resid_pre\.3 does not exist"):
        engine.gradients([ROW], sites=[Site(3, "resid_pre")], metric=metric)
    with pytest.raises(InterventionError, match=r"z\.1 receives nothing from the residual stream"):
        engine.gradients([ROW], sites=[], metric=metric, through=[Through(Site(1, "z"))])
    with pytest.raises(CaseError, match="no associative answer"):
        dst.gradients(engine, Case(prompt="The bass is a", contextual="fish"), [Site(0, "z")])
    engine.can = engine.can - {"gradients"}
    with pytest.raises(CapabilityError, match="cannot do 'gradients'"):
        dst.gradients(engine, case(), [Site(0, "z")])


def test_loading_proves_gradients_and_finds_wrong_ones() -> None:
    engine = tiny.backend("llama")
    (check,) = (c for c in check_model(engine).checks if "gradients" in c.needed_by)
    assert check.passed

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return 2 * gradient

    engine.model.model.layers[1].register_forward_hook(lambda m, a, out: Doubled.apply(out))
    (check,) = (c for c in check_model(engine).checks if "gradients" in c.needed_by)
    assert not check.passed
    assert "edited runs give" in check.reason or "relative difference" in check.reason


def test_engines_without_a_graph_say_so() -> None:
    pytest.importorskip("transformer_lens")
    from dst.models.bridge import BridgeBackend

    reference = tiny.backend("gpt2")
    bridge = BridgeBackend(reference.model, reference.tokenizer)
    assert isinstance(bridge, HooksBackend)
    with pytest.raises(CapabilityError, match="cannot do 'gradients': only the engine 'hooks'"):
        dst.gradients(bridge, case(), [Site(0, "z")])


def test_head_sites_have_a_head_axis() -> None:
    engine = tiny.backend("llama")
    found = engine.gradients(
        [ROW], sites=[Site(1, kind) for kind in HEAD_KINDS], metric=differentiable(LD)
    ).gradients
    assert found[Site(1, "q")].shape == found[Site(1, "z")].shape == (1, 7, 4, 16)
    assert found[Site(1, "k")].shape == found[Site(1, "v")].shape == (1, 7, 2, 16)
    assert found[Site(1, "pattern")].shape == (1, 4, 7, 7)
