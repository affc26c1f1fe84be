"""What the tests of patching share: a case on small random models, and runs made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dst.core.case import Case
from dst.core.sites import Site
from dst.models.backend import Edit
from dst.tracing.prepare import prepare

PROMPT = "Anna is at the lake. Anna sees a bass. The bass is a"
TEXT = "Anna is at the {}. Anna sees a {}. The {} is a"
SWAPPED = TEXT.format("concert", "bass", "bass")


def case(**fields: Any) -> Case:
    return Case(
        **{
            "prompt": PROMPT,
            "contextual": "fish",
            "associative": "instrument",
            "subject": "bass",
            "cue": "lake",
            "swap": SWAPPED,
            "neutral": [TEXT.format(word, "bass", "bass") for word in ("bank", "city")],
            "substitute": [TEXT.format("lake", word, word) for word in ("drum", "song")],
            **fields,
        }
    )


def ids_of(model: Any, text: str) -> list[int]:
    return model.tokenizer(text)["input_ids"]


def contrast(model: Any, logits: torch.Tensor, given: Case | None = None) -> float:
    """LD by the definition, from the logits at i*."""
    metric = prepare(model, given or case()).metric
    wide = logits.double()
    return float(wide[list(metric.plus)].logsumexp(0) - wide[list(metric.minus)].logsumexp(0))


def state(model: Any, ids: Sequence[int], site: Site) -> torch.Tensor:
    """[pos ...] at a site of one plain run."""
    return model.run([ids], capture=[site]).states[site][0]


def put(
    model: Any,
    ids: Sequence[int],
    changes: Sequence[tuple[Site, Sequence[int], torch.Tensor, Sequence[int] | None]],
) -> torch.Tensor:
    """Logits at the last position of one whole run with some places replaced."""
    edits = [
        Edit(site, [0], list(positions), value, heads=heads)
        for site, positions, value, heads in changes
    ]
    return model.run([ids], edits=edits, logits_at=[-1]).last_logits[0]
