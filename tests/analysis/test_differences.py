"""Differences of two runs: Welch's interval, the bootstrap over draws, ends of marks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats

from dst.analysis import differences as rules
from dst.analysis.coherence import dss_causal
from dst.analysis.flows import LEAST_FLOOR, arrival_at_answer, estimate
from dst.core.results import Mark, Pathways
from tests.report.example import NAN, make_pathways

ROLES = ("cue", "subject_1", "answer")


def pathways(context: Any, association: Any, floors: tuple[float, float] = (0.1, 0.1)) -> Pathways:
    """Flows whose insertion at the answer is given, [draw state]; two roles carry nothing."""
    made = make_pathways(ROLES, len(context[0]) - 1, -1.0)

    def at_answer(draws: Any) -> np.ndarray:
        flow = np.zeros((len(draws), len(draws[0]), 3))
        flow[:, :, 2] = draws
        return flow

    both = {"contextual": at_answer(context), "associative": at_answer(association)}
    return made.replace(
        **{f"{name}_insertion": flow for name, flow in both.items()},
        **{f"{name}_removal": flow for name, flow in both.items()},
        total_effect=estimate(both["contextual"][:, -1, 2]),
        prior=estimate(both["associative"][:, -1, 2]),
        contextual_floor=floors[0],
        associative_floor=floors[1],
    )


def by_name(a: Pathways | None, b: Pathways | None, **how: Any) -> dict[str, Any]:
    found = rules.over_draws(a, b, (0.25, 0.5, 0.75), **how)
    return {one.name: one for one in found}


# -- means -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(8, 8), (8, 5), (2, 20)])
def test_the_interval_of_two_means_is_welch_s(n: int, m: int) -> None:
    rng = np.random.default_rng(n * m)
    a, b = rng.normal(1, 2, n), rng.normal(0, 0.5, m)
    found = rules.of_means("base", estimate(a), estimate(b))
    wanted = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert (found.a, found.b) == pytest.approx((a.mean(), b.mean()))
    assert found.told_apart == (wanted.low > 0 or wanted.high < 0)


def test_draws_that_agree_exactly_still_have_the_least_floor() -> None:
    same, near = np.full(4, 1.0), np.full(4, 1.0 + 0.8 * LEAST_FLOOR)
    assert not rules.of_means("base", estimate(near), estimate(same)).told_apart
    far = np.full(4, 1.0 + 1.2 * LEAST_FLOOR)
    assert rules.of_means("base", estimate(far), estimate(same)).told_apart


def test_one_draw_and_no_measurement_have_no_interval_and_say_why() -> None:
    many, one = estimate(np.array([1.0, 2.0])), estimate(np.array([1.0]))
    found = rules.of_means("base", many, one)
    assert math.isnan(found.low)
    assert found.value == 0.5
    assert found.reason == "B has one draw only"
    assert not found.told_apart
    assert rules.of_means("base", one, one).reason == "A has one draw only and B has one draw only"
    assert rules.of_means("base", None, many).reason == "A was not measured"


# -- marks ---------------------------------------------------------------------------------------


def test_marks_compare_as_shares_of_depth_between_the_far_ends() -> None:
    a = Mark("commitment", "causal, de-prime", 3.0, 4, low=2.0, high=3.0)
    b = Mark("commitment", "causal, de-prime", 2.0, 8, low=1.0, high=3.0)
    found = rules.of_marks("commitment", "commitment", a, b)
    assert (found.a, found.b, found.value) == (0.75, 0.25, 0.5)
    assert (found.low, found.high) == (2 / 4 - 3 / 8, 3 / 4 - 1 / 8)
    assert found.told_apart
    wide = b.replace(high=4.0)
    assert not rules.of_marks("commitment", "commitment", a, wide).told_apart
    none = Mark("commitment", "causal, de-prime", NAN, 8, reason="not repairable")
    found = rules.of_marks("commitment", "commitment", a, none)
    assert found.reason == "B: not repairable"
    assert math.isnan(found.value)
    unsteady = a.replace(low=NAN, high=NAN)
    assert rules.of_marks("c", "commitment", unsteady, b).reason == "A: no interval over draws"


# -- functions of draws --------------------------------------------------------------------------


def test_quantities_are_those_of_the_means_over_draws() -> None:
    """Context 0, 0, 2, 4, 4 and association 0, -4, -4, -4, -4: 4 layers; B half of the context."""
    spread = np.array([0.9, 1.0, 1.1])[:, None]
    context = spread * np.array([0, 0, 2.0, 4, 4])
    association = spread * np.array([0, -4.0, -4, -4, -4])
    a, b = pathways(context, association), pathways(context / 2, association)
    found = by_name(a, b)
    for paths, side in ((a, "a"), (b, "b")):
        c, s = (paths.at_answer(f"{name}_insertion") for name in ("contextual", "associative"))
        score = dss_causal(c, s, (0.1, 0.1))
        for share in (0.25, 0.5, 0.75):
            name = f"dss_causal at {share * 100:.0f} % of depth"
            assert getattr(found[name], side) == pytest.approx(score.at(share))
        assert getattr(found["dss_causal, total"], side) == pytest.approx(score.total)
        for name, flow in (("contextual", c), ("associative", s)):
            arrival = getattr(found[f"arrival of the {name} flow"], side)
            assert arrival == arrival_at_answer(flow, 0.1)[0] / 4
    assert found["arrival of the contextual flow"].a == 0.5
    total = found["dss_causal, total"]
    # Draws that scale both flows alike: 4 / 8 and 2 / 6 in every resample.
    assert (total.value, total.low, total.high) == pytest.approx((0.5 - 1 / 3,) * 3)
    assert total.told_apart
    assert not found["arrival of the contextual flow"].told_apart  # the same state in both


def test_the_interval_is_the_percentiles_of_independent_resamples() -> None:
    """Against a bootstrap written out here, of draws that vary on their own."""
    rng = np.random.default_rng(3)
    context = 4 + rng.normal(size=(8, 3))
    association = -4 + rng.normal(size=(8, 3))
    a, b = pathways(context, association), pathways(context[::-1] - 1, association + 0.5)
    found = by_name(a, b, seed=1)["dss_causal, total"]
    own = np.random.default_rng(99)

    def resampled(paths: Pathways) -> np.ndarray:
        c, s = paths.contextual_insertion[:, -1, 2], paths.associative_insertion[:, -1, 2]
        pick = own.integers(8, size=(4000, 8))
        mean_c, mean_s = c[pick].mean(axis=1), s[pick].mean(axis=1)
        return np.asarray(mean_c / (mean_c - mean_s))

    wanted = np.quantile(resampled(a) - resampled(b), [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(tuple(wanted), abs=0.015)
    again = by_name(a, b, seed=1)["dss_causal, total"]
    assert (found.low, found.high) == (again.low, again.high)


def test_depths_of_models_with_other_depths_compare_as_shares() -> None:
    four = pathways(np.tile([0, 0, 4.0, 4, 4], (3, 1)), np.tile([0, -4.0, -4, -4, -4], (3, 1)))
    eight = pathways(
        np.tile([0, 0, 0, 0, 0, 0, 4.0, 4, 4], (3, 1)), np.tile([0, *[-4.0] * 8], (3, 1))
    )
    arrival = by_name(four, eight)["arrival of the contextual flow"]
    assert (arrival.a, arrival.b, arrival.value) == (0.5, 0.75, -0.25)
    assert arrival.told_apart
    half = by_name(four, eight)["dss_causal at 50 % of depth"]
    assert (half.a, half.b) == (0.5, 0.0)


def test_what_is_not_there_in_every_resample_has_no_interval() -> None:
    """The context's total is over its floor in the mean, and under it in many resamples."""
    context = np.array([[0, 0, 0.6], [0, 0, -0.3], [0, 0, 0.06]])
    association = np.tile([0, -4.0, -4], (3, 1))
    found = by_name(pathways(context, association), pathways(association * -1, association))
    arrival = found["arrival of the contextual flow"]
    assert not math.isnan(arrival.a)
    assert math.isnan(arrival.low)
    assert arrival.reason == "A: not in every resample of the draws"
    assert not arrival.told_apart


def test_runs_without_flows_or_with_one_draw_say_so() -> None:
    context, association = [[0, 4.0]], [[0, -4.0]]
    one = pathways(context, association)
    many = pathways(context * 4, association * 4)
    for name, found in by_name(one, many).items():
        # At a quarter of one layer nothing has arrived yet.
        more = "; B: has none" if "25 %" in name else ""
        assert found.reason == f"A: one draw only{more}"
    assert by_name(one, many)["dss_causal, total"].a == 0.5
    for found in by_name(None, many).values():
        assert found.reason == "A has no pathways"
        assert math.isnan(found.value)


def test_numbers_that_no_draw_has_a_part_in_are_exact() -> None:
    found = rules.exact("LD", "sum", "logits", -1.5, 0.5)
    assert (found.value, found.low, found.high) == (-2.0, -2.0, -2.0)
    assert found.told_apart
    assert not rules.exact("LD", "sum", "logits", 0.5, 0.5).told_apart
