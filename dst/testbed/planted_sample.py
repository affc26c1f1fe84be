"""Plans drawn at random: every kind of plant, both bodies, depths 3 to 8, "none" among them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from dst.core.errors import InputError
from dst.testbed.planted_marks import Thresholds
from dst.testbed.planted_plan import Decoy, Edge, Plant, Route
from dst.testbed.planted_truth import THRESHOLDS, Truth, truth_of

KINDS = (
    "subject",  # context passes through the subject
    "relay",  # ... through one token between cue and subject
    "relays",  # ... through two
    "question",  # ... through the question
    "direct",  # ... straight to the answer
    "one noun",  # ... through a subject that alone reads the cue
    "noun head",  # association by a head that answers to one noun only
    "after",  # association read by the token after the subject
    "redundant",  # two routes, either of which suffices
    "cancelled",  # two routes that undo each other
    "two routes",  # two routes that add up
    "late",  # a late block adds context
    "lag",  # the subject is read before the cue has reached it
    "spurious",  # a word that is neither subject nor cue drives the answer
    "context only",
    "association only",
    "none",  # nothing is planted
)
"""What `sample` draws from, in turn; a plan's name begins with its kind."""

NEARBY = (
    Thresholds(floor=0.02, half=0.47, handover=0.87, band=0.45, drop=0.45),
    Thresholds(floor=0.12, half=0.53, handover=0.93, band=0.55, drop=0.55),
)
"""A plan is clear when these give the same marks as the thresholds of its truth."""


def sample(n: int, seed: int) -> list[Plant]:
    """Draw ``n`` plans whose marks are clear, from every kind in turn.

    A plan is drawn anew until it can work and no mark hangs on the exact value of a threshold;
    both tests look at the plan alone.

    Raises:
        InputError: ``n`` is negative.
    """
    if n < 0:
        raise InputError(f"{n} plans were asked for", expected="0 or more")
    rng = np.random.default_rng(seed)
    plans: list[Plant] = []
    while len(plans) < n:
        kind = KINDS[len(plans) % len(KINDS)]
        plans.append(_draw(kind, f"{kind} {len(plans)}", rng))
    return plans


def is_clear(plant: Plant) -> bool:
    """Whether no mark of the plan hangs on the exact value of a threshold."""
    truth = truth_of(plant, THRESHOLDS)
    if np.abs(truth.margin).min() < 0.1:  # a lens margin of 0 has no sign
        return False
    others = (truth_of(plant, nearby) for nearby in NEARBY)
    return all(_same(truth, other) for other in others)


def _same(one: Truth, two: Truth) -> bool:
    marks = two.marks()
    return (one.outcome, one.failure, one.dss_note) == (
        two.outcome,
        two.failure,
        two.dss_note,
    ) and all(
        state == marks[name] or (math.isnan(state) and math.isnan(marks[name]))
        for name, state in one.marks().items()
    )


def _draw(kind: str, name: str, rng: np.random.Generator) -> Plant:
    """A clear plan of one kind; rejected draws are drawn again."""
    while True:
        try:
            plant = _proposal(kind, name, rng)
        except InputError:
            continue  # such as two decoys in a block that is full
        if is_clear(plant):
            return plant


def _proposal(kind: str, name: str, rng: np.random.Generator) -> Plant:
    n_layers = int(rng.integers(3, 9))
    common: dict[str, Any] = {
        "name": name,
        "body": "llama" if rng.random() < 0.5 else "gpt2",
        "n_layers": n_layers,
        "base": _signed(rng, 0.2, 0.8),
        "mentions": int(rng.integers(1, 3)),
        "rotated": bool(rng.random() < 0.5),
        "noise": round(float(rng.uniform(0.2, 1.0)), 2) if rng.random() < 0.5 else 0.0,
        "d_model": int(rng.choice([40, 48, 64])),
        "seed": int(rng.integers(2**31)),
        "decoys": _decoys(n_layers, rng),
    }
    if kind == "none":
        return Plant(**common)
    if kind != "context only":
        common |= _association(kind, n_layers, rng)
    if kind == "association only":
        return Plant(**common)
    # One in ten contexts speaks for the other answer.
    common["alpha"] = _strength(rng) * (-1 if rng.random() < 0.1 else 1)
    plant = Plant(**common, **_context(kind, n_layers, rng))
    edges = _edges(plant, rng) if rng.random() < 0.7 else ()
    return replace(plant, edges=edges)


def _context(kind: str, n_layers: int, rng: np.random.Generator) -> dict[str, Any]:
    relay = f"relay_{rng.integers(1, 4)}"
    through: tuple[str, ...] = {
        "subject": ("subject",),
        "one noun": ("subject",),
        "relay": (relay,),
        "relays": ("relay_1", "relay_3"),
        "question": ("question",),
        "direct": (),
    }.get(kind, [(), ("subject",), (relay,), ("question",)][rng.integers(4)])
    if kind == "lag":
        read, reached = sorted(int(b) for b in rng.choice(n_layers, 2, replace=False) + 1)
        return {"context": (Route(("cue", "subject", "answer"), (reached, read)),), "lag": True}
    last = n_layers - 1 if kind == "late" else n_layers
    first = _route("cue", through, last, rng)
    if kind == "one noun":
        return {"context": (first,), "one_noun_context": True}
    if kind == "late":
        block = int(rng.integers(first.arrival + 1, n_layers + 1))
        return {"context": (first,), "late_block": block, "late_strength": _strength(rng)}
    if kind not in ("redundant", "cancelled", "two routes"):
        return {"context": (first,)}
    other = [("relay_2",), ("question",), ()][rng.integers(3)]
    second = _route("cue", other, n_layers, rng)
    if kind == "redundant":
        gate = int(rng.integers(max(first.arrival, second.arrival), n_layers + 1))
        return {"context": (first, second), "combine": "either", "gate_block": gate}
    share = 0.3 if rng.random() < 0.5 else 0.7
    shares = (1.0, -1.0) if kind == "cancelled" else (share, round(1 - share, 1))
    pair = (replace(first, share=shares[0]), replace(second, share=shares[1]))
    return {"context": pair}


def _association(kind: str, n_layers: int, rng: np.random.Generator) -> dict[str, Any]:
    # One in ten associations speaks for the contextual answer.
    sign = -1 if rng.random() < 0.1 else 1
    found: dict[str, Any] = {"beta": sign * _strength(rng)}
    through = ("after",) if kind == "after" else ()
    if kind == "noun head":
        found["prior"] = _route("subject", through, n_layers, rng)
    else:
        # The MLP needs a block before the first read.
        later = _route("subject", through, n_layers - 1, rng)
        found["prior"] = replace(later, blocks=tuple(block + 1 for block in later.blocks))
        found["prior_block"] = int(rng.integers(1, found["prior"].blocks[0]))
    if kind == "spurious":
        stations = ("question",) if rng.random() < 0.5 else ()
        found["spurious"] = _route("spurious", stations, n_layers, rng)
        found["spurious_strength"] = -_strength(rng)
    return found


def _route(source: str, through: tuple[str, ...], last: int, rng: np.random.Generator) -> Route:
    """A route whose hops are at random blocks from 1 to ``last``, in order."""
    blocks = sorted(rng.choice(last, len(through) + 1, replace=False) + 1)
    return Route((source, *through, "answer"), tuple(int(block) for block in blocks))


def _decoys(n_layers: int, rng: np.random.Generator) -> tuple[Decoy, ...]:
    pairs = (
        ("spurious", "answer"),
        ("relay_2", "subject"),
        ("subject", "question"),
        ("cue", "answer"),
        ("cue", "subject"),
    )
    chosen = rng.choice(len(pairs), int(rng.integers(0, 3)), replace=False)
    return tuple(Decoy(int(rng.integers(1, n_layers + 1)), *pairs[i]) for i in chosen)


def _edges(plant: Plant, rng: np.random.Generator) -> tuple[Edge, ...]:
    """A chain from the first context word, and a crossing to a competing one."""
    if plant.lag or plant.settled + 1 > plant.n_layers:
        return ()
    first = int(rng.integers(plant.settled + 1, plant.n_layers + 1))
    edges = [Edge("music", "sound", first, _signed(rng, 0.3, 1.5))]
    if first < plant.n_layers:
        second = int(rng.integers(first + 1, plant.n_layers + 1))
        edges.append(Edge("sound", "stage", second, _signed(rng, 0.3, 1.5)))
    if rng.random() < 0.5:
        edges.append(Edge("music", "scales", first, _signed(rng, 0.3, 1.5)))
    return tuple(edges)


def _strength(rng: np.random.Generator) -> float:
    return round(float(rng.uniform(0.8, 6.0)), 2)


def _signed(rng: np.random.Generator, low: float, high: float) -> float:
    return round(float(rng.uniform(low, high)) * (1 if rng.random() < 0.5 else -1), 2)
