"""Which word is the cue and which the subject, from what LD loses when words are replaced.

A word is replaced, at all its mentions, by draws of neutral words. With x^w the prompt so
changed, c a chosen cue and K draws:

    N(w)     = LD(x) - LD(x^w)              what the word is worth here
    P(w | c) = LD(x^c) - LD(x^{c,w})        what it is worth once the cue is neutral
    I(w | c) = N(w) - P(w | c)              what of the cue's effect is lost with the word

A word *stands out* when it is worth more than a neutral word would be in its place: were it
one of them, its place among the draws would be like theirs, so that mean / (s sqrt(1 + 1/K))
follows Student's t with K - 1 degrees of freedom (s: standard deviation over draws). The
threshold is that of a test at `LEVEL`, divided by the number of words tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from dst.analysis.flows import HALF, LEAST_FLOOR, estimate

LEVEL = 0.05
"""Rate at which a word that is like any neutral word is suggested all the same."""

QUARTER = 0.25
"""Least share |P| of a subject's Q that makes it one that brings the associative answer."""

Draws = Float[np.ndarray, "word draw"]
"""An effect per word and draw, in logits; NaN after a word's last draw."""


def excess(draws: Float[np.ndarray, " draw"]) -> float:
    """Mean / (s sqrt(1 + 1/K)): how far a word is from neutral words, in their own spread.

    Infinite where the draws agree and the mean is over the floor; NaN for a single draw.
    """
    draws = known(draws)
    if len(draws) < 2:
        return math.nan
    effect, spread = float(draws.mean()), float(draws.std(ddof=1))
    if abs(effect) < LEAST_FLOOR:
        return 0.0
    with np.errstate(divide="ignore"):
        return float(np.divide(effect, spread * math.sqrt(1 + 1 / len(draws))))


def threshold(n_draws: int, n_words: int, level: float = LEVEL) -> float:
    """What `excess` has to reach: the t quantile of 1 - level / n_words; NaN for one draw."""
    if n_draws < 2 or n_words < 1:
        return math.nan
    return float(stdtrit(n_draws - 1, 1 - level / n_words))


def promising(draws: Float[np.ndarray, " draw"]) -> bool:
    """Whether a few draws leave it open that the word stands out: `excess` is 1 or more."""
    return len(known(draws)) < 2 or excess(draws) >= 1


def known(draws: Float[np.ndarray, " draw"]) -> Float[np.ndarray, " draw"]:
    """The draws that there are."""
    draws = np.asarray(draws, dtype=np.float64)
    return draws[~np.isnan(draws)]


def mean(draws: Float[np.ndarray, " draw"]) -> float:
    """The mean of the draws that there are; NaN where there are none."""
    draws = known(draws)
    return float(draws.mean()) if len(draws) else math.nan


class Choice(NamedTuple):
    """A word that was chosen, by its index, and those that it cannot be told from.

    ``rivals`` are the others that stand out and whose interval over draws meets that of the
    largest, the largest first. ``word`` is -1 where none stands out.
    """

    word: int
    rivals: tuple[int, ...] = ()


NONE = Choice(-1)


def choose(
    effect: Draws,
    places: Sequence[int],
    among: Sequence[bool],
    *,
    tried: int,
    level: float = LEVEL,
    sure: bool = False,
) -> Choice:
    """The word whose effect stands out and is largest, or an earlier one that is worth as much.

    Worth as much means a mean within the interval of the largest, the floor allowed for. What a
    later word carries may come from an earlier one, and not the other way round: a relay is
    as necessary as its source, and comes after it.

    Args:
        effect: Effect in logits, positive is what is looked for.
        places: First position of each word.
        among: Whether each word may be chosen.
        tried: Words in the test.
        level: Rate at which a word like any neutral word is chosen all the same.
        sure: It is known that there is such a word: the mean over draws has only to be above 0
            (Student's t at the same level), not above what neutral words differ by.
    """
    found = _standing_out(effect, among, tried, level, sure)
    if not found:
        return NONE
    bounds = {i: estimate(known(effect[i])) for i in found}
    largest = max(found, key=lambda i: bounds[i].mean)
    least = bounds[largest].low - LEAST_FLOOR
    alike = [i for i in found if bounds[i].high >= least]
    equal = [i for i in alike if bounds[i].mean >= least]
    first = min(equal, key=lambda i: places[i])
    rest = sorted((i for i in alike if i != first), key=lambda i: -bounds[i].mean)
    return Choice(first, tuple(rest))


def _standing_out(
    effect: Draws, among: Sequence[bool], tried: int, level: float, sure: bool
) -> list[int]:
    """The words that reach the threshold; with ``sure`` those whose mean draws tell from 0."""
    found = []
    for i, row in enumerate(effect):
        n = len(known(row))
        reached = excess(row) * (math.sqrt(n + 1) if sure else 1.0)  # mean / (s / sqrt(K)) if sure
        if among[i] and reached >= threshold(n, tried, level):  # NaN is not
            found.append(i)
    return found


class Pair(NamedTuple):
    """Cue and subject by their index, -1 for none.

    ``kind`` is ``conflict`` (the subject brings A-), ``agreement`` (it does not, and the two
    work on each other: the one that is named last is the subject), ``asked`` (the subject is
    what the prompt asks about, and draws tell nothing of it from 0), or "" without a subject.
    """

    cue: int
    subject: Choice
    kind: Literal["conflict", "agreement", "asked", ""]


def choose_subject(
    necessity: Draws,
    own: Draws,
    cue: int,
    first: Sequence[int],
    last: Sequence[int],
    mentions: Sequence[int],
    among: Sequence[bool],
    *,
    asked: Sequence[bool],
    tried: int,
    fixed: bool = False,
    level: float = LEVEL,
) -> Pair:
    """The subject that goes with a cue.

    The cue works on the subject, and the subject brings something of its own:

        Q(w | c) = I(w | c) + |P(w | c)|        (the sign is that of the mean over draws)

    Where the prompt asks about words, the subject is one of them: those whose Q draws tell from
    0, and if there is none the one with the largest Q (``asked``). Else it is a word whose Q
    draws tell from 0 and that brings something (a relay of the cue does not: the interval of its
    P is within the floor). Of these the one with the largest Q is taken. One with at least half
    of that Q is preferred if it brings the associative answer by itself: P < 0, and |P| a quarter
    of its Q or more (a third of what of the cue is lost with it); unless it is named earlier and
    less often than the other, as what points to the other answer elsewhere in the prompt is. If
    P of the word is below 0, beyond
    its interval, it is the subject. Otherwise LD does not tell which of the two is the cue,
    and the one that is named last before the answer is taken as the subject.

    Args:
        necessity: N(w).
        own: P(w | c), the same draws; the cue's own row is NaN.
        cue: Index of the cue.
        first: First position of each word.
        last: Last position of each word.
        mentions: How often each word is named.
        among: Whether each word may be the subject.
        asked: Whether the prompt asks about each word: the sentence that the answer completes
            names it, and another one does.
        tried: Words in the test.
        fixed: The cue was given, so that it cannot turn out to be the subject.
        level: Rate at which a word like any neutral word is chosen all the same.
    """
    means = np.array([mean(row) for row in own])
    q = necessity - own + own * np.sign(means)[:, None]
    may_be = among
    among = [may and _brings_something(row) for may, row in zip(may_be, own, strict=True)]

    def pick(effect: Draws, may: Sequence[bool]) -> Choice:
        return choose(effect, first, may, tried=tried, level=level, sure=True)

    size = np.array([mean(row) for row in q])
    asked = [may and is_asked for may, is_asked in zip(may_be, asked, strict=True)]
    if any(asked):
        told = _standing_out(q, asked, tried, level, sure=True)
        if not told:
            named = [i for i, is_asked in enumerate(asked) if is_asked]
            return Pair(cue, Choice(max(named, key=lambda i: float(size[i]))), "asked")
        among = [i in told for i in range(len(own))]
    best = pick(q, among)
    if best.word < 0:
        return Pair(cue, NONE, "")
    brings = [
        bool(
            among[i]
            and means[i] < 0
            and -means[i] >= QUARTER * size[i]
            and size[i] >= HALF * size[best.word]
            and not (last[i] < last[best.word] and mentions[i] < mentions[best.word])
        )
        for i in range(len(own))
    ]
    carrier = pick(-own, brings)
    if carrier.word >= 0:
        return Pair(cue, carrier, "conflict")
    if estimate(known(own[best.word])).high < 0:
        return Pair(cue, best, "conflict")
    if last[best.word] > last[cue]:
        return Pair(cue, best, "agreement")
    return Pair(cue, NONE, "") if fixed else Pair(best.word, Choice(cue), "agreement")


def _brings_something(own: Float[np.ndarray, " draw"]) -> bool:
    """Whether P is not known to be under the floor."""
    own = known(own)
    if len(own) < 2:
        return bool(len(own))
    bounds = estimate(own)
    return bounds.low < -LEAST_FLOOR or bounds.high > LEAST_FLOOR


def further_cues(
    necessity: Draws, own: Draws, pair: Pair, among: Sequence[bool], level: float = LEVEL
) -> tuple[int, ...]:
    """Words that hold the contextual answer up once the cue is gone.

    P(w | c) stands out and is at least half of N(c): a second span says the same.
    """
    least = HALF * mean(necessity[pair.cue])
    return tuple(
        i
        for i, row in enumerate(own)
        if among[i]
        and i != pair.subject.word
        and excess(row) >= threshold(len(known(row)), sum(among), level)
        and mean(row) >= least
    )
