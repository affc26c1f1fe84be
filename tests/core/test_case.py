"""`Case`: what a person may write, and the sentence for everything else."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dst.core.case import ALIASES, AlignedPrompt, Case, mentions, text_of, unspaced
from dst.core.errors import CaseError

PROMPT = "Anna is at the lake. Anna sees a bass. What is the bass? The bass is a"
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "What is a bass at the lake?"},
]


def case(**fields: Any) -> Case:
    return Case(**{"prompt": PROMPT, "contextual": "fish", "associative": "instrument"} | fields)


# -- what may be written -------------------------------------------------------------------


def test_one_text_stands_for_a_list_of_one() -> None:
    one, many = case(cue="the lake"), case(contextual=["fish"], cue=("the lake",))
    assert one == many
    assert (one.contextual, one.cue) == (("fish",), ("the lake",))


def test_the_id_is_the_content_and_stays_the_same() -> None:
    # sha256sum of the fields that are set as sorted JSON: a study finds its finished cases by it.
    assert case().case_id == case().content_hash()[:12] == "df0e7dbe4a93"
    assert case(case_id="mine").content_hash() == case().content_hash()
    assert case(case_id="mine").case_id == "mine"
    assert case(cue="lake").case_id != case().case_id


def test_replace_makes_a_new_id_unless_one_is_given() -> None:
    assert case(case_id="mine").replace(group="bass").case_id == case(group="bass").case_id
    assert case().replace(group="bass", case_id="mine").case_id == "mine"


def test_a_text_sent_as_a_chat_is_one_user_message() -> None:
    chat = case(chat=True, system="Be brief.")
    assert chat.is_chat
    assert chat.messages() == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": PROMPT},
    )
    assert chat.messages("Other?")[-1] == {"role": "user", "content": "Other?"}
    assert not case().is_chat


def test_chat_messages_are_a_prompt_and_text_replaces_the_last_of_the_user() -> None:
    chat = Case(prompt=CHAT, contextual="fish", subject="bass", cue="lake")
    assert chat.is_chat
    assert chat.messages() == tuple(CHAT)
    assert chat.messages("And a trout?") == (*CHAT[:3], {"role": "user", "content": "And a trout?"})
    assert chat.text == "Be brief.\nHi\nHello.\nWhat is a bass at the lake?"
    assert text_of("x") == "x"


def test_the_messages_given_are_not_shared_with_the_case() -> None:
    messages = [{"role": "user", "content": "a bass"}]
    chat = Case(prompt=messages, contextual="fish")
    messages[0]["content"] = "changed"
    assert chat.text == "a bass"


def test_spans_may_stand_in_the_prefix_and_in_the_system_message() -> None:
    assert case(subject="trout", prefix=" big trout,").subject == "trout"
    assert case(chat=True, system="We are at sea.", cue="at sea").cue == ("at sea",)


def test_variants_are_one_prompt_or_draws() -> None:
    assert case(neutral="a").neutral == ("a",)
    assert case(neutral=["a", "b"]).neutral == ("a", "b")
    one = Case(prompt=CHAT, contextual="fish", swap=CHAT)
    assert one.swap == (tuple(CHAT),)
    two = Case(prompt=CHAT, contextual="fish", swap=[CHAT, "Text?"])  # type: ignore[arg-type]
    assert two.swap == (tuple(CHAT), "Text?")


def test_a_variant_of_another_length_says_which_spans_correspond() -> None:
    written = {"prompt": "by the old sea", "aligned": [["the lake", "the old sea"]]}
    aligned = AlignedPrompt("by the old sea", (("the lake", "the old sea"),))
    assert case(swap=written).swap == (aligned,)
    assert case(swap=aligned).swap == (aligned,)
    assert case(swap=[written, "a text"]).swap == (aligned, "a text")


def test_a_variant_may_have_a_prefix_of_its_own() -> None:
    written = {"prompt": "a", "prefix": " b"}
    assert case(swap=written).swap == (AlignedPrompt("a", prefix=" b"),)
    assert Case.from_dict(case(swap=written).to_dict()) == case(swap=written)
    with pytest.raises(CaseError, match="found 3; expected text"):
        AlignedPrompt("a", prefix=3)  # type: ignore[arg-type]


def test_a_row_is_read_with_its_aliases_and_null_is_nothing() -> None:
    row = {
        "prompt": PROMPT,
        "factual_answer": "fish",
        "hallucinated_answer": "instrument",
        "cue": None,
    }
    assert Case.from_dict(row) == case()
    assert set(ALIASES.values()) == {"contextual", "associative"}


WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda text: bool(text.strip())
)


@given(
    prefix=st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    draws=st.lists(WORDS, max_size=3),
    chat=st.booleans(),
    label=st.none() | WORDS,
    words=st.lists(WORDS, max_size=3, unique_by=lambda w: " ".join(w.split()).casefold()),
    aligned=st.lists(st.tuples(WORDS, WORDS), max_size=2),
)
def test_a_case_reads_back_from_its_json(
    prefix: str,
    draws: list[str],
    chat: bool,
    label: str | None,
    words: list[str],
    aligned: list[tuple[str, str]],
) -> None:
    words = [word for word in words if word.split() != [] and "q" not in word.casefold()]
    half = len(words) // 2
    variants: list[str | AlignedPrompt] = [*draws, AlignedPrompt("q", tuple(aligned))]
    made = Case(
        prompt="q is q",
        contextual=("qa", "qb"),
        associative=("qc",),
        subject="q",
        prefix=prefix,
        chat=chat,
        neutral=variants,
        context_words=tuple(words[:half]),
        competing_words=tuple(words[half:]),
        label=label,
    )
    again = Case.from_dict(json.loads(json.dumps(made.to_dict())))
    assert again == made
    assert again.content_hash() == made.content_hash()


def test_a_chat_reads_back_from_its_json() -> None:
    made = Case(
        prompt=CHAT,
        contextual=("fish",),
        neutral=[CHAT, CHAT],
        twin_question=CHAT,
    )
    assert Case.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    single = Case(prompt=CHAT, contextual="fish", neutral=[CHAT])
    assert Case.from_dict(single.to_dict()) == single


# -- what may not ---------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "empty prompt": ({"prompt": " \n"}, "prompt", "an empty text; expected the text that"),
    "no prompt": ({"prompt": None}, "prompt", "None; expected text, or chat messages"),
    "no messages": ({"prompt": []}, "prompt", r"\[\]; expected text, or chat messages"),
    "a prompt of texts": ({"prompt": ["a", "b"]}, "prompt", "'a'; expected messages like"),
    "a message without content": (
        {"prompt": [{"role": "user"}]},
        "prompt",
        "{'role': 'user'}; expected messages like",
    ),
    "a message of a number": (
        {"prompt": [{"role": "user", "content": 3}]},
        "prompt",
        "found 3; expected text",
    ),
    "a message with an object": (
        {"prompt": [{"role": "user", "content": "bass", "tools": []}]},
        "prompt",
        r"found \[\]; expected text",
    ),
    "no user": (
        {"prompt": [{"role": "assistant", "content": "bass"}]},
        "prompt",
        "messages without one of the user",
    ),
    "half a character": ({"prompt": "a \ud83d bass"}, "prompt", "which is no valid Unicode"),
    "half a character in a list": ({"contextual": ["\ud83d"]}, "contextual", "no valid Unicode"),
    "no answer": ({"contextual": ()}, "contextual", "no answer; expected what the context"),
    "an empty answer": ({"contextual": [" "]}, "contextual", "' '; expected text that is not"),
    "an answer of a number": ({"contextual": 3}, "contextual", "3; expected a text or a list"),
    "answers of numbers": ({"associative": [3]}, "associative", "3; expected text that is not"),
    "answers of None": ({"associative": None}, "associative", "None; expected a text or a list"),
    "equal answers": ({"associative": "Fish "}, "associative", "'fish', which is also a con"),
    "subject elsewhere": ({"subject": "trout"}, "subject", "'trout', which is not in the prompt"),
    "part of a word": ({"subject": "bas"}, "subject", "'bas', which is not in the prompt"),
    "empty subject": ({"subject": " "}, "subject", "' '; expected text that is not empty"),
    "subject of a list": ({"subject": ["bass"]}, "subject", r"\['bass'\]; expected text that"),
    "cue elsewhere": ({"cue": ["the lake", "the sea"]}, "cue", "'the sea', which is not in the"),
    "question elsewhere": ({"question": "Who is it?"}, "question", "'Who is it.', which is not"),
    "distractor elsewhere": ({"distractor": "a door"}, "distractor", "'a door', which is not in"),
    "prefix of a number": ({"prefix": 3}, "prefix", "3; expected text"),
    "id of a number": ({"case_id": 3}, "case_id", "3; expected text"),
    "chat of a word": ({"chat": "yes"}, "chat", "'yes'; expected true or false"),
    "system without chat": ({"system": "Be brief."}, "system", "a system message without chat"),
    "system beside messages": (
        {"prompt": CHAT, "chat": True, "system": "Be brief."},
        "system",
        "a system message beside chat messages; expected it as the first message",
    ),
    "a chat as variant of a text": (
        {"neutral": [CHAT]},
        "neutral",
        "chat messages; expected text, as the prompt is",
    ),
    "an aligned chat as variant of a text": (
        {"swap": {"prompt": CHAT, "aligned": []}},
        "swap",
        "chat messages; expected text, as the prompt is",
    ),
    "a chat as twin of a text": ({"twin_question": CHAT}, "twin_question", "chat messages"),
    "a variant of a number": ({"neutral": 3}, "neutral", "3; expected a prompt or a list"),
    "an empty variant": ({"swap": [""]}, "swap", "an empty text; expected the text that"),
    "an empty twin": ({"twin_question": ""}, "twin_question", "an empty text"),
    "a misspelt alignment": (
        {"swap": {"prompt": "a", "align": []}},
        "swap",
        r"'align'.*; expected text, or {\"prompt\"",
    ),
    "an alignment of one text": (
        {"swap": {"prompt": "a", "aligned": "ab"}},
        "aligned",
        "'ab'; expected pairs",
    ),
    "an alignment of triples": (
        {"swap": {"prompt": "a", "aligned": [["a", "b", "c"]]}},
        "aligned",
        r"\['a', 'b', 'c'\]; expected pairs",
    ),
    "a word in both lists": (
        {"context_words": ["river", "Lake"], "competing_words": ["lake"]},
        "competing_words",
        "'lake', which is also a context word",
    ),
    "an answer as a word": (
        {"competing_words": ["song", "Instrument"]},
        "competing_words",
        "'instrument', which is an answer; expected concept words",
    ),
    "the other answer as a word": ({"context_words": "fish"}, "context_words", "is an answer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_named_with_its_field(name: str) -> None:
    fields, field, sentence = REFUSED[name]
    with pytest.raises(CaseError, match=sentence) as caught:
        case(**fields)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"The field {field} is wrong: found ")
    assert "\n" not in str(caught.value)


def test_a_row_must_be_an_object_with_a_prompt_and_known_fields() -> None:
    with pytest.raises(CaseError, match="found list; expected a JSON object with a prompt"):
        Case.from_dict(["a"])  # type: ignore[arg-type]
    with pytest.raises(CaseError, match="no prompt; expected the text that the model reads"):
        Case.from_dict({"contextual": "fish"})
    with pytest.raises(CaseError, match="did you mean subject") as caught:
        Case.from_dict({"prompt": PROMPT, "contextual": "fish", "subjct": "bass"})
    assert caught.value.field == "subjct"
    with pytest.raises(CaseError, match="expected one of prompt, contextual"):
        Case.from_dict({"prompt": PROMPT, "contextual": "fish", "xyzzy": 1})
    with pytest.raises(CaseError, match="the field and its alias; expected one of the two"):
        Case.from_dict({"prompt": PROMPT, "contextual": "fish", "factual_answer": "fish"})


# -- mentions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "span", "found"),
    [
        ("A bass. Bass! bassoon, sea-bass, bass's", "bass", ["bass", "Bass", "bass", "bass"]),
        ("at\n the  lake", "at the lake", ["at\n the  lake"]),
        ("the lake.", "lake.", ["lake."]),
        ("(lake)", "(lake)", ["(lake)"]),
        ("a.b acb", "a.b", ["a.b"]),  # a point is a point
        ("snake_case snake", "snake", ["snake"]),
        ("B2B and B2", "B2", ["B2"]),
        ("xx an an", "an an", ["an an"]),
        ("man an an", "an an", ["an an"]),  # after one that is no whole word
        ("an an an", "an an", ["an an"]),  # mentions do not overlap
        ("他去银行取钱。银行!", "银行", ["银行", "银行"]),  # no spaces between words
        ("ธนาคารแห่งน้ำ", "แห่ง", ["แห่ง"]),
        ("은행은 강에", "은행", ["은행"]),
        ("नदी नदीपार", "नदी", ["नदी"]),  # a vowel sign belongs to its word
        ("cafe\u0301 cafe", "cafe", ["cafe"]),  # so does an accent
        ("Straße STRASSE", "straße", ["Straße"]),
        ("", "a", []),
        ("a", " ", []),
    ],
)
def test_mentions_are_whole_words(text: str, span: str, found: list[str]) -> None:
    assert [text[a:b] for a, b in mentions(text, span)] == found


@given(st.text(max_size=20), st.text(min_size=1, max_size=4))
def test_mentions_read_like_the_span_and_do_not_overlap(text: str, span: str) -> None:
    places = mentions(text, span)
    for start, end in places:
        assert len(text[start:end].split()) == len(span.split())
        assert text[start:end].lower().split() == span.lower().split() or not span.isascii()
    assert all(a[1] <= b[0] for a, b in pairwise(places))


def test_which_scripts_put_no_space_between_words() -> None:
    assert all(unspaced(character) for character in "银のア行ธလ。")
    assert not any(unspaced(character) for character in "aéя9न. _\u0301")
