"""From a plan to heads and neurons, in named dimensions: the model before it has a body.

Every dimension of the residual stream has a name and one meaning. Dimension 0 is the ballast: a
constant so large that the norm divides every token by the same number, which its gains undo, so
that norm(x) = x to about 1e-7 (METHOD 14). A head finds its source by name and reads <bos>,
where there is nothing, when there is no source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dst.testbed.planted_plan import SPARK, Plant, Route
from dst.testbed.planted_prompt import (
    ASSOCIATIVE,
    BOS,
    COMPETING_WORDS,
    CONCEPTS,
    CONTEXT_WORDS,
    CONTEXTUAL,
    CUE,
    OFF_ANSWER_WORDS,
    SPURIOUS,
    STATION_WORDS,
    STATIONS,
    SUBJECT,
    SWAPPED_CUE,
    UNKNOWN,
    VOCABULARY,
)

DIMENSIONS = (
    "ballast",
    "at_bos",
    *(f"at_{station}" for station in STATIONS),
    "sense",  # at the cue: +1, -1 or 0
    "this_noun",  # at the subject: 1 for the noun with the association, 0 for a substitute
    "this_word",  # at the spurious word: 1, or 0 for the harmless one
    *("context_1", "context_2"),  # on their way, one dimension a route
    *("association", "spurious"),  # on their way
    *("evidence", "gate", "context"),  # at the answer; only "evidence" is unembedded
    *(f"lens_{word}" for word in CONCEPTS),
    *(f"off_{word}" for word in OFF_ANSWER_WORDS),
)

ANSWER_LOGIT = 8.0
"""Added to both answers at the answer position: together they hold nearly all probability."""

Vector = Mapping[str, float]


@dataclass(frozen=True)
class Head:
    """An attention head: ``reader`` attends to ``source``, copies ``read`` and adds ``write``."""

    block: int
    reader: str
    source: str
    read: str
    write: Vector


@dataclass(frozen=True)
class Neuron:
    """An MLP neuron: adds relu(<read, x> + bias) times ``write``, exact at the planted values."""

    block: int
    read: Vector
    bias: float
    write: Vector


def heads(plant: Plant) -> tuple[Head, ...]:
    """Every planted head, in the order in which they fill the blocks."""
    found: list[Head] = []
    for number, route in enumerate(plant.context, start=1):
        # With two routes either of which suffices, the answer keeps the sum for the gate.
        at_answer = {"gate": 1.0} if plant.combine == "either" else _context(plant, route.share)
        found += _hops(route, "sense", f"context_{number}", at_answer)
    if plant.one_noun_context:
        found = [_by_this_noun(head) for head in found]
    if plant.prior is not None:
        at_answer = {"evidence": -plant.beta / 2, f"lens_{COMPETING_WORDS[0]}": SPARK}
        first = "this_noun" if plant.prior_block is None else "association"
        hops = _hops(plant.prior, first, "association", at_answer)
        if plant.prior_block is None:  # a head that answers to one noun only
            hops[0] = Head(hops[0].block, hops[0].reader, "this_noun", first, hops[0].write)
        found += hops
    if plant.spurious is not None:
        at_answer = {"evidence": plant.spurious_strength / 2}
        found += _hops(plant.spurious, "this_word", "spurious", at_answer)
    content = {"cue": "sense", "subject": "this_noun", "spurious": "this_word"}
    for number, decoy in enumerate(plant.decoys):
        read = content.get(decoy.source, f"at_{decoy.source}")
        off = f"off_{OFF_ANSWER_WORDS[number % len(OFF_ANSWER_WORDS)]}"
        found.append(Head(decoy.block, f"at_{decoy.reader}", f"at_{decoy.source}", read, {off: 1}))
    return tuple(found)


def neurons(plant: Plant) -> tuple[Neuron, ...]:
    """Every planted neuron."""
    found: list[Neuron] = []
    if plant.prior_block is not None:
        found.append(Neuron(plant.prior_block, {"this_noun": 1}, 0, {"association": 1}))
    if plant.combine == "either" and plant.gate_block is not None:
        # clip(c, -1, 1) = [relu(c) - relu(c - 1)] - [relu(-c) - relu(-c - 1)]
        for bias, sign in ((0.0, 1.0), (-1.0, -1.0)):
            for side in (1.0, -1.0):
                write = _context(plant, sign * side)
                found.append(Neuron(plant.gate_block, {"gate": side}, bias, write))
    if plant.late_block is not None:
        found += _linear(plant.late_block, "context", {"evidence": plant.late_strength / 2})
    for edge in plant.edges:
        found += _linear(edge.block, f"lens_{edge.source}", {f"lens_{edge.target}": edge.gain})
    return tuple(found)


def embedding(plant: Plant) -> dict[str, dict[str, float]]:
    """What each word puts into the residual stream, the ballast apart."""
    words: dict[str, dict[str, float]] = {word: {} for word in VOCABULARY}
    words[BOS]["at_bos"] = 1.0
    for station, here in STATION_WORDS.items():
        for word in here:
            words[word][f"at_{station}"] = 1.0
    words[CUE]["sense"], words[SWAPPED_CUE]["sense"] = 1.0, -1.0
    words[SUBJECT]["this_noun"] = 1.0
    words[SPURIOUS]["this_word"] = 1.0
    for word in STATION_WORDS["answer"]:
        words[word]["evidence"] = plant.base / 2
    return words


def unembedding() -> dict[str, dict[str, float]]:
    """What each word's logit reads. The rows sum to zero, so centring changes none of them."""
    words: dict[str, dict[str, float]] = {word: {} for word in VOCABULARY}
    words[CONTEXTUAL] = {"evidence": 1.0, "at_answer": ANSWER_LOGIT}
    words[ASSOCIATIVE] = {"evidence": -1.0, "at_answer": ANSWER_LOGIT}
    for word in CONCEPTS:
        words[word] = {f"lens_{word}": 1.0}
    for word in OFF_ANSWER_WORDS:
        words[word] = {f"off_{word}": 1.0}
    total: dict[str, float] = {}
    for row in words.values():
        for name, weight in row.items():
            total[name] = total.get(name, 0.0) - weight
    words[UNKNOWN] = total
    return words


def _hops(route: Route, first: str, transit: str, at_answer: Vector) -> list[Head]:
    """The heads of a route: ``first`` is read at the source, ``transit`` in between."""
    found = []
    for hop, block in enumerate(route.blocks):
        source, reader = route.stations[hop : hop + 2]
        write = at_answer if reader == "answer" else {transit: 1.0}
        read = first if hop == 0 else transit
        found.append(Head(block, f"at_{reader}", f"at_{source}", read, write))
    return found


def _context(plant: Plant, amount: float) -> dict[str, float]:
    """What an amount of context (1 = all of it) writes at the answer."""
    lens = f"lens_{CONTEXT_WORDS[0]}"
    return {"evidence": amount * plant.alpha / 2, "context": amount, lens: amount * SPARK}


def _by_this_noun(head: Head) -> Head:
    """The same head, but at the subject only the one noun reads."""
    if head.reader != "at_subject":
        return head
    return Head(head.block, "this_noun", head.source, head.read, head.write)


def _linear(block: int, read: str, write: Vector) -> list[Neuron]:
    """Two neurons that add z times ``write``: act(z) - act(-z) = z for SiLU and GELU alike."""
    minus = {name: -weight for name, weight in write.items()}
    return [Neuron(block, {read: 1.0}, 0.0, write), Neuron(block, {read: -1.0}, 0.0, minus)]
