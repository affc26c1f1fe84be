"""What the verdict says of the two flows: why, when, and by which words and components."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from dst.core.carriers import ComponentCarrier, WordCarrier, component_carriers, word_carriers
from dst.core.claims import Claim
from dst.core.results import Attribution, Estimate, Mark, Markers, Pathways, Trace

FLOWS = ("contextual", "associative")

_MOST_ROLES, _MOST_PARTS, _MOST_TEXT = 3, 2, 40
_LEAST_PART = 0.1
"""Share of a flow that a component has to write to be named."""


def flow_claims(
    paths: Pathways,
    parts: Attribution | None,
    seen: Trace,
    outcome: str,
    plus: str,
    minus: str,
) -> Iterator[Claim]:
    """The sum, and what its terms and the two flows say as far as their controls passed."""
    total = f"base {paths.base} + prior of the subject {paths.prior} + effect of the context "
    yield Claim(
        f"LD {paths.contrast:+.2f} = {total}{paths.total_effect} logits (95 % over draws).", "sum"
    )
    if why := undrawn(paths):
        yield Claim(f"Nothing is said of what made the answer: {why}.", "cause")
        return
    yield from _why(paths, outcome, plus, minus)
    if why := failed_control(paths):
        yield Claim(f"Nothing is said of when and by which way it came: {why}.", "arrival")
        return
    yield from _when(paths)
    for flow in FLOWS:
        yield from _route(paths, parts, seen, flow)


def floor_of(paths: Pathways, flow: str) -> float:
    """Tau of a flow."""
    return paths.contextual_floor if flow == "contextual" else paths.associative_floor


def undrawn(paths: Pathways) -> str:
    """Why no effect can be told from chance: single draws; "" where there are two or more."""
    single = [
        name
        for name, term in (("neutral cue", paths.total_effect), ("subject", paths.prior))
        if term.n < 2
    ]
    if not single:
        return ""
    return f"there is one {' and one '.join(single)} only, so that what draws differ by is unknown"


def failed_control(paths: Pathways) -> str:
    """Why nothing may rest on the interventions: a control over a floor; "" if both passed.

    The all-roles control is not run where no variant has the prompt's length (NaN): then putting
    a run's own states back is the control that is left.
    """
    floor = min(paths.contextual_floor, paths.associative_floor)
    for what, error in (
        ("a run's own states put back move LD", paths.self_patch_error),
        ("all roles swapped at once miss the donor's LD", paths.donor_error),
    ):
        if error > floor:
            return f"{what} by {error:.2g} logits, more than the floor of {floor:.2f}"
    return "" if not math.isnan(paths.self_patch_error) else "no run's own states were put back"


def _why(paths: Pathways, outcome: str, plus: str, minus: str) -> Iterator[Claim]:
    """Which of the three terms made the answer, as far as they are over their floors."""
    context, prior, base = paths.total_effect.mean, paths.prior.mean, paths.base
    c_floor, a_floor = paths.contextual_floor, paths.associative_floor
    has_context, has_prior = abs(context) >= c_floor, abs(prior) >= a_floor
    of_context = _checked(paths.total_effect, c_floor)
    of_prior = _checked(paths.prior, a_floor)
    if paths.cancelled:
        yield Claim(
            "The context's effect is under its floor although parts of it are not: they cancel.",
            "cause",
            of_context,
        )
    elif not has_context:
        yield Claim(
            f"No effect of the cue can be told from what neutral cues differ by ({context:+.2f}, "
            f"floor {c_floor:.2f} logits).",
            "cause",
            of_context,
        )
    if has_context and context < 0:
        yield Claim(
            f"The cue itself pushes toward {minus!r} ({context:+.2f})"
            + _misled(paths, outcome, plus),
            "cause",
            of_context,
        )
    if has_context and context > 0 and has_prior and prior < 0:
        yield Claim(
            f"Context (toward {plus!r}) and association (toward {minus!r}) compete; the context "
            f"has {context / (context - prior):.0%} of the evidence.",
            "cause",
            f"{of_context}; {of_prior}",
        )
    if not has_prior:
        yield Claim(
            f"No pull of the subject by itself can be told from what unrelated subjects differ by "
            f"({prior:+.2f}, floor {a_floor:.2f} logits).",
            "cause",
            of_prior,
        )
    elif prior > 0 and context > -c_floor:
        yield Claim(
            f"The subject by itself leans to {plus!r}: there is no conflict with the context.",
            "cause",
            of_prior,
        )
    against = sum(min(value, 0.0) for value in (base.mean, prior, context))
    if paths.contrast < 0 and base.high < 0 and base.mean <= against / 2:
        yield Claim(
            f"Most of the lean to {minus!r} is there without cue and subject (base "
            f"{base.mean:+.2f}): it comes from the rest of the prompt, or from the answers "
            "themselves.",
            "cause",
            f"the base's interval ends at {base.high:+.2f}",
        )


def _misled(paths: Pathways, outcome: str, plus: str) -> str:
    """The end of the sentence on a cue that pushes the wrong way."""
    without = paths.contrast - paths.total_effect.mean  # LD(x_0), mean over draws
    if outcome != "hallucination" or without <= paths.contextual_floor:
        return "."
    return f": with a neutral cue LD is {without:+.2f}, toward {plus!r}. Its context misleads it."


def _checked(term: Estimate, floor: float) -> str:
    return f"{term.mean:+.2f} beside a floor of {floor:.2f} over {term.n} draws"


# -- when --------------------------------------------------------------------------------------


def _when(paths: Pathways) -> Iterator[Claim]:
    """When each flow was at the answer position; which was first, only if the draws agree."""
    n_layers = len(paths.redundant) - 1
    marks = Markers(paths.marks)
    at = {flow: marks.get("arrival", f"{flow} flow at answer") for flow in FLOWS}
    there = sorted(
        (flow for flow in FLOWS if not math.isnan(at[flow].state)), key=lambda f: at[f].state
    )
    if not there:
        return
    if len(there) == 1:
        flow = there[0]
        says = (
            f"The {flow} flow is at the answer position from state {_placed(at[flow])} of "
            f"{n_layers} on."
        )
    else:
        first, second = (at[flow] for flow in there)
        if first.high < second.low:
            says = (
                f"The {there[0]} flow is at the answer position from state {_placed(first)} of "
                f"{n_layers} on, the {there[1]} one from state {_placed(second)}."
            )
        elif first.low == first.high == second.low == second.high:
            says = f"Both flows reach the answer position at state {first.state:.0f} of {n_layers}."
        else:
            says = (
                f"Both flows reach the answer position, the {there[0]} one at state "
                f"{_placed(first)} of {n_layers}, the {there[1]} one at state {_placed(second)}; "
                "the draws do not tell which is first."
            )
    yield Claim(says, "arrival", _controls(paths))


def _placed(mark: Mark) -> str:
    """A state with its interval, where that is more than the state."""
    if math.isnan(mark.low):
        return f"{mark.state:.0f} (not in every resample of the draws)"
    spread = f" ({mark.low:.0f} to {mark.high:.0f})" if mark.low < mark.high else ""
    return f"{mark.state:.0f}{spread}"


def _controls(paths: Pathways) -> str:
    every = f"own states put back: {paths.self_patch_error:.0e} logits"
    if math.isnan(paths.donor_error):
        return f"{every}; all roles swapped: not comparable, variants differ in length"
    return f"{every}; all roles swapped: {paths.donor_error:.0e}"


# -- by which way ------------------------------------------------------------------------------


def _route(paths: Pathways, parts: Attribution | None, seen: Trace, flow: str) -> Iterator[Claim]:
    """The words that carry a flow, and the components that write it at the answer."""
    total = (paths.total_effect if flow == "contextual" else paths.prior).mean
    floor = floor_of(paths, flow)
    if abs(total) < floor:
        return
    words = word_carriers(paths, seen.tokens, flow)
    told = sorted(words, key=lambda one: -abs(one.removal))[:_MOST_ROLES]
    said = _alike([one for one in words if one in told])
    writers = _writers(parts, flow, floor)
    if not said and not writers:
        return
    name = "context" if flow == "contextual" else "association"
    sentences = [f"The {name} is carried by {_listed(said)}."] if said else []
    if writers:
        wrote = _listed([f"{one.name} ({one.part:+.2f})" for one in writers])
        verb = "write" if len(writers) > 1 else "writes"
        much = "most" if _most(writers) else "part"
        whose = "its" if said else f"the {name}'s"
        sentences.append(
            f"At the answer {wrote} {verb} {much} of {whose} {writers[0].total:+.2f} logits."
        )
    check = f"floor {floor:.2f} logits; {_controls(paths)}"
    if writers and parts is not None:
        check += f"; the parts miss LD by {parts.closure_error:.0e}"
    yield Claim(" ".join(sentences), "route", check)


def _writers(parts: Attribution | None, flow: str, floor: float) -> list[ComponentCarrier]:
    """Heads and MLPs that write a share of the flow, over its floor and toward its side."""
    if parts is None or parts.closure_error > floor:
        return []
    named = [
        one
        for one in component_carriers(parts, flow, most=len(parts.components))
        if one.name.split()[0] in ("head", "mlp")
        and abs(one.part) >= max(floor, _LEAST_PART * abs(one.total))
        and np.sign(one.part) == np.sign(one.total)
    ]
    return named[:_MOST_PARTS]


def _most(writers: list[ComponentCarrier]) -> bool:
    return abs(sum(one.part for one in writers)) > abs(writers[0].total) / 2


def _alike(words: list[WordCarrier]) -> list[str]:
    """Words with their roles and states, the mentions of one word together."""
    roles: dict[tuple[str, int, int], list[WordCarrier]] = {}
    for one in words:
        roles.setdefault((one.words, one.first, one.last), []).append(one)
    told = []
    for (text, first, last), mentions in roles.items():
        states = f"state {first}" if first == last else f"states {first} to {last}"
        names = _listed([one.role.replace("_", " ") for one in mentions])
        shown = text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 1] + "…"
        told.append(f"{shown!r} ({names}, {states})")
    return told


def _listed(texts: list[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
