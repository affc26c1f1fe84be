"""States of reference sentences: what is ordinary at a site, for ablations and random donors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from dst.core.errors import InputError
from dst.core.sites import Site
from dst.models.backend import Backend
from dst.models.reference import reference_sentences
from dst.models.text import encode

BATCH = 32
"""Sentences that are run together."""


def token_states(
    model: Backend, sites: Sequence[Site], texts: Sequence[str] | None = None
) -> Iterator[Mapping[Site, torch.Tensor]]:
    """States of every token but each sentence's first, [token ...] per site, batch by batch.

    The first position is left out: in many models it is a sink, like no other.

    Args:
        model: The model.
        sites: What is read.
        texts: Sentences; by default the shipped ones, or those that come with the model.

    Raises:
        InputError: No text has a second token.
    """
    given = reference_sentences(model.spec.name) if texts is None else texts
    rows = [ids for ids in (encode(model.tokenizer, text).ids for text in given) if len(ids) > 1]
    if not rows:
        raise InputError("The reference set has no text", expected="texts of two tokens or more")
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        run = model.run(part, capture=sites, logits_at=[-1])
        yield {
            site: torch.cat([run.states[site][i, 1 : len(row)] for i, row in enumerate(part)])
            for site in sites
        }


def mean_states(
    model: Backend, sites: Sequence[Site], texts: Sequence[str] | None = None
) -> dict[Site, torch.Tensor]:
    """Mean state over all tokens of the reference set, per site."""
    total: dict[Site, torch.Tensor] = {}
    n = 0
    for states in token_states(model, sites, texts):
        n += len(states[sites[0]])
        for site, values in states.items():
            total[site] = total.get(site, torch.zeros(())) + values.double().sum(0).cpu()
    return {site: (value / n).float() for site, value in total.items()}


def drawn_states(
    model: Backend,
    sites: Sequence[Site],
    n: int,
    generator: torch.Generator,
    texts: Sequence[str] | None = None,
) -> dict[Site, torch.Tensor]:
    """States of ``n`` random tokens of the first `BATCH` sentences, the same at every site."""
    states = next(token_states(model, sites, texts))
    picks = torch.randint(len(states[sites[0]]), (n,), generator=generator)
    return {site: values[picks.to(values.device)] for site, values in states.items()}


def embedding_spread(model: Backend, texts: Sequence[str] | None = None) -> float:
    """Standard deviation over all entries of state 0, the embedding, in the reference set."""
    site = Site(0, "resid_pre")
    values = torch.cat(
        [states[site].float().cpu() for states in token_states(model, [site], texts)]
    )
    return float(values.std())
