"""Repairs of planted models at every state, their controls, and the commitment they imply."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import dst
from dst.core.case import Case
from dst.core.results import Mark, Repairs
from dst.models.hooks import HooksBackend
from dst.testbed.planted import KINDS, Plant, Planted, Route, build, sample
from tests import tiny

SAMPLE = sample(len(KINDS), seed=6)


def measured(plan: Plant) -> tuple[Planted, Repairs]:
    planted = build(plan)
    model = HooksBackend(planted.model, planted.tokenizer, name="planted")
    return planted, dst.repairs(model, planted.case, show_progress=False)


def mark(found: Repairs, name: str) -> Mark:
    return next(m for m in found.commitments if m.definition == f"causal, {name}")


def row(found: Repairs, name: str) -> np.ndarray:
    return found.patched[found.names.index(name)]


@pytest.mark.parametrize("plan", SAMPLE, ids=lambda plan: f"{plan.body}-{plan.name}")
def test_repairs_and_commitments_are_those_planted(plan: Plant) -> None:
    planted, found = measured(plan)
    truth = planted.truth
    assert set(found.names) == set(truth.repaired)
    for i, name in enumerate(found.names):
        np.testing.assert_allclose(found.patched[i], truth.repaired[name], atol=1e-3)
        np.testing.assert_allclose(found.control[i], truth.control[name], atol=1e-3)
    assert len(found.commitments) == len(truth.commitment)
    for name, known in truth.commitment.items():
        one = mark(found, name)
        assert one.state == known or (math.isnan(one.state) and math.isnan(known)), name
        assert bool(one.reason) == math.isnan(known)
        if not math.isnan(known):  # draws of a planted model agree
            assert (one.low, one.high) == (known, known)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(5))
def test_repairs_of_many_more(seed: int) -> None:
    for plan in sample(3 * len(KINDS), seed=300 + seed):
        test_repairs_and_commitments_are_those_planted(plan)


# -- one plan at a time -----------------------------------------------------------------------

THROUGH_SUBJECT: dict[str, Any] = {
    "n_layers": 5,
    "base": 0.25,
    "alpha": 2.5,
    "context": (Route(("cue", "subject", "answer"), (1, 5)),),
    "beta": 4.5,
    "prior": Route(("subject", "answer"), (4,)),
    "prior_block": 1,
}


def test_de_priming_keeps_context_that_only_this_noun_carries() -> None:
    """A substitute noun would not read the cue: replacing the subject takes the context away."""
    _, found = measured(Plant(**THROUGH_SUBJECT, one_noun_context=True))
    assert mark(found, "de-prime").state == 4
    # At state 0 the noun has not read the cue yet; from state 4 on its association is read.
    known = [0.25, 2.75, 2.75, 2.75, -1.75, -1.75]
    np.testing.assert_allclose(row(found, "de-prime"), known, atol=1e-4)
    assert mark(found, "replace subject").reason == "not repairable by replace subject"
    np.testing.assert_allclose(row(found, "replace subject")[:4], 0.25, atol=1e-4)


def test_any_noun_that_reads_the_cue_can_take_the_subjects_place() -> None:
    _, found = measured(Plant(**THROUGH_SUBJECT))
    for name in ("de-prime", "replace subject"):
        assert mark(found, name).state == 4
        np.testing.assert_allclose(row(found, name)[:4], 2.75, atol=1e-4)


def test_what_the_base_says_alone_is_not_a_repair() -> None:
    """No context at all: de-priming turns the answer, and the control with it."""
    plan = Plant(
        n_layers=4, base=0.6, beta=3.0, prior=Route(("subject", "answer"), (3,)), prior_block=1
    )
    _, found = measured(plan)
    assert row(found, "de-prime")[0] > 0.5
    for name in ("de-prime", "replace subject"):
        assert math.isnan(mark(found, name).state)
        assert mark(found, name).reason == f"not repairable by {name}"


def test_a_prior_that_waits_at_the_next_token_is_taken_away_there_too() -> None:
    """Sources are all positions before the answer: replacing the subject alone comes too late."""
    plan = Plant(
        n_layers=6,
        alpha=2.0,
        base=0.25,
        context=(Route(("cue", "answer"), (6,)),),
        beta=4.0,
        prior=Route(("subject", "after", "answer"), (2, 5)),
        prior_block=1,
    )
    _, found = measured(plan)
    assert mark(found, "replace subject").state == 2
    assert mark(found, "de-prime").state == 5


def test_the_reverse_direction_breaks_a_success() -> None:
    plan = Plant(**{**THROUGH_SUBJECT, "alpha": 6.5})
    _, found = measured(plan)
    assert mark(found, "remove cue").state == 5
    assert mark(found, "de-prime").reason == "nothing to repair: no failure"
    assert mark(found, "restore cue").reason == "no clean variant of equal length"


def test_a_spurious_word_is_repaired_by_its_clean_twin() -> None:
    plan = Plant(
        n_layers=4,
        base=0.25,
        alpha=2.0,
        context=(Route(("cue", "answer"), (2,)),),
        spurious=Route(("spurious", "question", "answer"), (1, 3)),
        spurious_strength=-5.0,
    )
    _, found = measured(plan)
    assert mark(found, "restore cue").state == 3
    assert mark(found, "de-prime").reason == "not repairable by de-prime"


# -- what a case lacks --------------------------------------------------------------------------

PROMPT = "Anna is at the lake. Anna sees a bass. The bass is a"


def tiny_case(**fields: Any) -> Case:
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


def test_a_missing_variant_is_the_reason_of_every_repair_that_needs_it() -> None:
    model = tiny.backend("llama")
    without = dst.repairs(model, tiny_case(cue=(), neutral=()), show_progress=False)
    assert {m.reason for m in without.commitments} == {"no neutral variant"}
    assert without.patched.shape == (0, 4)
    without = dst.repairs(model, tiny_case(subject=None, substitute=()), show_progress=False)
    reasons = {m.definition: m.reason for m in without.commitments}
    assert reasons["causal, de-prime"] == "no substitute variant"
    assert reasons["causal, restore cue"] == "no clean variant of equal length"


def test_swapping_the_cue_of_x_and_of_its_control_by_hand() -> None:
    """``remove cue`` at state 0 is x_0 itself; its control x_sub becomes x_0,sub."""
    model = tiny.backend("llama")
    case = tiny_case()
    found = dst.repairs(model, case, show_progress=False)
    paths = dst.pathways(model, case, show_progress=False)
    neutral = paths.contrast - paths.total_effect.mean
    i = found.names.index("remove cue")
    assert found.patched[i, 0] == pytest.approx(neutral, abs=1e-4)
    assert found.control[i, 0] == pytest.approx(paths.base.mean, abs=1e-4)
    # At the last state no source is read any more: the run is what it was.
    assert found.patched[i, -1] == paths.contrast
    # De-priming the embedding puts the substitute there: x_sub itself, and x_0,sub.
    i = found.names.index("de-prime")
    assert found.control[i, 0] == pytest.approx(paths.base.mean, abs=1e-4)


def test_a_yes_no_case_is_repaired_together_with_its_twin() -> None:
    """Every run is half the difference of the two questions, the repaired ones as well."""
    text = "Anna is at the {}. Anna sees a {}. Is the {} a {}?"
    case = Case(
        prompt=text.format("lake", "bass", "bass", "fish"),
        contextual="yes",
        associative="no",
        subject="bass",
        cue="lake",
        neutral=[text.format(cue, "bass", "bass", "fish") for cue in ("bank", "city")],
        substitute=[text.format("lake", noun, noun, "fish") for noun in ("drum", "song")],
        twin_question=text.format("lake", "bass", "bass", "song"),
    )
    model = tiny.backend("llama", tiny.byte_bpe)
    found = dst.repairs(model, case, show_progress=False)
    paths = dst.pathways(model, case, show_progress=False)
    i = found.names.index("remove cue")
    neutral = paths.contrast - paths.total_effect.mean
    assert found.patched[i, 0] == pytest.approx(neutral, abs=1e-4)
    assert found.control[i, 0] == pytest.approx(paths.base.mean, abs=1e-4)
    assert found.patched[i, -1] == pytest.approx(paths.contrast, abs=1e-6)


def test_the_same_call_gives_the_same_numbers() -> None:
    model = tiny.backend("llama")
    one, two = (dst.repairs(model, tiny_case(), show_progress=False) for _ in range(2))
    np.testing.assert_array_equal(one.patched, two.patched)
    np.testing.assert_array_equal(one.control, two.control)
