"""`semantic_map`: the concepts of every state at the answer position, and what they do."""

from __future__ import annotations

from collections.abc import Sequence

from dst.core.case import Case
from dst.core.errors import InputError
from dst.core.lens_results import TunedLens
from dst.core.map_results import RATE, SemanticMap
from dst.core.position_results import PositionEffects
from dst.models.backend import Backend
from dst.tracing.concept_effects import CONTROLS, HOPS, concept_effects
from dst.tracing.concept_nodes import MASS, MOST, nodes_of
from dst.tracing.prepare import DRAWS, prepare
from dst.tracing.reference import aids


def semantic_map(
    model: Backend,
    case: Case,
    *,
    lens: TunedLens | None = None,
    most: int = MOST,
    mass: float = MASS,
    states: Sequence[int] | None = None,
    hops: Sequence[int] = HOPS,
    controls: int = CONTROLS,
    rate: float = RATE,
    draws: int = DRAWS,
    seed: int = 0,
    positions: PositionEffects | None = None,
    show: bool = True,
) -> SemanticMap:
    """The concepts that i* holds at each state, and by how many logits each raises each other.

    Nodes are the likeliest whole words by the tuned lens (`dst.concept_nodes`); the case's concept
    words and answers are always among them. An edge is what the blocks between two states make
    of moving h[l, i*] along a concept's direction to where a neutral prompt has it
    (`dst.tracing.concept_effects`); it is kept when it stands out among control directions at a
    false discovery rate of ``rate`` over the whole map.

    Args:
        model: The model.
        case: The case; neutral variants that it lacks are drawn. Without a cue the donor is
            ordinary text, which the result says.
        lens: A tuned lens of the model; by default the one in its folder, else the logit lens.
        most: Most nodes of a state beside the given ones.
        mass: Share of the words' probability that the nodes of a state are to hold.
        states: States at which concepts are moved, 0 to L - 1; all by default.
        hops: Blocks after which effects are read, beside the output.
        controls: Control directions per concept, state and group of target words.
        rate: False discovery rate.
        draws: Neutral variants to draw where the case gives none.
        seed: Seed of the draws and of the controls.
        positions: What the prompt's places bring (`dst.position_effects`): a second layer of the
            graph.
        show: Show the progress of long runs.

    Returns:
        `SemanticMap`: words, sides, scores [state concept], effects and q
        [hop source concept concept], row = cause.

    Raises:
        CaseError, TokenError: As `dst.trace`; a map needs an associative answer.
        InputError: An argument is out of range, or the lens or the positions are of another model.
        CapabilityError: The engine cannot edit.

    Source: METHOD 6, where the gaps of the published map are listed; that map is
    `dst.tracing.published_map`.
    """
    if not 0 < rate < 1:
        raise InputError(f"The false discovery rate is {rate}", expected="a share between 0 and 1")
    if positions and positions.provenance.weights_hash != model.spec.weights_hash:
        raise InputError(
            f"The position effects are of {positions.provenance.model}, and the model given is "
            "another",
            do="Measure them with this model",
        )
    at_hand = aids(model, lens)
    ready = prepare(model, case, draws=draws, seed=seed)
    nodes = nodes_of(model, ready.tokenized, at_hand.lens, most, mass)
    found = concept_effects(
        model,
        ready,
        nodes,
        lens=at_hand.lens,
        states=states,
        hops=hops,
        controls=controls,
        seed=seed,
        show=show,
    )
    lens_note = "" if at_hand.lens else f"Read with the logit lens: {at_hand.no_lens}."
    return SemanticMap(
        lens=nodes.lens,
        words=nodes.words,
        side=nodes.side,
        given=nodes.given,
        answer=nodes.answer,
        score=nodes.score,
        node=nodes.node,
        states=found.states,
        hops=found.hops,
        hop_states=found.hop_states,
        effects=found.effects,
        control=found.control,
        p=found.p,
        q=found.q,
        moved=found.moved,
        donor=found.donor,
        controls=controls,
        provenance=model.provenance(
            seed=seed, most=most, mass=mass, hops=list(hops), controls=controls, draws=draws
        ),
        rate=rate,
        notes=tuple(note for note in (lens_note, *ready.notes, *nodes.notes) if note),
        positions=positions,
    )
