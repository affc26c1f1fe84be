"""Attention cuts: what is lost when every later position stops reading a source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from dst.core.case import Case
from dst.core.errors import InterventionError
from dst.core.results import CutEffects
from dst.models.backend import Backend, Cut, require
from dst.tracing.prepare import Prepared, prepare

CONTROLS = 4
"""Random key sets of the same size that each source is compared with."""


def cut_effects(model: Backend, case: Case, *, seed: int = 0) -> CutEffects:
    """LD lost when all later positions are cut off from the cue, the subject, each relay.

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
    n_layers, last = model.spec.n_layers, len(ready.tokenized.ids) - 1
    rng = np.random.default_rng(seed)
    layers = range(n_layers)
    whole = _Cutter(model, ready)
    one, upto, everywhere, control = [], [], [], []
    for positions in sources.values():
        plans = [[layer] for layer in layers] + [list(range(layer + 1)) for layer in layers]
        effects = whole.effects([(plan, positions) for plan in plans])
        one.append(effects[:n_layers])
        upto.append(effects[n_layers:])
        everywhere.append(effects[-1])
        others = [p for p in range(1, last) if p not in positions] or [
            p for p in range(last) if p not in positions
        ]
        draws = [
            sorted(
                rng.choice(others, size=min(len(positions), len(others)), replace=False).tolist()
            )
            for _ in range(CONTROLS if others else 0)
        ]
        found = whole.effects([(list(layers), keys) for keys in draws]).tolist() if draws else []
        control.append(found + [np.nan] * (CONTROLS - len(found)))
    return CutEffects(
        sources=tuple(sources),
        all_layers=np.array(everywhere),
        one_layer=np.array(one),
        up_to_layer=np.array(upto),
        control=np.array(control),
        provenance=model.provenance(seed=seed),
    )


class _Cutter:
    """LD lost to cuts of one prompt, many plans in a batch."""

    def __init__(self, model: Backend, ready: Prepared) -> None:
        self.model, self.ready = model, ready
        run = model.run([ready.tokenized.ids], logits_at=[-1])
        self.contrast = float(ready.metric(run.last_logits)[0])

    def effects(self, plans: Iterable[tuple[Sequence[int], Sequence[int]]]) -> np.ndarray:
        """LD(x) - LD(x cut) for each (layers, keys)."""
        plans = list(plans)
        rows: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        for row, (layers, keys) in enumerate(plans):
            for layer in layers:
                rows.setdefault((layer, tuple(keys)), []).append(row)
        cuts = [
            Cut(layer, at, _later(keys, len(self.ready.tokenized.ids)), keys)
            for (layer, keys), at in rows.items()
        ]
        ids = torch.tensor([list(self.ready.tokenized.ids)] * len(plans))
        run = self.model.run(ids, cuts=cuts, logits_at=[-1])
        return self.contrast - self.ready.metric(run.last_logits)


def _later(keys: Sequence[int], n_pos: int) -> list[int]:
    """Positions after the first key that are not keys themselves: all that could read it."""
    return [p for p in range(min(keys) + 1, n_pos) if p not in set(keys)]


def _sources(ready: Prepared) -> dict[str, list[int]]:
    """Cue, subject and relays, each with its positions."""
    found = {name: ready.tokenized.positions_of(name) for name in ("cue", "subject", "relay")}
    return {name: positions for name, positions in found.items() if positions}
