"""The band of correct runs: no more false alarms than stated, and planted slips are found."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dst.analysis import markers
from dst.analysis.band import LEAST_RUNS, band_of, threshold
from dst.analysis.coherence import margin
from dst.analysis.commitment import DOSE_FACTOR, dose_commitment

L = 12


def curves(n: int, rng: np.random.Generator, *, noise: float = 0.6) -> np.ndarray:
    """Margins of correct runs [run state]: they rise to an answer of their own size, in noise.

    The noise is AR(1) with persistence .8; heavy tails come from sizes that differ per run.
    """
    rise = 1 / (1 + np.exp(-(np.arange(L + 1) - 5.0)))
    size = 3 + rng.gamma(2.0, 1.5, size=(n, 1))
    level = rng.normal(size=n) * noise / math.sqrt(1 - 0.64)
    out = np.empty((n, L + 1))
    for state in range(L + 1):
        out[:, state] = level
        level = 0.8 * level + noise * rng.normal(size=n)
    return size * rise + out


def marked(values: np.ndarray, correct: np.ndarray) -> dict[str, np.ndarray]:
    """The state of each lens mark per run, NaN where it has none."""
    band = band_of(correct)
    assert band is not None
    found: dict[str, list[float]] = {}
    for row in values:
        score, final = margin(row), np.sign(row) == np.sign(row[-1])
        for mark in markers.lens_markers(score, final, 0.5, band.low, band.delta):
            found.setdefault(mark.name, []).append(mark.state)
    return {name: np.array(states) for name, states in found.items()}


@pytest.mark.parametrize("n", [40, 200])
def test_new_correct_runs_raise_a_false_alarm_in_five_per_cent_or_fewer(n: int) -> None:
    """The bound holds on average over references: 40 of each size, 50 new runs for each."""
    rng = np.random.default_rng(n)
    onsets, inversions = [], []
    for _ in range(40):
        found = marked(curves(50, rng), curves(n, rng))
        onsets.append((~np.isnan(found["onset"])).mean())
        inversions.append((~np.isnan(found["inversion"])).mean())
    error = np.std(onsets) / math.sqrt(len(onsets))
    assert np.mean(onsets) <= 0.05 + 2 * error
    assert np.mean(inversions) <= 0.05
    assert np.mean(onsets) > 0.005, "a mark that never fires would pass too"


def test_planted_slips_are_found_where_they_are() -> None:
    rng = np.random.default_rng(3)
    slipped = curves(400, rng)
    slipped[:, 8:] = -4 + 0.6 * rng.normal(size=(400, L + 1 - 8))  # from state 8 on, to the end
    found = marked(slipped, curves(200, rng))
    assert (~np.isnan(found["onset"])).mean() >= 0.95
    assert np.nanmedian(found["onset"]) == 8
    held = (slipped[:, :8] > 0.5).any(axis=1)  # what never held cannot turn
    assert (found["inversion"][held] == 8).mean() >= 0.95
    # Before the slip the likelier answer is the other one, wherever the noise lets it be.
    assert (found["commitment"][slipped[:, 7] > 0] == 8).all()


def test_a_slip_that_comes_back_is_an_onset_and_no_inversion() -> None:
    rng = np.random.default_rng(4)
    dipped = curves(200, rng, noise=0.3)
    dipped[:, 8:10] = -5.0
    found = marked(dipped, curves(200, rng, noise=0.3))
    assert (found["onset"] == 8).mean() >= 0.95
    back = dipped[:, 10:].min(axis=1) > 0
    assert np.isnan(found["inversion"][back]).all()


def test_the_lens_commitment_of_a_correct_run_dates_its_last_change_within_the_noise() -> None:
    rng = np.random.default_rng(5)
    clean = np.array([-2.0] * 4 + [3.0] * 9)
    runs = clean + 0.6 * rng.normal(size=(400, L + 1))
    states = marked(runs, curves(60, rng))["commitment"]
    assert (states == 4).mean() >= 0.95


# -- the numbers by hand ------------------------------------------------------------------------


def test_band_and_delta_by_hand() -> None:
    """39 runs at 0 and one that lies 3 below at two states: it is the one allowed alarm."""
    runs = np.zeros((40, 5))
    runs[7, 2:4] = -3.0
    band = band_of(runs)
    assert band is not None
    # Quantile .025 of 40 sorted numbers lies at place .975 of 0..39, between -3 and 0.
    assert band.low == pytest.approx([0, 0, -3 * 0.025, -3 * 0.025, 0])
    # k = ceil(.95 * 41) = 39: the 39th smallest depth is 0, so that delta is the least one.
    assert band.delta == 0.05
    assert (band.n, band.false_alarms) == (40, 1 / 40)
    assert markers.deepest_slip(runs[7], np.zeros(5)) == 3.0


def test_delta_is_just_above_the_depth_that_one_in_twenty_may_reach() -> None:
    values = np.arange(1.0, 40.0)  # n = 39, k = ceil(.95 * 40) = 38
    assert 38.0 < threshold(values) < 38.0 + 1e-9
    assert threshold(values[:19]) == pytest.approx(19)  # k = 19: the largest
    assert threshold(values[:18]) == math.inf


def test_too_few_correct_runs_make_no_band() -> None:
    assert LEAST_RUNS == 19
    assert band_of(np.zeros((18, 4))) is None
    assert band_of(np.zeros((19, 4))) is not None


# -- the dose -------------------------------------------------------------------------------------


def doses(n: int, rng: np.random.Generator, spread: float) -> np.ndarray:
    return np.exp(spread * rng.normal(size=(n, 1))) * np.array([1.0, 0.5, 0.4, 0.4, 0.3])


@pytest.mark.parametrize("spread", [0.1, 0.8])
def test_the_dose_marks_five_per_cent_of_correct_runs_or_fewer(spread: float) -> None:
    rng = np.random.default_rng(6)
    rates = []
    for _ in range(30):
        correct = [*doses(60, rng, spread)]
        new = [dose_commitment(row, correct).state for row in doses(30, rng, spread)]
        rates.append((~np.isnan(new)).mean())
    assert np.mean(rates) <= 0.05 + 2 * np.std(rates) / math.sqrt(len(rates))


def test_the_factor_of_the_dose_is_two_or_what_correct_runs_ask_for() -> None:
    rng = np.random.default_rng(7)
    narrow = dose_commitment(np.ones(5), [*doses(60, rng, 0.05)])
    wide = dose_commitment(np.ones(5), [*doses(60, rng, 0.8)])
    assert narrow.thresholds["factor"] == DOSE_FACTOR == 2
    assert narrow.note == "0% of 60 correct runs would be marked"
    assert wide.thresholds["factor"] > 2.5
    few = dose_commitment(np.ones(5), [*doses(18, rng, 0.8)])
    assert few.thresholds["factor"] == 2
    assert few.note == "18 correct runs are too few to set k by their false alarms"


def test_a_run_that_no_push_turns_exceeds_every_dose_of_runs_that_turn() -> None:
    correct = [np.array([1.0, 0.5, math.nan])] * 20
    mark = dose_commitment(np.array([1.0, math.nan, math.nan]), correct)
    assert mark.state == 1
    # Where correct runs do not turn either, nothing is out of the ordinary.
    assert math.isnan(dose_commitment(np.array([1.0, 0.5, math.nan]), correct).state)


def test_a_run_is_judged_by_the_band_of_the_others() -> None:
    """Of 20 runs one lies 3 below: its own share in the band must not hide how deep it is."""
    runs = np.zeros((20, 5))
    runs[7, 2:4] = -3.0
    band = band_of(runs)
    assert band is not None
    assert band.low[2] == pytest.approx(-3 * 0.525)  # place .475 of 0..19
    assert band.delta == pytest.approx(3.0)  # k = 20: just above the deepest
    assert band.false_alarms == 0
