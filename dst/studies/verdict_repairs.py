"""What the verdict says of repairs: until which state something still helps, beyond its control."""

from __future__ import annotations

import math
from collections.abc import Iterator

from dst.analysis.commitment import breaks, works
from dst.analysis.failures import by_chance
from dst.core.claims import Claim
from dst.core.failure_results import FailureMode
from dst.core.results import Mark, Pathways, Repairs
from dst.studies.verdict_flows import failed_control, undrawn

WORDS = {
    "de-prime": "taking away what the subject brings",
    "replace subject": "replacing its states",
    "restore cue": "giving the states of the clean twin",
    "remove cue": "taking the cue away",
}


def repair_claims(
    paths: Pathways, fixes: Repairs, outcome: str, mode: FailureMode | None
) -> Iterator[Claim]:
    """From which state on nothing helps any more, by repair.

    A repair is named where it works on the means over draws and its control does not; de-priming
    also has to do more than 95 % of random directions of its norms, where those were tried.
    """
    if outcome == "neither" or undrawn(paths) or failed_control(paths):
        return
    asked = [
        mark
        for mark in fixes.commitments
        if _name(mark) in fixes.names and not mark.reason.startswith("nothing to")
    ]
    for breaking, effect, can in ((False, "repair it", "repaired"), (True, "break it", "broken")):
        alike: dict[str, list[str]] = {}
        never, controls = [], []
        for mark in asked:
            if breaks(_name(mark)) != breaking:
                continue
            said, control = WORDS[_name(mark)], ""
            if not mark.reason:
                said, control = _held(mark, fixes, mode)
            controls += [control] if control else []
            if mark.reason:
                never.append(said)
            elif said:
                alike.setdefault(_reach(mark), []).append(said)
        if never:
            says = f"At no state does {' or '.join(never)} {effect} beyond its control."
            yield Claim(says, "repairs")
        if alike:
            told = [f"up to {reach} by {' or '.join(what)}" for reach, what in alike.items()]
            yield Claim(
                f"The answer could be {can} {', '.join(told)}; after that it is committed.",
                "repairs",
                "; ".join(controls),
            )
        elif controls:
            yield Claim(f"No repair is claimed: {'; '.join(controls)}.", "repairs")


def _held(mark: Mark, fixes: Repairs, mode: FailureMode | None) -> tuple[str, str]:
    """What to call a repair at the last state at which it works, and its control there.

    The name is "" where the control does not pass.
    """
    name, state = _name(mark), int(mark.state) - 1
    row = fixes.names.index(name)
    patched, control = fixes.patched[row, state], fixes.control[row, state]
    check = f"{name} at state {state}: LD {patched:+.2f}, its control {control:+.2f}"
    if not works(name, fixes.patched[row], fixes.control[row], mark.thresholds["floor"])[state]:
        return "", f"{check}, no more than that"
    if name == "de-prime" and mode is not None and mode.evidence.random_route.size:
        chance = float(by_chance(mode.evidence)[state])
        check += f", a random direction up to {chance:+.2f}"
        if patched <= chance:
            return "", f"{check}, as much as that"
    return WORDS[name], check


def _name(mark: Mark) -> str:
    return mark.definition.removeprefix("causal, ")


def _reach(mark: Mark) -> str:
    """The last state at which a repair works, with the commitment's spread."""
    spread = ""
    if math.isnan(mark.low):
        spread = " (no interval over draws)"
    elif mark.low < mark.high:
        spread = f" (commitment {mark.low:.0f} to {mark.high:.0f} over draws)"
    return f"state {mark.state - 1:.0f} of {mark.n_layers}{spread}"
