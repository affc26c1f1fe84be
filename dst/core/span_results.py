"""Which words of a prompt an answer hangs on: single words, and sets of them found by search."""

from typing import Any

import numpy as np
from jaxtyping import Float

from dst.core.case import Case
from dst.core.results import Estimate, Provenance, Result, result


@result
class Span:
    """A set of words of the prompt, next to each other or not, and what the answer owes to it.

    y = LD in the direction of the explained answer, in logits. Means are over fills, intervals
    are bootstraps over fills; NaN where nothing was measured, with ``reason``.

    Attributes:
        words: The words, in the order of the prompt.
        units: Their indices in `Spans.words`.
        positions: The tokens of all their mentions.
        necessity: N = y(x) - y(x with these words resampled), in logits.
        kept: K = y(only these words kept) - y(every word resampled), in logits.
        sufficiency: K / (y(x) - y(every word resampled)): the share that they keep by themselves.
        joint: min(N, K), in logits: how far the words are necessary *and* sufficient.
        necessity_by_fill: N by kind of fill.
        necessity_together: N minus the words' single N; above 0 either word does for the other.
        kept_together: K minus the words' single K; above 0 they work only together.
        control: Share of random sets of as many other words whose joint is as large, the set
            itself counted with them: (1 + hits) / (1 + sets). Small is rare.
        n_controls: How many random sets that was.
        held_out: Whether all numbers are from fills that the search never saw.
        reason: Why a number is NaN, "" where none is.
    """

    words: tuple[str, ...]
    units: tuple[int, ...]
    positions: tuple[int, ...]
    necessity: Estimate
    kept: Estimate
    sufficiency: Estimate
    joint: float
    necessity_by_fill: Float[np.ndarray, " kind"]
    necessity_together: float
    kept_together: float
    control: float
    n_controls: int
    held_out: bool
    reason: str = ""

    def to_record(self) -> dict[str, Any]:
        """The span as one row."""
        row: dict[str, Any] = {"words": " ".join(self.words), "positions": list(self.positions)}
        for name in ("necessity", "kept", "sufficiency"):
            value: Estimate = getattr(self, name)
            row |= {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high}
        names = ("joint", "necessity_together", "kept_together", "control", "n_controls",
                 "held_out", "reason")  # fmt: skip
        return row | {"fills": self.necessity.n} | {name: getattr(self, name) for name in names}


@result
class Spans(Result):
    """The words that the model's answer needs and the words that bring it about by themselves.

    Attributes:
        case: The case.
        tokens: The prompt's tokens, one text per position.
        outcome: ``hallucination``, ``correct`` or ``neither``: what the greedy answer is.
        toward: ``associative`` or ``contextual``: the side that is explained, the one that LD
            of the prompt is on.
        contrast: LD(x), in logits.
        y: LD(x) in the direction explained, in logits: |LD(x)|.
        resampled: y with every word resampled; mean over fills.
        words: Every word that was tried, in the order of the prompt.
        word_positions: The tokens of all mentions of each.
        singles: Each word by itself, in the same order.
        found: Words and sets of words, the one with the largest ``joint`` first. A set is here
            only if none of its words can be left out and none is a span of its own.
        main_effect: y with the word kept minus y with it resampled, in random contexts (half of
            the other words resampled), from the search; NaN where the search had not come so far.
        interaction: The same difference of the effect of one word by another: above 0 they need
            each other, below 0 either does for the other. Symmetric, diagonal NaN.
        fills: The kinds of fills.
        search_fills: Words that the search filled in.
        scoring_fills: Words that the scores were taken with; none of them is in the search's.
        draws: Fills per score.
        budget: Forward passes that were allowed.
        forward_passes: Forward passes that were made.
        changed_tokens: Tokens that were replaced, over all rows that were run.
        complete: Whether everything that was planned was measured.
        left_out: Words that were not tried, each with its reason.
        notes: What a reader must know.
        provenance: What it takes to compute this again.
    """

    case: Case
    tokens: tuple[str, ...]
    outcome: str
    toward: str
    contrast: float
    y: float
    resampled: Estimate
    words: tuple[str, ...]
    word_positions: tuple[tuple[int, ...], ...]
    singles: tuple[Span, ...]
    found: tuple[Span, ...]
    main_effect: Float[np.ndarray, " word"]
    interaction: Float[np.ndarray, "word word"]
    fills: tuple[str, ...]
    search_fills: tuple[str, ...]
    scoring_fills: tuple[str, ...]
    draws: int
    budget: int
    forward_passes: int
    changed_tokens: int
    complete: bool
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    provenance: Provenance

    def __post_init__(self) -> None:
        if not len(self.words) == len(self.word_positions) == len(self.singles):
            raise ValueError("one tuple of positions and one span per word are needed")
        if {*self.search_fills} & {*self.scoring_fills}:
            raise ValueError("a word fills in both the search and the scores")
        if not self.complete and not self.notes:
            raise ValueError("what is not complete says so in a note")

    def to_records(self) -> list[dict[str, Any]]:
        """One row per span: those found, by rank, then every single word (rank 0)."""
        ranked = [{"rank": i} | one.to_record() for i, one in enumerate(self.found, start=1)]
        return ranked + [{"rank": 0} | one.to_record() for one in self.singles]


@result
class PublishedSpans(Result):
    """The published span scores: windows of words replaced by "[MASK]", drop in probability.

    Attributes:
        case: The case.
        target: The answer whose probability is read.
        windows: The words of each window.
        starts: The first word of each, counted in words of the text split at white space.
        drop: Drop of the answer's probability where it is said: the method as intended.
        drop_as_coded: Drop of the probability of the answer's k-th token at position k of the
            *prompt*, as the published code reads it.
        positions: The tokens of each window in the unmasked prompt.
        mask_is_unknown: Whether the tokenizer reads "[MASK]" as its unknown token.
        notes: What a reader must know.
        provenance: What it takes to compute this again.
    """

    case: Case
    target: str
    windows: tuple[str, ...]
    starts: tuple[int, ...]
    drop: Float[np.ndarray, " window"]
    drop_as_coded: Float[np.ndarray, " window"]
    positions: tuple[tuple[int, ...], ...]
    mask_is_unknown: bool
    notes: tuple[str, ...]
    provenance: Provenance

    def top(self, n: int = 10, *, as_coded: bool = False) -> tuple[tuple[str, float], ...]:
        """The ``n`` windows with the largest positive drop, as the published code returns them."""
        drop = self.drop_as_coded if as_coded else self.drop
        order = np.argsort(-drop, kind="stable")
        return tuple((self.windows[i], float(drop[i])) for i in order[:n] if drop[i] > 0)

    def to_records(self) -> list[dict[str, Any]]:
        """One row per window."""
        return [
            {
                "window": window,
                "start": self.starts[i],
                "size": len(window.split()),
                "drop": float(self.drop[i]),
                "drop_as_coded": float(self.drop_as_coded[i]),
            }
            for i, window in enumerate(self.windows)
        ]
