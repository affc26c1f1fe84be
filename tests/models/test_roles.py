"""Every position has one role, the first that fits; worked out by hand on three tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dst.core.case import Case
from dst.core.errors import TokenError
from dst.models.tokens import TokenizedCase, encode, render, tokenize_case
from tests import tiny

TOKENIZERS: dict[str, Callable[[], Any]] = {
    "byte_bpe": tiny.byte_bpe,
    "byte_bpe_bos": lambda: tiny.byte_bpe(bos=True),
    "sentencepiece": tiny.sentencepiece_like,
    "word_level": tiny.word_level,
}
ALL = pytest.mark.parametrize("name", TOKENIZERS)
PROMPT = "Anna is at the lake . Anna sees a bass . What is the bass ? The bass is a"


def case(name: str = "word_level", **fields: Any) -> Case:
    """A case; the closed vocabulary of ``word_level`` wants its stops set apart."""

    def natural(value: Any) -> Any:
        if name != "word_level" and isinstance(value, str):
            return value.replace(" .", ".").replace(" ?", "?")
        return [natural(item) for item in value] if isinstance(value, list) else value

    fields = {"prompt": PROMPT, "contextual": "fish", "associative": "instrument"} | fields
    return Case(**{key: natural(value) for key, value in fields.items()})


def roles(name: str, **fields: Any) -> list[tuple[str, str]]:
    """(word, role) per position, its start token left out: the same for every tokenizer."""
    seen = tokenize_case(TOKENIZERS[name](), case(name, **fields))
    both = list(zip((text.strip() for text in seen.tokens), seen.roles, strict=True))
    if name != "byte_bpe":
        assert both.pop(0) == ("<s>", "bos")
    return both


def by_role(both: list[tuple[str, str]]) -> dict[str, str]:
    """The words of each role, in the order in which the roles first occur."""
    found: dict[str, list[str]] = {}
    for word, role in both:
        found.setdefault(role, []).append(word)
    return {role: " ".join(words) for role, words in found.items()}


@ALL
def test_a_cue_before_its_subject(name: str) -> None:
    assert by_role(roles(name, subject="bass", cue="at the lake")) == {
        "rest": "Anna is is",
        "cue": "at the lake",
        "relay": ". Anna sees a . What is the ? The",
        "subject_1": "bass",
        "subject_2": "bass",
        "subject_3": "bass",
        "answer": "a",
    }


@ALL
def test_a_cue_that_is_the_sentence_with_the_subject(name: str) -> None:
    assert by_role(roles(name, subject="bass", cue="Anna sees a bass .")) == {
        "rest": "Anna is at the lake . is",
        "cue": "Anna sees a .",
        "subject_1": "bass",
        "relay": "What is the ? The",
        "subject_2": "bass",
        "subject_3": "bass",
        "answer": "a",
    }


@ALL
def test_a_question_and_a_distractor_give_way_to_cue_and_subject(name: str) -> None:
    found = by_role(
        roles(
            name,
            subject="bass",
            cue=["the lake", "sees"],
            question="What is the bass ?",
            distractor=["Anna is at the lake .", "Anna"],
        )
    )
    assert found == {
        "distractor": "Anna is at . Anna",
        "cue": "the lake sees",
        "relay": "a . The",
        "subject_1": "bass",
        "question": "What is the ?",
        "subject_2": "bass",
        "subject_3": "bass",
        "rest": "is",
        "answer": "a",
    }


@ALL
def test_without_a_subject_nothing_is_a_relay(name: str) -> None:
    found = by_role(roles(name, cue="the lake"))
    assert set(found) == {"rest", "cue", "answer"}
    assert found["cue"] == "the lake"


@ALL
def test_a_cue_behind_the_subject_makes_no_relay_of_what_follows(name: str) -> None:
    prompt = "the bass is near the lake . Anna is a"
    found = by_role(roles(name, prompt=prompt, cue="lake", subject="bass"))
    assert "relay" not in found
    assert (found["subject_1"], found["cue"]) == ("bass", "lake")


@ALL
def test_the_answer_position_is_the_answers_even_on_a_subject(name: str) -> None:
    both = roles(name, prompt="Anna sees a bass", subject="bass", cue="sees")
    assert both[-1] == ("bass", "answer")
    assert "subject_1" not in by_role(both)


@ALL
def test_a_mention_in_the_prefix_counts(name: str) -> None:
    both = roles(name, prompt="Anna sees the bass .", prefix=" The bass is a", subject="bass")
    assert by_role(both) == {
        "rest": "Anna sees the is",
        "subject_1": "bass",
        "relay": ". The",
        "subject_2": "bass",
        "answer": "a",
    }


@ALL
def test_positions_by_role(name: str) -> None:
    seen = tokenize_case(TOKENIZERS[name](), case(name, subject="bass", cue="the lake"))
    first = 0 if name == "byte_bpe" else 1
    assert seen.positions_of("subject") == [first + i for i in (9, 14, 17)]
    assert seen.positions_of("subject_2") == [first + 14]
    assert seen.positions_of("cue") == [first + 3, first + 4]
    assert seen.positions_of("answer") == [seen.answer_position] == [first + 19]
    assert seen.positions_of("template") == []


@pytest.mark.parametrize("name", ["byte_bpe", "sentencepiece"])
def test_words_of_several_tokens_keep_their_role_in_all_of_them(name: str) -> None:
    prompt = "Anna hears the marimba in Oslo. The marimba is a"
    seen = tokenize_case(TOKENIZERS[name](), case(prompt=prompt, subject="marimba", cue="in Oslo"))
    text = {
        role: "".join(seen.tokens[i] for i in seen.positions_of(role)).strip()
        for role in ("subject_1", "cue", "subject_2")
    }
    assert text == {"subject_1": "marimba", "cue": "in Oslo", "subject_2": "marimba"}
    assert len(seen.positions_of("subject_1")) > 1


def test_characters_of_several_tokens_keep_their_role() -> None:
    # No character of 鲈鱼 is a token here: each is three bytes.
    prompt = "安娜在湖边看到一条鲈鱼。鲈鱼是"
    for name in ("byte_bpe", "sentencepiece"):
        seen = tokenize_case(
            TOKENIZERS[name](),
            Case(
                prompt=prompt,
                contextual=("鱼",),
                associative=("琴",),
                subject="鲈鱼",
                cue=("湖边",),
            ),
        )
        assert len(seen.positions_of("subject_1")) == len(seen.positions_of("subject_2")) == 6
        assert len(seen.positions_of("cue")) == 6
        assert seen.tokens[-1] != prompt[-1]


# -- chat -----------------------------------------------------------------------------------

CHATS = pytest.mark.parametrize("name", ["byte_bpe", "sentencepiece"])


def chat(name: str, **fields: Any) -> TokenizedCase:
    return tokenize_case(TOKENIZERS[name](), case(name, **{"chat": True} | fields))


def words(seen: TokenizedCase, role: str) -> str:
    return "".join(seen.tokens[i] for i in seen.positions_of(role))


@CHATS
def test_in_a_chat_the_template_has_its_role(name: str) -> None:
    seen = chat(name, prompt="Anna sees a bass near the user.", subject="bass", cue="user")
    # The template says "<|user|>" itself: only the word that was written is the cue.
    assert words(seen, "cue").strip() == "user"
    assert words(seen, "subject_1") == " bass"
    template = words(seen, "template").replace(" ", "")
    assert template == "<|user|>\n\n<|assistant|>\n<think></think"  # the last token is i*
    assert seen.roles[0] == "bos"
    assert seen.roles[-1] == "answer"
    assert seen.notes == (
        "the prompt went through the model's chat template",
        "the model's thinking was switched off (enable_thinking=False)",
    )


@CHATS
def test_every_message_is_the_users_own_text(name: str) -> None:
    messages = [
        {"role": "system", "content": "You are at the lake."},
        {"role": "user", "content": "assistant"},  # a word of the template
        {"role": "assistant", "content": " user\n"},
        {"role": "user", "content": "What is a bass?"},
    ]
    seen = chat(name, prompt=messages, chat=False, cue=["lake", "user"], subject="bass")
    assert words(seen, "cue").replace(" ", "") == "lakeuser"
    assert words(seen, "relay").replace(" ", "") == ".assistant\nWhatisa"
    assert words(seen, "rest").replace(" ", "") == "Youareatthe?"


@CHATS
def test_a_system_message_and_a_prefix_are_read_too(name: str) -> None:
    seen = chat(
        name,
        prompt="What is a bass?",
        system="You are at the lake.",
        prefix="The bass is a",
        cue="the lake",
        subject="bass",
    )
    assert words(seen, "cue").strip() == "the lake"
    assert words(seen, "subject_2") == " bass"
    assert seen.tokens[-1].strip() == "a"
    text = seen.encoding.text
    assert text.startswith("<s><|system|>\nYou are at the lake.\n<|user|>\nWhat is a bass?\n")
    assert text.endswith("<think></think>The bass is a")


def test_a_template_that_trims_what_was_written_is_followed() -> None:
    tokenizer = tiny.byte_bpe.__wrapped__()
    tokenizer.chat_template = tokenizer.chat_template.replace("m['content']", "m['content']|trim")
    one = Case(prompt="  user \n", chat=True, contextual=("fish",), subject="user")
    rendered = render(tokenizer, one)
    # "<s><|user|>\nuser\n...": what was written, and not the template's own word.
    assert rendered.content[0] == (12, 16)
    assert rendered.text[12:16] == "user"
    assert rendered.fresh
    assert not rendered.special


def test_a_template_that_changes_what_was_written_says_so() -> None:
    tokenizer = tiny.byte_bpe.__wrapped__()
    tokenizer.chat_template = tokenizer.chat_template.replace("m['content']", "m['content']|upper")
    one = Case(prompt="a BASS", chat=True, contextual=("fish",))
    assert "the chat template changes a message; its words count as template" in (
        render(tokenizer, one).notes
    )
    with pytest.raises(TokenError, match="The subject 'BASS' has no token of its own"):
        tokenize_case(tokenizer, one.replace(subject="BASS", associative=("drum",)))


def test_a_template_that_adds_to_one_message_still_finds_the_others() -> None:
    tokenizer = tiny.byte_bpe.__wrapped__()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['content'] }}{{ m['content']|length }}]{% endfor %}"
    )
    messages = ({"role": "user", "content": "a bass"}, {"role": "user", "content": "a bass"})
    rendered = render(tokenizer, Case(prompt=messages, contextual=("fish",)))
    assert rendered.text == "[a bass6][a bass6]"
    assert rendered.content[:2] == ((1, 7), (10, 16))


def test_a_template_that_refuses_is_one_sentence() -> None:
    tokenizer = tiny.byte_bpe.__wrapped__()
    tokenizer.chat_template = "{{ raise_exception('system messages are not supported') }}"
    with pytest.raises(TokenError, match=r"refuses these messages \(system messages are not"):
        render(tokenizer, case(chat=True))


def test_without_a_template_there_is_no_chat() -> None:
    tokenizer = tiny.byte_bpe.__wrapped__()
    tokenizer.chat_template = None
    with pytest.raises(TokenError, match=r"has no chat template\. Give the prompt as text"):
        render(tokenizer, case(chat=True))


# -- text to ids ----------------------------------------------------------------------------


@ALL
def test_the_ids_are_exactly_the_tokenizers_own(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    assert list(encode(tokenizer, PROMPT).ids) == tokenizer(PROMPT)["input_ids"]
    plain = encode(tokenizer, PROMPT, special=False)
    assert list(plain.ids) == tokenizer(PROMPT, add_special_tokens=False)["input_ids"]


@ALL
def test_each_token_covers_its_own_characters(name: str) -> None:
    text = case(name).text
    encoding = encode(TOKENIZERS[name](), text)
    covered = [text[a:b] for a, b in encoding.offsets if b > a]
    assert covered == PROMPT.split()  # these words are one token each
    assert encoding.positions([(0, 0)]) == []
    assert len(encoding.positions([(0, len(text))])) == len(covered)


@pytest.mark.parametrize("name", ["byte_bpe_bos", "sentencepiece", "word_level"])
def test_two_start_tokens_are_refused(name: str) -> None:
    with pytest.raises(TokenError, match=r"begins with the start token twice\. Leave it out"):
        encode(TOKENIZERS[name](), "<s> a bass is a")
    assert encode(TOKENIZERS[name](), "<s> a bass", special=False).ids[0] == 1


def test_a_tokenizer_that_gives_no_tokens_is_refused() -> None:
    with pytest.raises(TokenError, match="has no tokens"):
        encode(tiny.byte_bpe(), "")


def test_a_tokenizer_without_character_ranges_is_refused() -> None:
    class Slow:
        def __call__(self, text: str, **options: object) -> None:
            raise NotImplementedError

    with pytest.raises(TokenError, match=r"Slow cannot tell .* expected a fast tokenizer"):
        encode(Slow(), "a bass")


def test_white_space_inside_a_cue_belongs_to_it() -> None:
    prompt = "at the\n\nlake a bass is a"
    seen = tokenize_case(tiny.byte_bpe(), case(prompt=prompt, cue="the lake", subject="bass"))
    assert words(seen, "cue") == " the\n\nlake"
    assert by_role(list(zip(seen.tokens, seen.roles, strict=True)))["rest"].split() == ["at", "is"]


# -- unknown words --------------------------------------------------------------------------


def test_unknown_words_are_named_with_the_three_nearest() -> None:
    with pytest.raises(TokenError) as caught:
        tokenize_case(tiny.word_level(), case(prompt="Anna sees a bas near the zoo"))
    text = str(caught.value)
    assert text.startswith("The model does not know 'bas' (near it: ")
    near = text.split("(near it: ")[1].split(")")[0].split(", ")
    assert near[0] in ("bass", "bat")
    assert set(near) <= set(tiny.word_level().get_vocab())
    assert len(near) == 3
    assert "; 'zoo' (near it: " in text
    assert text.endswith("Use words that it knows, or another model with --model.")


def test_an_unknown_answer_is_named_with_the_three_nearest() -> None:
    with pytest.raises(
        TokenError, match=r"'fisch': it is unknown to the tokenizer \(near it: fish, "
    ):
        tokenize_case(tiny.word_level(), case(contextual="fisch"))


def test_case_does_not_hide_the_nearest_word() -> None:
    with pytest.raises(TokenError, match=r"'ANNA' \(near it: Anna"):
        tokenize_case(tiny.word_level(), case(prompt="ANNA sees a"))


def test_a_tokenizer_whose_unknown_token_is_its_end_knows_every_word() -> None:
    tokenizer = tiny.byte_bpe.__wrapped__()
    tokenizer.unk_token = "</s>"  # as GPT-2's
    prompt = "</s>Anna sees a bass . The bass is a"
    assert tokenize_case(tokenizer, case(prompt=prompt)).ids[0] == tokenizer.eos_token_id
