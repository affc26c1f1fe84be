"""The other run of a patch: a variant of the case, another text, another case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dst.core.case import VARIANTS, AlignedPrompt, Case
from dst.core.errors import CaseError, TokenError
from dst.models.backend import Backend
from dst.models.tokens import TokenizedCase, tokenize_case
from dst.models.variants import Row, show, tokenize_variants
from dst.tracing.prepare import Prepared

Donor = str | AlignedPrompt | Case
"""The name of a variant, a text as long as the prompt, an aligned text, or a case."""


def donor_rows(model: Backend, ready: Prepared, donor: Donor) -> tuple[str, tuple[Row, ...]]:
    """The donor's name and its rows, matched to the prompt's positions.

    Raises:
        CaseError: The case has no such variant.
        TokenError: The donor has another length than the prompt and nothing says how its
            positions correspond; both rows are shown.
    """
    if isinstance(donor, Case):
        return donor.case_id, (_other_case(model, ready.tokenized, donor),)
    if isinstance(donor, str) and donor in VARIANTS:
        rows: tuple[Row, ...] = getattr(ready.variants, donor)
        if not rows:
            why = "; ".join(ready.notes)
            raise CaseError(
                f"The case has no {donor} variant" + (f" ({why})" if why else ""),
                do=f"Give {donor}=... in the case, or another donor",
                field=donor,
            )
        return donor, rows
    # A text is read as a further variant: the same template, prefix and shared tokens.
    case = ready.tokenized.case.replace(
        swap=donor, neutral=(), substitute=(), clean=(), twin_question=None
    )
    rows = tokenize_variants(model.tokenizer, replace(ready.tokenized, case=case)).swap
    return "text", rows


def _other_case(model: Backend, ours: TokenizedCase, case: Case) -> Row:
    """Another case as a donor; of another length, its roles are matched from the right."""
    other = tokenize_case(model.tokenizer, case)
    ids = other.encoding.ids + ours.shared
    if len(ids) == len(ours.ids):
        return Row.same_length(ids)
    if len(other.shared) != len(ours.shared):
        raise TokenError(
            f"The donor has {len(ids)} tokens and the prompt {len(ours.ids)}, and their answers "
            "part at different tokens:\n"
            f"  prompt: {show(model.tokenizer, ours.ids)}\n"
            f"  donor:  {show(model.tokenizer, ids)}\n",
            expected="a donor as long as the prompt",
        )
    places = [-1] * len(ours.ids)
    for role in dict.fromkeys(ours.roles):
        here, there = _positions(ours.roles, role), _positions(other.roles, role)
        for p, q in zip(reversed(here), reversed(there), strict=False):
            places[p] = q
    return Row(ids, tuple(places))


def _positions(roles: Sequence[str], role: str) -> list[int]:
    return [i for i, name in enumerate(roles) if name == role]
