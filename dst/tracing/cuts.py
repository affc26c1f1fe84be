"""Attention cuts: what is lost when every later position stops reading a source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dst.core.case import Case
from dst.core.errors import InterventionError
from dst.core.results import CutEffects
from dst.models.backend import Backend, Cut, require
from dst.tracing.prepare import Prepared, prepare
from dst.tracing.replay import MOST_TOKENS

CONTROLS = 4
"""Random key sets of the same size that each source is compared with."""


def cut_effects(model: Backend, case: Case, *, seed: int = 0) -> CutEffects:
    """LD lost when all later positions are cut off from the cue, the subject, the relays.

    LD(x) - LD(x with the cut), in logits: in every block, in one block at a time (where the
    first hop is), and in blocks 0..l (when it is over). A cut is a knock-out: scores to
    -inf, renormalised, off the model's distribution. Control: as many random keys.

    Cutting only subject, question and answer off from the cue would miss relays: on a
    trained model that measured 0.00 of a true 5.4.

    Args:
        model: The model.
        case: The case.
        seed: Seed of the control's keys.

    Raises:
        CaseError: The case has no associative answer.
        CapabilityError: The engine cannot cut attention.
        InterventionError: The prompt has neither cue, subject nor relay, or a query would
            be left without keys.

    Source: METHOD 2b'.
    """
    require(model, "cuts")
    ready = prepare(model, case, draws=0, seed=seed)
    sources = _sources(ready)
    if not sources:
        raise InterventionError(
            "The case has no cue, subject or relay to cut off", do="Give a subject or a cue"
        )
    n_layers, rng = model.spec.n_layers, np.random.default_rng(seed)
    every = tuple(range(n_layers))
    plans = []
    for keys in sources.values():
        plans += [_Plan((layer,), keys) for layer in every]
        plans += [_Plan(every[: layer + 1], keys) for layer in every]
        plans += [_Plan(every, drawn) for drawn in _random_keys(ready, keys, rng)]
    effects = _effects(model, ready, plans).reshape(len(sources), 2 * n_layers + CONTROLS)
    return CutEffects(
        sources=tuple(sources),
        all_layers=effects[:, 2 * n_layers - 1],
        one_layer=effects[:, :n_layers],
        up_to_layer=effects[:, n_layers : 2 * n_layers],
        control=effects[:, 2 * n_layers :],
        provenance=model.provenance(seed=seed),
    )


def cut_off(model: Backend, ready: Prepared, keys: Sequence[int]) -> float:
    """LD(x) - LD(x with every later position cut off from some keys in every block), in logits.

    NaN without keys. Source: METHOD 2b'.

    Raises:
        InterventionError: A query would be left without keys.
    """
    plan = _Plan(tuple(range(model.spec.n_layers)), tuple(keys))
    return float(_effects(model, ready, [plan])[0])


class _Plan(NamedTuple):
    """One cut run: the blocks in which later positions stop reading some keys."""

    layers: tuple[int, ...]
    keys: tuple[int, ...]


def _effects(model: Backend, ready: Prepared, plans: Sequence[_Plan]) -> Float[np.ndarray, " plan"]:
    """LD(x) - LD(x cut), many plans in a batch; NaN for a plan without keys."""
    ids, out = ready.tokenized.ids, np.full(len(plans), np.nan)
    whole = float(ready.metric(model.run([ids], logits_at=[-1]).last_logits)[0])
    possible = [i for i, plan in enumerate(plans) if plan.keys]
    size = max(1, MOST_TOKENS // len(ids))
    for start in range(0, len(possible), size):
        part = possible[start : start + size]
        rows: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        for row, i in enumerate(part):
            for layer in plans[i].layers:
                rows.setdefault((layer, plans[i].keys), []).append(row)
        cuts = [Cut(layer, at, _later(keys, len(ids)), keys) for (layer, keys), at in rows.items()]
        run = model.run([ids] * len(part), cuts=cuts, logits_at=[-1])
        out[part] = whole - ready.metric(run.last_logits)
    return out


def _random_keys(
    ready: Prepared, keys: Sequence[int], rng: np.random.Generator
) -> list[tuple[int, ...]]:
    """Sets of as many other positions before i*: of no source if there are any, nor the first.

    The first position is a sink that many heads read; it is taken only if need be.
    """
    last = len(ready.tokenized.ids) - 1
    free = [p for p in range(1, last) if p not in keys]
    sources = {p for positions in _sources(ready).values() for p in positions}
    idle = [p for p in free if p not in sources]
    others = idle or free or [0] * (0 not in keys)
    n = min(len(keys), len(others))
    return [
        tuple(sorted(rng.choice(others, size=n, replace=False).tolist())) if n else ()
        for _ in range(CONTROLS)
    ]


def _later(keys: Sequence[int], n_pos: int) -> list[int]:
    """Positions after the first key that are not keys themselves: all that could read it."""
    return [p for p in range(min(keys) + 1, n_pos) if p not in set(keys)]


def _sources(ready: Prepared) -> dict[str, tuple[int, ...]]:
    """Cue, subject and relays, each with its positions."""
    names = ("cue", "subject", "relay")
    found = {name: tuple(ready.tokenized.positions_of(name)) for name in names}
    return {name: positions for name, positions in found.items() if positions}
