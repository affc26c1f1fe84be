"""coherence and markers with a tuned lens and a reference: what they add, and what they say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit

import dst
from dst.analysis.band import band_of
from dst.analysis.commitment import dose_commitment
from dst.core.case import Case
from dst.core.errors import InputError
from dst.core.lens_results import ReferenceRuns, TunedLens
from dst.models.hooks import HooksBackend
from dst.tracing.prepare import prepare
from dst.tracing.reference import fit_defaults
from dst.tracing.words import word_scores
from tests import tiny

CASE = Case(
    prompt="Anna is at the lake. Anna sees a bass. What is the bass? The bass is a",
    contextual="fish",
    associative="guitar",
    subject="bass",
    cue="lake",
    neutral=[
        "Anna is at the city. Anna sees a bass. What is the bass? The bass is a",
        "Anna is at the bank. Anna sees a bass. What is the bass? The bass is a",
    ],
    substitute=["Anna is at the lake. Anna sees a crane. What is the crane? The crane is a"],
    context_words=["river", "water"],
    competing_words=["drum", "song", "concert"],
)
MARGIN, TUNED = "lens (dst) on margin", "lens (dst) on margin_tuned"


@pytest.fixture(scope="module")
def model() -> HooksBackend:
    """A random model whose likeliest token is nearly always one of a few words."""
    made = tiny.backend("llama", lambda: tiny.byte_bpe(bos=True))
    words = ["river", "water", "city", "bank", "harbor", "green", "money", "crane", "drum", "song"]
    ids = [made.tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0] for word in words]
    with torch.no_grad():
        made.model.lm_head.weight[ids] *= 4
    return HooksBackend(made.model, made.tokenizer, name="tiny-llama")


@pytest.fixture(scope="module")
def lens(model: HooksBackend) -> TunedLens:
    return dst.fit_tuned_lens(model, steps=0, show=False)


def cases(model: HooksBackend, n: int) -> list[Case]:
    """Prompts with the model's own likeliest word as the right answer."""
    out: list[Case] = []
    words = ["lake", "concert", "bank", "harbor", "city", "river", "song", "drum", "crane", "bat"]
    for number in range(100):
        prompt = f"Anna is at the {words[number % 10]}. The {words[number // 10]} is"
        ids = model.tokenizer(prompt)["input_ids"]
        said = model.run([ids], logits_at=[-1]).last_logits[0].argsort(descending=True)
        text = model.tokenizer.decode([int(said[0])])
        if text.startswith(" ") and text.strip().isalpha() and len(out) < n:
            other = "guitar" if text.strip() != "guitar" else "fish"
            out.append(
                Case(
                    prompt=prompt,
                    contextual=text.strip(),
                    associative=other,
                    case_id=f"case {number}",
                )
            )
    return out


@pytest.fixture(scope="module")
def reference(model: HooksBackend, lens: TunedLens) -> ReferenceRuns:
    found = dst.reference_runs(model, cases(model, 60), lens=lens, doses=20, show=False)
    assert len(found.correct) >= 40
    return found


def test_without_a_reference_they_are_nan_with_the_reason(model: HooksBackend) -> None:
    score, marks = dst.coherence(model, CASE), dst.markers(model, CASE)
    for name in ("cas_signed", "cas_signed_logit_lens"):
        assert np.isnan(score[name].value).all()
        assert set(score[name].reasons) == {
            "needs a reference (dst.reference_runs): needs correct runs"
        }
    assert set(score["margin_tuned"].reasons) == {"needs a tuned lens (dst.fit_tuned_lens)"}
    for mark in (marks.get("onset", MARGIN), marks.get("commitment", "causal, dose")):
        assert math.isnan(mark.state)
        assert mark.reason == "needs correct runs"
    assert TUNED not in {mark.definition for mark in marks.marks}


def test_cas_signed_is_the_formula_on_its_words(
    model: HooksBackend, lens: TunedLens, reference: ReferenceRuns
) -> None:
    score = dst.coherence(model, CASE, lens=lens, reference=reference)
    ready = prepare(model, CASE)
    for name, used in (("cas_signed", lens), ("cas_signed_logit_lens", None)):
        (z,) = word_scores(model, ready, reference.sentences, [used])
        neutral = expit(z.context_neutral.mean(-1) - z.competing_neutral.mean(-1)).mean(0)
        expected = expit(z.context.mean(-1) - z.competing.mean(-1)) - neutral
        np.testing.assert_allclose(score[name].value, expected, atol=1e-6)
        assert score[name].reasons[0].startswith("a concept word's lens logit has no spread")
        assert np.isfinite(score[name].value[1:]).all()
        assert np.abs(score[name].value[1:]).max() < 1
    # At the last state there is one lens.
    last = (score[name].value[-1] for name in ("cas_signed", "cas_signed_logit_lens"))
    assert next(last) == pytest.approx(next(last), abs=1e-5)
    readout = dst.logit_lens(model, dst.trace(model, CASE), lens=lens)
    np.testing.assert_allclose(score["margin_tuned"].value, readout.margin)


def test_a_prompt_that_is_its_own_neutral_scores_zero(
    model: HooksBackend, lens: TunedLens, reference: ReferenceRuns
) -> None:
    same = CASE.replace(neutral=[str(CASE.prompt)])
    score = dst.coherence(model, same, lens=lens, reference=reference)
    assert score["cas_signed"].value[1:] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"context_words": ()}, "no concept words"),
        ({"neutral": (), "cue": ()}, "no neutral prompt: the case names no cue"),
    ],
)
def test_cas_signed_of_a_case_that_lacks_something_says_what(
    model: HooksBackend,
    lens: TunedLens,
    reference: ReferenceRuns,
    changes: dict[str, Any],
    reason: str,
) -> None:
    score = dst.coherence(model, CASE.replace(**changes), lens=lens, reference=reference)
    assert set(score["cas_signed"].reasons) == {reason}


def test_marks_use_the_band_and_the_doses_of_the_reference(
    model: HooksBackend, lens: TunedLens, reference: ReferenceRuns
) -> None:
    case = CASE.replace(contextual="guitar", associative="fish")
    marks = dst.markers(model, case, lens=lens, reference=reference)
    for definition, name in ((MARGIN, "logit_lens"), (TUNED, "tuned_lens")):
        onset = marks.get("onset", definition)
        margins = reference.margin_of(name)
        assert margins is not None
        band = band_of(margins)
        assert band is not None
        assert onset.thresholds == {"delta": band.delta, "states": 2.0}
        assert onset.note == f"{band.false_alarms:.0%} of {band.n} correct runs have one"
        readout = dst.logit_lens(
            model, dst.trace(model, case), lens=lens if name == "tuned_lens" else None
        )
        below = readout.margin < band.low
        pairs = np.flatnonzero(below[:-1] & below[1:])
        if not math.isnan(onset.state):
            assert onset.state == pairs[0]
    by_dose = marks.get("commitment", "causal, dose")
    expected = dose_commitment(dst.dose(model, case).value, list(reference.dose))
    assert (by_dose.thresholds, by_dose.reason) == (expected.thresholds, expected.reason)
    assert by_dose.state == expected.state or math.isnan(expected.state)
    assert "of 20 correct runs would be marked" in by_dose.note


def test_a_correct_run_of_the_reference_is_marked_as_rarely_as_its_note_says(
    model: HooksBackend, reference: ReferenceRuns
) -> None:
    some = [case for case in cases(model, 60) if case.case_id in reference.correct][:10]
    onsets = [dst.markers(model, case, reference=reference).get("onset", MARGIN) for case in some]
    assert sum(not math.isnan(mark.state) for mark in onsets) <= 2
    assert all(float(mark.note.split("%")[0]) <= 5 for mark in onsets)


def test_too_few_correct_runs_and_no_doses_are_reasons(
    model: HooksBackend, lens: TunedLens
) -> None:
    few = dst.reference_runs(model, cases(model, 12), doses=0, show=False)
    marks = dst.markers(model, CASE, lens=lens, reference=few)
    needed = f"needs 19 correct runs, and the reference has {len(few.correct)}"
    assert marks.get("onset", MARGIN).reason == needed
    without = "the reference was read without a tuned lens"
    assert marks.get("onset", TUNED).reason == without
    assert marks.get("commitment", "causal, dose").reason == "the reference holds no doses"


def test_a_question_with_a_twin_has_no_dose(
    model: HooksBackend, lens: TunedLens, reference: ReferenceRuns
) -> None:
    twin = CASE.replace(twin_question=str(CASE.neutral[0]))
    marks = dst.markers(model, twin, lens=lens, reference=reference)
    reason = marks.get("commitment", "causal, dose").reason
    assert reason == "a yes/no question with a twin is two prompts"


def test_what_belongs_to_other_weights_is_refused(
    lens: TunedLens, reference: ReferenceRuns
) -> None:
    other = tiny.backend("llama", lambda: tiny.byte_bpe(bos=True), seed=1)
    with pytest.raises(InputError, match="tuned lens was fitted to tiny-llama"):
        dst.coherence(other, CASE, lens=lens)
    with pytest.raises(InputError, match="reference is of tiny-llama"):
        dst.markers(other, CASE, reference=reference)


def test_explain_uses_what_ships_with_the_model_and_says_so(
    model: HooksBackend, tmp_path: Path
) -> None:
    named = HooksBackend(model.model, model.tokenizer, name=str(tmp_path))
    fit_defaults(named, tmp_path, cases(model, 40), steps=10, show=False)
    report = dst.explain(named, CASE, draws=2)
    shipped = f"with the tuned lens and reference of correct runs shipped with {tmp_path}"
    assert shipped in report.coherence["cas_signed"].note
    assert shipped in report.markers.get("onset", TUNED).note
    back = dst.open_result(report.save(tmp_path / "report.npz"))
    np.testing.assert_array_equal(
        back.coherence["cas_signed"].value, report.coherence["cas_signed"].value
    )
    report.to_html(tmp_path / "report.html")
