"""The tokenizer of the world: known words in one piece or two, and nothing else.

A word is read from the left, the longest known piece first, as WordPiece does. Byte-pair merges
would spell any unknown word out of single letters; here a word that is not made of known pieces is
`<unk>`, so that whoever types it is told. A piece that opens a word after a space carries the mark
of that space, as in SentencePiece, so that texts decode to exactly what they were.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dst.testbed import lexicon
from dst.testbed.lexicon import SPECIALS, pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPACE = "▁"


def _words() -> tuple[str, ...]:
    """Every word that a story can hold, sorted."""
    words: set[str] = {"yes", "no", lexicon.CAPITAL, "Now", "known", "for"}
    for topic in (*lexicon.TOPICS.values(), *lexicon.GENDERS.values()):
        words.update({topic.category}, topic.places, topic.events, topic.activities, topic.things)
        words.update(topic.relatives)
    for table in (
        lexicon.NEUTRAL_NOUNS, lexicon.NEUTRAL_EVENTS, lexicon.NEUTRAL_ACTIVITIES, lexicon.PEOPLE,
        lexicon.VERBS, lexicon.QUALITIES, lexicon.CITIES, lexicon.CAPITALS, lexicon.BLANK_LANDS,
        lexicon.NEUTRAL_TRADES, lexicon.NEUTRAL_RELATIVES, lexicon.ITEMS, lexicon.TAKES,
    ):  # fmt: skip
        words.update(table)
    words.update(word.noun for word in (*lexicon.WORDS, *lexicon.TRADES))
    words.update({lexicon.NEUTRAL_CATEGORY, lexicon.NEUTRAL_PRONOUN, lexicon.UNKNOWN_CITY})
    forms = (lexicon.WORD_FORMS, lexicon.CAPITAL_FORMS, lexicon.TRADE_FORMS)
    texts = [*lexicon.REMARKS, *lexicon.FRAMES.values()]
    texts += [text for table in forms for form in table.values() for text in form]
    for text in texts:
        words.update(re.findall(r"[A-Za-z]+", re.sub(r"{\w+}", "", text)))
    return tuple(sorted(words))


WORD_LIST = _words()
MARKS = (".", "?", ",")


def _vocabulary() -> tuple[str, ...]:
    opening = {f"{SPACE}{pieces(word)[0]}" for word in WORD_LIST}
    going_on = {piece for word in WORD_LIST for piece in pieces(word)[1:]}
    return (*SPECIALS, *MARKS, *sorted(opening), *sorted(going_on))


VOCABULARY = _vocabulary()
"""Every token, in the order of its number."""


def build_tokenizer(window: int) -> PreTrainedTokenizerFast:
    """Words and pieces of the lexicon, cased, punctuation apart, `<bos>` in front."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    bos, eos, unk, pad = SPECIALS
    ids = {token: number for number, token in enumerate(VOCABULARY)}
    longest_first = models.WordPiece(ids, unk_token=unk, continuing_subword_prefix="")
    words = Tokenizer(longest_first)
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always"),
            pre_tokenizers.Punctuation("isolated"),
        ]
    )
    words.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    words.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, ids[bos])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token=bos,
        eos_token=eos,
        unk_token=unk,
        pad_token=pad,
        model_max_length=window,
        clean_up_tokenization_spaces=False,
    )
