"""Closed forms of planted models against naive forward hooks and brute-force definitions.

Nothing here comes from the modules that measure: one forward pass a batch, hooks of a few lines,
and every mark by a loop over its definition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch

from dst.testbed.planted import KINDS, Plant, Planted, build, sample
from dst.testbed.planted_prompt import INERT

FLOW_TOLERANCE = 1e-3
SAMPLE = [
    replace(plan, body="llama" if number % 2 else "gpt2")
    for number, plan in enumerate(sample(len(KINDS), seed=11))
]


class Naive:
    """A planted model run by plain transformers, with forward hooks on its blocks."""

    def __init__(self, planted: Planted) -> None:
        self.model, self.tokenizer = planted.model, planted.tokenizer
        if planted.plan.body == "llama":
            self.blocks = list(self.model.model.layers)
            self.attns = [block.self_attn for block in self.blocks]
            self.norm = self.model.model.norm
        else:
            self.blocks = list(self.model.transformer.h)
            self.attns = [block.attn for block in self.blocks]
            self.norm = self.model.transformer.ln_f
        answers = (planted.case.contextual[0], planted.case.associative[0])
        self.plus, self.minus = self.tokenizer.convert_tokens_to_ids(list(answers))

    def ids(self, prompt: str) -> torch.Tensor:
        return torch.tensor(self.tokenizer(prompt)["input_ids"])

    def site(self, state: int) -> torch.nn.Module:
        """The module whose input is this state."""
        return [*self.blocks, self.norm][state]

    def ld(self, logits: torch.Tensor) -> np.ndarray:
        return (logits[:, -1, self.plus] - logits[:, -1, self.minus]).double().numpy()

    @torch.no_grad()
    def states(self, ids: torch.Tensor) -> torch.Tensor:
        """Residual stream [state pos d_model] of one run."""
        seen: list[torch.Tensor] = []
        with ExitStack() as hooks:
            for state in range(len(self.blocks) + 1):
                record = lambda _module, args: seen.append(args[0][0].clone())  # noqa: E731
                hooks.callback(self.site(state).register_forward_pre_hook(record).remove)
            self.model(ids[None])
        return torch.stack(seen)

    @torch.no_grad()
    def patched(
        self, ids: torch.Tensor, state: int, edit: Callable[[torch.Tensor], torch.Tensor]
    ) -> np.ndarray:
        """LD of each row of ``ids`` when ``edit`` changes the residual after a state."""
        hook = self.site(state).register_forward_pre_hook(
            lambda _module, args: (edit(args[0]), *args[1:])
        )
        try:
            return self.ld(self.model(ids).logits)
        finally:
            hook.remove()

    @torch.no_grad()
    def lens(self, resid: torch.Tensor) -> torch.Tensor:
        return self.model.lm_head(self.norm(resid))


def runs_of(planted: Planted, naive: Naive, draw: int) -> dict[str, torch.Tensor]:
    """Token ids of x, x_0, x_sub, x_0,sub and, where there is one, the clean twin and its x_0."""
    case = planted.case
    x = naive.ids(case.text)
    neutral = naive.ids(str(case.neutral[draw]))
    sub = naive.ids(str(case.substitute[-1 - draw]))
    runs = {"x": x, "neutral": neutral, "sub": sub, "both": torch.where(sub != x, sub, neutral)}
    if case.clean:
        clean = naive.ids(str(case.clean[0]))
        runs |= {"clean": clean, "clean_neutral": torch.where(clean != x, clean, neutral)}
    return runs


@pytest.fixture(scope="module", params=SAMPLE, ids=lambda plan: f"{plan.body}-{plan.name}")
def planted(request: pytest.FixtureRequest) -> Planted:
    return build(request.param)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(10))
def test_everything_on_hundreds(seed: int) -> None:
    for plan in sample(2 * len(KINDS), seed=100 + seed):
        check_flows_and_marks(build(plan))


def test_flows_repairs_and_marks(planted: Planted) -> None:
    check_flows_and_marks(planted)


def check_flows_and_marks(planted: Planted) -> None:
    """Margins, both flows, every repair and every mark, measured, against the known answers."""
    truth, naive = planted.truth, Naive(planted)
    ids = runs_of(planted, naive, draw=planted.plan.seed % 3)
    states = {name: naive.states(row) for name, row in ids.items()}
    ld = {name: float(naive.ld(naive.model(row[None]).logits)[0]) for name, row in ids.items()}
    margin = naive.ld(naive.lens(states["x"])[:, -1:])
    assert_close(margin, truth.margin, 1e-5)
    assert_close(
        [ld["both"], ld["neutral"] - ld["both"], ld["x"] - ld["neutral"]],
        [truth.base, truth.prior, truth.total_effect],
        2e-5,
    )

    flow = {
        "context_removal": -measured_flow(planted, naive, ids, states, "x", "neutral"),
        "context_insertion": measured_flow(planted, naive, ids, states, "neutral", "x"),
        "association_removal": -measured_flow(planted, naive, ids, states, "neutral", "both"),
        "association_insertion": measured_flow(planted, naive, ids, states, "both", "neutral"),
    }
    for name, table in flow.items():
        assert_close(table, getattr(truth, name), FLOW_TOLERANCE)
    check_travel(planted, flow, ld)
    check_dss(planted, flow)
    check_lens_marks(planted, margin, naive.ld(naive.lens(states["sub"])[:, -1:]))
    check_commitment(planted, naive, ids, states, ld["x"])


def measured_flow(
    planted: Planted,
    naive: Naive,
    ids: dict[str, torch.Tensor],
    states: dict[str, torch.Tensor],
    base: str,
    donor: str,
) -> np.ndarray:
    """LD(base with each role's residual after each state of the donor) - LD(base)."""
    roles = np.array(planted.truth.roles)
    masks = torch.from_numpy(np.array([roles == role for role in planted.truth.role_names]))
    start = naive.ld(naive.model(ids[base][None]).logits)
    rows = ids[base].expand(len(masks), -1)
    table = []
    for state in range(planted.plan.n_layers + 1):
        there = states[donor][state]
        swap = lambda resid, there=there: torch.where(masks[:, :, None], there, resid)  # noqa: E731
        table.append(naive.patched(rows, state, swap) - start)
    return np.array(table)


def check_travel(planted: Planted, flow: dict[str, np.ndarray], ld: dict[str, float]) -> None:
    truth, tau = planted.truth, 0.05
    totals = {"context": ld["x"] - ld["neutral"], "association": ld["neutral"] - ld["both"]}
    for name, total in totals.items():
        removal, insertion = flow[f"{name}_removal"], flow[f"{name}_insertion"]
        last = len(removal) - 1
        for column, role in enumerate(truth.role_names):
            size = [abs(value) for value in removal[:, column]]
            half = max(size) / 2
            arrival = departure = math.nan
            if role == "answer" and abs(total) >= tau:
                there = insertion[:, column] / total
                arrival = first(min(there[l:]) >= 0.5 for l in range(last + 1))
                assert truth.handover[name] == first(share >= 0.9 for share in there)
            elif role == "answer":
                assert math.isnan(truth.handover[name])
            elif max(size) >= tau:
                arrival = first(value >= half for value in size)
                departure = first(max(size[l:]) < half for l in range(last + 1))
                assert departure > arrival
            assert_same(getattr(truth, f"{name}_arrival")[column], arrival)
            assert_same(getattr(truth, f"{name}_departure")[column], departure)
        removed = removal.sum(1)
        redundant = removed / total < 0.9 if abs(total) >= tau else np.zeros(last + 1, bool)
        assert getattr(truth, f"{name}_redundant").tolist() == redundant.tolist()
    inserted = np.abs(flow["context_insertion"]).max()
    assert truth.context_cancelled == (abs(totals["context"]) < tau < inserted)


def check_dss(planted: Planted, flow: dict[str, np.ndarray]) -> None:
    truth, answer = planted.truth, planted.truth.role_names.index("answer")
    context = flow["context_insertion"][:, answer]
    association = flow["association_insertion"][:, answer]
    for state, (c, a) in enumerate(zip(context, association, strict=True)):
        plus, minus = max(c, 0), max(-a, 0)
        expected = plus / (plus + minus) if plus + minus > 0.05 else math.nan
        assert truth.dss[state] == pytest.approx(expected, abs=FLOW_TOLERANCE, nan_ok=True)
    assert truth.dss_total == pytest.approx(truth.dss[-1], abs=FLOW_TOLERANCE, nan_ok=True)
    assert_close(truth.coherence_margin, context + association, FLOW_TOLERANCE)


def check_lens_marks(planted: Planted, margin: np.ndarray, correct: np.ndarray) -> None:
    truth, last = planted.truth, len(margin) - 1
    states = range(last + 1)
    final = np.sign(margin[-1])
    lens_commitment = first(all(np.sign(margin[l:]) == final) for l in states)
    assert_same(truth.lens_commitment, lens_commitment)
    inversion = math.nan
    if max(margin) > 0.05:
        inversion = first(all(margin[l:] < -0.05) for l in states)
    assert_same(truth.inversion, inversion)
    width = max(2, math.ceil(last / 8))
    onset = math.nan
    for l in reversed(range(last + 2 - width)):
        below = all(margin[k] < correct[k] - 0.5 for k in range(l, l + width))
        if below and margin[max(l - 1, 0)] - min(margin[l:]) >= 0.5:
            onset = l
    assert_same(truth.onset, onset)


def check_commitment(
    planted: Planted,
    naive: Naive,
    ids: dict[str, torch.Tensor],
    states: dict[str, torch.Tensor],
    ld: float,
) -> None:
    """Each repair of x and of its control at every state, and the last state at which it works."""
    truth = planted.truth
    sources = torch.arange(len(truth.roles)) < len(truth.roles) - 1
    subject = torch.tensor([role.startswith("subject") for role in truth.roles])
    # Per repair: the run and its control, each with what is put in and where; "both - neutral"
    # is what the noun brings, taken away additively.
    take_away = states["both"] - states["neutral"]
    plans: dict[str, list[tuple[str, torch.Tensor, torch.Tensor, bool]]] = {
        "de-prime": [("x", take_away, sources, True), ("neutral", take_away, sources, True)],
        "replace subject": [
            ("x", states["sub"], subject, False),
            ("neutral", states["both"], subject, False),
        ],
        "remove cue": [
            ("x", states["neutral"], sources, False),
            ("sub", states["both"], sources, False),
        ],
    }
    if "clean" in ids:
        plans["restore cue"] = [
            ("x", states["clean"], sources, False),
            ("neutral", states["clean_neutral"], sources, False),
        ]
    assert set(truth.repaired) == set(truth.control) == set(plans)
    for name in truth.commitment:
        if name not in plans:
            assert truth.reasons[f"commitment/{name}"] == "the case has no clean variant"
            continue
        (run, donor, where, adds), (control, control_donor, _, _) = plans[name]
        repaired = repaired_over_states(naive, ids[run], donor, where, adds)
        controlled = repaired_over_states(naive, ids[control], control_donor, where, adds)
        assert_close(repaired, truth.repaired[name], FLOW_TOLERANCE)
        assert_close(controlled, truth.control[name], FLOW_TOLERANCE)
        sign = -1 if name == "remove cue" else 1
        working = [
            state
            for state, (mended, same) in enumerate(zip(repaired, controlled, strict=True))
            if sign * mended > 0.05 and sign * (mended - same) > 0.05 and sign * ld < -0.05
        ]
        assert_same(truth.commitment[name], 1 + working[-1] if working else math.nan)
        assert (f"commitment/{name}" in truth.reasons) == (not working)


def repaired_over_states(
    naive: Naive, ids: torch.Tensor, donor: torch.Tensor, where: torch.Tensor, adds: bool
) -> np.ndarray:
    out = []
    for state, there in enumerate(donor):
        edit = lambda resid, there=there: torch.where(  # noqa: E731
            where[:, None], resid + there if adds else there, resid
        )
        out.append(naive.patched(ids[None], state, edit)[0])
    return np.array(out)


def test_necessity_of_each_word(planted: Planted) -> None:
    naive = Naive(planted)
    x = naive.ids(planted.case.text)
    inert = naive.tokenizer.convert_tokens_to_ids(INERT)
    rows = x.repeat(len(x), 1)
    rows[range(1, len(x) - 1), range(1, len(x) - 1)] = inert
    with torch.no_grad():
        ld = naive.ld(naive.model(rows).logits)
    assert_close((ld[0] - ld)[1:-1], planted.truth.necessity[1:-1], FLOW_TOLERANCE)
    assert np.isnan(planted.truth.necessity[[0, -1]]).all()
    own = {planted.case.subject, *" ".join(planted.case.cue).split()}
    if planted.truth.spurious:
        where = planted.truth.tokens.index(planted.truth.spurious[0])
        assert planted.truth.spurious[0] not in own
        effect = planted.plan.spurious_strength
        assert planted.truth.necessity[where] == pytest.approx(effect)


def test_attribution_at_the_answer(planted: Planted) -> None:
    naive, truth = Naive(planted), planted.truth
    ids = runs_of(planted, naive, draw=0)
    direction = naive.model.lm_head.weight[naive.plus] - naive.model.lm_head.weight[naive.minus]
    final = naive.states(ids["x"])[-1, -1]
    centred = planted.plan.body == "gpt2"
    scale = final.std(correction=0) if centred else final.pow(2).mean().sqrt()

    def parts(row: torch.Tensor) -> np.ndarray:
        added = components_at_answer(naive, row)
        if centred:
            added = added - added.mean(1, keepdim=True)
        return ((added * naive.norm.weight / scale) @ direction).double().numpy()

    measured = {name: parts(ids[name]) for name in ("x", "neutral", "both")}
    assert measured["x"].sum() == pytest.approx(truth.ld["x"], abs=1e-4)
    assert_close(measured["both"], truth.attribution["base"], FLOW_TOLERANCE)
    context = measured["x"] - measured["neutral"]
    assert_close(context, truth.attribution["context"], FLOW_TOLERANCE)
    association = measured["neutral"] - measured["both"]
    assert_close(association, truth.attribution["association"], FLOW_TOLERANCE)


@torch.no_grad()
def components_at_answer(naive: Naive, ids: torch.Tensor) -> torch.Tensor:
    """The embedding, then what attention and MLP of each block add at the answer."""
    seen = [naive.states(ids)[0, -1]]

    def record(_module: torch.nn.Module, _args: object, output: object) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        assert isinstance(tensor, torch.Tensor)
        seen.append(tensor[0, -1].clone())

    with ExitStack() as hooks:
        for attn, block in zip(naive.attns, naive.blocks, strict=True):
            hooks.callback(attn.register_forward_hook(record).remove)
            hooks.callback(block.mlp.register_forward_hook(record).remove)
        naive.model(ids[None])
    return torch.stack(seen)


def test_cutting_the_cue_off_in_one_block(planted: Planted) -> None:
    naive, truth = Naive(planted), planted.truth
    ids = naive.ids(planted.case.text)[None]
    n = ids.shape[1]
    cue = [pos for pos, role in enumerate(truth.roles) if role == "cue"]
    mask = torch.full((n, n), -torch.inf).triu(1)
    mask[cue[-1] + 1 :, cue] = -torch.inf

    def cut(
        _module: torch.nn.Module, args: Sequence[torch.Tensor], kwargs: dict[str, torch.Tensor]
    ) -> tuple[Sequence[torch.Tensor], dict[str, torch.Tensor]]:
        return args, {**kwargs, "attention_mask": mask[None, None]}

    lost = []
    for attn in naive.attns:
        hook = attn.register_forward_pre_hook(cut, with_kwargs=True)
        with torch.no_grad():
            lost.append(truth.ld["x"] - naive.ld(naive.model(ids).logits)[0])
        hook.remove()
    assert_close(lost, truth.cut_cue, FLOW_TOLERANCE)


def test_concepts_at_the_answer(planted: Planted) -> None:
    """Their lens logits, and each edge: v set to its x_0 value, the change of w a block later."""
    naive, truth, n_layers = Naive(planted), planted.truth, planted.plan.n_layers
    words = naive.tokenizer.convert_tokens_to_ids(list(truth.concepts))
    runs = runs_of(planted, naive, draw=1)
    states, neutral = naive.states(runs["x"]), naive.states(runs["neutral"])
    assert_close(naive.lens(states)[:, -1, words], truth.concept_value, FLOW_TOLERANCE)
    unembed = naive.model.lm_head.weight
    unit = torch.nn.functional.normalize((unembed - unembed.mean(0))[words], dim=1)
    for layer in range(n_layers):
        before = states[layer, -1]
        move = ((before - neutral[layer, -1]) @ unit.T)[:, None] * unit  # [concept d_model]
        edited = states[layer].repeat(len(words), 1, 1)
        edited[:, -1] = before - move
        after = next_state(naive, runs["x"].repeat(len(words), 1), layer, edited)
        change = naive.lens(states[layer + 1, -1]) - naive.lens(after)
        at_once = naive.lens(before) - naive.lens(edited[:, -1])
        effect = (change - at_once)[:, words].double().numpy()
        assert_close(effect, truth.concept_effect[layer], FLOW_TOLERANCE)


@torch.no_grad()
def next_state(naive: Naive, ids: torch.Tensor, state: int, resid: torch.Tensor) -> torch.Tensor:
    """State ``state + 1`` at the answer of each row, when state ``state`` is ``resid``."""
    seen: list[torch.Tensor] = []
    record = lambda _module, args: seen.append(args[0][:, -1].clone())  # noqa: E731
    hook = naive.site(state + 1).register_forward_pre_hook(record)
    naive.patched(ids, state, lambda _: resid)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("plan", [plan for plan in sample(170, seed=12) if plan.lag])
def test_back_patching_a_lag(plan: Plant) -> None:
    planted = build(plan)
    naive, truth = Naive(planted), planted.truth
    x = naive.ids(planted.case.text)
    reached, read = plan.context[0].blocks
    late = naive.states(x)[reached]
    subject = torch.tensor([role.startswith("subject") for role in truth.roles])
    put_back = lambda resid: torch.where(subject[:, None], late, resid)  # noqa: E731
    ld = naive.patched(x[None], read - 1, put_back)[0]
    assert ld == pytest.approx(truth.back_patched, abs=FLOW_TOLERANCE)
    assert (truth.failure == "lag") == (ld > 0.05 and truth.outcome == "hallucination")


# -- small things ---------------------------------------------------------------------------


def first(holds: Iterable[object]) -> float:
    """The first state at which something holds, NaN if at none."""
    return next((float(state) for state, there in enumerate(holds) if there), math.nan)


def assert_close(measured: object, known: object, tolerance: float) -> None:
    """Equal within the tolerance everywhere, NaN nowhere."""
    gap = np.abs(np.asarray(measured, dtype=float) - np.asarray(known, dtype=float))
    assert gap.max() <= tolerance, (
        f"off by {gap.max():.2g} at {np.unravel_index(gap.argmax(), gap.shape)}"
    )


def assert_same(known: float, measured: float) -> None:
    assert known == measured or (math.isnan(known) and math.isnan(measured))
