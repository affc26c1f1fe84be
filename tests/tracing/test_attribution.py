"""Attribution: it closes on every family, and its rows are those of independent arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch

import dst
from dst.core.case import Case
from dst.core.errors import CapabilityError, CaseError, NumericalError
from dst.core.results import Attribution
from dst.core.sites import Site
from dst.models.hooks import HooksBackend
from dst.testbed.planted import KINDS, Plant, build, sample
from dst.tracing.prepare import prepare
from tests import tiny

PROMPT = "Anna is at the lake. Anna sees a bass. The bass is a"
PLANS = sample(len(KINDS), seed=7)


def case(**fields: Any) -> Case:
    return Case(
        **{
            "prompt": PROMPT,
            "contextual": "fish",
            "associative": "instrument",
            "subject": "bass",
            "cue": "lake",
            "neutral": [PROMPT.replace("lake", word) for word in ("bank", "city", "song")],
            "substitute": [PROMPT.replace("bass", word) for word in ("drum", "song", "lake")],
            **fields,
        }
    )


def part(found: Attribution, name: str) -> float:
    return float(found.total[found.components.index(name)])


# -- every family -----------------------------------------------------------------------------


@tiny.families()
def test_components_add_up_to_the_contrast(family: str) -> None:
    found = dst.attribution(tiny.backend(family), case())
    allowed = 1e-4 * max(1.0, abs(found.contrast))
    assert found.closure_error <= allowed
    assert found.total.sum() == pytest.approx(found.contrast, abs=1e-9)
    # One form a side: LD is linear in the last state, but for a soft cap.
    if family != "gemma2":
        assert abs(part(found, "nonlinear")) <= allowed


def test_what_a_soft_cap_takes_is_the_nonlinear_row() -> None:
    model = tiny.backend("gemma2", final_logit_softcapping=0.5)  # as large as the logits
    found = dst.attribution(model, case())
    ready = prepare(model, case())
    logits = model.run([ready.x.ids], logits_at=[-1]).last_logits[0].double().numpy()
    cap = model.model.config.final_logit_softcapping
    uncapped = cap * np.arctanh(logits / cap)
    difference = uncapped[ready.metric.plus[0]] - uncapped[ready.metric.minus[0]]
    linear = found.total.sum() - part(found, "nonlinear")
    assert linear == pytest.approx(difference, rel=1e-4)
    assert part(found, "nonlinear") == pytest.approx(found.contrast - difference, abs=1e-5)
    assert abs(part(found, "nonlinear")) > 0.01


def test_the_heads_bias_is_a_row_of_its_own() -> None:
    model = tiny.backend("gptj")
    found, ready = dst.attribution(model, case()), prepare(model, case())
    bias = model.model.lm_head.bias.detach().double().numpy()
    known = bias[ready.metric.plus[0]] - bias[ready.metric.minus[0]]
    assert abs(known) > 0.01
    assert part(found, "head_bias") == pytest.approx(known, abs=1e-6)
    assert part(dst.attribution(tiny.backend("llama"), case()), "head_bias") == 0


def test_the_final_norms_bias_is_a_row_of_its_own() -> None:
    model = tiny.backend("gpt2")
    found, ready = dst.attribution(model, case()), prepare(model, case())
    rows = model.model.lm_head.weight.detach().double()
    direction = rows[ready.metric.plus[0]] - rows[ready.metric.minus[0]]
    known = float(model.model.transformer.ln_f.bias.detach().double() @ direction)
    assert abs(known) > 0.01
    assert part(found, "norm_bias") == pytest.approx(known, abs=1e-6)


# -- by independent arithmetic ------------------------------------------------------------------


def added(model: Any, ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Embedding, then what attention and MLP add in each block, at the last position; and h[L]."""
    plain = model.model
    llama = hasattr(plain, "model")
    blocks = plain.model.layers if llama else plain.transformer.h
    norm = plain.model.norm if llama else plain.transformer.ln_f
    seen: list[torch.Tensor] = []
    last: list[torch.Tensor] = []

    def output(_module: Any, _args: Any, out: Any) -> None:
        seen.append((out[0] if isinstance(out, tuple) else out)[0, -1].double())

    with ExitStack() as hooks, torch.no_grad():
        first = blocks[0].register_forward_pre_hook(
            lambda _m, args, kwargs: seen.append(
                (args[0] if args else kwargs["hidden_states"])[0, -1].double()
            ),
            with_kwargs=True,
        )
        hooks.callback(first.remove)
        for block in blocks:
            attention = block.self_attn if llama else block.attn
            hooks.callback(attention.register_forward_hook(output).remove)
            hooks.callback(block.mlp.register_forward_hook(output).remove)
        pre = norm.register_forward_pre_hook(lambda _m, args: last.append(args[0][0, -1].double()))
        hooks.callback(pre.remove)
        plain(torch.tensor([list(ids)]))
    return torch.stack(seen), last[0]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_blocks_are_read_with_the_scale_of_the_prompt_and_a_weighted_direction(family: str) -> None:
    model = tiny.backend(family)
    several = case(contextual=("fish", "song"), associative=("instrument", "drum"))
    found, ready = dst.attribution(model, several), prepare(model, several)
    plain = model.model
    weight = plain.lm_head.weight.detach().double()
    logits = model.run([ready.x.ids], logits_at=[-1]).last_logits[0].double()
    assert len(ready.metric.plus) > 1
    plus = logits[list(ready.metric.plus)].softmax(0) @ weight[list(ready.metric.plus)]
    minus = logits[list(ready.metric.minus)].softmax(0) @ weight[list(ready.metric.minus)]

    own, last = added(model, ready.x.ids)
    torch.testing.assert_close(own.sum(0), last, rtol=1e-5, atol=1e-5)
    if family == "llama":
        norm = plain.model.norm
        scale = (last.pow(2).mean() + norm.variance_epsilon).sqrt()
    else:
        norm = plain.transformer.ln_f
        scale = (last.var(correction=0) + norm.eps).sqrt()
    gain = norm.weight.detach().double()

    def read(vectors: torch.Tensor) -> np.ndarray:
        if family == "gpt2":
            vectors = vectors - vectors.mean(-1, keepdim=True)
        return ((gain * vectors / scale) @ (plus - minus)).numpy()

    x = read(own)
    zero = np.mean([read(added(model, r.ids)[0]) for r in ready.variants.neutral], axis=0)
    both = np.mean([read(added(model, r.ids)[0]) for r in ready.variants.neutral_substitute], 0)
    for mine, known in (
        (found.base, both),
        (found.associative, zero - both),
        (found.contextual, x - zero),
    ):
        np.testing.assert_allclose(by_block(found, mine), known, atol=1e-5)


def by_block(found: Attribution, values: np.ndarray) -> np.ndarray:
    """Embedding, then attention (heads and bias) and MLP of each block."""
    n_layers = int(found.layers.max())
    out = [values[found.components.index("embedding")]]
    for layer in range(n_layers):
        here = [i for i in range(len(values)) if found.layers[i] == layer]
        mlp = found.components.index(f"mlp {layer}")
        out += [sum(values[i] for i in here if i != mlp), values[mlp]]
    return np.array(out)


def test_a_head_adds_its_own_slice_of_the_output_projection() -> None:
    model = tiny.backend("llama")
    found, ready = dst.attribution(model, case()), prepare(model, case())
    layer, site = 1, Site(1, "z")
    run = model.run([ready.x.ids], capture=[site, Site(2, "resid_post")], logits_at=[-1])
    z = run.states[site][0, -1].double()  # [head d_head]
    w_o = model.model.model.layers[layer].self_attn.o_proj.weight.detach().double()
    last = run.states[Site(2, "resid_post")][0, -1].double()
    norm = model.model.model.norm
    scale = (last.pow(2).mean() + norm.variance_epsilon).sqrt()
    rows = model.model.lm_head.weight.detach().double()
    direction = rows[ready.metric.plus[0]] - rows[ready.metric.minus[0]]
    d_head = z.shape[1]
    for head in range(len(z)):
        out = w_o[:, head * d_head : (head + 1) * d_head] @ z[head]
        known = float((norm.weight.detach().double() * out / scale) @ direction)
        assert part(found, f"head {layer}.{head}") == pytest.approx(known, abs=1e-6)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.body}-{plan.name}")
def test_parts_are_those_planted(plan: Plant) -> None:
    planted = build(plan)
    found = dst.attribution(HooksBackend(planted.model, planted.tokenizer), planted.case)
    for name, mine in (
        ("base", found.base),
        ("association", found.associative),
        ("context", found.contextual),
    ):
        known = planted.truth.attribution[name]
        np.testing.assert_allclose(by_block(found, mine), known, atol=1e-3)
    assert found.closure_error < 1e-4


def test_trajectories_end_in_the_whole_of_each_part() -> None:
    found = dst.attribution(tiny.backend("llama"), case())
    for name in ("base", "associative", "contextual"):
        values = getattr(found, name)
        curve = found.up_to(name)
        assert len(curve) == 4
        assert curve[0] == values[0]
        assert curve[1] - curve[0] == pytest.approx(values[found.layers == 0].sum())
        assert curve[-1] == pytest.approx(values.sum())


# -- what is refused ----------------------------------------------------------------------------


def test_missing_variants_are_named() -> None:
    model = tiny.backend("llama")
    with pytest.raises(CaseError, match="no neutral and substitute variants"):
        dst.attribution(model, case(cue=(), neutral=()))
    with pytest.raises(CaseError, match="no associative answer"):
        dst.attribution(model, case(associative=()))


def test_an_engine_without_heads_is_named() -> None:
    model = tiny.backend("llama")
    model.can = model.can - {"heads"}
    with pytest.raises(CapabilityError, match=r"cannot do 'heads'.*Use backend='hooks'"):
        dst.attribution(model, case())


class Forgetful(HooksBackend):
    """An engine that loses a tenth of what an MLP adds."""

    def run(self, *args: Any, **kwargs: Any) -> Any:
        run = super().run(*args, **kwargs)
        for site, value in run.states.items():
            if site.kind == "mlp_out":
                value *= 0.9
        return run


def test_components_that_miss_the_stream_are_refused() -> None:
    model = tiny.backend("llama")
    with pytest.raises(NumericalError, match="miss the residual stream by"):
        dst.attribution(Forgetful(model.model, model.tokenizer), case())
