"""What is fitted never sees what it scores; the audit compares like with like."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dst.analysis.audit import CONDITIONS, circularity_audit
from dst.analysis.bootstrap import Resampling
from dst.analysis.detection import auroc
from dst.analysis.probe import delta_auroc, linear_probe
from dst.analysis.statistics import correlation
from dst.core.errors import CapabilityError, InputError
from dst.core.results import open_result

FEW = Resampling(n_resamples=500, n_permutations=500)
NONE = Resampling(n_resamples=0, n_permutations=0)


def states(
    seed: int, n_words: int = 40, size: int = 6, signal: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States [row 60] that know their word; labels of the word; ``signal`` in the first feature.

    More features than words: any labelling of words can be learnt by heart.
    """
    rng = np.random.default_rng(seed)
    word = np.repeat(np.arange(n_words), size)
    label = (rng.random(n_words) < 0.5).astype(float)[word]
    table = 2 * rng.normal(size=(n_words, 60))[word] + 0.3 * rng.normal(size=(len(word), 60))
    table[:, 0] += signal * label
    return table, label, word


# -- probe ---------------------------------------------------------------------------------------


def test_a_probe_finds_what_is_there() -> None:
    pytest.importorskip("sklearn")
    table, label, word = states(0, n_words=300, signal=8)
    found = linear_probe(table, label, clusters=word)
    assert auroc(found.score, label, resampling=NONE).value > 0.9


def test_a_probe_split_by_row_learns_the_word_and_ours_does_not() -> None:
    pytest.importorskip("sklearn")
    table, label, word = states(1)
    by_row = linear_probe(table, label)
    by_word = linear_probe(table, label, clusters=word)
    assert auroc(by_row.score, label, resampling=NONE).value > 0.9
    assert auroc(by_word.score, label, resampling=NONE).value < 0.65


def test_a_word_is_in_one_fold_and_every_row_is_scored() -> None:
    pytest.importorskip("sklearn")
    table, label, word = states(2)
    found = linear_probe(table, label, clusters=word, n_folds=4)
    assert set(found.fold) == set(range(4))
    assert all(len(np.unique(found.fold[word == w])) == 1 for w in range(40))
    assert not np.isnan(found.score).any()


def test_the_score_of_a_fold_is_scikit_learns_fit_of_the_others() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    pipeline = pytest.importorskip("sklearn.pipeline")
    scale = pytest.importorskip("sklearn.preprocessing")
    table, label, word = states(3, signal=2)
    found = linear_probe(table, label, clusters=word)
    held = found.fold == 2
    model = pipeline.make_pipeline(
        scale.StandardScaler(), linear.LogisticRegression(max_iter=5000)
    ).fit(table[~held], label[~held])
    np.testing.assert_allclose(found.score[held], model.decision_function(table[held]), rtol=1e-2)


def test_the_order_of_rows_changes_no_score() -> None:
    pytest.importorskip("sklearn")
    table, label, word = states(4, signal=2)
    order = np.random.default_rng(0).permutation(len(label))
    first = linear_probe(table, label, clusters=word)
    second = linear_probe(table[order], label[order], clusters=word[order])
    np.testing.assert_array_equal(second.score, first.score[order])


def test_rows_with_holes_are_in_no_fit_and_get_no_score() -> None:
    pytest.importorskip("sklearn")
    table, label, word = states(5, signal=2)
    table[0, 3], label[1] = math.nan, math.nan
    found = linear_probe(table, label, clusters=word)
    assert np.isnan(found.score[:2]).all()
    assert found.fold[:2].tolist() == [-1, -1]
    assert not np.isnan(found.score[2:]).any()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"labels": np.zeros(240)}, "label 1 stand in 0 clusters"),
        ({"clusters": np.zeros(240)}, "label 0 stand in 1 clusters"),
        ({"labels": np.zeros(3)}, "shape"),
        ({"clusters": [1, 2]}, "2 cluster labels for 240 rows"),
        ({"features": np.full((240, 2), np.inf)}, "infinite"),
        ({"labels": np.full(240, 3.0)}, "holds 3"),
    ],
)
def test_what_cannot_be_fitted_is_a_sentence(change: dict, sentence: str) -> None:
    table, label, word = states(6)
    options: dict[str, Any] = {"features": table, "labels": label, "clusters": word} | change
    with pytest.raises(InputError, match=sentence):
        linear_probe(**options)


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", refuse)
    table, label, word = states(7)
    with pytest.raises(CapabilityError, match=r"dst-tracing\[baselines\]"):
        linear_probe(table, label, clusters=word)


# -- over confidence -----------------------------------------------------------------------------


def answers(seed: int, own: float) -> tuple[np.ndarray, ...]:
    """Score, confidence, labels, words; the score adds ``own`` to what confidence knows."""
    rng = np.random.default_rng(seed)
    word = np.repeat(np.arange(50), 6)
    hidden, confidence = rng.normal(size=(2, 300))
    label = (own * hidden + confidence + rng.normal(size=300) > 0).astype(float)
    score = hidden + confidence + 0.3 * rng.normal(size=300)
    return score, confidence, label, word


def test_what_a_score_adds_to_confidence() -> None:
    pytest.importorskip("sklearn")
    score, confidence, label, word = answers(0, own=1.5)
    found = delta_auroc(score, confidence, label, clusters=word, resampling=FEW)
    assert found.difference.value == pytest.approx(
        found.with_score.value - found.confidence_alone.value
    )
    assert found.difference.interval.low > 0.05
    assert found.difference.p < 0.001
    assert found.difference.name == "delta_auroc"


def test_what_restates_confidence_adds_nothing() -> None:
    pytest.importorskip("sklearn")
    score, confidence, label, word = answers(1, own=0)
    assert auroc(score, label, resampling=NONE).value > 0.65  # useful alone
    found = delta_auroc(score, confidence, label, clusters=word, resampling=FEW)
    assert abs(found.difference.value) < 0.03
    assert found.difference.interval.low < 0


def test_both_models_see_the_same_rows() -> None:
    pytest.importorskip("sklearn")
    score, confidence, label, word = answers(2, own=1)
    score[:9] = math.nan
    several = np.column_stack([confidence, confidence**2])
    found = delta_auroc(score, several, label, clusters=word, resampling=FEW)
    assert found.with_score.n == found.confidence_alone.n == found.difference.n == 291


# -- audit ---------------------------------------------------------------------------------------


def audited(seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """A score that knows errors, an echo of it, noise in three draws, and a reversed one."""
    rng = np.random.default_rng(seed)
    word = np.repeat(np.arange(30), 5)
    label = (rng.random(150) < 0.4).astype(float)
    score = 1.5 * label + rng.normal(size=150)
    conditions = {
        "last_layer": score + 0.05 * rng.normal(size=150),
        "shuffled_words": rng.normal(size=(3, 150)),
        "neutral_only": -score,
    }
    return score, conditions, label, word


def test_the_audit_beats_what_knows_nothing_and_not_an_echo() -> None:
    score, conditions, label, word = audited()
    found = circularity_audit(score, conditions, label, clusters=word, resampling=FEW)
    beaten = dict(zip((c.name for c in found.conditions), found.beaten, strict=True))
    # A condition that predicts in the wrong direction is bad, not good.
    assert beaten == {"last_layer": False, "shuffled_words": True, "neutral_only": True}
    assert found.missing == ("random_weights", "answer_projected_out")
    assert set(found.missing) | set(conditions) == set(CONDITIONS)


def test_the_audits_numbers_are_those_of_its_statistics() -> None:
    score, conditions, label, word = audited()
    found = circularity_audit(score, conditions, label, clusters=word, resampling=FEW)
    own = auroc(score, label, clusters=word, resampling=FEW)
    assert found.score.value == own.value
    assert found.score.p == own.p
    assert found.score.interval.low == own.interval.low
    mean = np.mean([auroc(d, label, resampling=NONE).value for d in conditions["shuffled_words"]])
    assert found.conditions[1].value == pytest.approx(mean)
    assert found.differences[1].value == pytest.approx(own.value - mean)
    assert found.differences[2].value == pytest.approx(2 * own.value - 1)
    # Paired: the echo's difference is far surer than two intervals side by side.
    echo = found.differences[0].interval
    assert echo.high - echo.low < (own.interval.high - own.interval.low) / 3


def test_the_direction_is_fixed_beforehand() -> None:
    score, conditions, label, word = audited()
    for statistic in ("auroc", "spearman"):
        first = circularity_audit(
            score,
            conditions,
            label,
            statistic=statistic,
            clusters=word,
            resampling=FEW,
        )
        turned = circularity_audit(
            -score,
            {name: -values for name, values in conditions.items()},
            label,
            statistic=statistic,
            higher_means_error=False,
            clusters=word,
            resampling=FEW,
        )
        assert str(turned.to_records()) == str(first.to_records())


def test_spearmans_audit_is_of_rates() -> None:
    score, conditions, _, word = audited()
    rate = np.clip(0.5 + 0.2 * score, 0, 1)
    found = circularity_audit(
        score, conditions, rate, statistic="spearman", clusters=word, resampling=FEW
    )
    assert found.score.value == correlation(score, rate, resampling=NONE).value
    with pytest.raises(InputError, match="0 or 1"):
        circularity_audit(score, conditions, rate, resampling=FEW)


def test_a_condition_with_holes_is_compared_where_it_is() -> None:
    score, conditions, label, _ = audited()
    echo = conditions["last_layer"].copy()
    echo[:10] = math.nan
    found = circularity_audit(
        score, {"last_layer": echo, "random_weights": np.ones(150)}, label, resampling=FEW
    )
    assert (found.score.n, found.differences[0].n, found.differences[0].n_dropped) == (150, 140, 10)
    assert found.differences[0].value == pytest.approx(
        auroc(score[10:], label[10:], resampling=NONE).value
        - auroc(echo[10:], label[10:], resampling=NONE).value
    )
    assert "is constant" in found.differences[1].reason
    assert found.beaten[1] is False


def test_an_audit_is_saved_and_opened(tmp_path: Path) -> None:
    score, conditions, label, word = audited()
    found = circularity_audit(score, conditions, label, clusters=word, resampling=FEW)
    opened = open_result(found.save(tmp_path / "audit.npz"))
    assert str(opened.to_records()) == str(found.to_records())
    assert [row["condition"] for row in opened.to_records()] == ["score", *conditions]


def test_an_audit_needs_conditions_and_a_statistic() -> None:
    with pytest.raises(InputError, match="no conditions"):
        circularity_audit([1, 2, 3], {}, [0, 1, 1])
    with pytest.raises(InputError, match="no statistic"):
        circularity_audit([1, 2, 3], {"a": [1, 2, 3]}, [0, 1, 1], statistic="r")  # type: ignore[arg-type]
