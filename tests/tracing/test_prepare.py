"""A case made ready: roles, variants that are given or drawn, and what is said of them."""

from __future__ import annotations

from typing import Any

import pytest

from dst.core.case import Case
from dst.core.errors import TokenError
from dst.tracing.prepare import DRAWS, prepare
from tests import tiny

PROMPT = "Anna is at the lake. Anna sees a bass. The bass is a"


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.backend("llama")


def case(**fields: Any) -> Case:
    return Case(
        **{
            "prompt": PROMPT,
            "contextual": "fish",
            "associative": "instrument",
            "subject": "bass",
            "cue": "lake",
            **fields,
        }
    )


def text(model: Any, ids: tuple[int, ...]) -> str:
    return str(model.tokenizer.decode(ids))


def test_every_position_has_one_role_and_the_answer_comes_last(model: Any) -> None:
    ready = prepare(model, case())
    places = sorted(p for positions in ready.positions for p in positions)
    assert places == list(range(len(ready.tokenized.ids)))
    assert ready.roles[-1] == "answer"
    assert ready.positions[-1] == (len(ready.tokenized.ids) - 1,)
    by_role = dict(zip(ready.roles, ready.positions, strict=True))
    for role, word in (("cue", " lake"), ("subject_1", " bass"), ("subject_2", " bass")):
        assert text(model, tuple(ready.tokenized.ids[p] for p in by_role[role])) == word


def test_the_metric_reads_the_answers_of_the_case(model: Any) -> None:
    ready = prepare(model, case())
    assert [text(model, (i,)) for i in ready.metric.plus] == [" fish"]
    assert len(ready.metric.minus) == 1
    assert " instrument".startswith(text(model, ready.metric.minus))


def test_variants_that_are_given_are_used_and_nothing_is_drawn(model: Any) -> None:
    given = case(
        neutral=[PROMPT.replace("lake", word) for word in ("bank", "city", "song")],
        substitute=PROMPT.replace("bass", "drum"),
    )
    ready = prepare(model, given)
    assert len(ready.variants.neutral) == 3
    assert [len(ready.variants.substitute), len(ready.variants.neutral_substitute)] == [1, 3]
    both = text(model, ready.variants.neutral_substitute[1].ids)
    assert both == PROMPT.replace("lake", "city").replace("bass", "drum")
    assert ready.notes == ()


def test_a_variant_of_another_length_is_refused_with_both_rows(model: Any) -> None:
    with pytest.raises(TokenError) as error:
        prepare(model, case(neutral=PROMPT.replace("lake", "harbor of the city")))
    message = str(error.value)
    assert "prompt:" in message
    assert "neutral:" in message
    assert " lake|." in message


def test_variants_that_change_the_same_token_are_refused_with_both_rows(model: Any) -> None:
    clash = case(neutral=PROMPT.replace("bass", "song"), substitute=PROMPT.replace("bass", "drum"))
    with pytest.raises(TokenError, match=r"(?s)change the same token.*neutral:.*substitute:"):
        prepare(model, clash)


def test_too_few_fitting_nouns_is_a_note_and_no_variant(model: Any) -> None:
    name = "-".join(["quixotically-named-thing"] * 3)  # longer than any four nouns
    ready = prepare(model, case(prompt=PROMPT.replace("bass", name), subject=name))
    assert ready.variants.neutral == ready.variants.substitute == ()
    (note,) = ready.notes
    assert note.startswith("No substitute variant can be drawn: too few neutral nouns")
    assert note.endswith("Give substitute variants of your own.")


def test_a_case_without_cue_or_subject_has_no_variants_of_it(model: Any) -> None:
    ready = prepare(model, case(cue=(), subject=None))
    assert ready.variants.neutral == ready.variants.substitute == ()
    assert ready.notes == ()


def test_a_yes_no_question_lacks_a_twin_until_it_has_one(model: Any) -> None:
    question = case(
        prompt="Anna sees a bass. Is the bass a fish?",
        contextual="yes",
        associative="no",
        cue=(),
        subject=None,
    )
    assert prepare(model, question).lacks_twin
    asked = question.replace(twin_question="Anna sees a bass. Is the bass a song?")
    assert not prepare(model, asked).lacks_twin
    assert not prepare(model, case(cue=(), subject=None)).lacks_twin


def test_draws_are_the_same_for_the_same_seed() -> None:
    import dst
    from dst.testbed import world

    model = dst.load()
    (story,) = world.cases(n=1, seed=0, kinds=("plain",))
    bare = story.replace(neutral=(), substitute=())
    one, two, other = (prepare(model, bare, seed=seed) for seed in (0, 0, 1))
    assert one.variants == two.variants
    assert one.variants != other.variants
    assert len(one.variants.neutral) == len(one.variants.substitute) == DRAWS
    assert one.notes == (f"Drawn with seed 0: {DRAWS} neutral and substitute variants each.",)
    x = one.tokenized.ids
    cue, subject = one.tokenized.positions_of("cue"), one.tokenized.positions_of("subject")
    for row in one.variants.neutral:
        changed = [p for p, (a, b) in enumerate(zip(x, row.ids, strict=True)) if a != b]
        assert changed
        assert set(changed) <= set(cue)
    for row in one.variants.substitute:
        changed = [p for p, (a, b) in enumerate(zip(x, row.ids, strict=True)) if a != b]
        assert set(changed) == set(subject)
