"""The summary of a study: counts by hand, AUROCs of an independent implementation, the page."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import dst
from dst import plot
from dst.core.errors import InputError
from dst.core.study_summary import StudySummary
from dst.report.study_page import headline, lead, render_study, write_study
from dst.studies.rows import DEPTHS
from dst.studies.summary import summarize
from tests.studies.study_example import HOSTILE, WORDS, table


@pytest.fixture(scope="module")
def found() -> StudySummary:
    return summarize(table(), resamples=200)


def test_outcomes_groups_marks_and_failures_are_counted(found: StudySummary) -> None:
    assert dict(zip(found.outcomes, found.counts.tolist(), strict=True)) == {
        "correct": 24, "hallucination": 24, "neither": 1, "failed": 1,
    }  # fmt: skip
    assert set(found.groups) == {*WORDS, HOSTILE}
    assert found.group_size.sum() == 48
    place = found.groups.index("crane")
    assert found.error_rate[place] == 0  # odd places are right
    mark = found.marks.index("commitment (causal, de-prime)")
    assert (found.in_failing[mark], found.in_correct[mark]) == (12, 0)
    mark = found.marks.index("onset (published (guide) on dss_published)")
    assert (found.in_failing[mark], found.in_correct[mark]) == (24, 24)
    assert found.reasons == ("no such word",)
    assert found.reason_counts.tolist() == [1]


def test_a_scores_auroc_is_that_of_scikit_learn_on_the_answered_cases(found: StudySummary) -> None:
    answered = table().where(np.isin(table().column("outcome"), ("correct", "hallucination")))
    error = answered.column("error")
    for score in ("separation", "margin"):
        for depth in DEPTHS:
            own = found.auroc[found.at(score, depth)]
            expected = roc_auc_score(error, -answered.column(f"{score}@{depth:g}"))
            assert own.value == pytest.approx(expected)
    confidence = roc_auc_score(error, -answered.column("answer_prob"))
    assert found.confidence.value == pytest.approx(confidence)
    gain = found.over_confidence[found.at("margin", 0.5)]
    assert gain.value == pytest.approx(found.auroc[found.at("margin", 0.5)].value - confidence)


def test_what_is_undefined_says_why_and_is_not_shown(found: StudySummary) -> None:
    nothing = found.auroc[found.at("cas_signed", 0.5)]
    assert np.isnan(nothing.value)
    assert nothing.reason
    assert found.shown.startswith("separation@")
    assert not found.shown.endswith("@1")


def test_it_is_read_back_and_is_the_same_twice(found: StudySummary, tmp_path: Path) -> None:
    again = dst.open_result(found.save(tmp_path / "summary.npz"))
    assert str(again.to_records()) == str(found.to_records())
    assert str(summarize(table(), resamples=200).to_records()) == str(found.to_records())


def test_without_both_outcomes_no_score_is_shown() -> None:
    right = table().where(table().column("outcome") == "correct")
    found = summarize(right, resamples=50)
    assert found.shown == ""
    assert "No score tells errors" in lead(found)
    assert "<h1>24 cases on a model: 0% of the answered hallucinate" in render_study(found)
    with pytest.raises(InputError, match="no cases"):
        summarize(table().where(np.zeros(len(table()), dtype=bool)))


def test_the_figures_show_the_numbers(found: StudySummary) -> None:
    scores = plot.study_scores(found)
    drawn = [trace for trace in scores.data if trace.mode == "markers"]
    assert [trace.name for trace in drawn] == [f"{depth:.0%} of depth" for depth in DEPTHS]
    expected = [found.auroc[found.at(score, 0.5)].value for score in found.scores]
    np.testing.assert_allclose(drawn[1].x, expected)
    assert any(shape.x0 == found.confidence.value for shape in scores.layout.shapes)
    groups = plot.study_groups(found).data[0]
    np.testing.assert_allclose(groups.x, found.group_score)
    np.testing.assert_allclose(groups.y, found.error_rate)
    failing, correct = plot.study_marks(found).data
    np.testing.assert_allclose(failing.x, found.in_failing / 24)
    np.testing.assert_allclose(correct.x, found.in_correct / 24)


def test_the_page_tells_all_of_it_and_escapes_what_others_wrote(
    found: StudySummary, tmp_path: Path
) -> None:
    text = write_study(found, tmp_path / "study.html").read_text("utf-8")
    assert headline(found) == "50 cases on a model: 50% of the answered hallucinate"
    assert html.escape(headline(found)) in text
    assert "no such word" in text
    assert "<script>alert" not in text
    body = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    for score in found.scores:
        assert score in body
    assert "http://" not in body
    assert "https://" not in body
