"""Which tokens open a word: by hand, for tokenizers with marks and without."""

from __future__ import annotations

from dst.tracing.concept_words import openings
from tests import tiny


def ids_of(tokenizer: object, *pieces: str) -> tuple[int, ...]:
    return tuple(tokenizer.convert_tokens_to_ids(list(pieces)))  # type: ignore[attr-defined]


def test_byte_level_pieces_open_a_word_with_their_space() -> None:
    tokenizer = tiny.byte_bpe()
    found = openings(tokenizer, "the bass is a", len(tokenizer) + 3)
    assert found.by_key["bass"] == ids_of(tokenizer, "\u0120bass")
    assert "uit" not in found.by_key
    assert found.goes_on[ids_of(tokenizer, "uit")[0]]
    assert not found.goes_on[ids_of(tokenizer, "\u0120bass")[0]]
    assert len(found.goes_on) == len(tokenizer) + 3
    assert not found.goes_on[-3:].any()  # rows beyond the tokenizer's tokens


def test_forms_with_and_without_space_are_one_word_where_both_may_stand() -> None:
    tokenizer = tiny.byte_bpe()
    spaced, plain = ids_of(tokenizer, "\u0120Ben", "Ben")
    for text, forms in {"a": {spaced}, "(": {spaced, plain}, "a ": {plain}}.items():
        assert set(openings(tokenizer, text, len(tokenizer)).by_key["ben"]) == forms


def test_stop_words_punctuation_letters_and_special_tokens_open_none() -> None:
    for tokenizer in (tiny.byte_bpe(), tiny.sentencepiece_like(), tiny.word_level()):
        keys = openings(tokenizer, "the bass is a", len(tokenizer)).by_key
        assert not {"the", "is", "a", "at", "what"} & set(keys)
        assert not {".", "?", "<s>", "<unk>", "s", "b"} & set(keys)
        assert {"bass", "lake"} & set(keys)


def test_a_tokenizer_without_marks_has_whole_words_only() -> None:
    tokenizer = tiny.word_level()
    found = openings(tokenizer, "the bass is a", len(tokenizer))
    assert not found.goes_on.any()
    assert set(found.by_key["anna"]) == set(ids_of(tokenizer, "Anna"))


def test_sentencepiece_pieces_open_a_word_with_their_mark() -> None:
    tokenizer = tiny.sentencepiece_like()
    found = openings(tokenizer, "the bass is a", len(tokenizer))
    assert found.by_key["bass"] == ids_of(tokenizer, "\u2581bass")
