"""Markers: at which state an answer began to slip, turned, and was settled.

Scores in, a `Mark` out: a state (after block l of L, counted from 1; 0 is the embedding), or
NaN with the reason. A mark's definition names whose rule it is and which score it read:
``published (guide)`` and ``published (code)`` are the authors' two sets of rules, faults
included, to compare with; ``lens (dst)`` is ours. `DEFINITIONS` holds the words in which all of
them are described. None of these is causal: they read curves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from dst.core.errors import InputError
from dst.core.results import Mark, Score

GUIDE = "published (guide)"
CODE = "published (code)"
LENS = "lens (dst)"


class Definition(NamedTuple):
    """A mark in one sentence, where it comes from, and how often it is found on pure noise.

    ``on_noise`` is, by number of blocks, the share of noise curves with the mark: `noise_rate`,
    around 0.5 for a published mark, around 0 with floor 0 for the lens inversion. The table is
    benchmarks/markers_on_noise.py's; a test draws it again. Empty where no one number says it.
    """

    says: str
    source: str
    on_noise: Mapping[int, float]


GUIDE_SOURCE = "published: authors' reproducibility guide"
CODE_SOURCE = "published: arXiv 2510.06107v3, authors' compute_cas"
ALWAYS = {4: 1.00, 12: 1.00, 30: 1.00, 80: 1.00}

DEFINITIONS = {
    ("onset", GUIDE): Definition("First block with a score below 0.6.", GUIDE_SOURCE, ALWAYS),
    ("inversion", GUIDE): Definition(
        "First block with a score below 0.5.",
        GUIDE_SOURCE,
        {4: 0.66, 12: 0.84, 30: 0.97, 80: 1.00},
    ),
    ("commitment", GUIDE): Definition("Block of the lowest score.", GUIDE_SOURCE, ALWAYS),
    ("onset", CODE): Definition(
        "First block that falls more than 0.02 below the one before, neither of the next two "
        "rising more than 0.02 above it.",
        CODE_SOURCE,
        {4: 0.35, 12: 0.76, 30: 0.98, 80: 1.00},
    ),
    ("inversion", CODE): Definition("First block with a score below 0.8.", CODE_SOURCE, ALWAYS),
    ("commitment", CODE): Definition(
        "First block from the inversion on that is below 0.5 together with the next two.",
        CODE_SOURCE,
        {4: 0.54, 12: 0.71, 30: 0.90, 80: 0.99},
    ),
    ("onset", LENS): Definition(
        "First state of a stretch in which the margin is below the band of correct runs, at "
        "some state by delta or more.",
        "dst",
        {},
    ),
    ("inversion", LENS): Definition(
        "First state from which the margin stays below minus the floor to the end, after it "
        "was above the floor.",
        "dst",
        {4: 0.20, 12: 0.36, 30: 0.47, 80: 0.50},
    ),
    ("commitment", LENS): Definition(
        "First state from which the margin's sign and the likelier answer stay the final ones.",
        "dst",
        ALWAYS,
    ),
}
"""Every mark by name and rule. The terminal, the page and docs/scores.md print these words."""

NEEDS_CORRECT_RUNS = "needs correct runs"
NEVER_HELD = "never held the contextual answer"
NOT_INVERTED = "the margin does not end below the floor"
NEVER_SLIPPED = "never below the band of correct runs for long or far enough"
ABSENT = frozenset({NEVER_HELD, NOT_INVERTED, NEVER_SLIPPED})
"""Reasons of lens marks that were looked for and are not there (right-censored in groups)."""


def definition_of(mark: Mark) -> Definition:
    """The words for a mark: what it says, whose it is, how often it fires on noise.

    Raises:
        KeyError: The mark is of no rule in `DEFINITIONS`.
    """
    return DEFINITIONS[mark.name, _rule(mark)]


# -- published: the reproducibility guide, on DSS ---------------------------------------------


def onset_published_guide(dss: Score) -> Mark:
    """First block whose DSS is below 0.6, as the authors' guide has it.

    NaN where there is none; the guide's code then prints layer 0, as if it were the first block.
    The guide's layer is our state - 1.
    """
    never = f"{dss.name} never falls below 0.6 (the guide's code prints layer 0)"
    first = _first(dss.value[1:] < 0.6)
    return _published("onset", GUIDE, dss, first, never, {"below": 0.6})


def inversion_published_guide(dss: Score) -> Mark:
    """First block whose DSS is below 0.5, as the authors' guide has it.

    NaN where there is none; the guide's code then prints layer 0. Nothing makes it come after
    the onset's layer in that case. The guide's layer is our state - 1.
    """
    never = f"{dss.name} never falls below 0.5 (the guide's code prints layer 0)"
    first = _first(dss.value[1:] < 0.5)
    return _published("inversion", GUIDE, dss, first, never, {"below": 0.5})


def commitment_published_guide(dss: Score) -> Mark:
    """Block of the lowest DSS, as the authors' guide has it.

    A curve always has a lowest block, so that correct answers "commit" too, and nothing makes
    it come after the inversion. The guide's layer is our state - 1.
    """
    lowest = int(np.argmin(dss.value[1:]))
    return _published("commitment", GUIDE, dss, lowest, "", {})


# -- published: the authors' code, on CAS -----------------------------------------------------


def onset_published_cas(cas: Score) -> Mark:
    """First block that drops by more than 0.02 and does not recover, as the authors' code has it.

    Block i with CAS[i] < CAS[i-1] - 0.02 and CAS[i+1], CAS[i+2] <= CAS[i] + 0.02; past the end
    the last block stands in, so that a drop at the last block always counts. The comparison
    needs a block before, so the first is never an onset; a decline of 0.02 a block never is.
    """
    value, tolerance, window = cas.value[1:], 0.02, 2
    last = len(value) - 1
    first = next(
        (
            i
            for i in range(1, len(value))
            if value[i] < value[i - 1] - tolerance
            and all(value[min(i + j, last)] <= value[i] + tolerance for j in range(1, window + 1))
        ),
        None,
    )
    never = f"no lasting drop of {cas.name} by more than 0.02 (the published code gives none)"
    thresholds = {"drop": tolerance, "blocks": window}
    return _published("onset", CODE, cas, first, never, thresholds)


def inversion_published_cas(cas: Score) -> Mark:
    """First block whose CAS is below 0.8, as the authors' code has it.

    Two word lists of one size give a CAS near 0.5 to a state that has nothing to do with
    either, so this fires at the first block almost by construction.
    """
    first = _first(cas.value[1:] < 0.8)
    never = f"{cas.name} never falls below 0.8 (the published code gives none)"
    return _published("inversion", CODE, cas, first, never, {"below": 0.8})


def commitment_published_cas(cas: Score) -> Mark:
    """First block from the inversion on with CAS below 0.5 for three blocks, as the code has it.

    The code's text says "through the remaining depth", the code looks at three blocks, and at
    the end at those that are left: the last block alone can be a commitment.
    """
    low = cas.value[1:] < 0.5
    inversion = _first(cas.value[1:] < 0.8)
    first = None
    if inversion is not None:
        first = next((i for i in range(inversion, len(low)) if low[i : i + 3].all()), None)
    never = f"{cas.name} is never below 0.5 for three blocks (the published code gives none)"
    return _published("commitment", CODE, cas, first, never, {"below": 0.5, "blocks": 3})


def published_markers(dss: Score, cas: Score) -> tuple[Mark, ...]:
    """The six published marks: the guide's three on a DSS, the code's three on a CAS."""
    return (
        onset_published_guide(dss),
        inversion_published_guide(dss),
        commitment_published_guide(dss),
        onset_published_cas(cas),
        inversion_published_cas(cas),
        commitment_published_cas(cas),
    )


# -- ours: the lens margin ----------------------------------------------------------------------


def lens_onset(
    margin: Score,
    band_low: Float[np.ndarray, " state"] | None = None,
    delta: float | None = None,
    *,
    why: str = NEEDS_CORRECT_RUNS,
    note: str = "",
) -> Mark:
    """First state at which the margin leaves the band of correct runs for good enough a stretch.

    The first l with M[l'] < band_low[l'] at max(2, ceil(L/8)) or more consecutive states from l
    on, and band_low - M of delta or more somewhere in that stretch.

    Args:
        margin: The lens margin, in logits.
        band_low: Lower end of the correct runs' pointwise 95 % band; None where there are none.
        delta: Logits; set on correct runs so that 5 % of them or fewer have an onset
            (`dst.analysis.band`).
        why: Why there is no band, where there is none.
        note: What a reader must know of the band, such as how often it marks correct runs.

    Returns:
        The state, or NaN: ``why``, or never below the band.

    Raises:
        InputError: The band is not one number per state, or delta is below 0.

    Source: dst. The published onsets look at one curve alone; whether a drop is a slip shows
    only beside runs of the same kind that went well.
    """
    if band_low is None or delta is None:
        return _mark("onset", LENS, margin, None, why)
    if band_low.shape != margin.value.shape or not np.isfinite(band_low).all():
        raise InputError(
            f"The band of correct runs has shape {list(band_low.shape)}",
            expected=f"{len(margin.value)} finite numbers, one a state",
        )
    _not_negative("delta", delta)
    deep = (start for start, depth in slips(margin.value, band_low) if depth >= delta)
    thresholds = {"delta": delta, "states": stretch_of(len(margin.value))}
    return _mark("onset", LENS, margin, next(deep, None), NEVER_SLIPPED, thresholds, note)


def stretch_of(n_states: int) -> int:
    """Consecutive states below the band that make a slip: max(2, ceil(L / 8))."""
    return max(2, math.ceil((n_states - 1) / 8))


def slips(
    margin: Float[np.ndarray, " state"], band_low: Float[np.ndarray, " state"]
) -> Iterator[tuple[int, float]]:
    """Stretches below the band that are long enough: the first state and the depth of each."""
    shortfall = band_low - margin
    stretch, state = stretch_of(len(margin)), 0
    while state < len(shortfall):
        end = state
        while end < len(shortfall) and shortfall[end] > 0:
            end += 1
        if end - state >= stretch:
            yield state, float(shortfall[state:end].max())
        state = end + 1


def deepest_slip(
    margin: Float[np.ndarray, " state"], band_low: Float[np.ndarray, " state"]
) -> float:
    """Depth of the deepest slip, in logits; 0 where there is none."""
    return max((depth for _, depth in slips(margin, band_low)), default=0.0)


def lens_inversion(margin: Score, floor: float) -> Mark:
    """First state from which the lens prefers the associative answer to the end.

    min{l : M[l'] < -floor for all l' >= l}, if M was above the floor at some state before.

    Args:
        margin: The lens margin, in logits.
        floor: What counts as no preference, in logits.

    Returns:
        The state, or NaN: the margin does not end below the floor, or never held the contextual
        answer. The note counts the margin's changes of sign (`crossings`).

    Raises:
        InputError: The floor is no number from 0 up.

    Source: dst. The published inversions are thresholds on a share and ask neither for a side
    held before nor for a side held after.
    """
    _not_negative("floor", floor)
    start = _stays(margin.value < -floor)
    first, reason = start, NOT_INVERTED
    if start is not None and not (margin.value[:start] > floor).any():
        first, reason = None, NEVER_HELD
    count = crossings(margin, floor)
    note = f"the margin changes sign {count} time{'' if count == 1 else 's'}"
    if floor == 0:
        note += f"; {_on_noise('inversion', LENS, margin)} with no floor"
    return _mark("inversion", LENS, margin, first, reason, {"floor": floor}, note)


def lens_commitment(margin: Score, answer_is_final: Bool[np.ndarray, " state"]) -> Mark:
    """First state from which the lens gives the final answer, and only that, to the end.

    min{l : sign M[l'] = sign M[L] and the likelier answer is the final one, for all l' >= l}.

    Args:
        margin: The lens margin, in logits.
        answer_is_final: Whether the likeliest form among both answers' is that of state L.

    Returns:
        The state. It always exists, in correct runs too, and dates the last change of mind
        that the lens shows: it does not say that nothing later could have changed it.

    Raises:
        InputError: ``answer_is_final`` is not one truth value per state, or is false at the last.

    Source: dst. The causal commitment, after which a repair no longer works, is another mark.
    """
    if answer_is_final.shape != margin.value.shape or not answer_is_final[-1]:
        raise InputError(
            f"answer_is_final has shape {list(answer_is_final.shape)} or is false at the end",
            expected=f"{len(margin.value)} truth values, one a state, the last one true",
        )
    same = (np.sign(margin.value) == np.sign(margin.value[-1])) & answer_is_final
    note = "every run has one, and so has noise: it dates the last change in what the lens reads"
    return _mark("commitment", LENS, margin, _stays(same), "", note=note)


def lens_markers(
    margin: Score,
    answer_is_final: Bool[np.ndarray, " state"],
    floor: float,
    band_low: Float[np.ndarray, " state"] | None = None,
    delta: float | None = None,
    *,
    why: str = NEEDS_CORRECT_RUNS,
    note: str = "",
) -> tuple[Mark, ...]:
    """Our three marks on the lens margin: onset, inversion, commitment."""
    return (
        lens_onset(margin, band_low, delta, why=why, note=note),
        lens_inversion(margin, floor),
        lens_commitment(margin, answer_is_final),
    )


def crossings(margin: Score, floor: float) -> int:
    """How often the margin goes from above the floor to below minus the floor, or back.

    States in between hold no preference and are passed over.

    Raises:
        InputError: The floor is no number from 0 up.
    """
    _not_negative("floor", floor)
    sides = np.sign(margin.value[np.abs(margin.value) > floor])
    return int(np.count_nonzero(sides[1:] != sides[:-1]))


# -- groups, and noise --------------------------------------------------------------------------


@dataclass(frozen=True)
class DepthCurve:
    """Which share of a group has been marked by which depth.

    Attributes:
        depth: Depths l / L at which marks lie, ascending.
        share: Share of runs marked at that depth or before.
        low: Lower end of the 95 % interval of ``share``.
        high: Upper end of the interval.
        n: Runs counted.
        absent: Those of them without the mark.
        left_out: Runs whose mark is undefined; not counted.
    """

    depth: Float[np.ndarray, " step"]
    share: Float[np.ndarray, " step"]
    low: Float[np.ndarray, " step"]
    high: Float[np.ndarray, " step"]
    n: int
    absent: int
    left_out: int


def depth_curve(marks: Sequence[Mark], n_boot: int = 2000, *, seed: int) -> DepthCurve:
    """Share of runs that carry a lens mark by each depth: one minus Kaplan-Meier.

    A run without the mark is right-censored at depth 1. Since nothing is censored earlier, the
    Kaplan-Meier estimate is the plain share of all runs; a mean depth over the marked alone would
    be too early. The interval resamples runs (percentile bootstrap).

    Args:
        marks: One lens mark per run, all of one definition.
        n_boot: Bootstrap draws.
        seed: Seed of the draws.

    Raises:
        InputError: The marks are not lens marks of one definition, or none is defined.
    """
    kinds = {(mark.name, mark.definition) for mark in marks}
    if len(kinds) != 1 or _rule(marks[0]) != LENS:
        found = ", ".join(sorted(" ".join(kind) for kind in kinds)) or "none"
        raise InputError(f"The marks are {found}", expected="lens marks of one definition")
    counted = [mark for mark in marks if not math.isnan(mark.state) or mark.reason in ABSENT]
    if not counted:
        raise InputError("Every mark is undefined", do="Look at the marks' reasons")
    times = np.array([math.inf if math.isnan(m.state) else m.depth for m in counted])
    depth = np.unique(times[np.isfinite(times)])
    marked = times[:, None] <= depth
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(times), size=(n_boot, len(times)))
    low, high = np.quantile([marked[draw].mean(axis=0) for draw in draws], [0.025, 0.975], axis=0)
    return DepthCurve(
        depth=depth,
        share=marked.mean(axis=0),
        low=low,
        high=high,
        n=len(counted),
        absent=int(np.isinf(times).sum()),
        left_out=len(marks) - len(counted),
    )


def noise_rate(
    rule: Callable[[Score], Mark],
    n: int,
    seed: int,
    *,
    n_layers: int = 30,
    centre: float = 0.5,
    persistence: float = 0.9,
    step: float = 0.02,
) -> float:
    """Share of curves of pure noise on which a mark is found.

    The noise is a stationary AR(1): x[l] = centre + persistence (x[l-1] - centre) + step e[l], e
    standard normal, one value per state.

    Args:
        rule: From a score to its mark.
        n: Curves drawn; the rate's standard error is sqrt(rate (1 - rate) / n).
        seed: Seed of the draws.
        n_layers: Blocks of a curve.
        centre: Mean of the noise.
        persistence: Correlation of a state with the one before.
        step: Standard deviation of what each state adds.
    """
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(n):
        shocks = step * rng.standard_normal(n_layers + 1)
        shocks[0] /= math.sqrt(1 - persistence**2)
        value = np.empty(n_layers + 1)
        level = 0.0
        for state, shock in enumerate(shocks):
            level = persistence * level + shock
            value[state] = centre + level
        noise = Score("noise", value, float(value[-1]), "1", ("",) * len(value))
        found += not math.isnan(rule(noise).state)
    return found / n


# -- shared -------------------------------------------------------------------------------------


def _first(mask: np.ndarray) -> int | None:
    """Index of the first true entry."""
    return int(np.argmax(mask)) if mask.any() else None


def _stays(mask: np.ndarray) -> int | None:
    """First index from which all entries are true, to the end."""
    broken = np.flatnonzero(~mask)
    start = int(broken[-1]) + 1 if len(broken) else 0
    return start if start < len(mask) else None


def _rule(mark: Mark) -> str:
    return mark.definition.split(" on ")[0]


def _on_noise(name: str, rule: str, score: Score) -> str:
    """How often the mark is found on noise, at the measured depth nearest to the score's."""
    rates, n_layers = DEFINITIONS[name, rule].on_noise, len(score.value) - 1
    nearest = min(rates, key=lambda measured: abs(math.log(measured / n_layers)))
    return f"found in {rates[nearest]:.0%} of noise curves of {nearest} blocks"


def _not_negative(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"The {name} is {value}", expected="a number of logits, from 0 up")


def _published(
    name: str,
    rule: str,
    score: Score,
    layer: int | None,
    never: str,
    thresholds: Mapping[str, float],
) -> Mark:
    """A published mark, from the layer (0-based) that the published rule names."""
    return _mark(
        name,
        rule,
        score,
        None if layer is None else layer + 1,
        never,
        thresholds,
        _on_noise(name, rule, score),
        from_state=1,
    )


def _mark(
    name: str,
    rule: str,
    score: Score,
    state: int | None,
    never: str,
    thresholds: Mapping[str, float] | None = None,
    note: str = "",
    from_state: int = 0,
) -> Mark:
    """A mark, NaN where the score is undefined at a state that the rule reads."""
    undefined = next((reason for reason in score.reasons[from_state:] if reason), "")
    if undefined:
        state, never = None, f"{score.name} is undefined: {undefined}"
    return Mark(
        name=name,
        definition=f"{rule} on {score.name}",
        state=math.nan if state is None else float(state),
        n_layers=len(score.value) - 1,
        reason=never if state is None else "",
        thresholds={name: float(value) for name, value in (thresholds or {}).items()},
        note=note,
    )
