"""`concept_nodes`: the words that the answer position holds after each block.

    score[l](w) = log sum over forms of w of P_l(form)
    P_l(form)   = product over its pieces k of lens probability of piece k at h[l, i* + k]

the earlier pieces being teacher-forced. Forms are those of case and of the leading space. A piece
that only opens a word is followed to the word that the model makes of it: while more than half of
the next token's probability is on pieces that go on with a word, the likeliest of them is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dst.analysis.semantic_map import choose_nodes
from dst.core.case import Case
from dst.core.lens_results import TunedLens
from dst.core.map_results import ASSOCIATIVE, CONTEXTUAL, OTHER, ConceptNodes
from dst.models.backend import Backend
from dst.models.text import encode, refuse_unknown, render, token_texts
from dst.models.tokens import TokenizedCase, forms_in_place, tokenize_case
from dst.tracing.concept_reading import Ids, Reading
from dst.tracing.reference import aids

MOST, MASS = 30, 0.9
"""Nodes of a state beside the given ones, and the share of the words' probability to be held."""

CANDIDATES = 3
"""Words looked at per state, as a multiple of the most nodes."""


def concept_nodes(
    model: Backend,
    case: Case,
    *,
    lens: TunedLens | None = None,
    most: int = MOST,
    mass: float = MASS,
) -> ConceptNodes:
    """Log-probability of the words at i*, state by state, and which of them are nodes, in nats.

    Read with the tuned lens; with the logit lens where there is none, which the result says.
    Nodes of a state are its likeliest words until they hold ``mass`` of the probability of all
    words, at most ``most``; stop words, punctuation and pieces of words are none. The case's
    concept words and answers are always nodes, marked by their side.

    Args:
        model: The model.
        case: The case.
        lens: A tuned lens of the model; by default the one in its folder, if there is one.
        most: Most nodes of a state beside the given ones.
        mass: Share of the words' probability.

    Returns:
        `ConceptNodes`: words, sides, scores [state concept].

    Raises:
        InputError: ``most`` or ``mass`` is out of range, or the lens is of another model.
        TokenError: The case does not fit the tokenizer, or has a word that it does not know.

    Source: METHOD 6. The published node rule sums raw logits, which rewards words with many
    cased forms, has no stop list, and reads single tokens (`dst.tracing.published_map`).
    """
    at_hand = aids(model, lens)
    return nodes_of(model, tokenize_case(model.tokenizer, case), at_hand.lens, most, mass)


def nodes_of(
    model: Backend,
    tokenized: TokenizedCase,
    lens: TunedLens | None,
    most: int = MOST,
    mass: float = MASS,
) -> ConceptNodes:
    """`concept_nodes` of a case that is tokenised already, with this lens or none."""
    read = Reading(model, tokenized, lens)
    given = _given(model, tokenized)
    concepts = {concept.word: concept for concept in given}
    on_words, keys = read.likeliest_keys(CANDIDATES * most)
    for key in keys:
        concepts.setdefault(key, _Concept(key, [(t,) for t in read.openings.by_key[key]]))
    for concept in given:  # the other cases of a word of one piece are forms of it too
        if any(len(form) == 1 for form in concept.forms):
            more = ((t,) for t in read.openings.by_key.get(concept.word, ()))
            concept.forms = list(dict.fromkeys((*concept.forms, *more)))
    read.score([form for concept in given for form in concept.forms])
    while True:  # until every node is a whole word
        words = list(concepts.values())
        score = np.stack([read.of(concept.forms) for concept in words], axis=1)
        is_given = np.array([bool(concept.given) for concept in words])
        node, covered = choose_nodes(score, is_given, on_words, mass=mass, most=most)
        chosen = np.flatnonzero(node.any(axis=0))
        opened = [words[i] for i in chosen if not words[i].whole]
        if not opened:
            break
        followed = read.followed([concept.forms for concept in opened])
        for concept, forms in zip(opened, followed, strict=True):
            concept.whole = True
            word = read.spelled(forms[0]).casefold()
            if word == concept.word:
                continue
            del concepts[concept.word]
            longer = concepts.setdefault(word, _Concept(word, []))
            longer.forms = list(dict.fromkeys((*longer.forms, *forms)))
            longer.whole = True
    kept = np.flatnonzero(node.any(axis=0))
    words = [words[i] for i in kept]
    forms = [read.likeliest(concept.forms) for concept in words]
    names = tuple(
        concept.given or read.spelled(form) for concept, form in zip(words, forms, strict=True)
    )
    return ConceptNodes(
        lens=read.lens_name,
        words=names,
        side=tuple(concept.side for concept in words),
        given=is_given[kept],
        answer=np.array([concept.answer for concept in words]),
        tokens=tuple(token_texts(model.tokenizer, form) for form in forms),
        token_ids=np.array(_distinguishing(forms), dtype=int),
        score=score[:, kept],
        node=node[:, kept],
        on_words=on_words,
        covered=covered,
        mass=float(mass),
        most=most,
        provenance=model.provenance(lens=read.lens_name, most=most, mass=mass),
        notes=_notes(tokenized, names, forms),
    )


@dataclass(eq=False)
class _Concept:
    """A word, lower-cased, with the forms that it is scored by.

    ``given`` is the user's own spelling, empty where the word is not the user's.
    """

    word: str
    forms: list[Ids]
    side: str = OTHER
    given: str = ""
    answer: bool = False
    whole: bool = field(default=False)


def _given(model: Backend, tokenized: TokenizedCase) -> list[_Concept]:
    """The user's words with their forms in place: concept words, then answers.

    Raises:
        TokenError: The tokenizer does not know a word; the nearest known are named.
    """
    found: dict[str, _Concept] = {}

    def add(word: str, forms: Sequence[Ids], side: str, answer: bool) -> None:
        key = word.strip().casefold()
        made = _Concept(key, [], side, word.strip(), answer, whole=True)
        concept = found.setdefault(key, made)
        concept.forms = list(dict.fromkeys((*concept.forms, *forms)))

    case, n = tokenized.case, len(tokenized.shared)
    for answers, side in ((tokenized.contextual, CONTEXTUAL), (tokenized.associative, ASSOCIATIVE)):
        for answer in answers:
            add(answer.form, [answer.ids[n:]], side, True)
    rendered = render(model.tokenizer, case)
    for words, side in ((case.context_words, CONTEXTUAL), (case.competing_words, ASSOCIATIVE)):
        for word in words:
            refuse_unknown(model.tokenizer, encode(model.tokenizer, word))
            forms, _ = forms_in_place(model.tokenizer, rendered, tokenized.encoding, [word])
            add(word, [form.ids for form in forms], side, False)
    return sorted(found.values(), key=lambda concept: concept.answer)


def _distinguishing(forms: Sequence[Ids]) -> list[int]:
    """Of each word the first piece that no other has; its first where every piece is shared."""
    out = []
    for i, form in enumerate(forms):
        others = {piece for j, other in enumerate(forms) if j != i for piece in other}
        out.append(next((piece for piece in form if piece not in others), form[0]))
    return out


def _notes(tokenized: TokenizedCase, names: Sequence[str], forms: Sequence[Ids]) -> tuple[str, ...]:
    notes = []
    split = [name for name, form in zip(names, forms, strict=True) if len(form) > 1]
    if split:
        notes.append(
            f"Words of several pieces, moved and read by the first that tells them apart: "
            f"{', '.join(split)}."
        )
    if tokenized.shared:
        notes.append("The answers part inside a word: other words cannot stand at that place.")
    return tuple(notes)
