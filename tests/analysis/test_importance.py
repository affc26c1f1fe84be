"""How far a value lies beyond its control: exact t tests where they exist, their size by draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dst.analysis.importance import beyond_draws, control_interval


def ring(draws: np.ndarray) -> np.ndarray:
    """Each draw against the next, the last against the first."""
    return draws - np.roll(draws, -1, axis=0)


@pytest.mark.parametrize("n", [2, 3])
def test_with_two_or_three_draws_it_is_the_exact_prediction_t(n: int) -> None:
    draws = np.random.default_rng(0).normal(size=(n, 6))
    x = np.linspace(-3, 3, 6)
    found = beyond_draws(x - draws.mean(axis=0), ring(draws), 0.0)
    # All pairs of two or three draws are in the ring, so its spread is the sample's own.
    t = (x - draws.mean(axis=0)) / (draws.std(axis=0, ddof=1) * np.sqrt(1 + 1 / n))
    np.testing.assert_allclose(found, 2 * stats.t.sf(np.abs(t), n - 1), rtol=1e-10)


def test_by_hand_with_four_draws() -> None:
    draws = np.array([1.0, 2.0, 4.0, 5.0])
    # ring: -1, -2, -1, 4; mean square 22 / 4; s^2 = 11 / 4; n = 4, so 8 / 3 degrees of freedom
    t = 7.0 / np.sqrt(11 / 4 * 5 / 4)
    found = beyond_draws(np.array(7.0), ring(draws), 0.0)
    assert found == pytest.approx(2 * stats.t.sf(t, 8 / 3), rel=1e-10)


@pytest.mark.parametrize("n", [4, 8, 12])
def test_a_further_draw_is_found_as_often_as_stated(n: int) -> None:
    rng = np.random.default_rng(n)
    draws = rng.normal(size=(n + 1, 40_000))
    p = beyond_draws(draws[0] - draws[1:].mean(axis=0), ring(draws[1:]), 0.0)
    # Satterthwaite's degrees of freedom are an approximation: within a tenth of the level.
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.005)
    assert (p < 0.01).mean() == pytest.approx(0.01, abs=0.0025)


def test_an_effect_is_found_beyond_equal_draws_and_rounding_is_not() -> None:
    equal = np.zeros((5, 2))
    p = beyond_draws(np.array([2.0, 1e-6]), equal, 1e-5)
    assert p[0] < 1e-6
    assert p[1] > 0.5
    assert np.isnan(beyond_draws(np.ones(2), np.zeros((1, 2)), 1e-5)).all()


def test_the_interval_is_student_s_for_one_more_control() -> None:
    controls = np.array([[1.0], [2.0], [3.0]])
    low, high = control_interval(np.array([5.0]), controls, 0.0)
    half = stats.t.ppf(0.975, 2) * 1.0 * np.sqrt(4 / 3)
    assert low[0] == pytest.approx(3 - half)
    assert high[0] == pytest.approx(3 + half)
    assert np.isnan(control_interval(np.ones(3), np.ones((1, 3)), 0.0)).all()
