"""The failure rules on evidence made by hand: each condition decides, the first match wins."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dst.analysis import failures
from dst.core.failure_results import FailureEvidence
from dst.core.results import Provenance, open_result

STATES = 4  # 0..3


def evidence(**change: Any) -> FailureEvidence:
    """A hijack: the context is there and weaker than the association; taking that away works."""
    values: dict[str, Any] = {
        "outcome": "hallucination",
        "contrast": -1.0,
        "clean_contrasts": np.array([1.0]),
        "clean_outcomes": ("correct",),
        "floor": 0.1,
        "total_effect": 2.0,
        "prior": -3.0,
        "association_arrived": 3.0,
        "back_patched": np.full((3, STATES), -1.0),
        "back_patched_control": np.full((3, STATES), -3.0),
        "subject_brings": np.zeros(STATES),
        "donor_subject": 2.0,
        "cue_knockout": 2.0,
        "separated_from": "swap",
        "separation": 9.0,
        "separation_threshold": 2.0,
        "de_primed": np.array([2.0, 2.0, -1.0, -1.0]),
        "de_primed_control": np.array([0.0, 0.0, -3.0, -3.0]),
        "restored": np.full(STATES, np.nan),  # there is no clean twin
        "restored_control": np.full(STATES, np.nan),
        "random_route": np.full((20, STATES), -1.0),
        "notes": (),
        "provenance": Provenance(),
    }
    return FailureEvidence(**(values | change))


def mode(**change: Any) -> str:
    return failures.failure_mode(evidence(**change)).mode


def test_a_hijack() -> None:
    found = failures.failure_mode(evidence())
    assert found.mode == found.rule == failures.HIJACK
    assert "its prior is -3.00" in found.says
    assert "state 0 gives LD +2.00 (a random direction up to -1.00)" in found.says


@pytest.mark.parametrize(
    "change",
    [
        {"separation": 1.9},
        {"prior": -0.05},
        {"prior": 3.0},
        {"association_arrived": 0.05},
        {"de_primed": np.full(STATES, -1.0)},
        {"de_primed_control": np.array([2.0, 2.0, -3.0, -3.0])},  # it frees no context
        {"random_route": np.full((20, STATES), 2.5)},  # anything would do
    ],
    ids=str,
)
def test_a_hijack_needs_every_condition(change: dict[str, Any]) -> None:
    assert mode(**change) == failures.UNCLASSIFIED


def test_one_random_direction_in_twenty_may_do_as_well() -> None:
    routes = np.full((20, STATES), -1.0)
    routes[0] = 9.0
    assert mode(random_route=routes) == failures.HIJACK
    routes[:2] = 9.0
    assert mode(random_route=routes) == failures.UNCLASSIFIED


COLLAPSED = {
    "separation": 1.0,
    "cue_knockout": 0.0,
    "donor_subject": 2.0,
    "total_effect": 0.0,
    "de_primed_control": np.array([2.0, 2.0, -1.0, -1.0]),
}


def test_a_collapse_needs_every_condition() -> None:
    assert mode(**COLLAPSED) == failures.COLLAPSE
    assert mode(**COLLAPSED | {"cue_knockout": math.nan}) == failures.UNCLASSIFIED  # not cut
    assert mode(**COLLAPSED | {"separation": math.nan}) == failures.UNCLASSIFIED
    assert mode(**COLLAPSED | {"cue_knockout": -0.5}) == failures.UNCLASSIFIED
    assert mode(**COLLAPSED | {"donor_subject": 0.05}) == failures.UNCLASSIFIED
    assert mode(**COLLAPSED | {"separation": 3.0}) == failures.UNCLASSIFIED


def lagging(ld: float = 2.0, control: float = -3.0) -> dict[str, Any]:
    """A subject whose state 3 put in at state 1 gives ``ld``."""
    patched, reference = np.full((3, STATES), -1.0), np.full((3, STATES), -3.0)
    patched[1, 1], reference[1, 1] = ld, control
    return {"back_patched": patched, "back_patched_control": reference}


def test_a_lag_comes_before_a_hijack_and_needs_every_condition() -> None:
    found = failures.failure_mode(evidence(**lagging()))
    assert found.mode == failures.LAG
    assert "state 3 put in at state 1 turns LD to +2.00" in found.says
    assert mode(**lagging(ld=0.05)) == failures.HIJACK
    # The context moves x from x_0 by 2 anyway: the shift has to free as much again.
    assert mode(**lagging(control=-1.95)) == failures.HIJACK
    assert mode(**lagging(control=-2.05)) == failures.LAG
    # A subject that is read in time is only read twice.
    assert mode(**lagging(), subject_brings=np.array([0, 1.0, 0, 0])) == failures.HIJACK


INTERFERED: dict[str, Any] = {
    "prior": 0.0,
    "restored": np.array([1.0, 1.0, 0.5, -1.0]),
    "restored_control": np.array([-1.0, -1.0, -1.0, -1.0]),
}


def test_an_interference_comes_after_a_hijack_and_needs_every_condition() -> None:
    found = failures.failure_mode(evidence(**INTERFERED))
    assert found.mode == failures.INTERFERENCE
    assert "its distractors cost +2.00 of LD" in found.says
    assert "put back at state 2 give LD +0.50 (in a neutral context -1.00)" in found.says
    assert mode(**INTERFERED | {"prior": -3.0}) == failures.HIJACK
    assert mode(**INTERFERED | {"clean_contrasts": np.array([-0.95])}) == failures.UNCLASSIFIED
    nothing = INTERFERED | {"clean_outcomes": (), "clean_contrasts": np.zeros(0)}
    assert mode(**nothing) == failures.UNCLASSIFIED
    # What the neutral run says as well is not the context's.
    same = INTERFERED | {"restored_control": INTERFERED["restored"]}
    assert mode(**same) == failures.UNCLASSIFIED
    assert mode(**INTERFERED | {"restored": np.full(STATES, np.nan)}) == failures.UNCLASSIFIED


def test_knowledge_comes_first() -> None:
    assert mode(**lagging(), clean_outcomes=("hallucination",)) == failures.KNOWLEDGE
    assert mode(outcome="neither") == failures.KNOWLEDGE
    one_of_two = {"clean_outcomes": ("correct", "neither"), "clean_contrasts": np.ones(2)}
    assert mode(**one_of_two) == failures.HIJACK
    assert mode(clean_outcomes=(), clean_contrasts=np.zeros(0)) == failures.HIJACK


def test_a_correct_run_has_no_mode_but_its_rule_is_kept() -> None:
    found = failures.failure_mode(evidence(outcome="correct"))
    assert (found.mode, found.rule) == ("", failures.HIJACK)
    assert found.says == "The answer is correct: nothing to classify."


def test_every_condition_is_told() -> None:
    found = failures.failure_mode(evidence())
    assert [finding.name for finding in found.findings] == [
        "fails without distractors",
        "a late subject turns the answer",
        "the subject passes no context on",
        "senses not separable",
        "another subject turns the answer",
        "the cue is not read",
        "senses separable",
        "the subject has a prior",
        "the association is at the answer",
        "de-priming works",
        "right without distractors",
        "the distractors cost",
        "restoring works",
    ]


def test_saved_and_read_back(tmp_path: Any) -> None:
    found = failures.failure_mode(evidence())
    again = open_result(found.save(tmp_path / "mode"))
    assert again.to_records() == found.to_records()
    assert again.evidence.to_records() == found.evidence.to_records()


# -- separation --------------------------------------------------------------------------


def distances(points: np.ndarray) -> np.ndarray:
    """[draw draw cell] of points [draw cell d_model]."""
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def test_separation_by_hand() -> None:
    """Draws on a line at 0, 1, 3, 7: six pairs, each over the one pair that shares no draw."""
    line = np.array([0.0, 1.0, 3.0, 7.0])
    draws = distances(line[:, None, None])
    ratio, threshold = failures.separation(np.array([7.0]), draws)
    assert ratio == 2.0  # the median of 1, 2, 3, 4, 6, 7 is 3.5
    maxima = np.log([1 / 4, 3 / 6, 7 / 2, 2 / 7, 6 / 3, 4 / 1])
    t = 3.182446305284263  # Student's, 97.5 %, 3 degrees of freedom
    expected = np.exp(maxima.mean() + t * maxima.std(ddof=1) * math.sqrt(5 / 4))
    assert threshold == pytest.approx(expected)


def test_separation_where_nothing_moves() -> None:
    assert failures.separation(np.zeros(2), np.zeros((4, 4, 2))) == (0.0, 0.0)
    moved, threshold = failures.separation(np.array([0.0, 1.0]), np.zeros((4, 4, 2)))
    assert math.isinf(moved)
    assert threshold == 0.0


def test_too_few_draws_separate_nothing() -> None:
    ratio, threshold = failures.separation(np.ones(2), np.ones((3, 3, 2)))
    assert math.isnan(ratio)
    assert math.isnan(threshold)
    assert not failures.separable(evidence(separation=math.nan, separation_threshold=math.nan))


@pytest.mark.parametrize("n_draws", [4, 8])
def test_separation_seldom_fires_on_one_more_neutral_draw(n_draws: int) -> None:
    """Both cues exchangeable with the draws, many cells: at most 5 % by the stated bound."""
    rng, fired, n = np.random.default_rng(0), 0, 400
    for _ in range(n):
        points = rng.normal(size=(n_draws + 2, 15, 24)) * rng.uniform(0.5, 3, size=(1, 15, 1))
        apart = distances(points)
        ratio, threshold = failures.separation(apart[-1, -2], apart[:n_draws, :n_draws])
        fired += ratio > threshold
    assert fired / n <= 0.05
