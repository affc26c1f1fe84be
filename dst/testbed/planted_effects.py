"""What single tokens, cuts and concepts of a plan do, and how it fails: in closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from dst.testbed.planted_flows import (
    NEUTRAL_SUBSTITUTE,
    Reading,
    X,
    back_patched,
    brought,
    contrast,
    patched,
    settled_context,
    without_station,
)
from dst.testbed.planted_marks import NAN, outcome
from dst.testbed.planted_plan import SPARK, Plant
from dst.testbed.planted_prompt import (
    COMPETING_WORDS,
    CONCEPTS,
    CONTEXT_WORDS,
    Layout,
)


def cut_cue(plant: Plant) -> Float[np.ndarray, " layer"]:
    """LD(x) - LD(x with the cue cut off from every later token in one block), in logits.

    Routes whose first hop is in that block lose the cue; all others have it, or read it elsewhere.
    """
    what = brought(plant, X)
    out = np.zeros(plant.n_layers)
    for layer in range(plant.n_layers):
        values = tuple(
            0.0 if route.blocks[0] == layer + 1 else value
            for route, value in zip(plant.context, what.context, strict=True)
        )
        lost = settled_context(plant, what.context) - settled_context(plant, values)
        out[layer] = (plant.alpha + plant.late_strength) * lost
    return out


def necessity(plant: Plant, where: Layout) -> Float[np.ndarray, " pos"]:
    """LD(x) - LD(x with one word made inert), in logits; NaN at <bos> and the answer."""
    ld = contrast(plant, brought(plant, X))
    out = np.zeros(len(where.tokens))
    for pos, (role, station) in enumerate(zip(where.roles, where.stations, strict=True)):
        if role in ("bos", "answer"):
            out[pos] = NAN
        elif station and len(where.roles_of(station)) == 1:
            # A subject that is named twice is still there when one mention goes.
            out[pos] = ld - contrast(plant, without_station(plant, station))
    return out


def failure(
    plant: Plant,
    where: Layout,
    ld: Mapping[str, float],
    prior: float,
    de_primed: float,
    restored: float,
    floor: float,
) -> str:
    """The failure mode by the rules of METHOD 7 and ours, the first that holds; "" for no failure.

    The sense is decodable where a planted head has copied it: along a context route, or by a
    distractor head that reads the cue. ``de_primed`` is the commitment under de-priming,
    ``restored`` that under the clean twin's states.
    """
    if outcome(ld["x"], floor) != "hallucination":
        return ""
    if "clean" in ld and outcome(ld["clean"], floor) != "correct":
        return "knowledge"
    if back_patched(plant) > floor:
        return "lag"
    places = ("relay_1", "relay_2", "relay_3", "subject", "answer")
    copied = any(head.source == "cue" and head.reader in places for head in plant.decoys)
    decodable = bool(plant.context) or copied
    if not decodable and _donor_subject(plant, where) > floor:
        return "analogical collapse"
    if decodable and prior < -floor and not math.isnan(de_primed):
        return "reasoning shortcut hijack"
    if "clean" in ld and ld["clean"] - ld["x"] > floor and not math.isnan(restored):
        return "distractor interference"
    return "unclassified"


def _donor_subject(plant: Plant, where: Layout) -> float:
    """LD of x whose subject is, from the embedding on, a substitute in a neutral context."""
    subjects = [role for role in where.role_names if role.startswith("subject")]
    own, donor = brought(plant, X), brought(plant, NEUTRAL_SUBSTITUTE)
    return contrast(plant, patched(plant, where, own, donor, 0, subjects))


def concept_values(plant: Plant, reading: Reading) -> Float[np.ndarray, "state concept"]:
    """Lens logits of the concept words at the answer, block by block: attention, then MLP."""
    what = brought(plant, reading)
    music, water = CONCEPTS.index(CONTEXT_WORDS[0]), CONCEPTS.index(COMPETING_WORDS[0])
    values = np.zeros((plant.n_layers + 1, len(CONCEPTS)))
    for block in range(1, plant.n_layers + 1):
        now = values[block - 1].copy()
        if plant.combine == "sum":
            for route, value in zip(plant.context, what.context, strict=True):
                now[music] += SPARK * route.share * value * (route.arrival == block)
        if plant.prior is not None:
            now[water] += SPARK * what.noun * (plant.prior.arrival == block)
        values[block] = now
        for edge in plant.edges:
            source, target = CONCEPTS.index(edge.source), CONCEPTS.index(edge.target)
            values[block, target] += edge.gain * now[source] * (edge.block == block)
        if plant.combine == "either":
            gain = SPARK * settled_context(plant, what.context)
            values[block, music] += gain * (plant.gate_block == block)
    return values


def concept_effects(
    plant: Plant, moved: Float[np.ndarray, "state concept"]
) -> Float[np.ndarray, "layer concept concept"]:
    """What each concept (row) gives each other (column) from state l to l + 1.

    ``moved`` is the concepts' lens logit on x less that on x_0: what an edit takes away.
    """
    out = np.zeros((plant.n_layers, len(CONCEPTS), len(CONCEPTS)))
    for edge in plant.edges:
        source, target = CONCEPTS.index(edge.source), CONCEPTS.index(edge.target)
        out[edge.block - 1, source, target] += edge.gain * moved[edge.block - 1, source]
    return out
