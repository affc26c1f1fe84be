"""When a repair works, and the state from which none does: worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dst.analysis.commitment import (
    DOSE_FACTOR,
    REPAIRS,
    absent,
    breaks,
    commitment,
    dose_commitment,
    works,
)

FLOOR = 0.1


def draws(*values: float, n: int = 4) -> np.ndarray:
    return np.tile(np.array(values, dtype=float), (n, 1))


def test_only_one_repair_breaks() -> None:
    assert [name for name in REPAIRS if breaks(name)] == ["remove cue"]


@pytest.mark.parametrize(
    ("patched", "control", "good"),
    [
        (1.0, 0.0, True),
        (1.0, 0.95, False),  # the control turns as well: the base's sign, not context
        (0.05, -3.0, False),  # it frees context, but the answer stays
        (0.1, -1.0, False),  # at the floor is not over it
        (-1.0, -3.0, False),
    ],
)
def test_a_repair_works_when_it_turns_the_answer_and_its_control_does_not(
    patched: float, control: float, good: bool
) -> None:
    one, other = np.array([patched]), np.array([control])
    assert works("de-prime", one, other, FLOOR).tolist() == [good]
    # To break a success is the same with every sign turned.
    assert works("remove cue", -one, -other, FLOOR).tolist() == [good]


def test_commitment_is_one_after_the_last_state_at_which_a_repair_works() -> None:
    mark = commitment("de-prime", -2.0, draws(3, 3, -1, 3, -2, -2), draws(0, 0, 0, 0, 0, 0), FLOOR)
    assert (mark.state, mark.reason, mark.n_layers) == (4, "", 5)
    assert (mark.low, mark.high) == (4, 4)
    assert mark.definition == "causal, de-prime"
    assert mark.thresholds == {"floor": FLOOR}


def test_a_run_without_context_is_not_repaired_by_turning_its_base() -> None:
    # Base +1, prior -3, no context: de-priming turns the answer, and x_0's just the same.
    mark = commitment("de-prime", -2.0, draws(1, 1, -2), draws(1, 1, -2), FLOOR)
    assert math.isnan(mark.state)
    assert mark.reason == "not repairable by de-prime"


@pytest.mark.parametrize(
    ("name", "contrast", "reason"),
    [
        ("de-prime", 1.0, "nothing to repair: no failure"),
        ("de-prime", -0.05, "nothing to repair: no failure"),
        ("remove cue", -1.0, "nothing to break: no success"),
        ("remove cue", 0.05, "nothing to break: no success"),
    ],
)
def test_repairs_are_asked_of_failures_and_breaks_of_successes(
    name: str, contrast: float, reason: str
) -> None:
    mark = commitment(name, contrast, draws(5, 5), draws(0, 0), FLOOR)
    assert math.isnan(mark.state)
    assert mark.reason == reason


def test_a_success_that_cannot_be_broken_says_so() -> None:
    mark = commitment("remove cue", 2.0, draws(2, 2), draws(0, 0), FLOOR)
    assert mark.reason == "not breakable by remove cue"


def test_breaking_a_success_by_hand() -> None:
    mark = commitment("remove cue", 2.0, draws(-1, -1, 2, 2), draws(1, 1, 1, 1), FLOOR)
    assert mark.state == 2


def test_the_interval_is_over_draws_of_run_and_control_together() -> None:
    # Half of the draws are repaired up to state 0, half up to state 2; their mean up to 2.
    patched = np.concatenate([draws(3, -1, -1, -2), draws(3, 3, 3, -2)])
    mark = commitment("de-prime", -2.0, patched, np.zeros_like(patched), FLOOR, seed=0)
    assert mark.state == 3
    assert (mark.low, mark.high) == (1, 3)
    # A control that turns along with its own draw takes the repair away in every resample.
    mark = commitment("de-prime", -2.0, patched, patched - FLOOR / 2, FLOOR, seed=0)
    assert math.isnan(mark.state)


def test_one_draw_has_a_state_and_no_interval() -> None:
    mark = commitment("de-prime", -2.0, draws(3, -2, n=1), draws(0, 0, n=1), FLOOR)
    assert mark.state == 1
    assert math.isnan(mark.low)


def test_a_repair_that_does_not_exist_is_absent_with_its_reason() -> None:
    mark = absent("restore cue", 6, "no clean variant of equal length")
    assert math.isnan(mark.state)
    assert (mark.definition, mark.reason) == (
        "causal, restore cue",
        "no clean variant of equal length",
    )


def test_dose_commitment_is_the_first_state_that_asks_for_more_than_correct_runs_do() -> None:
    usual = [np.array([0.1, 0.2, 0.4]), np.array([0.2, 0.2, 0.4]), np.array([0.3, 0.2, 0.4])]
    at = DOSE_FACTOR * np.array([0.2, 0.2, 0.4])  # of their medians
    assert dose_commitment(at + np.array([0.0, 0.01, 0.01]), usual).state == 1
    assert dose_commitment(np.array([0.0, 0.0, np.nan]), usual).state == 2  # no push turns it
    assert dose_commitment(at, usual).reason == "no state asks for more than correct runs do"
    assert dose_commitment(at, []).reason == "needs correct runs"
