"""Failure modes of planted models: the rules name what was planted."""

from __future__ import annotations

import numpy as np
import pytest

from dst.analysis import failures
from dst.core.case import Case
from dst.core.errors import CaseError
from dst.models.backend import Backend
from dst.models.load import load
from dst.studies.failure import failure
from dst.testbed.planted import Planted, build, sample
from dst.testbed.planted_plan import Plant, Route
from dst.testbed.planted_sample import KINDS
from dst.tracing.failures import failure_evidence

NAMES = {"knowledge": failures.KNOWLEDGE}
"""The truth's word for a mode, where it is another than the rules'."""


def loaded(planted: Planted) -> Backend:
    return load(planted.model, tokenizer=planted.tokenizer, check=False)


def found_and_planted(seed: int, n: int) -> list[tuple[str, str, str]]:
    """Name, planted mode and found mode of every sampled model."""
    rows = []
    for plan in sample(n, seed=seed):
        planted = build(plan)
        mode = failure(loaded(planted), planted.case, show_progress=False).mode
        truth = planted.truth.failure
        rows.append((plan.name, NAMES.get(truth, truth), mode))
    return rows


def test_planted_modes_are_named() -> None:
    rows = found_and_planted(seed=11, n=2 * len(KINDS))
    assert [row for row in rows if row[1] != row[2]] == []
    assert len({row[1] for row in rows}) >= 3


@pytest.mark.full
def test_planted_modes_are_named_in_98_of_100() -> None:
    rows = found_and_planted(seed=12, n=340)
    wrong = [row for row in rows if row[1] != row[2]]
    assert len(wrong) <= 0.02 * len(rows), wrong
    failed = [row for row in rows if row[1]]
    assert len([row for row in wrong if row[1]]) <= 0.02 * len(failed), wrong


LAG = Plant(
    base=0.3,
    alpha=4.0,
    context=(Route(("cue", "subject", "answer"), (4, 2)),),
    lag=True,
    beta=2.0,
    prior=Route(("subject", "answer"), (3,)),
    prior_block=1,
)


def test_back_patching_gives_the_planted_number() -> None:
    planted = build(LAG)
    evidence = failure_evidence(loaded(planted), planted.case, show_progress=False)
    # The subject holds the cue from state 4 on and is read from state 1: shift 3, state 1.
    assert evidence.back_patched[2, 1] == pytest.approx(planted.truth.back_patched, abs=1e-3)
    assert np.abs(evidence.subject_brings).max() < 1e-3
    mode = failures.failure_mode(evidence)
    assert mode.mode == failures.LAG


def test_of_a_correct_run_every_number_is_there() -> None:
    plan = Plant(alpha=4.0, context=(Route(("cue", "relay_1", "answer"), (1, 3)),), base=0.3)
    planted = build(plan)
    mode = failure(loaded(planted), planted.case, show_progress=False)
    assert mode.mode == ""
    assert mode.evidence.outcome == "correct"
    assert mode.evidence.total_effect == pytest.approx(4.0, abs=1e-3)
    assert mode.evidence.cue_knockout == pytest.approx(4.0, abs=1e-3)
    assert mode.evidence.separated_from == "swap"


def test_without_swap_x_is_held_against_neutral_cues() -> None:
    planted = build(LAG)
    case = planted.case.replace(swap=())
    evidence = failure_evidence(loaded(planted), case, show_progress=False)
    assert evidence.separated_from == "neutral"
    assert failures.separable(evidence)


def test_a_case_without_subject_is_refused() -> None:
    planted = build(LAG)
    case = Case(planted.case.prompt, planted.case.contextual, planted.case.associative)
    with pytest.raises(CaseError, match="names no subject"):
        failure(loaded(planted), case)
