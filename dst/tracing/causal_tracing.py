"""Causal tracing: the subject corrupted, single states restored."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dst.core.case import Case
from dst.core.patch_results import PatchGrid
from dst.core.sites import Site
from dst.models.backend import Backend
from dst.tracing.columns import By, Heads, positions_of
from dst.tracing.donors import Donor
from dst.tracing.patch_controls import CONTROLS
from dst.tracing.patching import patch, patch_runs, record_for, refuse_pattern
from dst.tracing.prepare import DRAWS, prepare
from dst.tracing.reference_states import embedding_spread
from dst.tracing.replay import Change

NOISE_DRAWS = 10
"""Draws of noise, as in ROME."""

NOISE_SCALE = 3.0
"""Standard deviation of the noise, in standard deviations of the embeddings, as in ROME."""


def causal_trace(
    model: Backend,
    case: Case,
    *,
    corrupt: Donor = "substitute",
    at: str | Sequence[int] = "subject",
    site: str = "resid_pre",
    by: By | None = None,
    window: int = 1,
    heads: Heads = None,
    layers: Sequence[int] | None = None,
    noise: float = NOISE_SCALE,
    draws: int | None = None,
    metric: str | Sequence[str] = ("LD", "prob"),
    controls: int = CONTROLS,
    seed: int = 0,
    show_progress: bool = True,
) -> PatchGrid:
    """How much of the answer comes back when one state of a corrupted run is restored.

    Indirect effect IE[l, column] = metric(corrupted run with site[l, column] of the prompt's
    own run) - metric(corrupted run), mean over draws; [draw layer column]. The source's own
    metric is ``prob``; LD is beside it, for a probability saturates.

    With ``corrupt="noise"``: the embeddings of the subject get Gaussian noise of 3 standard
    deviations of the embeddings, 10 draws, each the same noise in all its cells. Any other
    ``corrupt`` replaces tokens by those of another run, which stays on the model's
    distribution: the form to prefer (Zhang and Nanda 2024).

    Args:
        model: The model.
        case: The case.
        corrupt: ``noise``, or the run with other tokens (see `patch`, ``donor``).
        at: What gets noise: a role, a text of the prompt, or positions. Ignored otherwise.
        site: See `patch`; ROME uses single residual states.
        by: See `patch`.
        window: Layers restored at once; ROME uses 10 for mlp_out and attn_out.
        heads: See `patch`.
        layers: Rows of the grid, all by default.
        noise: Its standard deviation, in standard deviations of the embeddings.
        draws: Draws of noise (10), or of drawn variants (8).
        metric: One or several.
        controls: Random cells of each kind.
        seed: Seed of noise, drawn variants and controls.
        show_progress: Draw a line with the time left on the error stream after two seconds.

    Raises:
        InterventionError: The prompt has no such positions, or nothing would be restored.
        CaseError, TokenError, CapabilityError, NumericalError: As `patch`.

    Source: ROME (Meng et al. 2022, section 2), METHOD 13. The spread is measured on state 0
    of the reference sentences: in models that add position embeddings it holds those too,
    where ROME measures token embeddings of its subjects.
    """
    if corrupt != "noise":
        grid = patch(
            model,
            case,
            donor=corrupt,
            site=site,
            by=by,
            direction="denoising",
            window=window,
            heads=heads,
            layers=layers,
            metric=metric,
            draws=DRAWS if draws is None else draws,
            controls=controls,
            seed=seed,
            show_progress=show_progress,
        )
        return grid.replace(technique="causal tracing")
    refuse_pattern(site)
    ready = prepare(model, case, draws=0, seed=seed)
    scale = noise * embedding_spread(model)
    n_draws = NOISE_DRAWS if draws is None else draws
    positions = positions_of(ready.tokenized, at)
    added = _noise(positions, model.spec.d_model, n_draws, scale, seed)
    return patch_runs(
        model,
        ready,
        record_for(model, ready, [ready.x] * n_draws, site, added),
        record_for(model, ready, [ready.x], site),
        source="noise",
        site=site,
        by=by,
        direction="denoising",
        window=window,
        heads=heads,
        layers=layers,
        metric=metric,
        controls=controls,
        seed=seed,
        show_progress=show_progress,
        notes=(f"Noise of standard deviation {scale:.3g} at the embeddings of {at!r}.",),
        technique="causal tracing",
        noise=noise,
        noise_at=list(positions),
    )


def _noise(
    positions: tuple[int, ...], d_model: int, n_draws: int, scale: float, seed: int
) -> list[tuple[Change, ...]]:
    """Noise added to the embeddings of some positions, draw by draw."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn((n_draws, len(positions), d_model), generator=generator) * scale
    return [(Change(Site(0, "resid_pre"), positions, value, "add"),) for value in drawn]
