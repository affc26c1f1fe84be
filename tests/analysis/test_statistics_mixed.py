"""The mixed logit: planted effects come back, intervals cover, and nothing is drawn in secret."""

from __future__ import annotations

import builtins
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dst.analysis.mixed import mixed_logit
from dst.core.errors import CapabilityError, InputError
from dst.core.results import open_result


def study(
    seed: int, slope: float = 0.7, between: float = 0.0, n: int = 480
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Errors, scores and groupings: intercepts of sd 1 per word, .5 per template and model."""
    rng = np.random.default_rng(seed)
    groups = {"word": rng.integers(30, size=n), "template": rng.integers(6, size=n)}
    groups["model"] = rng.integers(4, size=n)
    score = between * rng.normal(size=30)[groups["word"]]
    score += math.sqrt(1 - between**2) * rng.normal(size=n)
    logit = -0.3 + slope * score
    for name, sd in (("word", 1.0), ("template", 0.5), ("model", 0.5)):
        logit += sd * rng.normal(size=30)[groups[name]]
    error = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(float)
    return error, score, groups


def test_a_planted_slope_comes_back() -> None:
    pytest.importorskip("statsmodels")
    error, score, groups = study(0, n=3000)
    found = mixed_logit(error, {"score": score}, groups)
    assert found.terms == ("intercept", "score")
    assert found.low[1] < 0.7 < found.high[1]
    assert found.sd[1] < 0.08
    assert 0.6 < found.random_sd["word"] < 1.4
    assert found.n_groups == {"word": 30, "template": 6, "model": 4}
    assert "model (4)" in found.note


def test_without_groups_that_differ_it_is_the_plain_logit() -> None:
    linear = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(1)
    score = rng.normal(2, 3, size=2000)
    error = (rng.random(2000) < 1 / (1 + np.exp(1 - 0.4 * score))).astype(float)
    plain = linear.Logit(error, linear.add_constant(score)).fit(disp=False)
    found = mixed_logit(error, {"score": score}, {"word": rng.integers(20, size=2000)})
    np.testing.assert_allclose(found.estimate, plain.params, rtol=0.05)
    np.testing.assert_allclose(found.sd, plain.bse, rtol=0.2)
    assert found.random_sd["word"] < 0.3


def test_the_unit_of_the_score_is_kept_and_rows_have_no_order() -> None:
    pytest.importorskip("statsmodels")
    error, score, groups = study(2)
    first = mixed_logit(error, {"score": score}, groups)
    wide = mixed_logit(error, {"score": 10 * score + 5}, groups)
    assert wide.estimate[1] == pytest.approx(first.estimate[1] / 10, rel=1e-6)
    assert wide.sd[1] == pytest.approx(first.sd[1] / 10, rel=1e-6)
    # The intercept is where the score is 0, which has moved.
    assert wide.estimate[0] == pytest.approx(first.estimate[0] - 0.5 * first.estimate[1], rel=1e-6)
    again = mixed_logit(error, {"score": score}, groups)
    assert again.to_records() == first.to_records()
    order = np.random.default_rng(0).permutation(len(error))
    moved = mixed_logit(
        error[order], {"score": score[order]}, {k: v[order] for k, v in groups.items()}
    )
    np.testing.assert_allclose(moved.estimate, first.estimate, rtol=1e-3)


def test_what_is_held_fixed_is_a_term_too(tmp_path: Path) -> None:
    pytest.importorskip("statsmodels")
    error, score, groups = study(3)
    confidence = np.random.default_rng(3).normal(size=len(error))
    score[:7] = math.nan
    found = mixed_logit(error, {"score": score, "confidence": confidence}, groups)
    assert found.terms == ("intercept", "score", "confidence")
    assert (found.n, found.n_dropped) == (473, 7)
    assert found.low[2] < 0 < found.high[2]
    opened = open_result(found.save(tmp_path / "mixed.npz"))
    assert opened.to_records() == found.to_records()
    assert [row["term"] for row in opened.to_records()][-1] == "sd(model)"


@pytest.mark.parametrize(
    ("error", "score", "reason"),
    [
        ([1, 1, 1, 1, 1], [1, 2, 3, 4, 5], "one class only"),
        ([1, 0, 1, 0, 1], [2, 2, 2, 2, 2], "score is constant"),
        ([1, 0, 1], [1, 2, 3], "3 complete rows, fewer than 4"),
    ],
)
def test_what_cannot_be_fitted_is_nan_with_a_reason(error: list, score: list, reason: str) -> None:
    found = mixed_logit(error, {"score": score}, {"word": ["a", "b", "a", "b", "b"][: len(error)]})
    assert found.reason == reason
    assert np.isnan(found.estimate).all()
    assert math.isnan(found.random_sd["word"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"random": {}}, "one is missing"),
        ({"fixed": {}}, "one is missing"),
        ({"random": {"word": ["a", "a", "a"]}}, "word has one level"),
        ({"random": {"word": ["a", "b"]}}, "differ in length"),
        ({"error": [0, 1, 2]}, "the error holds 2"),
    ],
)
def test_bad_input_is_a_sentence(change: Mapping[str, Any], sentence: str) -> None:
    options = {"error": [0, 1, 0], "fixed": {"x": [1, 2, 3]}, "random": {"word": ["a", "b", "a"]}}
    with pytest.raises(InputError, match=sentence):
        mixed_logit(**(options | dict(change)))


def test_without_statsmodels_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("statsmodels"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr("importlib.import_module", refuse)
    error, score, groups = study(0)
    with pytest.raises(CapabilityError, match=r"dst-tracing\[baselines\]"):
        mixed_logit(error, {"score": score}, groups)


@pytest.mark.full
@pytest.mark.parametrize("between", [0.0, 0.7])
def test_mixed_logit_intervals_cover(between: float) -> None:
    pytest.importorskip("statsmodels")
    inside, slopes = [], []
    for seed in range(100):
        error, score, groups = study(seed, between=between)
        found = mixed_logit(error, {"score": score}, groups)
        inside.append(found.low[1] <= 0.7 <= found.high[1])
        slopes.append(found.estimate[1])
    assert 0.88 < np.mean(inside) <= 0.99
    assert np.mean(slopes) == pytest.approx(0.7, abs=0.05)
