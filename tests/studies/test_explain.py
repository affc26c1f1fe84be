"""The whole account of a case, on models whose outputs and lens readouts are planted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dst
from dst.analysis import coherence as scores
from dst.core.case import Case
from dst.core.errors import CaseError
from dst.models.reference import reference_sentences
from dst.tracing import concept_vectors as concepts
from tests import tiny
from tests.studies.planted import PROMPT, planted

CASE = Case(prompt=PROMPT, contextual="fish", associative="guitar")
LAKE = "Anna is at the lake. Anna sees a bass. What is the bass? The bass is a"


def said(report: Any) -> str:
    """Everything that the report says in sentences."""
    return " ".join((*report.verdict, *report.notes))


def probability(model: Any, logits: list[float], which: int) -> float:
    """Of one word among words with these logits, every other word having logit 0."""
    total = sum(map(math.exp, logits)) + model.spec.d_vocab - len(logits)
    return math.exp(logits[which]) / total


# -- what it says ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logits", "outcome", "answer", "sentence"),
    [
        (
            [4.0, 7.0, 0.0],
            "hallucination",
            "guitar",
            "hallucinates: it answers 'guitar' (p {p:.2f})",
        ),
        ([7.0, 4.0, 0.0], "correct", "fish", "answers 'fish' (p {p:.2f}), as the context supports"),
        ([4.0, 3.0, 7.0], "neither", "drum", "is 'drum' (p {p:.2f}), which is neither 'fish' nor"),
    ],
)
def test_the_outcome_is_that_of_the_likeliest_token(
    logits: list[float], outcome: str, answer: str, sentence: str
) -> None:
    words = dict(zip(("fish", "guitar", "drum"), logits, strict=True))
    model = planted(words)
    report = dst.explain(model, CASE)
    p = probability(model, logits, ("fish", "guitar", "drum").index(answer))
    assert (report.outcome, report.answer) == (outcome, answer)
    assert report.answer_prob == pytest.approx(p, abs=1e-4)
    assert sentence.format(p=p) in report.verdict[0]
    assert f"LD {logits[0] - logits[1]:+.2f} logits" in report.verdict[0]


def test_a_margin_that_turns_is_told_with_its_states() -> None:
    """Margins +3, +2, -1, -4: it turns, and is settled, at state 2."""
    report = dst.explain(planted({"fish": [3, 2, 0, 0], "guitar": [0, 0, 1, 4]}), CASE)
    marks = {
        mark.name: mark.state for mark in report.markers.marks if mark.definition.startswith("lens")
    }
    assert (marks["inversion"], marks["commitment"]) == (2, 2)
    text = " ".join(report.verdict)
    assert "'guitar' leads for good from state 2 of 3 on" in text
    assert "its margin turns to 'guitar' at state 2" in text


def test_a_margin_that_never_was_the_context_s_is_told_so() -> None:
    report = dst.explain(planted({"fish": 1.0, "guitar": [2, 3, 4, 5]}), CASE)
    text = " ".join(report.verdict)
    assert "At no state does the lens prefer 'fish'" in text
    assert "turns to" not in text


def test_a_right_answer_is_not_called_a_hallucination() -> None:
    report = dst.explain(planted({"fish": 6.0, "guitar": 4.0}), CASE)
    assert "hallucinat" not in " ".join(report.verdict)
    assert report.outcome == "correct"


def test_without_an_associative_answer_the_model_s_own_is_explained() -> None:
    case = Case(prompt=PROMPT, contextual="fish")
    report = dst.explain(planted({"fish": 4.0, "guitar": 6.0}), case)
    assert report.case.associative == ("guitar",)
    assert report.case.case_id == case.case_id
    assert report.outcome == "hallucination"
    assert "the model's own answer 'guitar'" in said(report)


def test_without_a_hallucination_the_strongest_rival_is_taken_and_that_is_said() -> None:
    case = Case(prompt=PROMPT, contextual="fish")
    report = dst.explain(planted({"fish": 6.0, "guitar": 4.0}), case)
    assert (report.outcome, report.case.associative) == ("correct", ("guitar",))
    assert report.trace.contrast == pytest.approx(2.0, abs=1e-4)
    assert "There is no hallucination here" in said(report)


def test_without_any_answer_one_is_asked_for() -> None:
    with pytest.raises(CaseError, match="no answer here"):
        dst.explain(planted({"the": 9.0}), Case(prompt=PROMPT, contextual="fish"))


def test_an_answer_that_is_not_given_here_shows_how_the_model_goes_on() -> None:
    model = planted({"the": 7.0})
    report = dst.explain(model, CASE)
    given = float(report.lens.answer_prob[-1])
    assert given == pytest.approx(2 * probability(model, [7.0], 0) / math.exp(7), abs=1e-5)
    ids = model.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        new = model.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False
        )[0, ids.shape[1] :]
    going_on = model.tokenizer.decode(new).strip()
    assert report.continuation == going_on
    assert going_on.startswith("the")


def test_an_answer_that_is_given_shows_no_continuation() -> None:
    report = dst.explain(planted({"fish": 4.0, "guitar": 6.0}), CASE)
    assert report.lens.answer_prob[-1] > 0.05
    assert report.continuation == ""


def test_answers_that_begin_alike_say_what_was_given_to_the_model() -> None:
    model = tiny.backend("llama", tiny.word_level)
    case = Case(prompt="the bass is", contextual="a fish", associative="a guitar")
    report = dst.explain(model, case)
    assert "Both answers begin with 'a'" in said(report)


def test_forms_that_are_not_read_are_named() -> None:
    report = dst.explain(planted({"fish": 4.0, "guitar": 6.0}), CASE)
    assert "' Fish': is unknown to the tokenizer" in said(report)


def test_what_was_not_measured_is_said_with_the_reason() -> None:
    model = planted({"fish": 4.0, "guitar": 6.0})
    assert "the case names no cue and no subject" in said(dst.explain(model, CASE))
    report = dst.explain(model, CASE.replace(subject="bass"))
    assert "the case names no cue." in said(report)
    assert report.pathways is None
    assert "No context_words and competing_words" in said(report)
    words = CASE.replace(context_words="water", competing_words="song")
    assert "No context_words" not in said(dst.explain(model, words))


# -- what it holds -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_its_parts_are_what_the_verbs_give(family: str) -> None:
    model = tiny.backend(family)
    case = Case(
        prompt=LAKE, contextual="fish", associative="guitar",
        context_words=["lake", "water"], competing_words=["song", "drum"],
    )  # fmt: skip
    report = dst.explain(model, case, k=3)
    seen = dst.trace(model, case)
    lens = dst.logit_lens(model, seen, k=3)
    assert np.array_equal(report.trace.resid, seen.resid)
    assert report.lens.to_records() == lens.to_records()
    assert report.lens.top_ids.shape == (4, 3)
    score = dst.coherence(model, case)
    assert report.coherence.names == score.names
    for one in report.coherence.scores:
        np.testing.assert_array_equal(one.value, score[one.name].value)
    marks = dst.markers(model, case)
    assert str(report.markers.to_records()) == str(marks.to_records())
    np.testing.assert_allclose(report.coherence["margin"].value, lens.margin)


def test_a_report_is_the_same_twice_and_when_it_is_read_back(tmp_path: Path) -> None:
    model = tiny.backend("llama", tiny.word_level)
    case = CASE.replace(subject="bass", context_words="water", competing_words="song")
    one, two = dst.explain(model, case), dst.explain(model, case)
    assert (one.verdict, one.notes) == (two.verdict, two.notes)
    assert str(one.to_records()) == str(two.to_records())
    opened = dst.open_result(one.save(tmp_path / "report"))
    assert str(opened.to_records()) == str(one.to_records())
    assert (opened.verdict, opened.notes, opened.case) == (one.verdict, one.notes, one.case)
    assert np.array_equal(opened.trace.resid, one.trace.resid)
    assert opened.provenance == one.provenance


def test_the_prompt_s_variants_bring_the_two_pathways() -> None:
    """A cue and a subject with variants of their own: flows, repairs and causal marks are there."""
    model = tiny.backend("llama", tiny.word_level)
    case = CASE.replace(
        subject="bass",
        cue="lake",
        neutral=[PROMPT.replace("lake", word) for word in ("city", "water", "song", "river")],
        substitute=[PROMPT.replace("bass", word) for word in ("bat", "crane", "drum", "bank")],
    )
    report = dst.explain(model, case)
    assert report.pathways is not None
    assert report.pathways.contrast == pytest.approx(report.trace.contrast, abs=1e-5)
    assert "LD" in report.verdict[1]
    assert "dss_causal" in report.coherence.names


# -- the published and the corrected chain ------------------------------------------------------


def test_corrected_chains_are_read_in_the_prompt_and_centred() -> None:
    model = tiny.backend("gpt2")
    case = Case(
        prompt=LAKE, contextual="fish", associative="guitar",
        context_words=["lake", "sees"], competing_words=["Anna", "bass", "song"],
    )  # fmt: skip
    found = dst.coherence(model, case)["dss_corrected"]
    seen = dst.trace(model, case)
    texts = reference_sentences()
    assert len(texts) == 200
    references = dst.trace(
        model, [Case(prompt=text, contextual="fish", associative="guitar") for text in texts]
    )
    later = [one.resid[:, 1:].astype(np.float64) for one in references]  # all but first positions
    centre = np.concatenate(later, axis=1).mean(axis=1)
    expected = scores.dss_corrected(
        concepts.in_context_vectors(model, seen, case.context_words),
        concepts.in_context_vectors(model, seen, case.competing_words),
        centre,
    )
    np.testing.assert_allclose(found.value, expected.value, atol=1e-4)
    assert np.isfinite(found.total)
    assert "1 of 2 associative" in found.note  # "song" is not in the prompt


def test_a_model_without_the_words_of_any_reference_sentence_has_no_corrected_score() -> None:
    model = tiny.backend("llama", tiny.word_level)
    case = CASE.replace(context_words=["lake", "sees"], competing_words=["Anna", "bass"])
    found = dst.coherence(model, case)["dss_corrected"]
    assert math.isnan(found.total)
    assert "no reference sentence" in found.reasons[0]
