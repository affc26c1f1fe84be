"""Patching over many cases: mean effect by role and layer, against another case's run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dst.analysis.bootstrap import Resampling
from dst.analysis.effects import effect_map
from dst.core.case import VARIANTS, Case
from dst.core.errors import DSTError, InputError
from dst.core.patch_results import UNITS, PatchEffects, PatchGrid
from dst.models.backend import Backend
from dst.tracing.columns import layers_of
from dst.tracing.donors import donor_rows
from dst.tracing.patch_controls import CONTROLS
from dst.tracing.patching import Direction, patch_runs, record_for
from dst.tracing.prepare import DRAWS, prepare
from dst.tracing.progress import progress


def patch_effects(
    model: Backend,
    cases: Sequence[Case],
    *,
    donor: str = "swap",
    site: str = "resid_pre",
    direction: Direction = "noising",
    window: int = 1,
    layers: Sequence[int] | None = None,
    metric: str = "LD",
    draws: int = DRAWS,
    controls: int = CONTROLS,
    resamples: int = 2000,
    seed: int = 0,
    show_progress: bool = True,
) -> PatchEffects:
    """Mean effect of `patch` by role over many cases, and where it is more than a random donor's.

    effect[case, layer, role] = mean over draws of metric(patched) - metric(base). Beside each
    case's own donor the same cells are patched with *another case's* run, cases matched at
    random in one cycle and positions by role from the right. Mean with a cluster bootstrap
    interval (cases of one group are drawn together), p by paired sign-flips of effect -
    random effect, q by Benjamini-Hochberg over layers x roles.

    Args:
        model: The model.
        cases: The cases; one that fails is left out and listed with its reason.
        donor: ``swap``, ``neutral``, ``substitute`` or ``clean``.
        site: See `patch`.
        direction: See `patch`.
        window: Layers changed at once.
        layers: Rows of the map, all by default.
        metric: One metric.
        draws: Variants to draw where a case has none.
        controls: Random cells of each case's own grid.
        resamples: Resamples of the bootstrap, and sign-flips.
        seed: Seed of drawn variants, controls, matching, resamples and flips.
        show_progress: Draw a line with the time left on the error stream after two seconds.

    Raises:
        InputError: The donor is no variant, or fewer than two cases are left.

    Source: METHOD 4; a random donor is the control that its section asks for.
    """
    if donor not in VARIANTS:
        raise InputError(f"The donor {donor!r}", expected="one of " + ", ".join(VARIANTS))
    order = np.random.default_rng(seed).permutation(len(cases))
    partner = {int(i): int(order[(k + 1) % len(cases)]) for k, i in enumerate(order)}
    kept: list[tuple[Case, PatchGrid, PatchGrid]] = []
    failures: list[str] = []
    with progress("patching cases", len(cases), unit="case", show=show_progress) as tick:
        for i, case in enumerate(cases):
            try:
                drawn = draws if donor in ("neutral", "substitute") else 0
                ready = prepare(model, case, draws=drawn, seed=seed)
                _, others = donor_rows(model, ready, donor)
                _, random = donor_rows(model, ready, cases[partner[i]])
                own, other, stranger = (
                    record_for(model, ready, rows, site) for rows in ([ready.x], others, random)
                )
                base, given = (own, other) if direction == "noising" else (other, own)
                pair = [
                    patch_runs(
                        model,
                        ready,
                        base,
                        states,
                        source=source,
                        site=site,
                        by="role",
                        direction=direction,
                        window=window,
                        heads=None,
                        layers=layers,
                        metric=metric,
                        controls=n,
                        seed=seed,
                        show_progress=False,
                    )
                    for states, source, n in ((given, donor, controls), (stranger, "random", 0))
                ]
                kept.append((case, pair[0], pair[1]))
            except DSTError as error:
                failures.append(f"{case.case_id}: {error}")
            tick(1)
    if len(kept) < 2:
        raise InputError(
            f"{len(kept)} of {len(cases)} cases could be patched ({'; '.join(failures[:3])})",
            expected="two or more",
        )
    columns = _columns([grid for _, grid, _ in kept])
    rows = layers_of(layers, window, model.spec.n_layers)
    effects = np.stack([_by_role(grid, columns, metric) for _, grid, _ in kept])
    random_effects = np.stack([_by_role(grid, columns, metric) for _, _, grid in kept])
    groups = tuple(case.group or case.case_id for case, _, _ in kept)
    provenance = model.provenance(
        seed=seed,
        donor=donor,
        site=site,
        direction=direction,
        window=window,
        layers=list(rows),
        metric=metric,
        draws=draws,
        resamples=resamples,
        cases=[case.case_id for case in cases],
    )
    statistics = effect_map(
        effects,
        control=random_effects,
        clusters=groups,
        axes=("layer", "column"),
        unit=UNITS[metric],
        resampling=Resampling(n_resamples=resamples, n_permutations=resamples, seed=seed),
    )
    errors = [grid.controls.donor_error for _, grid, _ in kept]
    known = [error for error in errors if not np.isnan(error)]
    return PatchEffects(
        technique="activation patching",
        direction=direction,
        source=donor,
        site=site,
        window=window,
        metric=metric,
        layers=np.array(rows),
        columns=columns,
        effects=effects,
        random_effects=random_effects,
        statistics=statistics,
        case_ids=tuple(case.case_id for case, _, _ in kept),
        groups=groups,
        failures=tuple(failures),
        self_patch_error=max(grid.controls.self_patch_error for _, grid, _ in kept),
        donor_error=max(known) if known else float("nan"),
        random_donor_is="the run of another case, cases matched at random in one cycle",
        notes=() if not failures else (f"{len(failures)} of {len(cases)} cases failed.",),
        provenance=provenance,
    )


def _columns(grids: Sequence[PatchGrid]) -> tuple[str, ...]:
    """Roles of at least two cases, as they come, the answer last."""
    found = dict.fromkeys(role for grid in grids for role in grid.columns)
    common = [role for role in found if sum(role in grid.columns for grid in grids) > 1]
    return (*(role for role in common if role != "answer"), "answer")


def _by_role(grid: PatchGrid, columns: Sequence[str], metric: str) -> np.ndarray:
    """Effects [layer column]; NaN where the case lacks the role."""
    effect = grid.effect(metric)
    nothing = np.full(len(grid.layers), np.nan)
    of = [effect[:, grid.columns.index(c)] if c in grid.columns else nothing for c in columns]
    return np.stack(of, axis=1)
