"""A case made ready for interventions: tokens, variants, and what was drawn for it."""

from __future__ import annotations

from dataclasses import dataclass

from dst.core.case import Case
from dst.core.errors import TokenError
from dst.models.backend import Backend
from dst.models.reference import neutral_nouns
from dst.models.tokens import TokenizedCase, tokenize_case
from dst.models.variants import Variants, draw_variants, tokenize_variants
from dst.tracing.swaps import Contrast

DRAWS = 8
"""Neutral and substitute variants that are drawn where the case gives none."""


@dataclass(frozen=True)
class Prepared:
    """A case with everything that an intervention needs.

    Attributes:
        tokenized: Ids, roles, answers.
        variants: Token ids of every variant.
        metric: LD by the answers' ids.
        roles: The roles that occur, in order of position, ``answer`` last.
        positions: The positions of each role.
        notes: What was drawn, and what could not be.
    """

    tokenized: TokenizedCase
    variants: Variants
    metric: Contrast
    roles: tuple[str, ...]
    positions: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...]


def prepare(model: Backend, case: Case, *, draws: int = DRAWS, seed: int = 0) -> Prepared:
    """Tokenise a case and its variants; draw those that it lacks by the stated rule.

    Raises:
        TokenError: The case or a variant of its own does not fit the tokenizer.
    """
    tokenized = tokenize_case(model.tokenizer, case)
    notes: list[str] = []
    lacking = [
        name
        for name, wanted in (("neutral", case.cue), ("substitute", case.subject))
        if wanted and not getattr(case, name)
    ]
    if lacking:
        try:
            case = draw_variants(
                model.tokenizer,
                tokenized,
                nouns=neutral_nouns(model.spec.name),
                n=draws,
                seed=seed,
            )
            notes.append(f"Drawn with seed {seed}: {draws} {' and '.join(lacking)} variants each.")
            tokenized = tokenize_case(model.tokenizer, case)
        except TokenError as error:
            notes.append(str(error))
    roles = tuple(role for role in dict.fromkeys(tokenized.roles) if role != "answer")
    roles = (*roles, "answer")
    return Prepared(
        tokenized=tokenized,
        variants=tokenize_variants(model.tokenizer, tokenized),
        metric=Contrast(tokenized.contextual_ids, tokenized.associative_ids),
        roles=roles,
        positions=tuple(
            tuple(i for i, name in enumerate(tokenized.roles) if name == role) for role in roles
        ),
        notes=tuple(notes),
    )
