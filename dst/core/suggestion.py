"""What was inferred of a case that names no subject or no cue, and from what evidence."""

from typing import Any

from dst.core.case import Case
from dst.core.results import Estimate, Provenance, Result, result


@result
class Candidate:
    """A word, or the words of a sentence, replaced by neutral words at every mention.

    Attributes:
        words: The words that are replaced together.
        mentions: How often they are named.
        positions: The tokens of all their mentions.
        necessity: N = LD(x) - LD(x with them replaced), mean over draws, in logits.
        excess: N in units of what neutral words differ by among themselves; it has to reach
            ``threshold`` to count.
        threshold: Student's t at the level of the suggestion, for the words that were tried.
        own: P = LD(x with a neutral cue) - LD(the same with these words replaced too); its mean
            is NaN where there is no cue, or they are the cue.
        reason: Why ``own`` is NaN, "" where it is not.
    """

    words: tuple[str, ...]
    mentions: int
    positions: tuple[int, ...]
    necessity: Estimate
    excess: float
    threshold: float
    own: Estimate
    reason: str = ""

    @property
    def stands_out(self) -> bool:
        """Whether its replacement moves LD, either way, more than neutral words differ."""
        return abs(self.excess) >= self.threshold


@result
class Alternative:
    """The runner-up where draws cannot tell it from what was suggested, and what it would give.

    Attributes:
        role: ``cue`` or ``subject``: which of the two it replaces.
        cue: The cue then.
        subject: The subject then; None where there is none.
        total_effect: LD(x) - LD(x_0) then, in logits.
        prior: LD(x_0) - LD(x_0,sub) then; its mean is NaN without a subject.
    """

    role: str
    cue: tuple[str, ...]
    subject: str | None
    total_effect: Estimate
    prior: Estimate


@result
class Suggestion(Result):
    """Subject and cue of a prompt, by what LD loses when words are replaced.

    Attributes:
        case: The case as it was given.
        subject: The word that carries the association; None where none was found.
        cue: The words that carry the context; empty where none were found.
        subject_reason: Why there is no subject, or that it was given; "" where it is inferred.
        cue_reason: Likewise for the cue.
        kind: ``conflict`` (the subject brings the associative answer), ``agreement`` (both bring
            the contextual one: only their order in the prompt tells them apart), ``asked`` (what
            the prompt asks about; draws do not tell its effect from 0), or "".
        masked_by: A word that hides the cue: only once it is replaced too does the cue's
            replacement move LD; "" where the cue counts in the prompt as it stands.
        contrast: LD(x), in logits.
        total_effect: LD(x) - LD(x_0) with this cue; its mean is NaN without one.
        prior: LD(x_0) - LD(x_0,sub) with this cue and subject; without a cue,
            LD(x) - LD(x_sub). Its mean is NaN without a subject.
        alternatives: The runner-up cue and subject whose intervals meet those of the suggestion.
        candidates: All that was tried, the most necessary first.
        twin: A twin for a yes/no prompt, proposed and not yet used; None where there is none.
        twin_reason: Why no twin is proposed, "" where one is.
        level: Rate at which a word like any neutral word is suggested all the same.
        forward_passes: Prompts that were run.
        notes: Words that could not be replaced.
        provenance: What it takes to compute this again.
    """

    case: Case
    subject: str | None
    cue: tuple[str, ...]
    subject_reason: str
    cue_reason: str
    kind: str
    masked_by: str
    contrast: float
    total_effect: Estimate
    prior: Estimate
    alternatives: tuple[Alternative, ...]
    candidates: tuple[Candidate, ...]
    twin: str | None
    twin_reason: str
    level: float
    forward_passes: int
    notes: tuple[str, ...]
    provenance: Provenance

    def __post_init__(self) -> None:
        if (self.subject is None) and not self.subject_reason:
            raise ValueError("no subject without a reason")
        if not self.cue and not self.cue_reason:
            raise ValueError("no cue without a reason")

    @property
    def inferred(self) -> tuple[str, ...]:
        """What was inferred: of ``cue`` and ``subject`` those that the case did not give."""
        found = (("cue", self.cue, self.cue_reason), ("subject", self.subject, self.subject_reason))
        return tuple(name for name, value, reason in found if value and not reason)

    @property
    def suggested(self) -> Case:
        """The case with what was inferred filled in; the twin is left out."""
        values = {name: getattr(self, name) for name in self.inferred}
        return self.case.replace(**values, case_id=self.case.case_id) if values else self.case

    def to_records(self) -> list[dict[str, Any]]:
        """One row per candidate."""
        return [
            {
                "words": " ".join(one.words),
                "is_cue": set(one.words) <= set(self.cue),
                "is_subject": one.words == (self.subject,),
                "mentions": one.mentions,
                "necessity": one.necessity.mean,
                "necessity_low": one.necessity.low,
                "necessity_high": one.necessity.high,
                "excess": one.excess,
                "threshold": one.threshold,
                "own": one.own.mean,
                "own_low": one.own.low,
                "own_high": one.own.high,
                "reason": one.reason,
                "draws": one.necessity.n,
            }
            for one in self.candidates
        ]
