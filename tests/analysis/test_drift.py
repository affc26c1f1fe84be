"""Drift by its definitions: hand-worked numbers, naive implementations, and runs without drift."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dst.analysis.drift import (
    LEAST_CRITICAL,
    RESOLUTION,
    angle_distance,
    critical_z,
    drift_onset,
    drift_published,
    fit_space,
    mean_over,
    null_pairs,
    z_scores,
)

RNG = np.random.default_rng


def shrunk(states: np.ndarray) -> tuple[np.ndarray, float]:
    """Ledoit and Wolf's covariance, term by term."""
    x = states - states.mean(axis=0)
    n, d = x.shape
    s = sum(np.outer(row, row) for row in x) / n
    target = np.trace(s) / d * np.eye(d)
    apart = ((s - target) ** 2).sum()
    noise = sum(((np.outer(row, row) - s) ** 2).sum() for row in x) / n**2
    rho = min(noise, apart) / apart
    return (1 - rho) * s + rho * target, rho


@pytest.mark.parametrize("n", [40, 5])  # more tokens than dimensions, and fewer
def test_whitened_products_are_those_of_the_shrunk_covariance(n: int) -> None:
    states = RNG(0).normal(size=(n, 8)) * np.arange(1, 9) + 3
    space = fit_space(states)
    covariance, rho = shrunk(states)
    assert space.shrinkage == pytest.approx(rho)
    a, b = RNG(1).normal(size=(2, 8))
    known = (a - space.mean) @ np.linalg.inv(covariance) @ (b - space.mean)
    assert space.whitened(a) @ space.whitened(b) == pytest.approx(known)
    np.testing.assert_allclose(space.centred(a), a - states.mean(axis=0))


def test_states_that_never_vary_have_no_whitening() -> None:
    space = fit_space(np.ones((4, 3)))
    assert math.isnan(space.rest)
    assert np.isnan(space.whitened(np.zeros(3))).all()


def test_the_distance_is_one_minus_cosine_and_exactly_zero_between_equals() -> None:
    one, two = RNG(0).normal(size=(2, 5, 7))
    cosine = (one * two).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(two, axis=-1)
    np.testing.assert_allclose(angle_distance(one, two), 1 - cosine)
    assert (angle_distance(one, one) == 0).all()
    assert angle_distance(np.array([3.0, 0]), np.array([-1.0, 0])) == 2
    assert np.isnan(angle_distance(np.zeros(2), np.ones(2)))


def test_the_published_form_cuts_to_the_shorter_run() -> None:
    run = np.array([[1.0, 0], [0, 2], [5, 5]])
    other = np.array([[2.0, 0], [1, 1]])
    assert drift_published(run, other) == pytest.approx((0 + 1 - math.sqrt(0.5)) / 2)
    assert drift_published(other, run) == drift_published(run, other)


def test_z_is_counted_in_standard_deviations_of_the_null() -> None:
    null = np.array([[1.0, 1, 4], [2, 1, np.nan], [3, 1, np.nan]])
    z = z_scores(np.array([5.0, 1.0 + 3 * RESOLUTION, 9.0]), null)
    assert z[:2] == pytest.approx([3, 3])
    assert np.isnan(z[2])  # one pair is no null


def naive_critical(distance: np.ndarray) -> float:
    n, maxima = len(distance), []
    for i in range(n):
        for j in range(i + 1, n):
            others = [k for k in range(n) if k not in (i, j)]
            rest = [distance[a, b] for a in others for b in others if a < b]
            every = [distance[a, b] for a in range(n) for b in range(a + 1, n)]
            sd = np.maximum(np.std(rest, axis=0, ddof=1), 0.1 * np.std(every, axis=0, ddof=1))
            z = (distance[i, j] - np.mean(rest, axis=0)) / sd
            maxima.append(math.log(max(z.max(), 1)))
    t = stats.t.ppf(0.95, n - 1) * math.sqrt(1 + 1 / n)
    return math.exp(np.mean(maxima) + t * np.std(maxima, ddof=1))


def rows_apart(n: int, cells: int, seed: int) -> np.ndarray:
    """Distances [row row cell] of random rows: exchangeable, and not independent."""
    rows = RNG(seed).normal(size=(n, cells, 3))
    return ((rows[:, None] - rows[None]) ** 2).sum(axis=-1)


def test_the_critical_z_is_a_bound_of_one_more_pairs_largest_z() -> None:
    distance = rows_apart(6, 7, seed=1)
    found, reason = critical_z(distance, np.ones(7, dtype=bool))
    assert reason == ""
    assert found == pytest.approx(naive_critical(distance))
    some = np.array([True, False, True, False, False, True, True])
    assert critical_z(distance, some)[0] == pytest.approx(naive_critical(distance[..., some]))


def test_where_the_null_never_varies_one_cells_quantile_is_left() -> None:
    assert critical_z(np.zeros((5, 5, 4)), np.ones(4, dtype=bool)) == (LEAST_CRITICAL, "")
    assert abs(LEAST_CRITICAL - 1.6449) < 1e-4


def test_without_enough_runs_or_cells_there_is_no_critical_z() -> None:
    four, why = critical_z(rows_apart(4, 3, 0), np.ones(3, dtype=bool))
    assert math.isnan(four)
    assert why == "the null has 4 runs, and 5 are needed"
    none, why = critical_z(rows_apart(6, 3, 0), np.zeros(3, dtype=bool))
    assert math.isnan(none)
    assert why == "no cell is scored"


@pytest.mark.parametrize("n", [6, 8])
def test_a_pair_without_drift_exceeds_it_in_five_percent_of_runs(n: int) -> None:
    alarms, found, runs = 0, 0, 150
    for seed in range(runs):
        rows = RNG(seed).normal(size=(n + 2, 20, 3))
        distance = ((rows[:, None] - rows[None]) ** 2).sum(axis=-1)
        null = distance[:n, :n]
        critical, _ = critical_z(null, np.ones(20, dtype=bool))
        alarms += bool((z_scores(distance[n, n + 1], null_pairs(null)) > critical).any())
        far = ((rows[n] + 15 * (np.arange(20) == 4)[:, None] - rows[n + 1]) ** 2).sum(axis=-1)
        found += bool((z_scores(far, null_pairs(null)) > critical).any())
    assert stats.binom.sf(alarms - 1, runs, 0.05) > 0.001
    assert found > 0.9 * runs


def test_the_onset_is_the_first_state_over_the_critical_z() -> None:
    z = np.array([[0.0, np.nan], [2, np.nan], [5, np.nan], [1, np.nan]])
    assert drift_onset(z, 2.0) == (2.0, "")
    state, why = drift_onset(z, 6.0)
    assert math.isnan(state)
    assert "no z exceeds 6.0" in why
    assert math.isnan(drift_onset(z[:, 1:], 2.0)[0])
    assert math.isnan(drift_onset(z, math.nan)[0])


def test_means_leave_out_what_is_undefined() -> None:
    values = np.array([[1.0, np.nan, 3, 10], [np.nan, np.nan, 4, 10]])
    np.testing.assert_array_equal(mean_over(values, np.array([1, 1, 1, 0], dtype=bool)), [2, 4])
    assert np.isnan(mean_over(values, np.zeros(4, dtype=bool))).all()
