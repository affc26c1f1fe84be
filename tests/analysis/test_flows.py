"""Marks of a flow against curves worked by hand, and against their definitions by brute force."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dst.analysis import flows
from dst.core.results import Estimate, Mark

CURVES = arrays(np.float64, st.integers(2, 9), elements=st.floats(-5, 5))
Rule = Callable[[np.ndarray], tuple[float, str]]


def curve(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)


# -- means, intervals, floors ---------------------------------------------------------------


def test_an_estimate_by_hand() -> None:
    # Mean 2, sd 1; Student's t with 2 degrees of freedom: 4.30265 / sqrt(3) = 2.48414
    found = flows.estimate(curve(1, 2, 3))
    assert (found.mean, found.n) == (2, 3)
    assert (found.low, found.high) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-5)


def test_one_draw_has_no_interval() -> None:
    found = flows.estimate(curve(1.5))
    assert found.mean == 1.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert str(found) == "+1.50 (one draw)"


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    sets = rng.normal(1.0, 0.7, size=(4000, 8))
    inside = [found.low <= 1 <= found.high for found in map(flows.estimate, sets)]
    # 95 % of 4000, give or take four standard errors (.0034)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.014)


@pytest.mark.parametrize(
    ("low", "high", "floor"),
    [(0.0, 1.0, 0.5), (1.0, 1.02, flows.LEAST_FLOOR), (math.nan, math.nan, flows.LEAST_FLOOR)],
)
def test_the_floor_is_half_the_interval_and_never_nothing(
    low: float, high: float, floor: float
) -> None:
    assert flows.floor_of(Estimate(0.5, low, high, 2)) == floor


# -- marks by hand --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("insertion", "state"),
    [
        (curve(0, 0, 2, 2), 2),
        (curve(0, 1, 0.9, 1, 2), 3),  # half of it, less, then to stay
        (curve(0, -1, -2), 1),  # toward the other answer: the same with the sign turned
        (curve(0, 5, -1, 2), 3),  # more than all of it counts, but it must stay
        (curve(2, 2, 2), 0),
    ],
)
def test_arrival_at_the_answer(insertion: np.ndarray, state: float) -> None:
    assert flows.arrival_at_answer(insertion, 0.05) == (state, "")


def test_what_does_not_arrive_says_how_little_there_is() -> None:
    state, reason = flows.arrival_at_answer(curve(0, 3, 0.04), 0.05)
    assert math.isnan(state)
    assert reason == "the total is under the floor (0.04 < 0.05 logits)"
    assert flows.handover(curve(0, 3, 0.04), 0.05)[1] == reason


@pytest.mark.parametrize(
    ("removal", "arrival", "departure"),
    [
        (curve(4, 4, 0, 0), 0, 2),
        (curve(0, 1, 4, 2, 1.9, 0), 2, 4),  # 2 is half of 4, 1.9 is not
        (curve(0, -3, -3, 0), 1, 3),
        (curve(3, 0, 3, 0), 0, 3),  # gone and back: departed only for good
        (curve(1, 2, 1, 3), 1, math.nan),
    ],
)
def test_arrival_and_departure_of_a_source(
    removal: np.ndarray, arrival: float, departure: float
) -> None:
    assert flows.arrival_at_source(removal, 0.05) == (arrival, "")
    state, reason = flows.departure(removal, 0.05)
    assert state == departure or (math.isnan(state) and math.isnan(departure))
    assert reason == ("still carries it at the last state" if math.isnan(departure) else "")


def test_a_role_that_never_carries_the_flow_says_so() -> None:
    for rule in (flows.arrival_at_source, flows.departure):
        state, reason = rule(curve(0.04, -0.04, 0), 0.05)
        assert math.isnan(state)
        assert reason == "never carries this flow (its removal stays under the floor)"


@pytest.mark.parametrize(
    ("insertion", "state"),
    [(curve(0, 0.89, 0.91, 1), 2), (curve(0, -0.5, -2), 2), (curve(0, 1, 0.2, 1), 1)],
)
def test_handover_is_the_first_state_with_nine_tenths(insertion: np.ndarray, state: float) -> None:
    assert flows.handover(insertion, 0.05) == (state, "")


def test_redundancy_by_hand() -> None:
    # Total 2; the roles' removals add up to 2, to 1.7 and, at the answer alone, to 2.
    removal = np.array([[2, 0.0], [0.7, 1.0], [0, 2.0]])
    assert flows.redundant(removal, 2, 0.05).tolist() == [False, True, False]
    assert flows.redundant(-removal, -2, 0.05).tolist() == [False, True, False]
    assert flows.redundant(removal, 0.04, 0.05).tolist() == [False] * 3


def test_cancellation_by_hand() -> None:
    insertion = np.array([[0.0, 0.0], [3, 0], [3, -3]])
    assert flows.cancelled(insertion, 0.01, 0.05)
    assert not flows.cancelled(insertion, 0.06, 0.05)  # there is a total
    assert not flows.cancelled(insertion / 100, 0.01, 0.05)  # there is nothing at all


# -- marks by their definitions -------------------------------------------------------------


@given(CURVES)
def test_marks_of_any_curve_are_what_their_definitions_say(values: np.ndarray) -> None:
    floor, states = 0.05, range(len(values))
    total, size = values[-1], np.abs(values)

    def first(holds: Callable[[int], object]) -> float:
        return next((float(l) for l in states if holds(l)), math.nan)

    expected = {
        flows.arrival_at_answer: math.nan
        if abs(total) < floor
        else first(
            lambda l: all(math.copysign(1, total) * d >= abs(total) / 2 for d in values[l:])
        ),
        flows.handover: math.nan
        if abs(total) < floor
        else first(lambda l: values[l] / total >= 0.9),
        flows.arrival_at_source: math.nan
        if size.max() < floor
        else first(lambda l: size[l] >= size.max() / 2),
        flows.departure: math.nan
        if size.max() < floor
        else first(lambda l: all(n < size.max() / 2 for n in size[l:])),
    }
    for rule, state in expected.items():
        found, reason = rule(values, floor)
        assert found == state or (math.isnan(found) and math.isnan(state)), rule.__name__
        assert bool(reason) == math.isnan(found)


# -- intervals of marks over draws ----------------------------------------------------------


def arrival(curve: np.ndarray) -> tuple[float, str]:
    return flows.arrival_at_answer(curve, 0.05)


def test_draws_that_agree_have_an_interval_of_one_state() -> None:
    draws = np.tile(curve(0, 0, 2, 2), (8, 1))
    assert flows.bootstrap_state(draws, arrival) == (2, 2)


def test_the_interval_is_that_of_resampled_means() -> None:
    # Half of the draws arrive at state 1 and half at state 3: a mean has .5 or more of the total
    # at state 1 where at least half of the drawn ones are early.
    early, late = curve(0, 2, 2, 2), curve(0, 0, 0, 2)
    draws = np.stack([early] * 4 + [late] * 4)
    assert flows.bootstrap_state(draws, arrival) == (1, 3)
    # 7 of 8 early: half early or more in all but 1e-4 of resamples.
    assert flows.bootstrap_state(np.stack([early] * 7 + [late]), arrival) == (1, 1)


def test_intervals_are_the_same_for_the_same_seed() -> None:
    draws = np.random.default_rng(1).normal(curve(0, 1, 1.2, 2), 1.0, size=(8, 4))
    rule: Rule = lambda c: (float(np.argmax(c)), "")  # noqa: E731
    seeds = {flows.bootstrap_state(draws, rule, seed=seed) for seed in (0, 0, 0)}
    assert len(seeds) == 1
    fine: Rule = lambda c: (float(c.sum()), "")  # noqa: E731
    assert flows.bootstrap_state(draws, fine, seed=0) != flows.bootstrap_state(draws, fine, seed=1)


def test_a_mark_that_is_often_absent_has_no_interval() -> None:
    # The total is 0 or 2, draw by draw: under the floor in 1/2^8 of the resamples for 1 : 1,
    # but in 32 % of them where seven of eight have none and one draw must be picked at all.
    some, none = curve(0, 0, 2), curve(0, 0, 0)
    assert flows.bootstrap_state(np.stack([some, none] * 4), arrival) == (2, 2)
    mostly_absent = np.stack([some] + [none] * 7)
    assert np.isnan(flows.bootstrap_state(mostly_absent, arrival)).all()


def test_one_draw_gives_no_interval_of_a_mark() -> None:
    assert np.isnan(flows.bootstrap_state(curve(0, 2)[None], arrival)).all()


def test_intervals_of_a_mark_cover_it() -> None:
    # The mean curve crosses half of its total between states 3 and 4; draws are noisy.
    truth = curve(0, 0.2, 0.5, 0.8, 1.4, 2, 2)
    rng = np.random.default_rng(2)
    inside = []
    for _ in range(300):
        draws = rng.normal(truth, 0.5, size=(8, len(truth)))
        low, high = flows.bootstrap_state(draws, arrival)
        inside.append(low <= arrival(truth)[0] <= high)
    # Eight draws make percentile intervals a little short; states are coarse.
    assert np.mean(inside) >= 0.9


# -- all marks of a flow --------------------------------------------------------------------


def marks(removal: np.ndarray, insertion: np.ndarray) -> dict[tuple[str, str], Mark]:
    found = flows.flow_marks("contextual", removal, insertion, ("cue", "answer"), 0.05, seed=0)
    return {(mark.name, mark.definition): mark for mark in found}


def test_a_flow_has_arrivals_everywhere_departures_of_sources_and_one_handover() -> None:
    cue, answer = curve(2, 2, 0, 0), curve(0, 0, 2, 2)
    table = np.stack([cue, answer], axis=1)[None].repeat(3, axis=0)
    found = marks(table, table)
    states = {key: mark.state for key, mark in found.items()}
    assert states == {
        ("arrival", "contextual flow at cue"): 0,
        ("departure", "contextual flow at cue"): 2,
        ("arrival", "contextual flow at answer"): 2,
        ("handover", "contextual flow at answer"): 2,
    }
    for mark in found.values():
        assert (mark.low, mark.high) == (mark.state, mark.state)
        assert mark.n_layers == 3
        assert mark.thresholds == {"floor": 0.05, "half": 0.5, "handover": 0.9}


def test_sources_are_marked_by_removal_and_the_answer_by_insertion() -> None:
    nothing, something = np.zeros((1, 3, 2)), np.ones((1, 3, 2))
    by_insertion, by_removal = marks(nothing, something), marks(something, nothing)
    for (_, where), mark in by_insertion.items():
        assert math.isnan(mark.state) == ("cue" in where)
    for (name, where), mark in by_removal.items():
        assert math.isnan(mark.state) == ("answer" in where or name == "departure")
