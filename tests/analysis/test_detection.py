"""Detection against scikit-learn, brute force and hand-worked cases."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dst.analysis.bootstrap import Resampling
from dst.analysis.delong import auroc_difference, delong
from dst.analysis.detection import auroc, average_precision, calibration_error, prr
from dst.core.errors import InputError
from dst.core.results import open_result

FEW = Resampling(n_resamples=500, n_permutations=500)
NONE = Resampling(n_resamples=0, n_permutations=0)
SCORED = st.integers(3, 14).flatmap(
    lambda n: st.tuples(
        arrays(np.float64, n, elements=st.integers(-3, 3).map(float)),
        arrays(np.float64, n, elements=st.integers(0, 1).map(float)),
    )
)
Scored = tuple[np.ndarray, np.ndarray]


def both_classes(label: np.ndarray) -> bool:
    return 0 < label.sum() < len(label)


def words(seed: int, n_words: int = 25, size: int = 6) -> tuple[np.ndarray, ...]:
    """A useful score, a useless one, labels, words; labels and scores alike inside words."""
    rng = np.random.default_rng(seed)
    word = np.repeat(np.arange(n_words), size)
    common = rng.normal(size=n_words)[word]
    label = (common + rng.normal(size=len(word)) > 0).astype(float)
    useful = common + label + rng.normal(size=len(word))
    useless = rng.normal(size=n_words)[word] + rng.normal(size=len(word))
    return useful, useless, label, word


# -- AUROC --------------------------------------------------------------------------------------


def test_auroc_by_hand() -> None:
    # Errors at 3 and 1, correct at 2 and 1: 3 > 2, 3 > 1, 1 < 2, 1 = 1
    found = auroc([3, 1, 2, 1], [1, 1, 0, 0], resampling=NONE)
    assert found.value == pytest.approx(2.5 / 4)


@given(SCORED)
def test_auroc_is_the_share_of_ordered_pairs(scored: Scored) -> None:
    score, label = scored
    found = auroc(score, label, resampling=NONE)
    if not both_classes(label):
        assert found.reason == "one class only"
    elif np.ptp(score) == 0:
        assert found.reason == "the score is constant"
    else:
        gap = score[label == 1][:, None] - score[label == 0][None, :]
        assert found.value == pytest.approx((gap > 0).mean() + (gap == 0).mean() / 2)
        assert auroc(-score, label, resampling=NONE).value == pytest.approx(1 - found.value)


def test_ranking_metrics_are_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for decimals in (0, 1, 8):  # many ties, some, none
        score, label = np.round(rng.normal(size=80), decimals), rng.integers(2, size=80)
        assert auroc(score, label, resampling=NONE).value == pytest.approx(
            metrics.roc_auc_score(label, score)
        )
        assert average_precision(score, label, resampling=NONE).value == pytest.approx(
            metrics.average_precision_score(label, score)
        )


def test_the_p_of_auroc_is_that_of_mann_whitney() -> None:
    rng = np.random.default_rng(1)
    score, label = rng.normal(size=30), np.repeat([0.0, 1.0], 15)
    score += 0.7 * label
    theirs = scipy.stats.mannwhitneyu(score[label == 1], score[label == 0], method="exact").pvalue
    ours = auroc(score, label, resampling=Resampling(0, 20_000)).p
    assert ours == pytest.approx(theirs, abs=0.01)


def test_order_and_monotone_transforms_change_nothing() -> None:
    useful, _, label, word = words(0)
    order = np.random.default_rng(0).permutation(len(label))
    for metric in (auroc, average_precision):
        first = metric(useful, label, clusters=word, resampling=FEW)
        for score in (np.exp(useful), useful**3):
            again = metric(score[order], label[order], clusters=word[order], resampling=FEW)
            assert again.to_records() == first.to_records()


def test_a_perfect_score_has_no_interval() -> None:
    found = auroc([1, 2, 3, 4], [0, 0, 1, 1], resampling=Resampling(500, 0))
    assert found.value == 1
    assert found.interval.reason != ""


def test_invalid_answers_are_dropped_and_counted() -> None:
    found = auroc([1, 2, 3, 4, 9], [0, 1, 0, 1, math.nan], resampling=NONE)
    assert (found.n, found.n_dropped, found.value) == (4, 1, 0.75)


@pytest.mark.parametrize(
    ("score", "label", "reason"),
    [
        ([1, 2, 3], [1, 1, 1], "one class only"),
        ([2, 2, 2], [1, 0, 1], "the score is constant"),
        ([1, 2], [1, 0], "2 complete rows, fewer than 3"),
        ([], [], "0 complete rows, fewer than 3"),
    ],
)
def test_what_is_undefined_is_nan_with_a_reason(score: list, label: list, reason: str) -> None:
    for metric in (auroc, average_precision):
        found = metric(score, label)
        assert math.isnan(found.value)
        assert found.reason == reason


def test_labels_are_0_or_1() -> None:
    for metric in (auroc, average_precision):
        with pytest.raises(InputError, match="the labels holds 2"):
            metric([1, 2, 3], [0, 1, 2])


# -- PRR ------------------------------------------------------------------------------------------


def brute_prr(doubt: np.ndarray, quality: np.ndarray) -> float:
    """By every order that ties allow, weighted alike: the definition."""
    rng = np.random.default_rng(0)

    def area(key: np.ndarray) -> float:
        kept = []
        for _ in range(400 if len(np.unique(key)) < len(key) else 1):
            order = np.lexsort((rng.random(len(key)), key))
            kept.append(np.mean(np.cumsum(quality[order]) / np.arange(1, len(key) + 1)))
        return float(np.mean(kept))

    chance = quality.mean()
    return (area(doubt) - chance) / (area(-quality) - chance)


def test_prr_by_hand() -> None:
    # Kept in the order of doubt, qualities 1, 0, 1: means 1, 1/2, 2/3 -> area 13/18.
    # Oracle 1, 1, 2/3 -> 16/18; chance 2/3 = 12/18.
    assert prr([1, 2, 3], [1, 0, 1], resampling=NONE).value == pytest.approx(1 / 4)


def test_prr_is_its_definition() -> None:
    rng = np.random.default_rng(0)
    doubt, quality = rng.normal(size=25), rng.random(25)
    assert prr(doubt, quality, resampling=NONE).value == pytest.approx(brute_prr(doubt, quality))
    tied = np.round(doubt)
    assert prr(tied, quality, resampling=NONE).value == pytest.approx(
        brute_prr(tied, quality), abs=0.05
    )


@given(SCORED)
def test_prr_lies_between_the_worst_and_the_best(scored: Scored) -> None:
    doubt, quality = scored
    found = prr(doubt, quality, resampling=NONE)
    if np.ptp(quality) == 0 or np.ptp(doubt) == 0:
        assert "is constant" in found.reason
        return
    assert found.value <= 1 + 1e-12
    assert prr(-quality, quality, resampling=NONE).value == pytest.approx(1)


# -- calibration ----------------------------------------------------------------------------------


def test_ece_by_hand() -> None:
    # Bins [.2, .3): labels 0, 1, stated .2, .2 -> |1 - .4|; [.9, 1]: 1, stated .9 -> .1
    found = calibration_error([0.2, 0.2, 0.9], [0, 1, 1], resampling=NONE)
    assert found.value == pytest.approx((0.6 + 0.1) / 3)


def test_ece_is_its_definition() -> None:
    rng = np.random.default_rng(0)
    stated = np.append(rng.random(200), [0.0, 1.0])
    label = (rng.random(202) < stated**2).astype(float)
    total = 0.0
    for b in range(15):
        last = b == 14
        inside = (stated >= b / 15) & ((stated < (b + 1) / 15) | last)
        if inside.any():
            total += inside.mean() * abs(label[inside].mean() - stated[inside].mean())
    found = calibration_error(stated, label, n_bins=15, resampling=NONE)
    assert found.value == pytest.approx(total)
    bins = np.argsort(np.argsort(stated)) * 10 // 202
    mass = sum(abs((label - stated)[bins == b].sum()) for b in range(10)) / 202
    found = calibration_error(stated, label, binning="mass", resampling=NONE)
    assert found.value == pytest.approx(mass, abs=0.02)


def test_ties_share_a_bin() -> None:
    stated = np.full(20, 0.5)
    label = np.repeat([0.0, 1.0], 10)
    for binning in ("width", "mass"):
        found = calibration_error(stated, label, binning=binning, resampling=NONE)
        assert found.value == pytest.approx(0)


def test_ece_needs_probabilities_and_bins() -> None:
    with pytest.raises(InputError, match="outside 0"):
        calibration_error([0.5, 1.5, 0.1], [0, 1, 1])
    with pytest.raises(InputError, match="0 bins"):
        calibration_error([0.5, 0.5, 0.1], [0, 1, 1], n_bins=0)
    with pytest.raises(InputError, match="no binning"):
        calibration_error([0.5, 0.5, 0.1], [0, 1, 1], binning="size")  # type: ignore[arg-type]
    assert calibration_error([0.5], [1]).reason == "1 complete rows, fewer than 3"


# -- differences ----------------------------------------------------------------------------------


def structural_variance(a: np.ndarray, b: np.ndarray, label: np.ndarray) -> float:
    """DeLong's variance of the difference, pair by pair."""

    def share(x: np.ndarray) -> np.ndarray:
        gap = x[label == 1][:, None] - x[label == 0][None, :]
        return (gap > 0) + (gap == 0) / 2

    difference = share(a) - share(b)
    up, down = difference.mean(axis=1), difference.mean(axis=0)
    return up.var(ddof=1) / len(up) + down.var(ddof=1) / len(down)


@pytest.mark.parametrize("decimals", [0, 6])
def test_delong_is_its_definition(decimals: int) -> None:
    useful, useless, label, _ = words(1)
    a, b = np.round(useful, decimals), np.round(useless, decimals)
    found = delong(a, b, label)
    assert found.first == pytest.approx(auroc(a, label, resampling=NONE).value)
    assert found.second == pytest.approx(auroc(b, label, resampling=NONE).value)
    assert found.se**2 == pytest.approx(structural_variance(a, b, label))
    z = found.difference / found.se
    assert found.p == pytest.approx(2 * scipy.stats.norm.sf(abs(z)))
    assert found.interval.high - found.difference == pytest.approx(1.959964 * found.se)


def test_delong_and_bootstrap_agree_with_and_without_clusters() -> None:
    useful, useless, label, word = words(2, n_words=80)
    for clusters in (None, word):
        closed = delong(useful, useless, label, clusters=clusters)
        drawn = auroc_difference(
            useful, useless, label, clusters=clusters, resampling=Resampling(2000, 0, items=False)
        )
        assert drawn.value == pytest.approx(closed.difference)
        assert drawn.p == pytest.approx(closed.p, rel=1e-6)
        width = closed.interval.high - closed.interval.low
        assert drawn.interval.high - drawn.interval.low == pytest.approx(width, rel=0.12)
    assert delong(useful, useless, label, clusters=word).se > delong(useful, useless, label).se


def test_a_score_against_itself_has_no_test() -> None:
    useful, _, label, _ = words(3)
    found = delong(useful, useful**3, label)
    assert found.difference == 0
    assert found.reason == "the two scores rank all rows alike"
    assert math.isnan(found.p)


def test_delong_needs_two_clusters_of_each_class() -> None:
    found = delong([1, 2, 3, 4], [2, 1, 4, 3], [0, 0, 1, 1], clusters=["a", "b", "c", "c"])
    assert found.reason == "a class stands in one cluster only"
    assert delong([1, 2, 3], [1, 3, 2], [1, 1, 1]).reason == "one class only"


def test_a_detection_statistic_is_saved_and_opened(tmp_path: Path) -> None:
    useful, useless, label, word = words(4)
    for found in (
        auroc(useful, label, clusters=word, resampling=FEW),
        auroc_difference(useful, useless, label, clusters=word, resampling=FEW),
        auroc([1, 1, 1], [1, 0, 1]),
    ):
        opened = open_result(found.save(tmp_path / "auroc.npz"))
        assert str(opened.to_records()) == str(found.to_records())


@pytest.mark.full
def test_auroc_intervals_and_delong_cover() -> None:
    truth = float(np.mean([auroc(*_many(seed), resampling=NONE).value for seed in range(20)]))
    inside, rejected = [], []
    for seed in range(300):
        useful, useless, label, word = words(seed, n_words=40)
        found = auroc(useful, label, clusters=word, resampling=Resampling(600, 0))
        inside.append(truth in found.interval)
        other = np.random.default_rng(10_000 + seed).permutation(40)
        # Another useless score of the same kind: no difference in truth.
        second = useless.reshape(40, 6)[other].ravel()
        rejected.append(delong(useless, second, label, clusters=word).p < 0.05)
    assert 0.9 < np.mean(inside) <= 0.995
    assert np.mean(rejected) < 0.1


def _many(seed: int) -> tuple[np.ndarray, np.ndarray]:
    useful, _, label, _ = words(seed, n_words=3000)
    return useful, label
