"""The two flows against planted models, their controls, and what they refuse."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import dst
from dst.core.case import Case
from dst.core.errors import CaseError, NumericalError
from dst.core.results import Mark, Pathways
from dst.models.backend import Edit
from dst.models.hooks import HooksBackend
from dst.testbed import world
from dst.testbed.planted import KINDS, Plant, Planted, Route, build, sample
from dst.tracing.prepare import prepare
from tests import tiny

FLOWS = {
    "contextual_removal": "context_removal",
    "contextual_insertion": "context_insertion",
    "associative_removal": "association_removal",
    "associative_insertion": "association_insertion",
}
SAMPLE = sample(len(KINDS), seed=5)


def backend(planted: Planted) -> HooksBackend:
    return HooksBackend(planted.model, planted.tokenizer, name="planted")


@cache
def measured(plan: Plant) -> tuple[Planted, Pathways]:
    planted = build(plan)
    return planted, dst.pathways(backend(planted), planted.case, show_progress=False)


def mark(paths: Pathways, name: str, where: str) -> Mark:
    return next(m for m in paths.marks if (m.name, m.definition) == (name, where))


def same(one: float, two: float) -> bool:
    return one == two or (math.isnan(one) and math.isnan(two))


# -- planted ----------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", SAMPLE, ids=lambda plan: f"{plan.body}-{plan.name}")
def test_flows_and_marks_are_those_planted(plan: Plant) -> None:
    planted, paths = measured(plan)
    truth = planted.truth
    order = [paths.roles.index(role) for role in truth.role_names]
    for ours, theirs in FLOWS.items():
        table = getattr(paths, ours)
        n = len(planted.case.neutral)
        assert table.shape == (n, plan.n_layers + 1, len(order))
        # All draws of a planted model bring the same.
        np.testing.assert_allclose(
            table[:, :, order], np.tile(getattr(truth, theirs), (n, 1, 1)), atol=1e-3
        )
    for name in ("base", "prior", "total_effect"):
        assert getattr(paths, name).mean == pytest.approx(getattr(truth, name), abs=1e-3)
    assert paths.redundant.tolist() == truth.context_redundant.tolist()
    assert paths.cancelled == truth.context_cancelled
    for flow, theirs in (("contextual", "context"), ("associative", "association")):
        for i, role in enumerate(truth.role_names):
            where = f"{flow} flow at {role}"
            known = getattr(truth, f"{theirs}_arrival")[i]
            found = mark(paths, "arrival", where)
            assert same(found.state, known), (where, found.state, known)
            assert bool(found.reason) == math.isnan(known)
            if role != "answer":
                known = getattr(truth, f"{theirs}_departure")[i]
                assert same(mark(paths, "departure", where).state, known), where
        handover = mark(paths, "handover", f"{flow} flow at answer")
        assert same(handover.state, truth.handover[theirs])


@pytest.mark.parametrize("plan", SAMPLE[:4], ids=lambda plan: plan.name)
def test_the_contrast_is_the_sum_of_base_prior_and_effect(plan: Plant) -> None:
    _, paths = measured(plan)
    total = paths.base.mean + paths.prior.mean + paths.total_effect.mean
    assert paths.contrast == pytest.approx(total, abs=1e-9)
    arrived = paths.at_answer("contextual_insertion")[-1]
    assert arrived == pytest.approx(paths.total_effect.mean, abs=1e-4)
    assert paths.at_answer("associative_insertion")[-1] == pytest.approx(paths.prior.mean, abs=1e-4)


def test_a_case_worked_by_hand_in_docs() -> None:
    """The example of docs/planted.md: context over a relay, association from the subject."""
    plan = Plant(
        n_layers=5,
        base=0.25,
        alpha=2.5,
        context=(Route(("cue", "relay_1", "answer"), (2, 4)),),
        beta=3.5,
        prior=Route(("subject", "answer"), (3,)),
        prior_block=1,
    )
    _, paths = measured(plan)
    by_role = dict(zip(paths.roles, paths.contextual_removal.mean(axis=0).T, strict=True))
    np.testing.assert_allclose(by_role["cue"], [2.5, 2.5, 0, 0, 0, 0], atol=1e-4)
    np.testing.assert_allclose(by_role["relay"], [0, 0, 2.5, 2.5, 0, 0], atol=1e-4)
    np.testing.assert_allclose(by_role["answer"], [0, 0, 0, 0, 2.5, 2.5], atol=1e-4)
    np.testing.assert_allclose(by_role["subject_1"], 0, atol=1e-4)
    share = paths.total_effect.mean / (paths.total_effect.mean - paths.prior.mean)
    assert share == pytest.approx(5 / 12, abs=1e-5)


def test_either_of_two_routes_suffices_is_called_redundant() -> None:
    """Two hops each: at state 1 the evidence sits on two relays, and neither is needed."""
    plan = Plant(
        n_layers=3,
        base=0.5,
        alpha=3.0,
        context=(
            Route(("cue", "relay_1", "answer"), (1, 2)),
            Route(("cue", "question", "answer"), (1, 2)),
        ),
        combine="either",
        gate_block=3,
    )
    _, paths = measured(plan)
    at = {role: i for i, role in enumerate(paths.roles)}
    removal, insertion = (
        getattr(paths, f"contextual_{form}").mean(axis=0) for form in ("removal", "insertion")
    )
    assert removal[1, [at["relay"], at["question"]]] == pytest.approx([0, 0], abs=1e-4)
    assert insertion[1, [at["relay"], at["question"]]] == pytest.approx([3, 3], abs=1e-4)
    assert paths.redundant.tolist() == [False, True, False, False]


def test_two_routes_that_undo_each_other_are_called_cancelled() -> None:
    plan = Plant(
        n_layers=3,
        base=0.5,
        alpha=3.0,
        context=(
            Route(("cue", "relay_1", "answer"), (1, 2), 1.0),
            Route(("cue", "question", "answer"), (1, 2), -1.0),
        ),
    )
    _, paths = measured(plan)
    assert paths.cancelled
    assert abs(paths.total_effect.mean) < 1e-4
    arrival = mark(paths, "arrival", "contextual flow at answer")
    assert math.isnan(arrival.state)
    assert "the total is under the floor" in arrival.reason
    # Its parts are found where they are, all the same.
    assert mark(paths, "departure", "contextual flow at relay").state == 2


def test_a_head_that_answers_to_one_noun_needs_neither_of_two_mentions() -> None:
    plan = Plant(
        n_layers=3, beta=3.0, prior=Route(("subject", "answer"), (2,)), mentions=2, base=1.0
    )
    planted, paths = measured(plan)
    at = {role: i for i, role in enumerate(paths.roles)}
    both = [at["subject_1"], at["subject_2"]]
    removal, insertion = (
        getattr(paths, f"associative_{form}").mean(axis=0) for form in ("removal", "insertion")
    )
    np.testing.assert_allclose(removal[:2, both], 0, atol=1e-4)
    np.testing.assert_allclose(insertion[:2, both], -3, atol=1e-4)
    assert planted.truth.association_redundant[0]


@pytest.mark.full
@pytest.mark.parametrize("seed", range(5))
def test_flows_and_marks_of_many_more(seed: int) -> None:
    for plan in sample(3 * len(KINDS), seed=200 + seed):
        test_flows_and_marks_are_those_planted(plan)
        measured.cache_clear()


# -- controls ---------------------------------------------------------------------------------


def test_controls_hold_on_planted_models() -> None:
    for plan in SAMPLE:
        _, paths = measured(plan)
        assert paths.donor_error < 1e-4
        assert paths.self_patch_error < 1e-4


class Broken(HooksBackend):
    """An engine that leaves the last position of every edit as it is."""

    def run(self, *args: Any, **kwargs: Any) -> Any:
        edits = [
            Edit(e.site, e.rows, [row[:-1] for row in e.positions], e.value[:, :-1])
            if len(e.positions[0]) > 1
            else nothing(e)
            for e in kwargs.get("edits", ())
        ]
        return super().run(*args, **{**kwargs, "edits": edits})


class Deaf(HooksBackend):
    """An engine whose edits change nothing."""

    def run(self, *args: Any, **kwargs: Any) -> Any:
        edits = [nothing(e) for e in kwargs.get("edits", ())]
        return super().run(*args, **{**kwargs, "edits": edits})


def nothing(edit: Edit) -> Edit:
    return Edit(edit.site, edit.rows, edit.positions, 0 * edit.value, "add")


@pytest.mark.parametrize("engine", [Broken, Deaf])
def test_an_engine_that_does_not_edit_as_asked_is_found_out(engine: type[HooksBackend]) -> None:
    planted = build(SAMPLE[0])
    model = engine(planted.model, planted.tokenizer)
    with pytest.raises(NumericalError, match=r"Swapping every role gives an LD that misses"):
        dst.pathways(model, planted.case, show_progress=False)


class Leaky(HooksBackend):
    """An engine whose every edit adds a little of its own."""

    def run(self, *args: Any, **kwargs: Any) -> Any:
        edits = [Edit(e.site, e.rows, e.positions, e.value * 1.5) for e in kwargs.get("edits", ())]
        return super().run(*args, **{**kwargs, "edits": edits})


def test_the_self_patch_control_sees_an_engine_that_changes_what_it_puts_back() -> None:
    from dst.tracing import pathways as module

    model = tiny.backend("llama")
    ready = prepare(model, tiny_case())
    for engine, least in ((model, 0.0), (Leaky(model.model, model.tokenizer), 1e-2)):
        error = module._self_patch(engine, ready, ready.record(engine, [ready.x]))
        assert least <= error
        assert (error < 1e-4) == (least == 0)


def test_one_neutral_against_another_measures_how_much_draws_differ() -> None:
    """On planted models the draws say the same; on a random one they do not."""
    _, paths = measured(SAMPLE[0])
    assert paths.draw_against_draw.max() < 1e-3
    random = dst.pathways(tiny.backend("llama"), tiny_case(), show_progress=False)
    cue, answer = random.roles.index("cue"), random.roles.index("answer")
    assert random.draw_against_draw[0, cue] > 0.01
    # At the last state, where all of a run is at the answer, it is the draws' LD differences.
    model = tiny.backend("llama")
    ready = prepare(model, tiny_case())
    ld = ready.record(model, ready.variants.neutral).contrast
    known = math.sqrt(np.mean((np.roll(ld, -1) - ld) ** 2))
    assert random.draw_against_draw[-1, answer] == pytest.approx(known, rel=1e-4)


# -- draws, intervals, seeds ------------------------------------------------------------------


def tiny_case(**fields: Any) -> Case:
    prompt = "Anna is at the lake. Anna sees a bass. The bass is a"
    return Case(
        **{
            "prompt": prompt,
            "contextual": "fish",
            "associative": "instrument",
            "subject": "bass",
            "cue": "lake",
            "neutral": [prompt.replace("lake", word) for word in ("bank", "city", "song")],
            "substitute": [prompt.replace("bass", word) for word in ("drum", "song", "lake")],
            **fields,
        }
    )


def test_intervals_are_those_of_the_draws() -> None:
    model = tiny.backend("llama")
    ready = prepare(model, tiny_case())
    paths = dst.pathways(model, tiny_case(), show_progress=False)
    x, zero, both = (
        ready.record(model, rows).contrast
        for rows in ([ready.x], ready.variants.neutral, ready.variants.neutral_substitute)
    )
    for found, draws in (
        (paths.base, both),
        (paths.prior, zero - both),
        (paths.total_effect, x[0] - zero),
    ):
        half = 4.30265 * draws.std(ddof=1) / math.sqrt(3)
        assert found.mean == pytest.approx(draws.mean(), abs=1e-6)
        assert (found.low, found.high) == pytest.approx(
            (draws.mean() - half, draws.mean() + half), abs=1e-4
        )
    assert paths.contextual_floor == pytest.approx(
        (paths.total_effect.high - paths.total_effect.low) / 2
    )


def test_one_draw_has_no_interval_and_says_so() -> None:
    one = tiny_case(neutral=tiny_case().neutral[0], substitute=tiny_case().substitute[0])
    paths = dst.pathways(tiny.backend("llama"), one, show_progress=False)
    for found in (paths.base, paths.prior, paths.total_effect):
        assert str(found).endswith("(one draw)")
    assert np.isnan(paths.draw_against_draw).all()
    assert all(math.isnan(found.low) and math.isnan(found.high) for found in paths.marks)


def test_fewer_substitutes_than_neutrals_are_used_again_in_turn() -> None:
    two = tiny_case(substitute=tiny_case().substitute[:2])
    paths = dst.pathways(tiny.backend("llama"), two, show_progress=False)
    assert paths.contextual_removal.shape[0] == paths.associative_removal.shape[0] == 3


def test_the_same_call_gives_the_same_numbers() -> None:
    model = tiny.backend("llama")
    one, two = (dst.pathways(model, tiny_case(), show_progress=False) for _ in range(2))
    for name in FLOWS:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    for a, b in zip(one.marks, two.marks, strict=True):
        np.testing.assert_equal((a.state, a.low, a.high), (b.state, b.low, b.high))


# -- a trained model, and the same weights shuffled ---------------------------------------------


@pytest.fixture(scope="module")
def embedded() -> Any:
    return dst.load()


def stories(n: int, draws: int) -> list[Case]:
    """Plain stories of the minority sense, with the first few of their draws."""
    return [
        case.replace(neutral=case.neutral[:draws], substitute=case.substitute[:draws])
        for case in world.cases(split="test", n=n, seed=0, kinds=("plain",))
    ]


@pytest.mark.parametrize(
    ("n", "draws"), [(12, 8), pytest.param(40, 8, marks=pytest.mark.full)], ids=["few", "all"]
)
def test_in_a_trained_model_the_association_is_at_the_answer_before_the_context(
    embedded: Any, n: int, draws: int
) -> None:
    arrivals, removal, lost = [], [], []
    for case in stories(n, draws):
        paths = dst.pathways(embedded, case, show_progress=False)
        arrivals.append(
            [mark(paths, "arrival", f"{flow} flow at answer").state
             for flow in ("associative", "contextual")]
        )  # fmt: skip
        table = paths.contextual_removal.mean(axis=0)
        at = {role: table[:, i] for i, role in enumerate(paths.roles)}
        subject = sum(at[role] for role in at if role.startswith("subject"))
        removal.append([at["cue"], subject, at["answer"]])
        cuts = dst.cut_effects(embedded, case)
        lost.append([cuts.all_layers[cuts.sources.index("cue")], paths.total_effect.mean])
    associative, contextual = np.array(arrivals).T
    both = ~np.isnan(associative) & ~np.isnan(contextual)
    assert both.mean() >= 0.7
    # Not in every case: of 40 plain ones .76 have it first, .17 at once, .07 after.
    first, after = associative[both] < contextual[both], associative[both] > contextual[both]
    assert first.sum() > after.sum()
    assert associative[both].mean() < contextual[both].mean()
    # The context is at the cue (state 0), then at the answer, and never at the subject.
    cue, subject, answer = np.mean(removal, axis=0)
    effect = np.mean([te for _, te in lost])
    assert effect > 2
    assert cue[0] == pytest.approx(effect, rel=1e-3)
    assert np.abs(cue[2:]).max() < 0.05 * effect
    assert np.abs(subject).max() < 0.1 * effect
    assert answer[2:].min() > 0.9 * effect
    # Whoever reads the cue: with all later positions cut off from it, about as much is lost.
    assert np.mean([cut for cut, _ in lost]) == pytest.approx(effect, rel=0.25)


def test_shuffled_weights_carry_next_to_nothing(embedded: Any) -> None:
    """A twin with every matrix shuffled: what is left is how much any two words differ."""
    import transformers

    rng = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        twin = transformers.AutoModelForCausalLM.from_config(embedded.model.config).eval()
    with torch.no_grad():
        for mine, theirs in zip(twin.parameters(), embedded.model.parameters(), strict=True):
            order = torch.randperm(theirs.numel(), generator=rng)
            mine.copy_(theirs.flatten()[order].reshape(theirs.shape))
    shuffled = HooksBackend(twin, embedded.tokenizer, name=embedded.spec.name)

    def size(model: Any) -> tuple[float, float]:
        effects, priors = [], []
        for case in stories(12, 8):
            ready = prepare(model, case)
            x, zero, both = (
                ready.record(model, rows).contrast.mean()
                for rows in ([ready.x], ready.variants.neutral, ready.variants.neutral_substitute)
            )
            effects.append(abs(x - zero))
            priors.append(abs(zero - both))
        return float(np.mean(effects)), float(np.mean(priors))

    (effect, prior), (noise_effect, noise_prior) = size(embedded), size(shuffled)
    assert noise_effect < effect / 5
    assert noise_prior < prior / 2


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"cue": (), "neutral": ()}, "cue", r"no neutral variant \(no cue\)"),
        ({"subject": None, "substitute": ()}, "subject", r"no substitute variant \(no subject\)"),
        ({"associative": ()}, "associative", "no associative answer"),
    ],
)
def test_what_is_missing_is_named(fields: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(CaseError, match=message) as error:
        dst.pathways(tiny.backend("llama"), tiny_case(**fields), show_progress=False)
    assert error.value.field == field
    assert "\n" not in str(error.value)


def test_the_model_is_left_as_it_was() -> None:
    model = tiny.backend("gpt2")
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    dst.pathways(model, tiny_case(), show_progress=False)
    after = model.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in model.model.modules()
    )
