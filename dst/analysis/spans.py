"""Necessary and sufficient words: what each number is, and when several words are one span.

x is a prompt, y = LD in the direction of the answer that is explained, S a set of its words. A
word that is *resampled* has another word of as many tokens in its place (a fill); means are over
fills. In logits:

    N(S) = y(x) - y(S resampled)                                     necessity
    K(S) = y(all but S resampled) - y(every word resampled)          what S keeps
    K(S) / (y(x) - y(every word resampled))                          sufficiency, a share
    G(S) = min(N(S), K(S))                                           joint

Words that act by themselves have N = K, and G adds up. Where either of two words suffices, N of
each is 0; where both are needed, K of each is 0: G is 0 for each and large for the two. So a set
of several words is one span if and only if G of the whole is more than G of its parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from dst.analysis.bootstrap import Resampling, bootstrap
from dst.analysis.flows import LEAST_FLOOR
from dst.core.results import Estimate

LEAST_SHARE = 0.1
"""A word belongs to a set if without it at least this share of the set's G is lost."""

UNKNOWN = Estimate(math.nan, math.nan, math.nan, 0)

Units = frozenset[int]
Draws = Float[np.ndarray, " draw"]


def joint(necessity: float, kept: float) -> float:
    """G = min(N, K), in logits: NaN where one of them is."""
    return math.nan if math.isnan(necessity) or math.isnan(kept) else min(necessity, kept)


def over_fills(
    value: Callable[[Float[np.ndarray, "resample draw"]], np.ndarray],
    n: int,
    resampling: Resampling,
) -> Estimate:
    """A number that is made of means over fills, with its bootstrap interval over fills.

    BCa, or percentile where BCa does not exist. Fills that all agree leave no spread: both ends
    are the number itself. One fill has no interval (NaN).

    Args:
        value: Takes weights [resample draw] and gives one number per resample.
        n: Number of fills.
        resampling: Number of resamples, level, seed.
    """
    if not n:
        return UNKNOWN
    mean = float(value(np.ones((1, n)))[0])
    if n < 2 or math.isnan(mean):
        return Estimate(mean, math.nan, math.nan, n)
    boot = bootstrap(value, np.arange(n), resampling)
    known = boot.resamples[~np.isnan(boot.resamples)]
    if len(known) and np.ptp(known) <= 1e-9 * max(1.0, abs(mean)):
        return Estimate(mean, mean, mean, n)
    bca, percentile = boot.intervals(resampling.level)
    best = percentile if bca.reason else bca
    return Estimate(mean, best.low, best.high, n)


def necessity(y: float, resampled: Draws, resampling: Resampling) -> Estimate:
    """N = y(x) - mean of y with the words resampled, in logits; fills that are NaN are left out."""
    known = resampled[~np.isnan(resampled)]
    return over_fills(lambda w: y - w @ known / w.sum(axis=1), len(known), resampling)


def kept(only: Draws, nothing: Draws, resampling: Resampling) -> Estimate:
    """K = mean of y with only the words kept - mean with none kept, in logits.

    Fill by fill the same words are filled in; fills that lack either value are left out.
    """
    gain = only - nothing
    gain = gain[~np.isnan(gain)]
    return over_fills(lambda w: w @ gain / w.sum(axis=1), len(gain), resampling)


def sufficiency(y: float, only: Draws, nothing: Draws, resampling: Resampling) -> Estimate:
    """K / (y(x) - y(every word resampled)): the share of what words bring that these keep.

    NaN where all words together bring less than `LEAST_FLOOR`, or bring the other answer.
    """
    both = ~np.isnan(only) & ~np.isnan(nothing)
    gain, none = (only - nothing)[both], nothing[both]
    if not both.any() or y - none.mean() < LEAST_FLOOR:
        return UNKNOWN

    def share(w: np.ndarray) -> np.ndarray:
        whole = y - w @ none / w.sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(whole >= LEAST_FLOOR, (w @ gain) / w.sum(axis=1) / whole, np.nan)

    return over_fills(share, int(both.sum()), resampling)


class Effects(NamedTuple):
    """What words do in random contexts, in logits; interactions are symmetric, their diagonal NaN.

    ``noise`` is the standard error of an interaction.
    """

    main: Float[np.ndarray, " word"]
    pairs: Float[np.ndarray, "word word"]
    noise: float


def effects(is_kept: Bool[np.ndarray, "row word"], y: Float[np.ndarray, " row"]) -> Effects:
    """Main effects and pair interactions from rows with random words resampled, in logits.

    Each word is kept with probability 1/2, whatever the others are. The main effect of a word is
    E[y | kept] - E[y | resampled], by least squares over all words; the interaction of two is
    E[y | both] - E[y | first] - E[y | second] + E[y | neither], from what the main effects leave.
    (Banzhaf's value and interaction index.)

    Args:
        is_kept: Which words are kept in which row.
        y: What was read, in logits.
    """
    n, words = is_kept.shape
    signs = np.where(is_kept, 1.0, -1.0)
    design = np.column_stack([np.ones(n), signs])
    fitted = np.linalg.lstsq(design, y, rcond=None)[0]
    left = y - design @ fitted
    pairs = 4 * (signs * left[:, None]).T @ signs / max(n, 1)
    pairs = (pairs + pairs.T) / 2
    pairs[np.arange(words), np.arange(words)] = np.nan
    return Effects(2 * fitted[1:], pairs, float(4 * left.std() / np.sqrt(max(n, 1))))


def gains(members: Units, value: Mapping[Units, float]) -> float:
    """What the set's G has over the best of it with one word taken out, in logits.

    The least, over words w, of G(S) - [G(S without w)]+ - [G(w)]+, [.]+ = max(., 0); what is
    not in ``value`` counts as 0.
    """

    def part(units: Units) -> float:
        found = value.get(units, 0.0)
        return max(found, 0.0) if not math.isnan(found) else 0.0

    whole = value[members]
    return min(whole - part(members - {w}) - part(frozenset({w})) for w in members)


def gain_over_fills(
    members: Units,
    lost: Mapping[Units, Draws],
    gained: Mapping[Units, Draws],
    resampling: Resampling,
) -> Estimate:
    """`gains` of a set with its bootstrap interval over fills, in logits.

    Args:
        members: The set.
        lost: N by fill, of the set, of each of its words, and of the set without each.
        gained: K by fill, likewise.
        resampling: Number of resamples, level, seed.
    """
    parts = list(lost)
    table = np.stack([np.stack([lost[part], gained[part]]) for part in parts])  # [part 2 draw]
    table = table[:, :, ~np.isnan(table).any(axis=(0, 1))]

    def value(w: np.ndarray) -> np.ndarray:
        g = (table @ w.T / w.sum(axis=1)).min(axis=1)  # [part resample]
        return np.array([gains(members, dict(zip(parts, one, strict=True))) for one in g.T])

    return over_fills(value, table.shape[2], resampling)


def is_one_span(members: Units, value: Mapping[Units, float]) -> bool:
    """Whether a set of words is one span: no word of it can be left out or stands for itself.

    One word: always. Several: `gains` is at least `LEAST_SHARE` of G(S), and `LEAST_FLOOR`.
    """
    if len(members) < 2:
        return True
    least = max(LEAST_FLOOR, LEAST_SHARE * value[members])
    return gains(members, value) >= least


def ranked(value: Mapping[Units, float]) -> list[Units]:
    """The spans among some sets of words, the largest G first; those without any are left out.

    Sets whose G is under `LEAST_FLOOR` are no explanation. Equal sets are ordered by size, then by
    their words.
    """
    spans = [units for units, g in value.items() if g >= LEAST_FLOOR and is_one_span(units, value)]
    return sorted(spans, key=lambda units: (-value[units], len(units), sorted(units)))


def rarity(value: float, controls: Sequence[float]) -> float:
    """(1 + number of controls that are as large) / (1 + number of controls); NaN without any."""
    known = [control for control in controls if not math.isnan(control)]
    if not known or math.isnan(value):
        return math.nan
    return (1 + sum(control >= value - 1e-9 for control in known)) / (1 + len(known))
