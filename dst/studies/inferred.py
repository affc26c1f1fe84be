"""What a case does not name, inferred and said in a line or two."""

from __future__ import annotations

from dst.core.case import Case
from dst.core.errors import TokenError
from dst.core.suggestion import Alternative, Suggestion
from dst.models.backend import Backend
from dst.tracing.suggest import suggest

_UNSURE = {
    "agreement": "; told from the cue only by being named last",
    "asked": "; it is what the prompt asks about, and draws tell no effect of it from 0",
}


def with_suggestion(
    model: Backend, case: Case, *, seed: int = 0
) -> tuple[Case, Suggestion | None, tuple[str, ...]]:
    """The case with the cue and the subject that it lacks, how they were found, in sentences.

    A case that names both (or gives variants for both) comes back as it is. What was not found
    is not filled in; why is among the sentences only if the other one was found.
    """
    if (case.cue or case.neutral) and (case.subject or case.substitute):
        return case, None, ()
    try:
        found = suggest(model, case, seed=seed)
    except TokenError:  # a variant of the case's own does not fit: measuring says which
        return case, None, ()
    return found.suggested, found, tuple(_sentences(found))


def with_twin(case: Case, proposal: str | None, reason: str) -> Case:
    """The case with the proposed twin.

    Raises:
        TokenError: There is no proposal; says why.
    """
    if proposal is None:
        raise TokenError(f"No twin can be proposed: {reason}", do="Give the twin question itself")
    return case.replace(twin_question=proposal, case_id=case.case_id)


def why_not(found: Suggestion | None) -> tuple[str, ...]:
    """Notes: what was not inferred and why, words that were not tried, a twin that is proposed."""
    if found is None:
        return ()
    notes = []
    for name, value, reason in (
        ("cue", found.cue, found.cue_reason), ("subject", found.subject, found.subject_reason)
    ):  # fmt: skip
        if not value:
            notes.append(f"No {name} was inferred: {reason}.")
    if found.inferred:
        notes.append(
            f"Subject and cue were inferred from {found.forward_passes} prompts with words "
            f"replaced, at level {found.level:g}."
        )
    if found.twin is not None:
        notes.append(f"Proposed twin question, not used: {found.twin!r} (twin='proposed' uses it).")
    return (*notes, *found.notes)


def _sentences(found: Suggestion) -> list[str]:
    parts = []
    if "cue" in found.inferred:
        hidden = f"; it counts once {found.masked_by!r} is replaced" if found.masked_by else ""
        words = " + ".join(repr(word) for word in found.cue)
        worth = found.total_effect
        parts.append(f"the cue {words} (worth {worth} logits here{hidden})")
    if "subject" in found.inferred:
        how = f" {found.prior} by itself" if found.cue else f" {found.prior} here"
        unsure = _UNSURE.get(found.kind, "")
        parts.append(f"the subject {found.subject!r} (brings{how}{unsure})")
    if not parts:
        return []
    return [
        f"Inferred by replacing words: {' and '.join(parts)}.",
        *map(_other, found.alternatives),
    ]


def _other(one: Alternative) -> str:
    name = " + ".join(one.cue) if one.role == "cue" else one.subject
    terms = f"effect of the context {one.total_effect}" if one.cue else ""
    prior = f"prior {one.prior}" if one.prior.n else ""
    told = ", ".join(part for part in (prior, terms) if part)
    return f"The draws do not rule out {name!r} as the {one.role}: then {told} logits."
