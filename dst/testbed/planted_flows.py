"""Closed forms of a plan: LD of any run, and of any run patched from another. No network here.

A route has one carrier at every state: the station whose residual the rest of the route will
read (`Route.station_at`). Replacing the carrier replaces what the route brings; replacing any
other token changes nothing. So a patched LD is the plan's formula

    LD = base + (alpha + late) * context - beta * noun + spurious_strength * word,
    context = sum of share_j * c_j    or, with two routes either of which suffices, clip(c_1 + c_2)

with the donor's value for every route whose carrier lies in the patch. A subject that is named
twice is read as a mean, so each mention carries half; but a head that answers to one noun only
reads the mentions that are this noun, so either mention suffices.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dst.testbed.planted_plan import Plant, Route
from dst.testbed.planted_prompt import Layout


@dataclass(frozen=True)
class Reading:
    """What the prompt of a run says.

    Attributes:
        sense: Of the cue: 1, -1 when swapped, 0 when neutral.
        noun: Whether the subject is the noun with the association (1) or a substitute (0).
        word: Whether the spurious word is there (1) or the harmless one (0).
    """

    sense: float = 1.0
    noun: float = 1.0
    word: float = 1.0


X = Reading()
NEUTRAL = Reading(sense=0)
SWAP = Reading(sense=-1)
SUBSTITUTE = Reading(noun=0)
NEUTRAL_SUBSTITUTE = Reading(sense=0, noun=0)
CLEAN = Reading(word=0)
CLEAN_NEUTRAL = Reading(sense=0, word=0)


@dataclass(frozen=True)
class Brought:
    """What is brought to the answer: one value per context route, the noun, the word."""

    context: tuple[float, ...]
    noun: float
    word: float


def brought(plant: Plant, reading: Reading) -> Brought:
    """What the routes of a plan bring in a run that nobody patches."""
    return Brought(
        tuple(_context_value(plant, route, reading) for route in plant.context),
        reading.noun if plant.prior is not None else 0.0,
        reading.word if plant.spurious is not None else 0.0,
    )


def settled_context(plant: Plant, values: tuple[float, ...]) -> float:
    """The context at the answer once it is settled; 1 is all of it."""
    if plant.combine == "either":
        return float(np.clip(sum(values), -1, 1))
    return sum(route.share * value for route, value in zip(plant.context, values, strict=True))


def contrast(plant: Plant, what: Brought) -> float:
    """LD in logits: the formula at the top of this module."""
    return (
        plant.base
        + (plant.alpha + plant.late_strength) * settled_context(plant, what.context)
        - plant.beta * what.noun
        + plant.spurious_strength * what.word
    )


def patched(
    plant: Plant,
    layout: Layout,
    own: Brought,
    donor: Brought,
    state: int,
    roles: Collection[str],
) -> Brought:
    """What is brought when the residual of ``roles`` after ``state`` is the donor's."""

    def mix(route: Route | None, mine: float, theirs: float) -> float:
        if route is None:
            return mine
        carriers = layout.roles_of(route.station_at(state))
        values = [theirs if role in roles else mine for role in carriers]
        # A head that answers to one noun only looks past the mentions that are no longer it.
        one_noun = route is plant.prior and plant.prior_block is None
        one_noun = one_noun and route.station_at(state) == "subject"
        return max(values) if one_noun else sum(values) / len(values)

    context = zip(plant.context, own.context, donor.context, strict=True)
    return Brought(
        tuple(mix(route, mine, theirs) for route, mine, theirs in context),
        mix(plant.prior, own.noun, donor.noun),
        mix(plant.spurious, own.word, donor.word),
    )


def flows(
    plant: Plant, layout: Layout, base: Reading, donor: Reading
) -> Float[np.ndarray, "state role"]:
    """LD(base run with a role's residual after a state of the donor run) - LD(base run)."""
    own, other = brought(plant, base), brought(plant, donor)
    start = contrast(plant, own)
    out = np.zeros((plant.n_layers + 1, len(layout.role_names)))
    for state in range(plant.n_layers + 1):
        for column, role in enumerate(layout.role_names):
            swapped = patched(plant, layout, own, other, state, (role,))
            out[state, column] = contrast(plant, swapped) - start
    return out


def contributions(plant: Plant, reading: Reading) -> Float[np.ndarray, " component"]:
    """What each component at the answer adds to LD: embedding, attn_1, mlp_1, attn_2, mlp_2..."""
    what = brought(plant, reading)
    out = np.zeros(1 + 2 * plant.n_layers)
    out[0] = plant.base
    context = settled_context(plant, what.context)
    if plant.combine == "either" and plant.gate_block is not None:
        out[2 * plant.gate_block] += plant.alpha * context
    else:
        for route, value in zip(plant.context, what.context, strict=True):
            out[2 * route.arrival - 1] += plant.alpha * route.share * value
    if plant.late_block is not None:
        out[2 * plant.late_block] += plant.late_strength * context
    if plant.prior is not None:
        out[2 * plant.prior.arrival - 1] -= plant.beta * what.noun
    if plant.spurious is not None:
        out[2 * plant.spurious.arrival - 1] += plant.spurious_strength * what.word
    return out


def lens_margin(plant: Plant, reading: Reading) -> Float[np.ndarray, " state"]:
    """LD as the lens reads it at the answer after each state, in logits."""
    return contributions(plant, reading).cumsum()[::2]


# -- repairs of a failure, and the breaking of a success ------------------------------------

Repair = Callable[[Plant, Layout, int, Reading], Brought]
"""What is brought when a run (x, or x_0 for the control) is repaired at a state."""


def de_prime(plant: Plant, layout: Layout, state: int, run: Reading) -> Brought:
    """Every position before the answer += x_0,sub - x_0: the noun is taken away, additively.

    Context that has been written stays. Only a noun that must still ask for the cue
    (``one_noun_context``) loses it.
    """
    own = brought(plant, run)
    gone = patched(plant, layout, own, Brought(own.context, 0.0, own.word), state, _before(layout))
    context = tuple(
        0.0 if _noun_still_asks(plant, route, state) else value
        for route, value in zip(plant.context, gone.context, strict=True)
    )
    return Brought(context, gone.noun, gone.word)


def replace_subject(plant: Plant, layout: Layout, state: int, run: Reading) -> Brought:
    """The subject's residual is that of the substitute's run, its cue kept."""
    own = brought(plant, run)
    donor = brought(plant, Reading(run.sense, 0.0, run.word))
    roles = [role for role in layout.role_names if role.startswith("subject")]
    swapped = patched(plant, layout, own, donor, state, roles)
    context = tuple(
        0.0 if _noun_still_asks(plant, route, state) else value
        for route, value in zip(plant.context, swapped.context, strict=True)
    )
    return Brought(context, swapped.noun, swapped.word)


def restore_cue(plant: Plant, layout: Layout, state: int, run: Reading) -> Brought:
    """Every position before the answer is that of the twin whose distractor is harmless."""
    own = brought(plant, run)
    donor = brought(plant, Reading(run.sense, run.noun, 0.0))
    return patched(plant, layout, own, donor, state, _before(layout))


def remove_cue(plant: Plant, layout: Layout, state: int, run: Reading) -> Brought:
    """Every position before the answer is that of the run with a neutral cue."""
    own = brought(plant, run)
    donor = brought(plant, Reading(0.0, run.noun, run.word))
    return patched(plant, layout, own, donor, state, _before(layout))


def over_states(
    plant: Plant, layout: Layout, repair: Repair, run: Reading
) -> Float[np.ndarray, " state"]:
    """LD of the run repaired at each state."""
    states = range(plant.n_layers + 1)
    return np.array([contrast(plant, repair(plant, layout, state, run)) for state in states])


def back_patched(plant: Plant) -> float:
    """LD when the subject, as it is once the cue has reached it, is put back before its read.

    Only for a plan with a lag; NaN otherwise. A second run of the association's MLP after the
    patch adds the association a second time, where the prior is read late enough to see it.
    """
    if not plant.lag:
        return float("nan")
    reached, read = plant.context[0].blocks
    noun = 1.0
    if plant.prior is not None and plant.prior_block is not None:
        again = plant.prior_block >= read and plant.prior.blocks[0] >= read
        noun += again and plant.prior_block <= reached
    what = brought(plant, X)
    return contrast(plant, Brought((1.0,), noun * what.noun, what.word))


def without_station(plant: Plant, station: str) -> Brought:
    """What is brought in x when an inert word stands at a station: its routes are broken."""
    what = brought(plant, X)
    context = zip(plant.context, what.context, strict=True)
    broken = lambda route: route is not None and station in route.stations  # noqa: E731
    return Brought(
        tuple(0.0 if broken(route) else value for route, value in context),
        0.0 if broken(plant.prior) else what.noun,
        0.0 if broken(plant.spurious) else what.word,
    )


def _context_value(plant: Plant, route: Route, reading: Reading) -> float:
    if plant.lag:
        return 0.0
    needs_noun = plant.one_noun_context and "subject" in route.stations
    return reading.sense * (reading.noun if needs_noun else 1.0)


def _noun_still_asks(plant: Plant, route: Route, state: int) -> bool:
    """Whether the one noun that reads the cue has not yet done so after this state."""
    if not plant.one_noun_context or "subject" not in route.stations:
        return False
    return state < route.blocks[route.stations.index("subject") - 1]


def _before(layout: Layout) -> list[str]:
    return [role for role in layout.role_names if role != "answer"]
