"""Text to token ids and back: the one path that every measurement goes through.

A case becomes ids, a role per position, an answer position i*, and the answers' first
tokens at the place where the two answers part (METHOD 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dst.core.case import Case
from dst.models.answers import Answer, first_divergence, forms_in_place
from dst.models.roles import assign_roles
from dst.models.text import Encoding, encode, refuse_unknown, render, token_texts

__all__ = [
    "Answer",
    "Encoding",
    "TokenizedCase",
    "encode",
    "forms_in_place",
    "refuse_unknown",
    "render",
    "token_texts",
    "tokenize_case",
]


@dataclass(frozen=True)
class TokenizedCase:
    """A case as a model sees it.

    Attributes:
        case: The case.
        encoding: Text, ids and offsets of prompt + prefix, without the shared tokens.
        ids: Token ids up to and with i*: prompt, prefix, shared answer tokens.
        tokens: Each id as text.
        roles: One role per position.
        shared: Ids of the answer tokens that both answers begin with (teacher-forced).
        contextual: The forms of A+ that are read at i*.
        associative: The forms of A- that are read at i*.
        dropped: Forms that are not read, each with its reason.
        notes: What was done on the way.
    """

    case: Case
    encoding: Encoding
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    roles: tuple[str, ...]
    shared: tuple[int, ...]
    contextual: tuple[Answer, ...]
    associative: tuple[Answer, ...]
    dropped: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def answer_position(self) -> int:
        """i*, the last position."""
        return len(self.ids) - 1

    @property
    def contextual_ids(self) -> tuple[int, ...]:
        """The tokens of A+ at the first divergence, each once."""
        return _ids_at(self.contextual, len(self.shared))

    @property
    def associative_ids(self) -> tuple[int, ...]:
        """The tokens of A- at the first divergence, each once."""
        return _ids_at(self.associative, len(self.shared))

    def positions_of(self, role: str) -> list[int]:
        """Positions of a role; ``subject`` means all its mentions."""
        if role == "subject":
            return [i for i, name in enumerate(self.roles) if name.startswith("subject_")]
        return [i for i, name in enumerate(self.roles) if name == role]


def tokenize_case(tokenizer: Any, case: Case) -> TokenizedCase:
    """Ids, roles and answers of a case.

    Raises:
        TokenError: A word is unknown to the tokenizer (the nearest known ones are named),
            an answer cannot be tokenised in place, or one answer is a prefix of the other.
    """
    rendered = render(tokenizer, case)
    encoding = encode(tokenizer, rendered.text, special=rendered.special)
    refuse_unknown(tokenizer, encoding)
    contextual, dropped_c = forms_in_place(tokenizer, rendered, encoding, case.contextual)
    associative, dropped_a = forms_in_place(tokenizer, rendered, encoding, case.associative)
    shared, contextual, associative, parted = first_divergence(contextual, associative)
    ids = encoding.ids + shared
    return TokenizedCase(
        case=case,
        encoding=encoding,
        ids=ids,
        tokens=token_texts(tokenizer, ids),
        roles=assign_roles(tokenizer, case, rendered, encoding, len(shared)),
        shared=shared,
        contextual=contextual,
        associative=associative,
        dropped=(*dropped_c, *dropped_a, *parted),
        notes=rendered.notes,
    )


def _ids_at(answers: Sequence[Answer], place: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys(answer.ids[place] for answer in answers))
