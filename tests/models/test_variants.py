"""Variants as tokens: x_0, x_sub and both at once, by hand; what does not fit is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from dst.core.case import AlignedPrompt, Case, Variant, prompt_of, text_of
from dst.core.errors import TokenError
from dst.models.draws import FUNCTION_WORDS, draw_variants, shipped_nouns
from dst.models.text import token_texts
from dst.models.tokens import TokenizedCase, tokenize_case
from dst.models.variants import Row, Variants, combined, tokenize_variants
from tests import tiny

PROMPT = "Anna is at the lake . the bass is a"
NOUNS = ("song", "river", "city", "harbor", "drum", "money", "bank", "guitar", "water", "crane")


def case(**fields: Any) -> Case:
    defaults: dict[str, Any] = {"prompt": PROMPT, "subject": "bass", "cue": "at the lake"}
    return Case(**defaults | {"contextual": "fish", "associative": "instrument"} | fields)


def texts(prompts: Sequence[Variant]) -> list[str]:
    return [text_of(prompt_of(prompt)) for prompt in prompts]


def tokenized(one: Case, tokenizer: Any = None) -> TokenizedCase:
    return tokenize_case(tokenizer or tiny.word_level(), one)


def variants(**fields: Any) -> Variants:
    return tokenize_variants(tiny.word_level(), tokenized(case(**fields)))


def words(row: Row) -> str:
    """The words of a row, the start token left out."""
    return " ".join(text.strip() for text in token_texts(tiny.word_level(), row.ids)[1:])


# -- given variants -------------------------------------------------------------------------


def test_each_variant_is_read_as_the_prompt_is() -> None:
    seen = variants(
        neutral=["Anna is at the bank . the bass is a", "Anna is in the city . the bass is a"],
        substitute="Anna is at the lake . the crane is a",
        swap="Anna is at the concert . the bass is a",
        prefix=" green",
    )
    assert [words(row) for row in seen.neutral] == [
        "Anna is at the bank . the bass is a green",
        "Anna is in the city . the bass is a green",
    ]
    assert [words(row) for row in seen.substitute] == ["Anna is at the lake . the crane is a green"]
    assert [words(row) for row in seen.swap] == ["Anna is at the concert . the bass is a green"]
    assert all(row.is_same_length and row.coverage == 1 for row in (*seen.neutral, *seen.swap))
    assert (seen.clean, seen.shorter, seen.twin) == ((), (), None)


def test_the_shared_answer_tokens_are_in_every_variant() -> None:
    seen = variants(
        contextual="green fish",
        associative="green instrument",
        neutral="Anna is at the bank . the bass is a",
        clean="the bass is a",
    )
    assert words(seen.neutral[0]).endswith("is a green")
    assert token_texts(tiny.word_level(), seen.shorter[0])[-1].strip() == "green"


def test_a_clean_prompt_may_be_shorter() -> None:
    same, longer = "Anna is at the song . the bass is a", "Anna is at the lake . the bass is a a"
    seen = variants(clean=[same, "the bass is a", longer])
    assert [words(row) for row in seen.clean] == [same]
    assert [len(ids) for ids in seen.shorter] == [5, 12]


def test_a_twin_question_is_matched_too() -> None:
    seen = variants(twin_question="Anna is at the lake . the bass is an")
    assert seen.twin is not None
    assert words(seen.twin) == "Anna is at the lake . the bass is an"


def test_a_variant_of_another_length_is_refused_with_both_rows() -> None:
    with pytest.raises(TokenError) as caught:
        variants(neutral="Anna is in the green city . the bass is a")
    text = str(caught.value)
    assert "The neutral variant has 12 tokens and the prompt 11:" in text
    assert "prompt:  <s>|Anna|is|at|the|lake|.|the|bass|is|a" in text
    assert "neutral: <s>|Anna|is|in|the|green|city|.|the|bass|is|a" in text
    assert "expected as many tokens as the prompt" in text


def test_unknown_words_of_a_variant_are_named() -> None:
    with pytest.raises(TokenError, match="does not know 'zoo'"):
        variants(swap="Anna is at the zoo . the bass is a")


# -- x_0,sub --------------------------------------------------------------------------------


def test_both_at_once_by_hand() -> None:
    seen = variants(
        neutral=["Anna is in the city . the bass is a", "Anna is at the bank . the bass is a"],
        substitute=[
            "Anna is at the lake . the crane is a",
            "Anna is at the lake . the drum is a",
            "Anna is at the lake . the song is a",
        ],
    )
    # In order; the shorter list begins again.
    assert [words(row) for row in seen.neutral_substitute] == [
        "Anna is in the city . the crane is a",
        "Anna is at the bank . the drum is a",
        "Anna is in the city . the song is a",
    ]


def test_both_at_once_by_ids() -> None:
    def rows(*ids: tuple[int, ...]) -> list[Row]:
        return [Row.same_length(row) for row in ids]

    (row,) = combined(tiny.word_level(), (5, 6, 7, 8), rows((5, 9, 7, 8)), rows((5, 6, 7, 10)))
    assert row == Row((5, 9, 7, 10), (0, 1, 2, 3))
    assert combined(tiny.word_level(), (5, 6), rows(), rows((5, 6))) == ()
    assert combined(tiny.word_level(), (5, 6), rows((5, 6)), rows()) == ()


def test_an_overlap_is_refused_with_both_rows() -> None:
    with pytest.raises(TokenError) as caught:
        variants(
            neutral="Anna is at the bank . the bat is a",
            substitute="Anna is at the lake . the crane is a",
        )
    text = str(caught.value)
    assert "The neutral and the substitute variant change the same token:" in text
    assert "neutral:    <s>|Anna|is|at|the|bank|.|the|bat|is|a" in text
    assert "substitute: <s>|Anna|is|at|the|lake|.|the|crane|is|a" in text


def test_an_overlap_is_refused_even_where_both_put_the_same_word() -> None:
    with pytest.raises(TokenError, match="change the same token"):
        variants(
            neutral="Anna is at the bank . the bat is a",
            substitute="Anna is at the lake . the bat is a",
        )


# -- other lengths, with an alignment -------------------------------------------------------

LONGER = "Anna is near the green river . the bass is a"


def test_aligned_spans_are_matched_from_the_right() -> None:
    seen = variants(swap=AlignedPrompt(LONGER, (("at the lake", "near the green river"),)))
    (row,) = seen.swap
    # <s> Anna is | at the lake | . the bass is a   against   near the green river
    assert words(row) == LONGER
    assert row.places == (0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11)
    assert not row.is_same_length
    assert row.coverage == 1


def test_what_has_no_partner_is_uncovered() -> None:
    seen = variants(
        swap=AlignedPrompt("Anna is green . the bass is a", (("at the lake", "green"),))
    )
    (row,) = seen.swap
    assert row.places == (0, 1, 2, -1, -1, 3, 4, 5, 6, 7, 8)
    assert row.coverage == pytest.approx(9 / 11)


def test_both_at_once_with_one_of_them_longer() -> None:
    seen = variants(
        neutral=AlignedPrompt(LONGER, (("at the lake", "near the green river"),)),
        substitute="Anna is at the lake . the crane is a",
    )
    (row,) = seen.neutral_substitute
    assert words(row) == "Anna is near the green river . the crane is a"
    assert row.places == seen.neutral[0].places


def test_a_text_that_differs_outside_its_spans_is_refused() -> None:
    aligned = AlignedPrompt(
        "Ben is near the green river . the bass is a", (("at the lake", "near the green river"),)
    )
    with pytest.raises(TokenError, match="Outside its spans the swap variant is another text"):
        variants(swap=aligned)


def test_a_span_that_is_not_there_is_refused() -> None:
    for pair, absent in ((("at the sea", "near"), "at the sea"), (("lake", "sea"), "sea")):
        with pytest.raises(TokenError, match=f"names '{absent}', which is not there"):
            variants(swap=AlignedPrompt(LONGER, (pair,)))


# -- drawn variants -------------------------------------------------------------------------


def changed(one: Case, drawn: Case, name: str, tokenizer: Any) -> list[set[int]]:
    """Per draw, the positions whose token is another than the prompt's; lengths must agree."""
    base = tokenized(one, tokenizer)
    rows = getattr(tokenize_variants(tokenizer, tokenized(drawn, tokenizer)), name)
    assert all(len(row.ids) == len(base.ids) for row in rows)
    return [
        {i for i, (x, y) in enumerate(zip(base.ids, row.ids, strict=True)) if x != y}
        for row in rows
    ]


@pytest.mark.parametrize(
    "tokenizer", [tiny.word_level(), tiny.byte_bpe(), tiny.sentencepiece_like()]
)
def test_only_the_cue_or_the_subject_is_touched(tokenizer: Any) -> None:
    one = case(
        # The cue's word also stands outside the cue, and the subject inside it.
        prompt="the lake is green . Anna sees a bass at the lake . the bass is a",
        cue="Anna sees a bass at the lake",
    )
    base = tokenized(one, tokenizer)
    drawn = draw_variants(tokenizer, base, nouns=NOUNS, n=6)
    for touched in changed(one, drawn, "neutral", tokenizer):
        assert {base.tokens[i].strip() for i in touched} == {"Anna", "sees", "lake"}
        assert {base.roles[i] for i in touched} == {"cue"}
    for touched in changed(one, drawn, "substitute", tokenizer):
        assert {base.roles[i] for i in touched} == {"subject_1", "subject_2"}
    assert drawn.case_id == one.case_id


def test_draws_are_deterministic_different_and_seeded() -> None:
    base = tokenized(case())
    first, again, other = (
        draw_variants(tiny.word_level(), base, nouns=NOUNS, n=4, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first.neutral != other.neutral
    assert len(set(first.neutral)) == len(set(first.substitute)) == 4


def test_a_draw_says_the_same_noun_at_every_mention_with_its_capital() -> None:
    one = case(prompt="the bass and the Bass near the lake . the bass is a", cue="the lake")
    base = tokenized(one, tiny.byte_bpe())
    nouns = ["river", "city", "song"]  # " Bass", " River", " City" are 4 tokens and " Song" 3
    assert set(texts(draw_variants(tiny.byte_bpe(), base, nouns=nouns).substitute)) == {
        "the river and the River near the lake . the river is a",
        "the city and the City near the lake . the city is a",
    }


def test_where_no_noun_has_a_capital_form_the_plain_one_is_put_in() -> None:
    one = case(cue="Anna is at", substitute="Anna is at the lake . the bat is a")
    drawn = draw_variants(tiny.word_level(), tokenized(one), nouns=["song", "river"])
    assert set(texts(drawn.neutral)) == {
        "song is at the lake . the bass is a",
        "river is at the lake . the bass is a",
    }


def test_the_words_of_one_draw_differ() -> None:
    one = case(cue="Anna is at the lake")
    drawn = draw_variants(tiny.word_level(), tokenized(one), nouns=NOUNS, n=8)
    for prompt in texts(drawn.neutral):
        first, last = prompt.split()[0], prompt.split()[4]
        assert first != last
        assert {first.lower(), last} <= set(NOUNS)


def test_a_noun_that_changes_its_neighbour_is_not_drawn() -> None:
    tokenizer = tiny.byte_bpe.__wrapped__()
    tokenizer.add_tokens([" dru", "m."])  # " lake" + "." and " dru" + "m." are two tokens each
    one = case(prompt="Anna is at the lake. The bass is a")
    drawn = draw_variants(tokenizer, tokenized(one, tokenizer), nouns=["drum", "river", "city"])
    assert {prompt.split()[4] for prompt in texts(drawn.neutral)} == {"river.", "city."}


def test_function_words_stay() -> None:
    assert {"at", "the", "is", "who"} <= FUNCTION_WORDS
    drawn = draw_variants(tiny.word_level(), tokenized(case()), nouns=NOUNS)
    assert all(" is at the " in prompt for prompt in texts(drawn.neutral))


def test_no_noun_is_a_word_of_the_case_and_neutral_and_substitute_differ() -> None:
    one = case(context_words=["river"], competing_words=["song"], contextual="big guitar")
    nouns = ["lake", "river", "song", "guitar", "instrument", "a", "city", "bank", "drum", "crane"]
    base = tokenized(one, tiny.byte_bpe())
    drawn = draw_variants(tiny.byte_bpe(), base, nouns=nouns, n=2)
    used = {prompt.split()[4] for prompt in texts(drawn.neutral)}
    other = {prompt.split()[7] for prompt in texts(drawn.substitute)}
    assert used | other == {"city", "bank", "drum", "crane"}
    assert not used & other


def test_given_variants_are_kept_and_only_the_lacking_are_drawn() -> None:
    given = "Anna is at the bank . the bass is a"
    drawn = draw_variants(tiny.word_level(), tokenized(case(neutral=given)), nouns=NOUNS)
    assert drawn.neutral == (given,)
    assert len(drawn.substitute) == 8
    whole = case(neutral=given, substitute="Anna is at the lake . the bat is a")
    assert draw_variants(tiny.word_level(), tokenized(whole), nouns=NOUNS) is whole
    bare = case(cue=(), subject=None)
    assert draw_variants(tiny.word_level(), tokenized(bare), nouns=NOUNS) is bare


def test_a_mention_in_the_prefix_is_replaced_too() -> None:
    one = case(prompt="Anna is at the lake . What is the bass ?", prefix=" The bass is a")
    base = tokenized(one)
    drawn = draw_variants(tiny.word_level(), base, nouns=NOUNS, n=3)
    rows = tokenize_variants(tiny.word_level(), tokenized(drawn))
    for row in (*rows.substitute, *rows.neutral_substitute):
        said = words(row).split()
        assert said[9] == said[12] != "bass"
        assert said[10:12] == ["?", "The"]
    assert all(words(row).endswith("The bass is a") for row in rows.neutral)
    assert Case.from_dict(drawn.to_dict()) == drawn
    plain = draw_variants(tiny.word_level(), tokenized(case()), nouns=NOUNS)
    assert all(isinstance(prompt, str) for prompt in plain.substitute)


def test_chat_messages_are_drawn_in_too() -> None:
    messages = (
        {"role": "system", "content": "Anna is at the lake."},
        {"role": "user", "content": "What is the bass?"},
    )
    one = case(prompt=messages, cue="at the lake")
    drawn = draw_variants(tiny.byte_bpe(), tokenized(one, tiny.byte_bpe()), nouns=NOUNS, n=3)
    for prompt in (*drawn.neutral, *drawn.substitute):
        assert isinstance(prompt, tuple)
        assert [message["role"] for message in prompt] == ["system", "user"]
    assert all("lake" not in prompt for prompt in texts(drawn.neutral))
    assert all("bass" not in prompt for prompt in texts(drawn.substitute))
    assert changed(one, drawn, "neutral", tiny.byte_bpe())


@pytest.mark.parametrize(
    ("fields", "nouns", "sentence"),
    [
        ({}, ["song"], "too few neutral nouns have as many tokens as 'lake'"),
        ({}, ["zebra", "zoo", "lake"], "too few neutral nouns have as many tokens as 'lake'"),
        ({"cue": "at the"}, NOUNS, "the prompt itself has no word to replace"),
        (
            {"cue": "bass", "prefix": " Anna hears a"},
            NOUNS,
            "No neutral variant can be drawn: the prompt itself has no word to replace",
        ),
    ],
)
def test_where_nothing_can_be_drawn_it_says_why(
    fields: dict[str, Any], nouns: list[str], sentence: str
) -> None:
    with pytest.raises(TokenError, match=f"{sentence}.* Give neutral variants of your own"):
        draw_variants(tiny.word_level(), tokenized(case(**fields)), nouns=nouns)


def test_a_cue_in_the_system_message_of_a_text_cannot_be_drawn() -> None:
    one = case(prompt="What is the bass?", chat=True, system="Anna is at the lake.")
    base = tokenized(one, tiny.byte_bpe())
    with pytest.raises(TokenError, match="the prompt itself has no word to replace"):
        draw_variants(tiny.byte_bpe(), base, nouns=NOUNS)


def test_the_shipped_nouns_are_two_hundred_words() -> None:
    nouns = shipped_nouns()
    assert len(nouns) == len(set(nouns)) == 200
    assert all(noun.isalpha() and noun.islower() for noun in nouns)
