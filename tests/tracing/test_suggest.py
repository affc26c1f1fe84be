"""Subject and cue from a prompt alone: found where planted, not made up elsewhere."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dst
from dst.core.case import Case
from dst.core.errors import CaseError, InputError, TokenError
from dst.models.draws import shipped_nouns
from dst.models.hooks import HooksBackend
from dst.studies.inferred import why_not, with_suggestion, with_twin
from dst.testbed import planted
from dst.testbed.planted import Plant, Route
from dst.tracing.suggest import suggest
from dst.tracing.twins import propose_twin
from tests import tiny

BARE: dict[str, Any] = {
    "subject": None, "cue": (), "neutral": (), "substitute": (), "swap": (), "clean": (),
    "distractor": (), "question": None,
}  # fmt: skip
INERT = "red blue old new small large warm cold soft hard light dark quiet loud bright"
"""Words that no planted head reads: neutral there, as the shipped nouns are in English."""

DIRECT = Route(("cue", "answer"), (3,))
RELAYED = Route(("cue", "relay_3", "answer"), (2, 4))
THROUGH = Route(("cue", "subject", "answer"), (2, 4))
PRIOR = Route(("subject", "answer"), (3,))


@pytest.fixture
def model_of(tmp_path: Path) -> Any:
    """A planted model whose folder ships its own neutral nouns."""
    (tmp_path / "neutral_nouns.txt").write_text("\n".join(INERT.split()), "utf-8")

    def made(**plan: Any) -> tuple[HooksBackend, Case]:
        built = planted.build(Plant(**plan))
        name = str(tmp_path)
        return HooksBackend(built.model, built.tokenizer, name=name), built.case.replace(**BARE)

    return made


# -- planted ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", [DIRECT, RELAYED, THROUGH])
@pytest.mark.parametrize("mentions", [1, 2])
def test_the_planted_cue_and_subject_are_found(model_of: Any, route: Route, mentions: int) -> None:
    model, case = model_of(
        alpha=4.0, context=(route,), beta=3.0, prior=PRIOR, prior_block=1, mentions=mentions
    )
    found = suggest(model, case)
    assert (found.cue, found.subject, found.kind) == (("concert",), "bass", "conflict")
    assert found.inferred == ("cue", "subject")
    assert found.total_effect.mean == pytest.approx(4, abs=1e-3)
    assert found.prior.mean == pytest.approx(-3, abs=1e-3)
    assert found.contrast == pytest.approx(1, abs=1e-3)
    assert next(c for c in found.candidates if c.words == ("bass",)).mentions == mentions
    filled = found.suggested
    assert (filled.cue, filled.subject, filled.case_id) == (("concert",), "bass", case.case_id)


def test_without_context_there_is_a_subject_and_no_cue(model_of: Any) -> None:
    model, case = model_of(beta=3.0, prior=PRIOR, prior_block=1)
    found = suggest(model, case)
    assert (found.cue, found.subject) == ((), "bass")
    assert "holds the contextual answer up" in found.cue_reason
    assert math.isnan(found.total_effect.mean)
    assert found.prior.mean == pytest.approx(-3, abs=1e-3)
    assert any(note.startswith("No cue was inferred: no word") for note in why_not(found))


def test_without_association_there_is_a_cue_and_no_subject(model_of: Any) -> None:
    model, case = model_of(alpha=4.0, context=(DIRECT,))
    found = suggest(model, case)
    assert (found.cue, found.subject) == (("concert",), None)
    assert found.subject_reason
    assert math.isnan(found.prior.mean)


def test_where_nothing_is_planted_nothing_is_suggested(model_of: Any) -> None:
    model, case = model_of()
    found = suggest(model, case)
    assert (found.cue, found.subject, found.inferred) == ((), None, ())
    assert found.suggested == case
    filled, _, sentences = with_suggestion(model, case)
    assert (filled, sentences) == (case, ())


def test_a_cue_that_pushes_to_the_other_answer_is_no_cue(model_of: Any) -> None:
    model, case = model_of(alpha=-4.0, context=(DIRECT,), beta=1.0, prior=PRIOR, prior_block=1)
    assert suggest(model, case).cue == ()


def test_what_is_asked_about_is_a_subject_though_it_brings_the_right_answer(
    model_of: Any,
) -> None:
    """Beta < 0: the association is toward A+, and nothing else is planted."""
    model, case = model_of(beta=-3.0, prior=PRIOR, prior_block=1, mentions=2)
    found = suggest(model, case)
    assert (found.cue, found.subject, found.kind) == ((), "bass", "agreement")
    assert "asks about" in found.cue_reason
    assert found.prior.mean == pytest.approx(3, abs=1e-3)


def test_what_is_given_is_kept_and_only_the_rest_is_inferred(model_of: Any) -> None:
    model, case = model_of(alpha=4.0, context=(DIRECT,), beta=3.0, prior=PRIOR, prior_block=1)
    found = suggest(model, case.replace(cue="concert hall"))
    assert (found.cue, found.subject, found.inferred) == (("concert hall",), "bass", ("subject",))
    assert found.total_effect.mean == pytest.approx(4, abs=1e-3)
    found = suggest(model, case.replace(subject="bass"))
    assert (found.cue, found.subject, found.inferred) == (("concert",), "bass", ("cue",))
    assert found.prior.mean == pytest.approx(-3, abs=1e-3)
    both = case.replace(subject="bass", cue="concert")
    assert suggest(model, both).inferred == ()
    assert with_suggestion(model, both) == (both, None, ())


def test_a_stronger_word_of_the_distractor_leaves_the_runner_up_in_sight(model_of: Any) -> None:
    """LD alone cannot tell which of two words that push to A- is the subject: both are told."""
    model, case = model_of(
        alpha=4.0, context=(DIRECT,), beta=3.0, prior=PRIOR, prior_block=1,
        spurious=Route(("spurious", "answer"), (3,)), spurious_strength=-3.02,
    )  # fmt: skip
    found = suggest(model, case)
    names = {found.subject, *(one.subject for one in found.alternatives)}
    assert names == {"bass", "anchor"}
    _, _, sentences = with_suggestion(model, case)
    assert "The draws do not rule out" in " ".join(sentences)


def test_a_single_effect_is_what_a_run_of_the_changed_prompt_gives(model_of: Any) -> None:
    model, case = model_of(alpha=4.0, context=(RELAYED,), beta=3.0, prior=PRIOR, prior_block=1)
    found = suggest(model, case, seed=3)
    told = {one.words[0]: one.necessity.mean for one in found.candidates}
    for word, n in told.items():
        changed = " ".join("red" if w == word else w for w in case.text.split())
        expected = found.contrast - dst.trace(model, case.replace(prompt=changed)).contrast
        assert n == pytest.approx(expected, abs=1e-3), word
    assert set(told) == {"concert", "hall", "saw", "bass", "lying", "near", "button", "kind"}
    assert {row["words"] for row in found.to_records()} == set(told)


def test_a_suggestion_is_the_same_twice_and_when_it_is_read_back(
    model_of: Any, tmp_path: Path
) -> None:
    model, case = model_of(
        alpha=4.0, context=(DIRECT,), beta=3.0, prior=PRIOR, prior_block=1, noise=0.05
    )
    one, two = suggest(model, case, seed=1), suggest(model, case, seed=1)
    assert str(one.to_records()) == str(two.to_records())
    opened = dst.open_result(one.save(tmp_path / "suggestion"))
    assert str(opened.to_records()) == str(one.to_records())
    assert opened.suggested == one.suggested
    assert one.provenance.settings["draws"] == 16


def test_the_number_of_runs_is_what_was_run(model_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, case = model_of(alpha=4.0, context=(DIRECT,), beta=3.0, prior=PRIOR, prior_block=1)
    seen: list[int] = []
    run = HooksBackend.run

    def counted(self: Any, ids: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(len(ids))
        return run(self, ids, *args, **kwargs)

    monkeypatch.setattr(HooksBackend, "run", counted)
    assert suggest(model, case).forward_passes == sum(seen)


# -- models that know nothing ------------------------------------------------------------------


def test_random_models_get_a_suggestion_no_more_often_than_stated() -> None:
    """Every word is a shipped noun, like its replacements, so that none of them stands out.

    A cue and, without one, a subject are each suggested at rate .05 at the most: .1 together.
    At 24 models more than 7 would have a probability under .001.
    """
    suggested = 0
    for seed in range(24):
        tokenizer = tiny.byte_bpe()
        family = ("llama", "gpt2")[seed % 2]
        weights = tiny.model(family, len(tokenizer) + 3, seed=seed)
        nouns = random.Random(seed).sample(shipped_nouns(), 4)
        case = Case(
            prompt="The {} is at the {}. The {} and the {}. The {} is a".format(*nouns, nouns[0]),
            contextual="fish",
            associative="guitar",
        )
        found = suggest(HooksBackend(weights, tokenizer, name="random"), case)
        suggested += bool(found.inferred)
    assert suggested <= 7


# -- words, texts, chats ---------------------------------------------------------------------------


def words_of(found: Any) -> set[str]:
    """The words that were tried, and those of which it is said that they could not be."""
    tried = {" ".join(one.words) for one in found.candidates if len(one.words) == 1}
    not_tried = (note.split(": ")[1].rstrip(".") for note in found.notes if "Not tried" in note)
    return {*tried, *(word for word in not_tried if " " not in word)}


def test_whole_words_are_tried_and_no_stop_word_and_neither_answer_of_a_choice() -> None:
    model = tiny.backend("llama")
    case = Case(
        prompt="Anna's bassoon is at the lake. Is it a fish or a guitar? It is a",
        contextual="fish",
        associative="guitar",
    )
    assert words_of(suggest(model, case)) == {"Anna", "bassoon", "lake"}


def test_an_answer_that_the_context_states_alone_is_tried() -> None:
    model = tiny.backend("llama")
    case = Case(
        prompt="Anna's lake has moved to Paris. It is in", contextual="Paris", associative="Rome"
    )
    assert "Paris" in words_of(suggest(model, case))


def test_a_word_of_many_tokens_is_replaced_by_as_many() -> None:
    model = tiny.backend("gpt2")
    case = Case(
        prompt="The hippopotamus is at the lake. It is a", contextual="fish", associative="drum"
    )
    found = suggest(model, case)
    long = next(one for one in found.candidates if one.words == ("hippopotamus",))
    assert len(long.positions) > 4
    assert long.necessity.n >= 4


def test_the_template_of_a_chat_is_left_alone() -> None:
    model = tiny.backend("llama")
    case = Case(
        prompt=[
            {"role": "system", "content": "Answer the user."},
            {"role": "user", "content": "Anna is at the lake. What is the bass?"},
        ],
        prefix="The bass is a",
        contextual="fish",
        associative="guitar",
    )
    found = suggest(model, case)
    rows = {one.words[0]: one for one in found.candidates if len(one.words) == 1}
    assert words_of(found) == {"Answer", "user", "Anna", "lake", "bass"}
    assert rows["user"].mentions == 1  # the template's own "user" is none
    assert rows["bass"].mentions == 2  # in the message and in the prefix


def test_a_word_that_no_noun_can_replace_is_named() -> None:
    model = tiny.backend("llama")
    word = "quixotically" * 5  # longer than any four nouns
    case = Case(prompt=f"the {word} is a", contextual="fish", associative="guitar")
    found = suggest(model, case)
    assert found.inferred == ()
    assert found.candidates == ()
    assert f"Not tried, as no neutral noun can stand there: {word}." in found.notes


@pytest.mark.parametrize(
    ("how", "sentence"),
    [({"draws": 1}, "draws is 1"), ({"level": 0.0}, "level is 0.0"), ({"level": 1.0}, "level is")],
)
def test_bad_arguments_are_one_sentence(how: dict[str, Any], sentence: str) -> None:
    case = Case(prompt="the bass is a", contextual="fish", associative="guitar")
    with pytest.raises(InputError, match=sentence):
        suggest(tiny.backend("llama"), case, **how)


def test_an_answer_is_asked_for() -> None:
    with pytest.raises(CaseError, match="no associative answer"):
        suggest(tiny.backend("llama"), Case(prompt="the bass is a", contextual="fish"))


# -- yes/no ----------------------------------------------------------------------------------------

YES_NO = Case(
    prompt="A bass is a fish or an animal. Anna is at the lake. Is the bass a fish?",
    contextual="yes",
    associative="no",
)


def test_a_twin_asks_for_the_other_category() -> None:
    start = "A bass is a song or a drum. Anna is at the lake."
    case = YES_NO.replace(prompt=f"{start} Is the bass a song?")
    assert propose_twin(tiny.byte_bpe(), case) == (f"{start} Is the bass a drum?", "")
    case = case.replace(prompt=f"{start} Is the bass a drum? It is", question="Is the bass a drum?")
    assert propose_twin(tiny.byte_bpe(), case) == (f"{start} Is the bass a song? It is", "")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"contextual": "fish"}, "no yes/no prompt"),
        ({"prompt": "Anna is at the lake. Is the bass a fish?"}, "no choice of two categories"),
        ({"prompt": "A bass is a fish or an animal. The bass is a fish:"}, "no question"),
        ({"prompt": "A fish or a drum, a fish or a guitar. Is it a fish?"}, "several choices"),
        ({"twin_question": "A bass is ..."}, "it was given"),
        ({"prompt": [{"role": "user", "content": "Is it a fish?"}]}, "list of messages"),
        (
            {"prompt": "A bass is a fish or a hippopotamus. Is the bass a fish?"},
            "another number of tokens",
        ),
    ],
)
def test_without_a_twin_there_is_a_reason(changes: dict[str, Any], reason: str) -> None:
    twin, why = propose_twin(tiny.byte_bpe(), YES_NO.replace(**changes))
    assert twin is None
    assert reason in why
    with pytest.raises(TokenError, match="No twin can be proposed"):
        with_twin(YES_NO, twin, why)


def test_a_yes_no_prompt_without_a_twin_has_no_subject() -> None:
    found = suggest(tiny.backend("llama"), YES_NO)
    assert found.subject is None
    assert "yes/no without twin" in found.subject_reason


def test_with_a_twin_ld_is_half_the_difference() -> None:
    model = tiny.backend("llama")
    prompt = "A bass is a fish or a drum. Anna is at the lake. Is the bass a drum?"
    twin = prompt.replace("a drum?", "a fish?")
    if len(model.tokenizer(prompt)["input_ids"]) != len(model.tokenizer(twin)["input_ids"]):
        prompt, twin = (text.replace("fish", "guitar") for text in (prompt, twin))
    case = YES_NO.replace(prompt=prompt, twin_question=twin)
    found = suggest(model, case)
    halves = [dst.trace(model, case.replace(prompt=p, twin_question=None)) for p in (prompt, twin)]
    assert found.contrast == pytest.approx((halves[0].contrast - halves[1].contrast) / 2, abs=1e-5)


def test_explain_says_what_was_inferred(model_of: Any) -> None:
    model, case = model_of(alpha=4.0, context=(DIRECT,), beta=3.0, prior=PRIOR, prior_block=1)
    report = dst.explain(model, case)
    assert report.case.cue == ("concert",)
    assert report.case.subject == "bass"
    assert report.pathways is not None
    assert report.pathways.total_effect.mean == pytest.approx(4, abs=1e-3)
    suggestion: Any = report.suggestion
    assert np.isclose(suggestion.total_effect.mean, 4, atol=1e-3)
    told = " ".join(report.verdict)
    assert "Inferred by replacing words: the cue 'concert' (worth +4.00" in told
    assert "the subject 'bass' (brings -3.00" in told
    off = dst.explain(model, case, suggest=False)
    assert (off.suggestion, off.pathways, off.case) == (None, None, case)
    assert "names no cue and no subject" in " ".join(off.notes)
