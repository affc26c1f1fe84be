"""Failure modes: why a run hallucinates, by rules that intervene (METHOD 7; first match wins).

The paper names Reasoning Shortcut Hijack and Analogical Collapse without measurable criteria;
here each mode is a set of conditions on numbers, every one of them in `FailureEvidence`:

0. *knowledge or format*: the run fails without its distractors too, or its answer is neither.
1. *lag*: the subject holds the sense too late. Where it is it passes no context on; its late
   state put into an earlier block turns the answer, by the context (done to x_0 it does not).
2. *analogical collapse*: the senses are not separable at subject, relays and answer; another
   subject turns the answer; cutting the cue off changes nothing.
3. *reasoning shortcut hijack*: the sense is there, the association is at the answer, and taking
   the association away turns the answer, where a random direction of the same norms does not.
4. *distractor interference* (ours): the distractors cost LD; without them the run is right, and
   their clean twin's states put back before the answer turn it, by the context.
5. *unclassified*.

A condition that could not be measured does not hold: absence has to be shown.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from dst.analysis.commitment import works
from dst.core.failure_results import FailureEvidence, FailureMode, Finding

KNOWLEDGE = "knowledge or format"
LAG = "lag"
COLLAPSE = "analogical collapse"
HIJACK = "reasoning shortcut hijack"
INTERFERENCE = "distractor interference"
UNCLASSIFIED = "unclassified"

MODES = (KNOWLEDGE, LAG, COLLAPSE, HIJACK, INTERFERENCE, UNCLASSIFIED)
"""In the order in which they are tried."""


def failure_mode(evidence: FailureEvidence) -> FailureMode:
    """The first mode all of whose conditions hold; "" for a run that is correct.

    Args:
        evidence: What was measured, in logits.

    Returns:
        `FailureMode`. Its ``rule`` is filled for correct runs as well, so that a study can say
        how often each rule fires where nothing fails.
    """
    rules = {
        KNOWLEDGE: _knowledge(evidence),
        LAG: _lag(evidence),
        COLLAPSE: _collapse(evidence),
        HIJACK: _hijack(evidence),
        INTERFERENCE: _interference(evidence),
    }
    rule = next(
        (mode for mode, findings in rules.items() if all(f.holds for f in findings)), UNCLASSIFIED
    )
    failed = evidence.outcome != "correct"
    rests_on = rules.get(rule, ())
    return FailureMode(
        mode=rule if failed else "",
        rule=rule,
        says=_says(rule, rests_on) if failed else "The answer is correct: nothing to classify.",
        findings=tuple(replace(f, rule=mode) for mode, found in rules.items() for f in found),
        evidence=evidence,
        provenance=evidence.provenance,
    )


def _knowledge(e: FailureEvidence) -> tuple[Finding, ...]:
    if e.outcome == "neither":
        return (Finding("answer is neither", True, "the answer is neither of the two"),)
    if not e.clean_outcomes:
        return (Finding("fails without distractors", False, "there is no clean variant to try"),)
    failed = sum(outcome != "correct" for outcome in e.clean_outcomes)
    n = len(e.clean_outcomes)
    says = f"without its distractors it fails in {failed} of {n} variants"
    return (Finding("fails without distractors", 2 * failed > n, says),)


def _lag(e: FailureEvidence) -> tuple[Finding, ...]:
    """The shift that frees most: LD over tau, and context freed over tau and over TE.

    What it frees is the effect of the context with the shift, beyond that without: a lag hides
    more context than arrives. A subject whose context is read in time would only have it read
    twice: so it must pass nothing on.
    """
    excess = (e.back_patched - e.back_patched_control) - e.total_effect
    good = (e.back_patched > e.floor) & (excess > max(e.floor, e.total_effect))
    brings = float(e.subject_brings.max())
    if good.any():
        shift, state = np.unravel_index(
            np.where(good, e.back_patched, -np.inf).argmax(), good.shape
        )
        says = (
            f"the subject's state {state + shift + 1} put in at state {state} turns LD to "
            f"{e.back_patched[shift, state]:+.2f} (in a neutral context "
            f"{e.back_patched_control[shift, state]:+.2f})"
        )
    else:
        says = "no late state of the subject put in earlier turns the answer"
    return (
        Finding("a late subject turns the answer", bool(good.any()), says),
        Finding(
            "the subject passes no context on",
            brings <= e.floor,
            f"left where it is, the subject passes on {brings:+.2f} of the context",
        ),
    )


def _collapse(e: FailureEvidence) -> tuple[Finding, ...]:
    cut = f"cutting the cue off moves LD by {e.cue_knockout:+.2f}"
    if math.isnan(e.cue_knockout):
        cut = "the cue was not cut off"
    return (
        Finding("senses not separable", e.separation <= e.separation_threshold, _separation(e)),
        Finding(
            "another subject turns the answer",
            e.donor_subject > e.floor,
            f"with another subject's states LD is {e.donor_subject:+.2f}",
        ),
        Finding("the cue is not read", abs(e.cue_knockout) <= e.floor, cut),
    )


def _hijack(e: FailureEvidence) -> tuple[Finding, ...]:
    freed = works("de-prime", e.de_primed, e.de_primed_control, e.floor)
    chance = by_chance(e)
    states = np.flatnonzero(freed & (e.de_primed > chance))
    freeing = "taking the association away frees the context at no state"
    if len(states):
        best = states[e.de_primed[states].argmax()]
        freeing = (
            f"taking the association away at state {best} gives LD {e.de_primed[best]:+.2f} (a "
            f"random direction up to {chance[best]:+.2f})"
        )
    elif freed.any():
        freeing = "taking the association away frees no more than a random direction does"
    return (
        Finding("senses separable", separable(e), _separation(e)),
        Finding("the subject has a prior", e.prior < -e.floor, f"its prior is {e.prior:+.2f}"),
        Finding(
            "the association is at the answer",
            e.association_arrived > e.floor,
            f"{e.association_arrived:+.2f} of the association is at the answer",
        ),
        Finding("de-priming works", bool(len(states)), freeing),
    )


def by_chance(e: FailureEvidence) -> Float[np.ndarray, " state"]:
    """LD that 95 % of random directions of the same norms stay under, per state."""
    chance: np.ndarray = np.quantile(e.random_route, 0.95, axis=0)
    return chance


def _interference(e: FailureEvidence) -> tuple[Finding, ...]:
    """Not the subject's own association but what else the prompt names."""
    if not e.clean_outcomes:
        return (Finding("right without distractors", False, "there is no clean variant to try"),)
    right = sum(outcome == "correct" for outcome in e.clean_outcomes)
    n = len(e.clean_outcomes)
    cost = float(e.clean_contrasts.mean() - e.contrast)
    turned = works("restore cue", e.restored, e.restored_control, e.floor)
    restoring = "no clean twin's states put back turn the answer"
    if turned.any():
        last = int(np.flatnonzero(turned)[-1])
        restoring = (
            f"its clean twin's states put back at state {last} give LD {e.restored[last]:+.2f} "
            f"(in a neutral context {e.restored_control[last]:+.2f})"
        )
    return (
        Finding(
            "right without distractors",
            2 * right > n,
            f"without its distractors it is right in {right} of {n} variants",
        ),
        Finding("the distractors cost", cost > e.floor, f"its distractors cost {cost:+.2f} of LD"),
        Finding("restoring works", bool(turned.any()), restoring),
    )


def separable(e: FailureEvidence) -> bool:
    """Whether x and the other sense lie further apart than neutral draws do."""
    return bool(e.separation > e.separation_threshold)


def _separation(e: FailureEvidence) -> str:
    other = "the other sense" if e.separated_from == "swap" else "a neutral cue"
    return (
        f"x lies {e.separation:.1f} times as far from {other} as neutral draws from one another "
        f"(threshold {e.separation_threshold:.1f})"
    )


def _says(mode: str, rests_on: tuple[Finding, ...]) -> str:
    if mode == UNCLASSIFIED:
        return "Failure mode: unclassified; no rule's conditions all hold."
    return f"Failure mode: {mode}; " + "; ".join(finding.says for finding in rests_on) + "."


def separation(distance: np.ndarray, draws: np.ndarray) -> tuple[float, float]:
    """How far x lies from the other sense, beside how far neutral draws lie apart.

    T = max over cells of distance / median distance of two draws there. Its threshold is a bound
    that one more pair of draws would stay under with 97.5 %: exp(m + t s sqrt(1 + 1/n)), m and s
    the mean and standard deviation of the log of the same maximum of each pair (over the median
    of the pairs that share no draw with it), t Student's with n - 1 degrees of freedom, n the
    draws (not the pairs, which share draws). So neither many cells nor few draws make a
    separation by chance. Where neither moves the ratio is 0; where only x does it is infinite.

    Args:
        distance: [cell], x against the other sense (cells are states x roles).
        draws: [draw draw cell], neutral draws against one another.

    Returns:
        T and its threshold; NaN, NaN with fewer than four draws or without cells.
    """
    n = len(draws)
    if n < 4 or not distance.size:
        return math.nan, math.nan
    tiny = 1e-6 * max(float(np.abs(distance).max()), float(np.abs(draws).max()), 1e-30)

    def most(values: np.ndarray, kept: np.ndarray) -> float:
        """The largest ratio of values [cell] to the usual distance among some draws."""
        among = draws[np.ix_(kept, kept)][np.triu_indices(len(kept), 1)]
        usual = np.median(among, axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(values <= tiny, 0.0, values / np.where(usual <= tiny, 0.0, usual))
        return float(ratio.max())

    everyone = np.arange(n)
    pairs = zip(*np.triu_indices(n, 1), strict=True)
    maxima = np.array([most(draws[i, j], np.delete(everyone, [i, j])) for i, j in pairs])
    if not maxima.all() or not np.isfinite(maxima).all():
        return most(distance, everyone), float(maxima.max())
    logs = np.log(maxima)
    spread = stdtrit(n - 1, 0.975) * logs.std(ddof=1) * math.sqrt(1 + 1 / n)
    return most(distance, everyone), float(np.exp(logs.mean() + spread))
