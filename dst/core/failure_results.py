"""How a run fails: the evidence of every rule, and the mode that they name."""

from jaxtyping import Float
from numpy import ndarray

from dst.core.results import Provenance, Result, result


@result
class FailureEvidence(Result):
    """What the rules of failure rest on, for one run (METHOD 7), in logits unless said.

    Attributes:
        outcome: ``hallucination``, ``correct`` or ``neither``: what the greedy answer is.
        contrast: LD(x).
        clean_contrasts: LD of every clean variant (no distractors); empty where there is none.
        clean_outcomes: The outcome of each.
        floor: tau, the largest half-width of the intervals that the rules use.
        total_effect: LD(x) - LD(x_0), mean over draws: what the context brings.
        prior: LD(x_0) - LD(x_0,sub), mean over draws: what the subject brings.
        association_arrived: -D_asc[L, i*], mean over draws: how much of it is at the answer.
        back_patched: LD when the subject's states after block l + k are put in after block l,
            [shift state] with shifts 1..L; a cell that cannot exist keeps LD(x).
        back_patched_control: The same done to x_0, mean over draws.
        subject_brings: D_ctx at the subject, [state], mean over draws and the largest of its
            mentions: what its state brings when it is left where it is.
        donor_subject: LD(x) with the subject's states of x_0,sub from the embedding on.
        cue_knockout: LD(x) - LD(x with every later token cut off from the cue); NaN where the
            engine cannot cut.
        separated_from: What x was held against: ``swap``, or ``neutral`` where no swap is given.
        separation: Largest ratio, over states and the roles subject, relay and answer, of the
            distance between x and the other sense to the median distance of two neutral draws.
        separation_threshold: The same of one more pair of neutral draws stays under this (a
            prediction bound at 97.5 %).
        de_primed: LD with the association taken away from all sources, [state].
        de_primed_control: The same done to x_0.
        restored: LD with the clean twin's states at all sources, [state]; NaN without one.
        restored_control: The same done to x_0.
        random_route: LD with a random direction of the same norms instead, draw by draw.
        notes: What could not be measured.
        provenance: What it takes to compute this again.
    """

    outcome: str
    contrast: float
    clean_contrasts: Float[ndarray, " clean"]
    clean_outcomes: tuple[str, ...]
    floor: float
    total_effect: float
    prior: float
    association_arrived: float
    back_patched: Float[ndarray, "shift state"]
    back_patched_control: Float[ndarray, "shift state"]
    subject_brings: Float[ndarray, " state"]
    donor_subject: float
    cue_knockout: float
    separated_from: str
    separation: float
    separation_threshold: float
    de_primed: Float[ndarray, " state"]
    de_primed_control: Float[ndarray, " state"]
    restored: Float[ndarray, " state"]
    restored_control: Float[ndarray, " state"]
    random_route: Float[ndarray, "random state"]
    notes: tuple[str, ...]
    provenance: Provenance

    def to_records(self) -> list[dict[str, object]]:
        """One row: every number that is one."""
        names = (
            "outcome", "contrast", "floor", "total_effect", "prior", "association_arrived",
            "donor_subject", "cue_knockout", "separated_from", "separation",
            "separation_threshold",
        )  # fmt: skip
        return [{name: getattr(self, name) for name in names}]


@result
class Finding:
    """One condition of a rule: whether it holds, and the numbers it was decided by.

    Attributes:
        name: What is asked.
        holds: The answer.
        says: The same in a sentence, with its numbers.
        rule: The mode whose rule asks it.
    """

    name: str
    holds: bool
    says: str
    rule: str = ""


@result
class FailureMode(Result):
    """How one run fails, or would if it did: the first rule that holds, and every finding.

    Attributes:
        mode: ``knowledge or format``, ``lag``, ``analogical collapse``,
            ``reasoning shortcut hijack``, ``distractor interference``, ``unclassified``; "" for
            a run that does not fail.
        rule: The first rule whose conditions hold, whatever the outcome: on correct runs this
            is the rule's false alarm.
        says: The mode and what it rests on, in a sentence.
        findings: Every condition of every rule.
        evidence: The numbers.
        provenance: What it takes to compute this again.
    """

    mode: str
    rule: str
    says: str
    findings: tuple[Finding, ...]
    evidence: FailureEvidence
    provenance: Provenance

    def to_records(self) -> list[dict[str, object]]:
        """One row per finding."""
        return [
            {"mode": self.mode, "rule": self.rule, "of": f.rule, "finding": f.name}
            | {"holds": f.holds}
            for f in self.findings
        ]
