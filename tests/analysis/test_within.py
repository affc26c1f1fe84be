"""Statistics inside groups: hand-worked means, Simpson's paradox, independent loops, coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import roc_auc_score

from dst.analysis.bootstrap import Resampling
from dst.analysis.within import correlation_gain, within_groups
from dst.core.errors import InputError

QUICK = Resampling(n_resamples=400, n_permutations=0)


def drawn(seed: int, effect: float = 0.0, n: int = 40) -> tuple[np.ndarray, ...]:
    """Six models that differ in error rate and in score, twenty words in each."""
    rng = np.random.default_rng(seed)
    model = np.repeat(np.arange(6), n)
    word = np.tile(np.arange(n) % 20, 6)
    score = model + rng.normal(size=6 * n)
    rate = np.clip(0.15 + 0.13 * model + effect * (score - model), 0, 1)
    return score, (rng.random(6 * n) < rate).astype(float), model, word


def test_it_is_the_mean_of_the_groups_own_numbers() -> None:
    score, error, model, word = drawn(0)
    found = within_groups(score, error, model, clusters=word, resampling=QUICK)
    each = [roc_auc_score(error[model == m], score[model == m]) for m in range(6)]
    assert found.value == pytest.approx(np.mean(each))
    assert found.note.startswith("mean of 6 of 6 groups")
    assert found.value in found.interval
    rho = within_groups(score, error, model, statistic="spearman", resampling=QUICK)
    each = [spearmanr(error[model == m], score[model == m])[0] for m in range(6)]
    assert rho.value == pytest.approx(np.mean(each))


def test_a_score_that_only_tells_models_apart_is_nothing_inside_them() -> None:
    score, error, model, word = drawn(1)
    assert roc_auc_score(error, score) > 0.65
    found = within_groups(score, error, model, clusters=word, resampling=QUICK)
    assert 0.5 in found.interval


def test_one_that_tells_errors_inside_models_is_found_and_beats_one_that_does_not() -> None:
    score, error, model, word = drawn(2, effect=0.25)
    other = model + np.random.default_rng(3).normal(size=len(model))
    found = within_groups(score, error, model, clusters=word, resampling=QUICK)
    assert found.interval.low > 0.5
    gain = within_groups(score, error, model, beside=other, clusters=word, resampling=QUICK)
    alone = within_groups(other, error, model, clusters=word, resampling=QUICK)
    assert gain.value == pytest.approx(found.value - alone.value)
    assert gain.interval.low > 0
    same = within_groups(score, error, model, beside=score, clusters=word, resampling=QUICK)
    assert same.value == 0


def test_groups_without_both_outcomes_are_left_out_and_counted() -> None:
    score, error, model, _ = drawn(4)
    error[model == 5] = 1.0
    found = within_groups(score, error, model, resampling=QUICK)
    each = [roc_auc_score(error[model == m], score[model == m]) for m in range(5)]
    assert found.value == pytest.approx(np.mean(each))
    assert found.note.startswith("mean of 5 of 6 groups")
    nothing = within_groups(score, np.ones(len(score)), model, resampling=QUICK)
    assert nothing.reason == "undefined in every group"


def test_the_order_of_the_rows_does_not_matter() -> None:
    score, error, model, word = drawn(5)
    order = np.random.default_rng(6).permutation(len(score))
    one = within_groups(score, error, model, clusters=word, resampling=QUICK)
    two = within_groups(
        score[order], error[order], model[order], clusters=word[order], resampling=QUICK
    )
    assert one.to_records() == two.to_records()


def test_the_gain_is_the_difference_of_two_correlations() -> None:
    rng = np.random.default_rng(7)
    y = rng.normal(size=60)
    good, bad = -y + 0.3 * rng.normal(size=60), y + 3 * rng.normal(size=60)
    found = correlation_gain(good, bad, y, resampling=QUICK)
    assert found.value == pytest.approx(abs(pearsonr(good, y)[0]) - abs(pearsonr(bad, y)[0]))
    assert found.interval.low > 0
    ranked = correlation_gain(good, bad, y, method="spearman", resampling=QUICK)
    assert ranked.value == pytest.approx(abs(spearmanr(good, y)[0]) - abs(spearmanr(bad, y)[0]))
    assert correlation_gain(good, np.ones(60), y, resampling=QUICK).reason == (
        "the other score is constant"
    )
    assert "fewer than 3" in correlation_gain(y[:2], y[:2], y[:2], resampling=QUICK).reason


def test_names_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match="auroc or spearman"):
        within_groups([1.0], [1.0], ["a"], statistic="prr")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="pearson or spearman"):
        correlation_gain([1.0], [1.0], [1.0], method="kendall")  # type: ignore[arg-type]


@pytest.mark.full
def test_the_interval_covers_where_there_is_nothing() -> None:
    held = 0
    for seed in range(100):
        score, error, model, word = drawn(1000 + seed)
        found = within_groups(score, error, model, clusters=word, resampling=QUICK)
        held += 0.5 in found.interval
    assert held >= 90
