"""Samples at temperature 1 of a case's answer, drawn exactly from the model's own distribution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from dst.analysis.readout import log_softmax
from dst.core.case import Case
from dst.core.errors import InputError
from dst.models.backend import Backend
from dst.models.tokens import tokenize_case

SAMPLES = 20
"""Fewest samples that a rate is taken from."""

Path = tuple[int, ...]
"""Tokens of an answer said so far."""


def sample_outcomes(
    model: Backend, case: Case, *, samples: int = SAMPLES, seed: int = 0
) -> dict[str, int]:
    """How many of K samples say the contextual answer, the associative one, and neither.

    A sample starts at i* and is drawn token by token, p(token | what was said so far), until it has
    said a whole form of an answer or left all of them. Only prefixes of forms can be reached before
    that, so the model reads each of these once, teacher-forced, and any number of samples is exact.

    Args:
        model: The model.
        case: The case.
        samples: K, at least 20.
        seed: Of the draws; a case's draws depend on it and on the case's content alone.

    Raises:
        InputError: Fewer than 20 samples.
    """
    check_samples(samples)
    seen = tokenize_case(model.tokenizer, case)
    shared = len(seen.shared)
    ends: dict[Path, str] = {}
    for name, answers in (("hallucination", seen.associative), ("correct", seen.contextual)):
        ends |= {answer.ids[shared:]: name for answer in answers}
    prob = _next_token(model, seen.ids, _prefixes(ends))
    draw = np.random.default_rng([seed, int(case.content_hash()[:15], 16)])
    counts: Counter[str] = Counter()
    todo: dict[Path, int] = {(): samples}
    while todo:
        path, n = todo.popitem()
        if path in ends:
            counts[ends[path]] += n
        elif path not in prob:
            counts["neither"] += n
        else:
            for token, k in Counter(_draw(draw, prob[path], n)).items():
                todo[(*path, token)] = k
    return {name: counts[name] for name in ("correct", "hallucination", "neither")}


def check_samples(samples: int) -> None:
    """Refuse fewer samples than a rate is taken from.

    Raises:
        InputError: There are fewer than 20.
    """
    if samples < SAMPLES:
        raise InputError(f"samples is {samples}", expected=f"at least {SAMPLES}")


def _prefixes(ends: dict[Path, str]) -> list[Path]:
    """Every proper beginning of a form that no shorter form ends."""
    begun = {path[:k] for path in ends for k in range(len(path))}
    return sorted(p for p in begun if not any(p[:k] in ends for k in range(1, len(p) + 1)))


def _next_token(
    model: Backend, ids: Sequence[int], paths: Sequence[Path]
) -> dict[Path, np.ndarray]:
    """p(next token | prompt and path), in one batch."""
    run = model.run([[*ids, *path] for path in paths], logits_at=[-1])
    prob = np.exp(log_softmax(run.last_logits.float().cpu().numpy()))
    return dict(zip(paths, prob, strict=True))


def _draw(draw: np.random.Generator, prob: np.ndarray, n: int) -> list[int]:
    """``n`` tokens by the inverse of the distribution function."""
    below = np.cumsum(prob)
    return np.searchsorted(below / below[-1], draw.random(n), side="right").tolist()
