"""The experiments on tables whose answer is known: what stands there stands, what does not, not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dst.core.study_results import StudyTable
from dst.studies.rows import as_arrow
from experiments.correlation import places, report, stands
from experiments.items import Items, by_group, held_out
from experiments.predict_early import arrived
from experiments.published_vs_ours import mark_rows, word_share
from tests.studies.study_example import MEASURES

WORDS = [f"word{i}" for i in range(20)]


def checkpoint(place: int, knows: bool, seed: int = 0) -> StudyTable:
    """Errors fall with training; ``separation`` knows each of them, or only the checkpoint."""
    rng = np.random.default_rng([seed, place])
    rows: list[dict[str, Any]] = []
    for i in range(120):
        wrong = rng.random() < 0.8 - 0.15 * place
        level = 1.0 - wrong if knows else 0.25 * place
        curve = [0.0, *(level + 0.2 * rng.normal(size=4))]
        row: dict[str, Any] = {
            "case_id": str(i), "group": WORDS[i % 20], "status": "ok", "error": float(wrong),
            "outcome": "hallucination" if wrong else "correct", "answer_prob": rng.uniform(0.3, 1),
            "prompt_tokens": int(rng.integers(8, 30)), "n_layers": 4, "weights_hash": f"w{place}",
            "base": 0.0, "prior": float(rng.normal()), "separation": curve,
            "separation_projected": curve, "arrival (contextual flow at answer)": 2.0,
            "onset (published (guide) on dss_published)": 1.0 if i % 3 else None,
        }  # fmt: skip
        for name in ("separation", "separation_projected"):
            row |= {f"{name}@{d:g}": curve[k] for k, d in enumerate((0.25, 0.5, 0.75, 1.0), 1)}
        rows.append(row)
    return StudyTable(as_arrow(rows, MEASURES))


def items(knows: bool) -> Items:
    return Items.of({f"run-{place}": checkpoint(place, knows) for place in range(4)})


def test_a_score_that_knows_the_errors_stands_and_its_page_is_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = report(items(True), tmp_path, 200)
    assert found["predictor"].startswith("separation")
    assert not found["predictor"].endswith("@1")
    assert all(found["stands"].values())
    assert found["scores"]["separation@0.5"]["pooled"]["value"] < -0.8
    assert "The paper reports -0.863" in capsys.readouterr().out
    kept = json.loads((tmp_path / "correlation.json").read_text("utf-8"))
    assert kept["values"]["paper"] == -0.863
    assert [name for name, _ in kept["provenance"]["models"]] == [f"run-{i}" for i in range(4)]
    assert (tmp_path / "correlation.html").stat().st_size > 1_000_000


def test_one_that_knows_the_checkpoint_correlates_pooled_and_does_not_stand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = report(items(False), tmp_path, 200)
    assert found["scores"]["separation@0.5"]["pooled"]["value"] < -0.5
    assert not found["stands"]["something inside checkpoints"]
    assert not found["stands"]["more than the checkpoint outside"]


def test_an_interval_that_is_not_there_is_no_yes(tmp_path: Path) -> None:
    from dst.analysis.bootstrap import Resampling
    from experiments.correlation import measured_of

    some = items(True)
    nothing = measured_of(
        some,
        np.full(len(some), math.nan),
        Resampling(n_resamples=20, n_permutations=0),
        dict.fromkeys(some.tables, 0.0),
    )
    assert not any(stands(nothing).values())


def test_checkpoints_are_placed_by_their_step_and_models_by_their_order() -> None:
    assert places(["a-0300", "b-0150", "b-1000", "a-0150"]) == {
        "a-0300": 3.0, "b-0150": 1.5, "b-1000": 4.0, "a-0150": 1.5,
    }  # fmt: skip
    assert places(["one", "two-7"]) == {"one": 0.0, "two-7": 1.0}


def test_groups_are_means_over_model_and_word() -> None:
    some = items(True)
    model, word, mean, rate = by_group(some, some.column("separation@0.5"))
    assert len(model) == 80
    one = (some.model == model[7]) & (some.word == word[7])
    assert mean[7] == pytest.approx(some.column("separation@0.5")[one].mean())
    assert rate[7] == pytest.approx(some.error[one].mean())


def test_development_words_are_drawn_whole_and_by_their_share() -> None:
    some = items(True)
    chosen = held_out(some.word, 0.3, seed=0)
    assert len(np.unique(some.word[chosen])) == 6
    assert not set(some.word[chosen]) & set(some.word[~chosen])
    assert np.array_equal(chosen, held_out(some.word, 0.3, seed=0))


def test_the_share_of_the_word_is_one_for_a_score_of_the_word_and_none_for_noise() -> None:
    some = items(True)
    by_word = np.array([WORDS.index(word) for word in some.word], dtype=float)
    assert word_share(some, by_word) == pytest.approx(1)
    noise = np.random.default_rng(0).normal(size=len(some))
    assert abs(word_share(some, noise)) < 0.1
    assert math.isnan(word_share(some, np.full(len(some), math.nan)))


def test_marks_are_counted_by_outcome_and_arrivals_by_depth() -> None:
    some = items(True)
    found = mark_rows(some)["onset (published (guide) on dss_published)"]
    assert found["failing"] + found["correct"] == 480
    assert found["in failing"] + found["in correct"] == 320
    assert arrived(some, "contextual", 0.25) == 0
    assert arrived(some, "contextual", 0.5) == 1
