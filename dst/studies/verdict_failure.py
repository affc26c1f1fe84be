"""What the verdict says of the failure mode; no mode that rests on what was not measured."""

from __future__ import annotations

import math
from collections.abc import Iterator

from dst.analysis.failures import COLLAPSE, HIJACK
from dst.core.claims import Claim
from dst.core.failure_results import FailureMode


def failure_claims(mode: FailureMode) -> Iterator[Claim]:
    """The mode with its numbers; or why the rule that holds is not taken at its word."""
    if not mode.mode:
        return
    if why := unmeasured(mode):
        yield Claim(
            f"No failure mode is claimed: by the rules it would be {mode.mode}, but {why}.",
            "failure",
        )
        return
    passed = [finding.name for finding in mode.findings if finding.rule == mode.mode]
    tried = sum(not finding.holds for finding in mode.findings)
    control = f"holds: {', '.join(passed)}" if passed else f"conditions that do not hold: {tried}"
    yield Claim(mode.says, "failure", control)


def unmeasured(mode: FailureMode) -> str:
    """Which condition of the mode holds only because it could not be measured; "" if none."""
    evidence, missing = mode.evidence, []
    if mode.mode in (COLLAPSE, HIJACK) and math.isnan(evidence.separation):
        missing.append("fewer than four draws cannot tell whether the senses are separable")
    if mode.mode == COLLAPSE and math.isnan(evidence.cue_knockout):
        missing.append("the cue could not be cut off")
    return " and ".join(missing)
