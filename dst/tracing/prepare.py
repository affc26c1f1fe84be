"""A case made ready for interventions: tokens, variants, and what was drawn for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dst.core.case import Case
from dst.core.errors import CaseError, TokenError
from dst.models.backend import Backend
from dst.models.reference import neutral_nouns
from dst.models.tokens import TokenizedCase, tokenize_case
from dst.models.variants import Row, Variants, combined, draw_variants, tokenize_variants
from dst.tracing.swaps import Contrast, Recorded, record

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

    @property
    def x(self) -> Row:
        """The prompt itself as a row."""
        return Row.same_length(self.tokenized.ids)

    @property
    def lacks_twin(self) -> bool:
        """Whether this is a yes/no question without its twin (METHOD 0).

        Then another noun changes the question's truth: what the subject brings is undefined.
        """
        case = self.tokenized.case
        answers = {form.strip().casefold() for form in (*case.contextual, *case.associative)}
        return answers <= {"yes", "no"} and self.variants.twin is None

    def record(self, model: Backend, rows: Sequence[Row]) -> Recorded:
        """Run rows of this case, each with its twin where the case has one."""
        twin = self.variants.twin
        if twin is None:
            return record(model, rows, self.metric)
        twins = combined(model.tokenizer, self.tokenized.ids, rows, [twin], "twin")
        return record(model, rows, self.metric, twins)


def prepare(model: Backend, case: Case, *, draws: int = DRAWS, seed: int = 0) -> Prepared:
    """Tokenise a case and its variants; draw those that it lacks by the stated rule.

    Raises:
        CaseError: The case has no associative answer, so there is no contrast.
        TokenError: The case or a variant of its own does not fit the tokenizer.
    """
    if not case.associative:
        raise CaseError(
            "The case has no associative answer", do="Give associative=...", field="associative"
        )
    tokenized = tokenize_case(model.tokenizer, case)
    notes: list[str] = []
    lacking = [
        name
        for name, wanted in (("neutral", case.cue), ("substitute", case.subject))
        if wanted and not getattr(case, name)
    ]
    if lacking and draws:
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
    variants = tokenize_variants(model.tokenizer, tokenized)
    coverage = [row.coverage for row in (*variants.neutral, *variants.substitute)]
    if coverage and min(coverage) < 1:
        notes.append(
            f"Variants of another length are matched at {min(coverage):.0%} of the positions at "
            "the least; the others keep the prompt's own states."
        )
    return Prepared(
        tokenized=tokenized,
        variants=variants,
        metric=Contrast(tokenized.contextual_ids, tokenized.associative_ids),
        roles=roles,
        positions=tuple(
            tuple(i for i, name in enumerate(tokenized.roles) if name == role) for role in roles
        ),
        notes=tuple(notes),
    )
