"""Whether a plan can work: an impossible one is refused in one sentence, before any weight."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dst.core.errors import InputError
from dst.testbed.planted_prompt import COMPETING_WORDS, CONCEPTS, CONTEXT_WORDS, STATIONS

if TYPE_CHECKING:
    from dst.testbed.planted_plan import Plant, Route

N_HEADS = 4
D_MLP = 44
D_MODELS = (40, 48, 64)
"""Sizes of a body: heads per block, neurons per block, widths of the residual stream."""


def check(plant: Plant) -> None:
    """Check every part of a plan.

    Raises:
        InputError: The plan cannot work; the sentence says which part and why.
    """
    _check_body(plant)
    for route in plant.context:
        _check_route(plant, route, "context", "cue", lag=plant.lag)
    if plant.prior is not None:
        _check_route(plant, plant.prior, "association", "subject")
    if plant.spurious is not None:
        _check_route(plant, plant.spurious, "spurious", "spurious")
    _check_context(plant)
    _check_prior(plant)
    _check_heads(plant)
    _check_edges(plant)


def _check_body(plant: Plant) -> None:
    if plant.body not in ("llama", "gpt2"):
        raise InputError(f"The body is {plant.body!r}", expected="'llama' or 'gpt2'")
    if plant.combine not in ("sum", "either"):
        raise InputError(f"combine is {plant.combine!r}", expected="'sum' or 'either'")
    if not 1 <= plant.n_layers <= 64:
        raise InputError(f"The plan has {plant.n_layers} blocks", expected="1 to 64")
    if plant.d_model not in D_MODELS:
        raise InputError(f"d_model is {plant.d_model}", expected="one of 40, 48, 64")
    if plant.mentions not in (1, 2):
        raise InputError(f"The plan names the subject {plant.mentions} times", expected="1 or 2")
    strengths = {
        name: getattr(plant, name)
        for name in ("base", "alpha", "beta", "late_strength", "spurious_strength")
    }
    strengths |= {f"gain of {edge.source}": edge.gain for edge in plant.edges}
    strengths |= {f"share of route {i}": r.share for i, r in enumerate(plant.context, start=1)}
    for name, value in strengths.items():
        if not (math.isfinite(value) and abs(value) <= 20):
            raise InputError(f"{name} is {value}", expected="a number from -20 to 20")
    if not 0 <= plant.noise <= 2:
        raise InputError(f"The noise norm is {plant.noise}", expected="0 to 2")


def _check_block(plant: Plant, block: int | None, what: str) -> None:
    if block is None or not 1 <= block <= plant.n_layers:
        raise InputError(
            f"{what} is in block {block}", expected=f"a block from 1 to {plant.n_layers}"
        )


def _check_reading(source: str, reader: str, what: str) -> None:
    for station in (source, reader):
        if station not in STATIONS:
            raise InputError(
                f"The {what} names the station {station!r}, which is not in the prompt",
                expected="one of " + ", ".join(STATIONS),
            )
    if STATIONS.index(source) >= STATIONS.index(reader):
        raise InputError(
            f"The {what} goes from {source} to {reader}",
            expected="a later token, since attention reads only what came before",
        )


def _check_route(plant: Plant, route: Route, what: str, source: str, *, lag: bool = False) -> None:
    if len(route.stations) < 2 or len(route.blocks) != len(route.stations) - 1:
        raise InputError(
            f"The {what} route has {len(route.stations)} stations and {len(route.blocks)} blocks",
            expected="at least two stations and one block for each hop",
        )
    if route.stations[0] != source or route.stations[-1] != "answer":
        raise InputError(
            f"The {what} route goes from {route.stations[0]} to {route.stations[-1]}",
            expected=f"{source} to answer",
        )
    for one, two in zip(route.stations, route.stations[1:], strict=False):
        _check_reading(one, two, f"{what} route")
    for block in route.blocks:
        _check_block(plant, block, f"A hop of the {what} route")
    steps = list(zip(route.blocks, route.blocks[1:], strict=False))
    for station, (write, read) in zip(route.stations[1:], steps, strict=False):
        if read <= write and not lag:
            raise InputError(
                f"The {what} route reads {station} in block {read}, "
                f"but writes it only in block {write}",
                expected="a read after the write",
                do="Move the read to a later block, or plan a lag",
            )
    if lag and (len(steps) != 1 or route.stations[1] != "subject" or steps[0][1] > steps[0][0]):
        raise InputError(
            "The plan has a lag, but the subject is not read before the cue has reached it",
            expected="stations cue, subject, answer, the second block not after the first",
        )


def _check_context(plant: Plant) -> None:
    if plant.alpha and not plant.context:
        raise InputError(f"alpha is {plant.alpha}, but no route carries the context")
    if len(plant.context) > 2:
        raise InputError(f"The context has {len(plant.context)} routes", expected="at most two")
    if plant.lag and (len(plant.context) != 1 or plant.combine != "sum"):
        raise InputError("The plan has a lag", expected="one context route, and combine 'sum'")
    arrival = max((route.arrival for route in plant.context), default=0)
    if plant.combine == "either":
        _check_block(plant, plant.gate_block, "The gate")
        if len(plant.context) != 2 or any(route.share != 1 for route in plant.context):
            raise InputError(
                "combine is 'either'", expected="two context routes, each with a share of 1"
            )
    elif plant.gate_block is not None:
        raise InputError("The plan has a gate, but combine is 'sum'", expected="combine 'either'")
    if plant.settled < arrival:
        raise InputError(
            f"The gate reads the answer in block {plant.gate_block}, "
            f"but the context arrives only in block {arrival}",
            expected="a gate in that block or later",
        )
    if plant.late_block is None:
        if plant.late_strength:
            raise InputError("The late correction has a strength, but no block")
    else:
        _check_block(plant, plant.late_block, "The late correction")
        if not plant.context or plant.lag or plant.late_block <= plant.settled:
            raise InputError(
                f"The late correction reads the answer in block {plant.late_block}, "
                f"but the context is settled there only after block {plant.settled}",
                expected="context that arrives, and a later block",
            )
    if plant.one_noun_context and not any("subject" in r.stations for r in plant.context):
        raise InputError(
            "Only one noun is to read the cue, but no context passes through the subject"
        )


def _check_prior(plant: Plant) -> None:
    if plant.prior is None:
        if plant.beta or plant.prior_block is not None:
            raise InputError("The association has a strength or a block, but no route")
    elif plant.prior_block is not None:
        _check_block(plant, plant.prior_block, "The writing of the association")
        if plant.prior_block >= plant.prior.blocks[0]:
            raise InputError(
                f"The association is read in block {plant.prior.blocks[0]}, "
                f"but written by the MLP of block {plant.prior_block}",
                expected="a read in a later block",
            )
    if plant.spurious is None and plant.spurious_strength:
        raise InputError("The spurious word has a strength, but no route")


def _check_heads(plant: Plant) -> None:
    for decoy in plant.decoys:
        _check_block(plant, decoy.block, "A distractor head")
        _check_reading(decoy.source, decoy.reader, "distractor head")
    routes = [*plant.context, *(r for r in (plant.prior, plant.spurious) if r is not None)]
    used = [block for route in routes for block in route.blocks]
    used += [decoy.block for decoy in plant.decoys]
    for block in set(used):
        if used.count(block) > N_HEADS:
            raise InputError(
                f"The plan puts {used.count(block)} heads into block {block}",
                expected=f"at most {N_HEADS}",
            )


def _check_edges(plant: Plant) -> None:
    lit: dict[str, int] = {}  # concept -> first state at which it is there
    if plant.context and not plant.lag:
        first = min(route.arrival for route in plant.context)
        lit[CONTEXT_WORDS[0]] = plant.settled if plant.combine == "either" else first
    if plant.prior is not None:
        lit[COMPETING_WORDS[0]] = plant.prior.arrival
    for edge in sorted(plant.edges, key=lambda edge: edge.block):
        _check_block(plant, edge.block, f"The edge {edge.source} to {edge.target}")
        if not {edge.source, edge.target} <= set(CONCEPTS) or edge.source == edge.target:
            raise InputError(
                f"An edge goes from {edge.source!r} to {edge.target!r}",
                expected="two different words of " + ", ".join(CONCEPTS),
            )
        if lit.get(edge.source, plant.n_layers) >= edge.block:
            raise InputError(
                f"The edge from {edge.source} to {edge.target} is in block {edge.block}, "
                f"but {edge.source} is not there before it",
                expected="an edge after the block that brings its source",
            )
        lit.setdefault(edge.target, edge.block)
    neurons = 2 * len(plant.edges) + 7  # gate 4, late correction 2, association 1
    if neurons > D_MLP:
        raise InputError(f"The plan has {len(plant.edges)} edges", expected="at most 16")
