"""The controls of a patching result in words, for hovering over its figure's heading."""

from __future__ import annotations

import math

from dst.core.patch_results import PatchEffects, PatchGrid
from dst.core.path_results import AttributionPatch, EdgeScores, PathEffects
from dst.plot.panels import wrapped
from dst.plot.text import number

NOT_MEASURED = "not measured"


def magnitude(value: float) -> str:
    """A rounding error's size: ``4e-07``, ``0``, or that it was not measured."""
    if math.isnan(value):
        return NOT_MEASURED
    return f"{value:.0e}".replace("-", "−") if value else "0"


def patch_checks(grid: PatchGrid) -> str:
    """What a patch grid was checked with, LD in logits."""
    controls = grid.controls
    floors = (
        (f"random donor ({controls.random_donor_is})", controls.random_donor_floor[0]),
        ("random direction", controls.random_direction_floor[0]),
    )
    everything = controls.donor_reason or f"error {magnitude(controls.donor_error)}"
    return _lines(
        f"own states put back: error {magnitude(controls.self_patch_error)}",
        f"everything patched: {everything}",
        *(f"{name}: {_quantile(float(floor))}" for name, floor in floors),
        *grid.notes,
    )


def effects_checks(effects: PatchEffects) -> str:
    """What patching over many cases was checked with, the largest of all cases."""
    return _lines(
        f"own states put back: error {magnitude(effects.self_patch_error)}",
        f"everything patched: error {magnitude(effects.donor_error)}",
        f"random donor: {effects.random_donor_is}",
        *(f"left out: {failure}" for failure in effects.failures),
        *effects.notes,
    )


def path_checks(paths: PathEffects | EdgeScores) -> str:
    """What path patching or edge attribution was checked with."""
    errors: tuple[str, ...]
    if isinstance(paths, PathEffects):
        errors = (
            f"own states sent: error {magnitude(paths.self_patch_error)}",
            f"all senders give the donor's input: relative error {magnitude(paths.sum_error)}",
            f"all senders into the logits: error {magnitude(paths.donor_error)}",
        )
    else:
        errors = (
            f"a sender's edges give its node: error {magnitude(paths.closure_error)}",
            f"the embedding gives all of LD: error {number(paths.completeness_error, 3)}",
        )
    return _lines(*errors, *paths.notes)


def estimate_checks(estimate: AttributionPatch | EdgeScores) -> str:
    """What a gradient estimate was checked with."""
    if isinstance(estimate, EdgeScores):
        return path_checks(estimate)
    return _lines(
        f"own states put back: error {magnitude(estimate.self_patch_error)}",
        f"everything patched: error {magnitude(estimate.donor_error)}",
        f"gradient against the slope of edited runs: error {magnitude(estimate.slope_error)}",
        *estimate.notes,
    )


def _quantile(floor: float) -> str:
    return "not run" if math.isnan(floor) else f"95 % of effects under {number(floor)}"


def _lines(*texts: str) -> str:
    lines = [line for text in texts for line in wrapped(text)]
    return "<br>".join(["<b>controls, in logits</b>", *lines])
