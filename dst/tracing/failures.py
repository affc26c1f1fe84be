"""What the rules of failure rest on: back-patching, another subject, separation, random routes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from dst.analysis.failures import separation
from dst.analysis.readout import outcome
from dst.core.case import Case
from dst.core.errors import CaseError
from dst.core.failure_results import FailureEvidence
from dst.core.results import Pathways, Repairs
from dst.models.backend import Backend
from dst.tracing.commitment import repairs
from dst.tracing.cuts import cut_off
from dst.tracing.pathways import pathways
from dst.tracing.prepare import DRAWS, Prepared
from dst.tracing.progress import progress
from dst.tracing.recordings import Recordings
from dst.tracing.swaps import Recorded, patch_states

SEPARATED_AT = ("subject", "relay", "answer")
"""Roles at which the sense may be held; never the cue, whose words differ anyway."""

RANDOM_ROUTES = 20
"""Random directions that de-priming is compared with, of which 95 % must free less."""


def failure_evidence(
    model: Backend,
    case: Case,
    *,
    paths: Pathways | None = None,
    fixes: Repairs | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    show_progress: bool = True,
    runs: Recordings | None = None,
) -> FailureEvidence:
    """Measure what the failure rules ask (METHOD 7), in logits of LD.

    * Back-patching: the subject's state after block l + k put in after block l, for every l
      and k, on x and (the control) on x_0; and what that state brings where it is.
    * Another subject: the subject's states of x_0,sub put into x from the embedding on.
    * Separation: distance between x and x_swap (x_0 where no swap is given) at subject,
      relays and answer, beside that of pairs of neutral draws.
    * De-priming at every state (`dst.repairs`), and a random direction of the same norms instead.
    * What cutting the cue off changes, and LD of the clean variants.

    Args:
        model: The model.
        case: The case; variants that it lacks are drawn.
        paths: Its two flows, if they were measured already.
        fixes: Its repairs, likewise.
        draws: How many variants to draw.
        seed: Seed of the draws and of the random directions.
        show_progress: Draw a line with the time left on the error stream after two seconds.
        runs: The runs of this case with these draws, if something else is measured on them too.

    Raises:
        CaseError: The case has no associative answer, no cue or no subject; says which.
    """
    runs = Recordings(model, case, draws=draws, seed=seed) if runs is None else runs
    ready = runs.ready
    if not ready.tokenized.positions_of("subject"):
        raise CaseError(
            "The case names no subject, so that no failure mode can be told",
            do="Give the word that carries the association",
            field="subject",
        )
    how: dict[str, Any] = {"draws": draws, "seed": seed, "show_progress": show_progress}
    how["runs"] = runs
    paths = pathways(model, case, **how) if paths is None else paths
    fixes = repairs(model, case, **how) if fixes is None else fixes
    de_prime = fixes.names.index("de-prime")
    run, zero = runs([ready.x]), runs(ready.variants.neutral)
    both = runs(ready.variants.neutral_substitute)
    n, n_layers = len(both), model.spec.n_layers
    cells = (n_layers + 1) * (n_layers * (1 + len(zero)) + n + RANDOM_ROUTES)
    with progress("failure modes", cells, show=show_progress) as tick:
        subject = ready.tokenized.positions_of("subject")
        back, back_control = _back_patched(model, ready, (run, zero), subject, tick)
        many, paired = run.cycle(n), zero.cycle(n)
        start = many.states.clone()
        start[0] = both.states[0]
        donor = patch_states(model, many, start, both.places, [subject], ready.metric, tick=tick)
        away = both.states - paired.states
        known = torch.minimum(paired.places, both.places)
        pick = [i % n for i in range(RANDOM_ROUTES)]
        random = _random_like(away.cpu()[:, _rows(both, pick)], seed).to(away.device)
        base, places = many.take(pick), known[_rows(both, pick)]
        route = _sources_moved(model, ready, base, random, places, tick)
    other, name = zero, "neutral"
    if ready.variants.swap:
        other, name = runs(ready.variants.swap), "swap"
    apart, threshold = _separation(ready, run, other, zero)
    clean, clean_outcomes = _clean(model, ready)
    knocked, notes = _cue_knockout(model, ready)
    return FailureEvidence(
        outcome=_outcomes(ready, _logits(run))[0],
        contrast=float(run.contrast[0]),
        clean_contrasts=clean,
        clean_outcomes=clean_outcomes,
        floor=max(paths.contextual_floor, paths.associative_floor),
        total_effect=paths.total_effect.mean,
        prior=paths.prior.mean,
        association_arrived=-float(paths.at_answer("associative_insertion")[-1]),
        back_patched=back,
        back_patched_control=back_control,
        subject_brings=_subject_brings(paths),
        donor_subject=float(donor[:, 0, 0].mean()),
        cue_knockout=knocked,
        separated_from=name,
        separation=apart,
        separation_threshold=threshold,
        de_primed=fixes.patched[de_prime],
        de_primed_control=fixes.control[de_prime],
        restored=_repaired(fixes, "restore cue", fixes.patched),
        restored_control=_repaired(fixes, "restore cue", fixes.control),
        random_route=route,
        notes=notes,
        provenance=model.provenance(seed=seed, draws=draws),
    )


def _repaired(
    fixes: Repairs, name: str, values: Float[np.ndarray, "repair state"]
) -> Float[np.ndarray, " state"]:
    """A repair's row; NaN where the case does not allow it."""
    if name not in fixes.names:
        return np.full(values.shape[1], np.nan)
    row: np.ndarray = values[fixes.names.index(name)]
    return row


def _back_patched(
    model: Backend,
    ready: Prepared,
    runs: Sequence[Recorded],
    subject: Sequence[int],
    tick: Callable[[int], None],
) -> list[Float[np.ndarray, "shift state"]]:
    """LD, mean over draws, with the subject's state l + k put in at state l: [k - 1, l] per run."""
    base, n_layers = Recorded.joined(runs), model.spec.n_layers
    ends = np.cumsum([len(run) for run in runs])[:-1]
    out: list[list[np.ndarray]] = [[] for _ in runs]
    for shift in range(1, n_layers + 1):
        later = base.states.clone()
        later[:-shift] = base.states[shift:]
        ld = patch_states(model, base, later, base.places, [subject], ready.metric, tick=tick)
        for table, part in zip(out, np.split(ld[:, :, 0], ends), strict=True):
            table.append(part.mean(axis=0))
    return [np.array(table) for table in out]


def _subject_brings(paths: Pathways) -> Float[np.ndarray, " state"]:
    """D_ctx at the subject, the largest of its mentions."""
    mentions = [i for i, role in enumerate(paths.roles) if role.startswith("subject")]
    brought: np.ndarray = paths.contextual_insertion[:, :, mentions].mean(axis=0).max(axis=1)
    return brought


def _sources_moved(
    model: Backend,
    ready: Prepared,
    base: Recorded,
    by: torch.Tensor,
    known: torch.Tensor,
    tick: Callable[[int], None],
) -> Float[np.ndarray, "draw state"]:
    """LD with all sources moved at one state."""
    sources = [list(range(len(ready.tokenized.ids) - 1))]
    ld = patch_states(model, base, base.states + by, known, sources, ready.metric, tick=tick)
    return ld[:, :, 0]


def _rows(runs: Recorded, draws: Sequence[int]) -> list[int]:
    """The rows of some draws: with twins, those of the twins come after."""
    twins = [i + len(runs) for i in draws] if runs.twins else []
    return [*draws, *twins]


def _random_like(away: torch.Tensor, seed: int) -> torch.Tensor:
    """Random directions with the norms of ``away`` [... d_model]."""
    random = torch.randn(away.shape, generator=torch.Generator().manual_seed(seed))
    random = random.to(away.dtype)
    return random / random.norm(dim=-1, keepdim=True) * away.norm(dim=-1, keepdim=True)


def _separation(
    ready: Prepared, run: Recorded, other: Recorded, zero: Recorded
) -> tuple[float, float]:
    """`separation` over the states and roles at which the sense may be held."""
    groups = [
        list(positions)
        for role, positions in zip(ready.roles, ready.positions, strict=True)
        if role.split("_")[0] in SEPARATED_AT
    ]

    def apart(one: torch.Tensor, two: torch.Tensor) -> np.ndarray:
        distance = (one - two).norm(dim=-1)  # [state pos]
        return np.array([distance[:, group].mean(-1).cpu().double().numpy() for group in groups])

    x = run.states[:, 0]
    away = np.mean([apart(x, other.states[:, i]) for i in range(len(other))], axis=0)
    draws = [zero.states[:, i] for i in range(len(zero))]
    among = np.array([[apart(one, two).ravel() for two in draws] for one in draws])
    return separation(away.ravel(), among)


def _clean(model: Backend, ready: Prepared) -> tuple[Float[np.ndarray, " clean"], tuple[str, ...]]:
    """LD and outcome of every clean variant, of any length."""
    rows = [*(row.ids for row in ready.variants.clean), *ready.variants.shorter]
    if not rows:
        return np.zeros(0), ()
    logits = model.run(rows, logits_at=[-1]).last_logits
    return ready.metric(logits), _outcomes(ready, logits)


def _logits(run: Recorded) -> torch.Tensor:
    """Logits at i* of the run, [1 d_vocab]."""
    assert run.base is not None
    return run.base.logits[[run.recorded[0]], -1]


def _outcomes(ready: Prepared, logits: torch.Tensor) -> tuple[str, ...]:
    """Whose form the greedy token of each row is."""
    plus, minus = ready.metric.plus, ready.metric.minus
    return tuple(outcome(token, plus, minus) for token in logits.argmax(-1).tolist())


def _cue_knockout(model: Backend, ready: Prepared) -> tuple[float, tuple[str, ...]]:
    """LD lost when all later tokens stop reading the cue, NaN and why where it cannot be cut."""
    if "cuts" not in model.can:
        why = model.cannot.get("cuts", "the engine does not offer it")
        return float("nan"), (f"The cue was not cut off: {why}.",)
    cue = ready.tokenized.positions_of("cue")
    if not cue:
        return float("nan"), ("The cue was not cut off: the case names no cue.",)
    return cut_off(model, ready, cue), ()
