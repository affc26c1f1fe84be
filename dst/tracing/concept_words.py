"""Which tokens open a word where the answer stands, and which go on with one.

A tokenizer that marks spaces (byte-level BPE, SentencePiece) tells the two apart: a piece with
the mark opens a word, one without it goes on. One that knows no mark has whole words only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from dst.models.draws import STOP_WORDS
from dst.models.text import token_texts

SPACE_MARKS = ("\u2581", "\u0120")
"""How SentencePiece and byte-level BPE write a leading space."""

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")


@dataclass(frozen=True)
class Openings:
    """The tokens that a word can begin with, by the word that they spell so far.

    Attributes:
        by_key: Tokens per lower-cased spelling: its case and space forms.
        goes_on: Whether a token goes on with a word.
    """

    by_key: Mapping[str, tuple[int, ...]]
    goes_on: Bool[np.ndarray, " d_vocab"]


def openings(tokenizer: Any, text: str, d_vocab: int) -> Openings:
    """The tokens that can begin a word after a text; stop words and single letters left out.

    After a letter or a digit a word begins with a space, after a space without one, elsewhere
    either way: no form is ever glued to a word.

    Args:
        tokenizer: The model's tokenizer.
        text: What the model has read.
        d_vocab: Rows of the unembedding; those beyond the tokenizer's tokens are no words.
    """
    n = min(d_vocab, len(tokenizer))
    special = set(tokenizer.all_special_ids)
    pieces = tokenizer.convert_ids_to_tokens(list(range(n)))
    marks = any(piece is not None and piece.startswith(SPACE_MARKS) for piece in pieces)
    after_space, after_letter = text[-1:].isspace(), text[-1:].isalnum()
    by_key: dict[str, list[int]] = {}
    goes_on = np.zeros(d_vocab, dtype=bool)
    for token, piece in enumerate(pieces):
        if piece is None or token in special:
            continue
        spaced = piece.startswith(SPACE_MARKS)
        body = piece[1:] if spaced else piece
        if not body.isascii():  # byte-level BPE spells those in bytes
            (body,) = token_texts(tokenizer, [token])
        key = body.strip().casefold()
        if not _WORD.fullmatch(key):
            continue
        if marks and not spaced:
            goes_on[token] = True
            if after_letter:
                continue
        elif marks and after_space:
            continue
        if key not in STOP_WORDS and not (len(key) == 1 and key.isascii()):
            by_key.setdefault(key, []).append(token)
    return Openings({key: tuple(ids) for key, ids in by_key.items()}, goes_on)
