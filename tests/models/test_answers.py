"""Answers in place: how a form stands after a prompt, and where two answers part."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dst.core.case import Case
from dst.core.errors import TokenError
from dst.models.answers import Answer, first_divergence, forms_in_place
from dst.models.tokens import TokenizedCase, encode, render, tokenize_case
from tests import tiny
from tests.models.test_roles import ALL, TOKENIZERS

OPEN = pytest.mark.parametrize("name", ["byte_bpe", "byte_bpe_bos", "sentencepiece"])


def tokenized(name: str, prompt: str, plus: Any, minus: Any = (), **fields: Any) -> TokenizedCase:
    case = Case(prompt=prompt, contextual=plus, associative=minus, **fields)
    return tokenize_case(TOKENIZERS[name](), case)


def forms(name: str, prompt: str, *given: str, **fields: Any) -> list[str]:
    """The forms that are read, the natural one first."""
    return [answer.form for answer in tokenized(name, prompt, given, **fields).contextual]


# -- where a form stands --------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("given", ["fish", " fish", "fish ", "  fish"])
def test_after_a_word_a_form_has_its_space_however_it_is_given(name: str, given: str) -> None:
    seen = tokenized(name, "The bass is a", given)
    tokenizer = TOKENIZERS[name]()
    whole = tokenizer("The bass is a fish")["input_ids"]
    assert [*seen.ids, seen.contextual_ids[0]] == whole
    assert all(answer.form.startswith(" ") for answer in seen.contextual)  # never "afish"


@OPEN
def test_a_longer_variant_is_dropped_and_listed(name: str) -> None:
    seen = tokenized(name, "The bass is a", "fish")
    assert [answer.form for answer in seen.contextual] == [" fish"]
    assert seen.dropped == ("' Fish': takes more tokens than the form as given",)


def test_an_unknown_variant_is_dropped_and_listed() -> None:
    seen = tokenized("word_level", "The bass is a", "fish", "song")
    assert seen.dropped[0] == "' Fish': is unknown to the tokenizer"


@ALL
def test_a_capital_form_that_is_as_short_is_read_too(name: str) -> None:
    # "the" and "The" are one token each in all of them.
    assert forms(name, "Anna sees", "the")[:2] == [" the", " The"]


@OPEN
def test_after_a_colon_the_form_with_a_space_comes_first(name: str) -> None:
    assert forms(name, "What is the bass? Answer:", "fish")[0] == " fish"


@OPEN
@pytest.mark.parametrize("end", ["\n", "Answer:\n", "\t"])
def test_after_a_line_or_tab_there_is_no_space(name: str, end: str) -> None:
    found = forms(name, f"What is the bass? {end}", "fish")
    assert found[0] == "fish"
    assert not any(form.startswith(" ") for form in found)


@OPEN
@pytest.mark.parametrize("end", ["(", "[", "“", '"', "'", "-", "$", "/", '("'])
def test_after_what_opens_the_form_without_a_space_comes_first(name: str, end: str) -> None:
    assert forms(name, f"The bass is {end}", "fish")[0] == "fish"


@OPEN
@pytest.mark.parametrize("end", [".", ",", "?", ")", "”", '."', " the bass'"])
def test_after_what_closes_the_form_with_a_space_comes_first(name: str, end: str) -> None:
    assert forms(name, f"The bass is big{end}", "fish")[0] == " fish"


@OPEN
def test_at_the_start_of_a_reply_there_is_no_space(name: str) -> None:
    assert forms(name, "What is a bass?", "fish", chat=True)[0] == "fish"
    assert forms(name, "What is a bass?", "fish", chat=True, prefix="It is a")[0] == " fish"


@OPEN
def test_scripts_without_spaces_are_followed_without_one(name: str) -> None:
    found = forms(name, "鲈鱼是一种", "鱼")
    assert found[0] == "鱼"
    seen = tokenized(name, "鲈鱼是一种", "鱼")
    whole = TOKENIZERS[name]()("鲈鱼是一种鱼")["input_ids"]
    assert list(seen.ids + seen.contextual[0].ids) == whole
    assert forms(name, "鲈鱼是", "fish")[0] == "fish"
    assert forms(name, "A bass is a", "鱼")[0] == "鱼"


@OPEN
def test_a_space_that_was_asked_for_is_kept(name: str) -> None:
    assert forms(name, 'He said "', " fish")[0] == " fish"
    assert forms(name, "Answer:", "\nfish")[0] == "\nfish"


@OPEN
@pytest.mark.parametrize("given", ["fish", " fish"])
def test_a_prompt_that_ends_in_a_space_is_refused(name: str, given: str) -> None:
    sentence = r"cannot follow a prompt that ends in white space\. Remove the space at the end"
    with pytest.raises(TokenError, match=sentence):
        tokenized(name, "The bass is a ", given)


def test_a_closed_vocabulary_does_not_mind_the_space() -> None:
    assert tokenized("word_level", "The bass is a ", "fish").contextual[0].form == "fish"


def test_a_form_that_would_change_the_prompts_tokens_is_refused() -> None:
    # "'s" is one piece, so that an opening quote and "song" become "'s" and "ong".
    tokenizer = tiny.byte_bpe.__wrapped__()
    tokenizer.add_tokens(["'s"])
    case = Case(prompt="Anna sees a '", contextual=("song",))
    sentence = r"'song' cannot follow this prompt: it changes the prompt's own tokens; expected"
    with pytest.raises(TokenError, match=sentence):
        tokenize_case(tokenizer, case)
    assert tokenize_case(tokenizer, case.replace(contextual=("fish",))).contextual


def test_a_form_that_does_not_decode_back_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny.byte_bpe.__wrapped__()
    case = Case(prompt="The bass is a", contextual=("fish",))
    rendered = render(tokenizer, case)
    encoding = encode(tokenizer, rendered.text)
    decode = tokenizer.decode
    monkeypatch.setattr(
        tokenizer, "decode", lambda ids, **options: decode(ids, **options).replace("fish", "fowl")
    )
    with pytest.raises(TokenError, match=r"'fish': it decodes to ' fowl' \(near it"):
        forms_in_place(tokenizer, rendered, encoding, ["fish"])


ANSWERS = st.sampled_from(
    ["fish", "instrument", "big fish", "鱼", "a", "The", "it's", "C", "3rd", "don't", "Über", "!"]
)
PROMPTS = st.sampled_from(
    ["The bass is a", "Answer:", "Answer:\n", "“", "It is (", "鲈鱼是", "It is a b", "x", "!", "é"]
)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["byte_bpe", "byte_bpe_bos", "sentencepiece"]), PROMPTS, ANSWERS)
def test_every_form_is_what_follows_the_prompt(name: str, prompt: str, answer: str) -> None:
    tokenizer = TOKENIZERS[name]()
    try:
        seen = tokenized(name, prompt, answer)
    except TokenError:
        with pytest.raises(TokenError):  # the other forms would do no better
            tokenized(name, prompt, answer.strip() + " ")
        return
    alone = tokenizer(prompt)["input_ids"]
    for form in seen.contextual:
        assert [*alone, *form.ids] == tokenizer(prompt + form.form)["input_ids"]
        assert tokenizer.decode(form.ids).strip() == form.form.strip()
        assert form.form.strip() in (answer, answer[0].upper() + answer[1:])
        assert len(form.ids) <= len(seen.contextual[0].ids)
        glued = prompt[-1].isalnum() and form.form[0].isalnum()
        assert not glued or not (prompt[-1].isascii() and form.form[0].isascii())


# -- where two answers part -----------------------------------------------------------------


@ALL
def test_answers_that_part_at_once_share_nothing(name: str) -> None:
    seen = tokenized(name, "The bass is a", "fish", "instrument")
    assert seen.shared == ()
    assert seen.answer_position == len(seen.encoding.ids) - 1
    assert len(seen.contextual_ids) == len(seen.associative_ids) == 1


def test_shared_words_are_forced_and_the_answer_is_read_after_them() -> None:
    vocabulary = tiny.word_level().get_vocab()
    seen = tokenized("word_level", "Anna sees", "the green bank", "the green river")
    assert seen.shared == (vocabulary["the"], vocabulary["green"])
    assert seen.ids == (1, *(vocabulary[w] for w in ("Anna", "sees", "the", "green")))
    assert seen.answer_position == 4
    assert seen.roles == ("bos", "rest", "rest", "rest", "answer")
    assert seen.tokens[-1] == "green"
    assert seen.contextual_ids == (vocabulary["bank"],)
    assert seen.associative_ids == (vocabulary["river"],)


@OPEN
def test_shared_pieces_are_forced_too(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    prompt, plus, minus = "Anna sees a", " marimba", " marina"
    ids = [tokenizer(prompt + form)["input_ids"] for form in (plus, minus)]
    common = [a for a, b in takewhile(lambda pair: pair[0] == pair[1], zip(*ids, strict=False))]
    assert len(common) > len(tokenizer(prompt)["input_ids"])  # they do share pieces
    seen = tokenized(name, prompt, plus, minus)
    assert list(seen.ids) == common
    assert seen.contextual_ids == (ids[0][len(common)],)
    assert seen.associative_ids == (ids[1][len(common)],)
    assert seen.roles[-1] == "answer"
    assert seen.roles.count("answer") == 1


@ALL
def test_a_form_that_parts_elsewhere_is_dropped_and_listed(name: str) -> None:
    seen = tokenized(
        name, "Anna sees", ["the green bank", "water"], ["the green river", "the song"]
    )
    assert {answer.form for answer in seen.contextual} == {" the green bank"}
    assert {answer.form for answer in seen.associative} == {" the green river"}
    assert "' water': parts from the other answer at another token" in seen.dropped
    assert "' the song': parts from the other answer at another token" in seen.dropped


@ALL
def test_a_form_that_begins_like_the_other_answer_is_dropped_and_listed(name: str) -> None:
    seen = tokenized(name, "Anna sees", ["bank", "the green bank"], ["river", "the green river"])
    assert [a.form for a in seen.contextual if "green" in a.form] == []
    assert [a.form for a in seen.associative if "green" in a.form] == []
    assert "' the green bank': begins like a form of the other answer" in seen.dropped
    seen = tokenized(name, "Anna sees", ["bank", "river of the bank"], ["river"])
    assert [a.form for a in seen.contextual if "river" in a.form] == []
    assert seen.associative[0].form == " river"


@ALL
@pytest.mark.parametrize(
    ("plus", "minus"), [("green", "green bank"), ("the green bank", "the green")]
)
def test_an_answer_that_begins_with_the_other_is_refused(name: str, plus: str, minus: str) -> None:
    with pytest.raises(TokenError, match="or one begins with the other; expected two answers"):
        tokenized(name, "Anna sees", plus, minus)


def test_answers_of_the_same_tokens_are_refused() -> None:
    with pytest.raises(TokenError, match="' Fish' and ' fish' are the same tokens"):
        first_divergence([Answer(" Fish", (4, 5))], [Answer(" fish", (4, 5))])


def test_first_tokens_are_read_once_each() -> None:
    plus = [Answer("a", (4, 5)), Answer("b", (4, 6)), Answer("c", (7,))]
    shared, kept, _, dropped = first_divergence(plus, [Answer("d", (8,))])
    assert (shared, dropped) == ((), ())
    assert [answer.form for answer in kept] == ["a", "b", "c"]
    seen = tokenized("word_level", "Anna sees", ["the bank", "the river", "water"], "song")
    vocabulary = tiny.word_level().get_vocab()
    assert len(seen.contextual) == 5  # the first two with a capital too
    assert seen.contextual_ids == tuple(vocabulary[word] for word in ("the", "water", "The"))


def test_without_an_associative_answer_the_forms_are_read_where_they_begin() -> None:
    seen = tokenized("word_level", "Anna sees", "the green bank")
    assert (seen.shared, seen.associative, seen.associative_ids) == ((), (), ())
    assert len(seen.contextual[0].ids) == 3
