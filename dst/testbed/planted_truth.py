"""What a measurement of a planted model must return, derived from its plan alone.

Effects are in logits of LD. Marks are states (after block l of L), NaN with a reason where there
is none. `planted_flows` holds the closed forms; here they are put into the terms of the method.
"""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from dst.core.results import Result, result
from dst.testbed.planted_effects import (
    concept_effects,
    concept_values,
    cut_cue,
    failure,
    necessity,
)
from dst.testbed.planted_flows import (
    CLEAN,
    NEUTRAL,
    NEUTRAL_SUBSTITUTE,
    SUBSTITUTE,
    SWAP,
    Reading,
    Repair,
    X,
    back_patched,
    brought,
    contrast,
    contributions,
    de_prime,
    flows,
    lens_margin,
    over_states,
    remove_cue,
    replace_subject,
    restore_cue,
)
from dst.testbed.planted_marks import (
    Thresholds,
    commitment,
    dss,
    inversion,
    onset,
    outcome,
    settles,
    travel,
)
from dst.testbed.planted_plan import Plant
from dst.testbed.planted_prompt import CONCEPTS, SPURIOUS, layout

THRESHOLDS = Thresholds()

REPAIRS: Mapping[str, tuple[Repair, Reading]] = {
    "de-prime": (de_prime, NEUTRAL),
    "replace subject": (replace_subject, NEUTRAL),
    "restore cue": (restore_cue, NEUTRAL),
    "remove cue": (remove_cue, SUBSTITUTE),
}
"""Each repair with the run that its control repairs. ``remove cue`` breaks a success."""


@result
class Truth(Result):
    """The known answers of one planted model.

    Attributes:
        tokens: The prompt, <bos> first.
        roles: The role of each token.
        role_names: The roles that occur: the role axis of every flow.
        ld: LD of each run: ``x``, ``neutral``, ``swap``, ``substitute``, ``neutral_substitute``
            and, where a spurious word is planted, ``clean``.
        margin: Lens LD at the answer on x; the last entry is LD(x).
        base: LD(x_0,sub).
        prior: LD(x_0) - base.
        total_effect: LD(x) - LD(x_0).
        context_removal: N_ctx.
        context_insertion: D_ctx.
        association_removal: N_asc, donor x_0,sub.
        association_insertion: D_asc, donor x_0 into x_0,sub.
        context_arrival: At the answer by D_ctx and its total; at other roles by |N_ctx|.
        context_departure: First state after arrival at which |N_ctx| stays under half its maximum.
        association_arrival: The same of the association.
        association_departure: The same of the association.
        context_redundant: States at which the removals add up to less than .9 of the total.
        association_redundant: The same of the association.
        context_cancelled: The total is under the floor, but insertions are not.
        handover: First state with .9 of the total at the answer, ``context`` and ``association``.
        dss: DSS* per state, from insertions at the answer.
        dss_total: The same from the totals.
        dss_note: ``no conflict``, ``no support``, ``misled by the context``, ``nothing arrived``
            or "".
        coherence_margin: D_ctx + D_asc at the answer.
        components: ``embedding``, ``attn_1``, ``mlp_1``, ...: what writes at the answer.
        attribution: Per part (``base``, ``association``, ``context``) what each component adds.
        cut_cue: LD(x) - LD(x with the cue cut off from later tokens in one block only).
        band_low: Lower end of the band of correct runs: lens margin of x_sub, less ``band``.
        onset: Of the lens margin against that band (`planted_marks.onset`).
        inversion: First state from which the lens margin stays under -floor.
        lens_commitment: First state from which the lens margin has its final sign.
        repaired: LD of x repaired at each state, by repair. ``remove cue`` breaks a success.
        control: LD of the control repaired likewise: x_0, or x_sub for ``remove cue``.
        commitment: 1 + the last state at which the repair works, by repair.
        back_patched: LD when the late subject is put back before its read; NaN without a lag.
        outcome: ``correct``, ``hallucination`` or ``neither`` (|LD| within the floor).
        failure: ``knowledge``, ``lag``, ``analogical collapse``, ``reasoning shortcut hijack``,
            ``distractor interference``,
            ``unclassified``, or "" when nothing fails.
        necessity: LD(x) - LD(x with this word made inert); NaN at <bos> and the answer.
        spurious: Words that are neither subject nor cue and bring content of their own.
        concepts: The concept words: the concept axes.
        concept_value: Lens logit of each concept word at the answer on x.
        concept_effect: Row v, column w, layer l: what w loses at state l + 1 when v has its x_0
            value at state l.
        reasons: Why a mark or score is NaN, by name (``onset``, ``commitment/de-prime``, ...).
        thresholds: The numbers used.
    """

    tokens: tuple[str, ...]
    roles: tuple[str, ...]
    role_names: tuple[str, ...]
    ld: Mapping[str, float]
    margin: Float[np.ndarray, " state"]
    base: float
    prior: float
    total_effect: float
    context_removal: Float[np.ndarray, "state role"]
    context_insertion: Float[np.ndarray, "state role"]
    association_removal: Float[np.ndarray, "state role"]
    association_insertion: Float[np.ndarray, "state role"]
    context_arrival: Float[np.ndarray, " role"]
    context_departure: Float[np.ndarray, " role"]
    association_arrival: Float[np.ndarray, " role"]
    association_departure: Float[np.ndarray, " role"]
    context_redundant: Bool[np.ndarray, " state"]
    association_redundant: Bool[np.ndarray, " state"]
    context_cancelled: bool
    handover: Mapping[str, float]
    dss: Float[np.ndarray, " state"]
    dss_total: float
    dss_note: str
    coherence_margin: Float[np.ndarray, " state"]
    components: tuple[str, ...]
    attribution: Mapping[str, Float[np.ndarray, " component"]]
    cut_cue: Float[np.ndarray, " layer"]
    band_low: Float[np.ndarray, " state"]
    onset: float
    inversion: float
    lens_commitment: float
    repaired: Mapping[str, Float[np.ndarray, " state"]]
    control: Mapping[str, Float[np.ndarray, " state"]]
    commitment: Mapping[str, float]
    back_patched: float
    outcome: str
    failure: str
    necessity: Float[np.ndarray, " pos"]
    spurious: tuple[str, ...]
    concepts: tuple[str, ...]
    concept_value: Float[np.ndarray, "state concept"]
    concept_effect: Float[np.ndarray, "layer concept concept"]
    reasons: Mapping[str, str]
    thresholds: Mapping[str, float]

    def marks(self) -> dict[str, float]:
        """Every mark by name, a state or NaN: what two sets of thresholds may disagree on."""
        named = {
            "onset": self.onset,
            "inversion": self.inversion,
            "lens_commitment": self.lens_commitment,
        }
        named |= {f"handover/{name}": state for name, state in self.handover.items()}
        named |= {f"commitment/{name}": state for name, state in self.commitment.items()}
        for name in ("context", "association"):
            for what in ("arrival", "departure"):
                states = getattr(self, f"{name}_{what}")
                for role, state in zip(self.role_names, states, strict=True):
                    named[f"{name}_{what}/{role}"] = float(state)
        return named

    def to_records(self) -> list[dict[str, object]]:
        """One row per state: the lens margin, DSS* and what has arrived at the answer."""
        answer = self.role_names.index("answer")
        return [
            {
                "state": state,
                "margin": float(self.margin[state]),
                "dss": float(self.dss[state]),
                "context": float(self.context_insertion[state, answer]),
                "association": float(self.association_insertion[state, answer]),
            }
            for state in range(len(self.margin))
        ]


def truth_of(plant: Plant, thresholds: Thresholds = THRESHOLDS) -> Truth:
    """The known answers of a plan: every field of `Truth`, in logits and states."""
    where = layout(plant)
    answer, floor = where.role_names.index("answer"), thresholds.floor
    runs = {
        "x": X,
        "neutral": NEUTRAL,
        "swap": SWAP,
        "substitute": SUBSTITUTE,
        "neutral_substitute": NEUTRAL_SUBSTITUTE,
    } | ({"clean": CLEAN} if plant.spurious is not None else {})
    ld = {name: contrast(plant, brought(plant, run)) for name, run in runs.items()}
    base, total = ld["neutral_substitute"], ld["x"] - ld["neutral"]
    prior = ld["neutral"] - base

    context_in = flows(plant, where, NEUTRAL, X)
    context_out = -flows(plant, where, X, NEUTRAL)
    prior_in = flows(plant, where, NEUTRAL_SUBSTITUTE, NEUTRAL)
    prior_out = -flows(plant, where, NEUTRAL, NEUTRAL_SUBSTITUTE)
    context = travel(context_out, context_in, answer, total, thresholds)
    association = travel(prior_out, prior_in, answer, prior, thresholds)
    arrived = zip(context_in[:, answer], prior_in[:, answer], strict=True)
    dss_total, dss_note = dss(total, prior, floor)

    margin = lens_margin(plant, X)
    band_low = lens_margin(plant, SUBSTITUTE) - thresholds.band
    answered = outcome(ld["x"], floor)
    # Each repair exists where the case has the variants for it.
    exist = [name for name in REPAIRS if name != "restore cue" or plant.spurious is not None]
    repaired = {name: over_states(plant, where, REPAIRS[name][0], X) for name in exist}
    control = {name: over_states(plant, where, *REPAIRS[name]) for name in exist}
    marks = {
        "onset": onset(margin, band_low, thresholds.drop),
        "inversion": inversion(margin, floor),
    } | {
        f"commitment/{name}": commitment(name, answered, repaired, control, floor)
        for name in REPAIRS
    }
    reasons = {name: reason for name, (_, reason) in marks.items() if reason}
    for name, handover in (("context", context.handover), ("association", association.handover)):
        if math.isnan(handover):
            reasons[f"handover/{name}"] = f"the total of the {name} is under the floor"
    if math.isnan(dss_total):
        reasons["dss_total"] = dss_note

    added = {name: contributions(plant, runs[name]) for name in runs}
    value = concept_values(plant, X)
    return Truth(
        tokens=where.tokens,
        roles=where.roles,
        role_names=where.role_names,
        ld=ld,
        margin=margin,
        base=base,
        prior=prior,
        total_effect=total,
        context_removal=context_out,
        context_insertion=context_in,
        association_removal=prior_out,
        association_insertion=prior_in,
        context_arrival=context.arrival,
        context_departure=context.departure,
        association_arrival=association.arrival,
        association_departure=association.departure,
        context_redundant=_redundant(context_out, total, thresholds),
        association_redundant=_redundant(prior_out, prior, thresholds),
        context_cancelled=bool(abs(total) < floor < np.abs(context_in).max()),
        handover={"context": context.handover, "association": association.handover},
        dss=np.array([dss(c, a, floor)[0] for c, a in arrived]),
        dss_total=dss_total,
        dss_note=dss_note,
        coherence_margin=context_in[:, answer] + prior_in[:, answer],
        components=_components(plant),
        attribution={
            "base": added["neutral_substitute"],
            "association": added["neutral"] - added["neutral_substitute"],
            "context": added["x"] - added["neutral"],
        },
        cut_cue=cut_cue(plant),
        band_low=band_low,
        onset=marks["onset"][0],
        inversion=marks["inversion"][0],
        lens_commitment=settles(np.sign(margin) == np.sign(margin[-1])),
        repaired=repaired,
        control=control,
        commitment={name: marks[f"commitment/{name}"][0] for name in REPAIRS},
        back_patched=back_patched(plant),
        outcome=answered,
        failure=failure(
            plant,
            where,
            ld,
            prior,
            marks["commitment/de-prime"][0],
            marks["commitment/restore cue"][0],
            floor,
        ),
        necessity=necessity(plant, where),
        spurious=(SPURIOUS,) if plant.spurious is not None else (),
        concepts=CONCEPTS,
        concept_value=value,
        concept_effect=concept_effects(plant, value - concept_values(plant, NEUTRAL)),
        reasons=reasons,
        thresholds=dict(vars(thresholds)),
    )


def _redundant(removal: np.ndarray, total: float, use: Thresholds) -> np.ndarray:
    if abs(total) < use.floor:
        return np.zeros(len(removal), dtype=bool)
    return removal.sum(1) / total < use.redundant


def _components(plant: Plant) -> tuple[str, ...]:
    blocks = range(1, plant.n_layers + 1)
    return ("embedding", *(f"{kind}_{block}" for block in blocks for kind in ("attn", "mlp")))
