"""The contextual and the associative flow: where each is, role by role and state by state."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from dst.analysis import flows
from dst.core.case import Case
from dst.core.errors import CaseError, NumericalError
from dst.core.results import Estimate, Pathways
from dst.models.backend import Backend
from dst.tracing.prepare import DRAWS, Prepared
from dst.tracing.progress import progress
from dst.tracing.recordings import Recordings
from dst.tracing.swaps import Recorded, patch_states

CONTROL_TOLERANCE = 1e-3
"""Largest error of a control, in logits (and as a share of the largest LD), in float32."""


def pathways(
    model: Backend,
    case: Case,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    show_progress: bool = True,
    runs: Recordings | None = None,
) -> Pathways:
    """Two flows over roles and depth, insertion and removal, with draws and controls.

    LD(x) = base + prior + total effect, each a mean over draws with its interval.
    Contextual flow between x and x_0, associative flow between x_0 and x_0,sub; removal
    N "only here", insertion D "has arrived"; see `Pathways` for the formulas. [draw state
    role], in logits.

    Two controls are part of every call: putting a run's own states back changes nothing,
    and swapping every role at once reproduces the donor (at every state, the draws in turn).

    Args:
        model: The model.
        case: The case; variants that it lacks are drawn (`dst.models.variants`).
        draws: How many variants to draw.
        seed: Seed of the draws and of the bootstrap of the marks.
        show_progress: Draw a line with the time left on the error stream after two seconds.
        runs: The runs of this case with these draws, if something else is measured on them too.

    Raises:
        CaseError: The case has no associative answer, no cue or no subject, or no variants
            could be drawn; says which.
        NumericalError: A control fails.

    Source: METHOD 2a. The published code has no definition of a pathway: its pathways are
    lists of words written by the user.
    """
    runs = Recordings(model, case, draws=draws, seed=seed) if runs is None else runs
    ready = runs.ready
    _require(ready)
    run = runs([ready.x])
    zero = runs(ready.variants.neutral)
    x = run.cycle(len(zero))
    both = runs(ready.variants.neutral_substitute)
    paired = zero.cycle(len(both))

    cells = (model.spec.n_layers + 1) * (len(ready.roles) + 1)
    rows = 3 * len(zero.rows) + 2 * len(both.rows)
    with progress("two pathways", cells * rows, show=show_progress) as tick:
        swap = _Swaps(model, ready, tick)
        n_ctx = x.contrast[:, None, None] - swap(x, zero)
        d_ctx = swap(zero, x) - zero.contrast[:, None, None]
        n_asc = paired.contrast[:, None, None] - swap(paired, both)
        d_asc = swap(both, paired) - both.contrast[:, None, None]
        spread = _draw_against_draw(zero, swap)

    base, prior, total = split(run.contrast, paired.contrast, both.contrast, zero.contrast)
    floor_c, floor_a = flows.floor_of(total), flows.floor_of(prior)
    return Pathways(
        roles=ready.roles,
        positions=ready.positions,
        contrast=float(run.contrast[0]),
        base=base,
        prior=prior,
        total_effect=total,
        contextual_removal=n_ctx,
        contextual_insertion=d_ctx,
        associative_removal=n_asc,
        associative_insertion=d_asc,
        contextual_floor=floor_c,
        associative_floor=floor_a,
        draw_against_draw=spread,
        marks=(
            *flows.flow_marks("contextual", n_ctx, d_ctx, ready.roles, floor_c, seed=seed),
            *flows.flow_marks("associative", n_asc, d_asc, ready.roles, floor_a, seed=seed),
        ),
        redundant=flows.redundant(n_ctx.mean(axis=0), total.mean, floor_c),
        cancelled=flows.cancelled(d_ctx.mean(axis=0), total.mean, floor_c),
        self_patch_error=_self_patch(model, ready, run),
        donor_error=swap.donor_error,
        notes=ready.notes,
        provenance=model.provenance(seed=seed, draws=draws),
    )


def split(
    x: np.ndarray, x_0: np.ndarray, x_0_sub: np.ndarray, neutral: np.ndarray
) -> tuple[Estimate, Estimate, Estimate]:
    """LD(x) = base + prior + TE: base = LD(x_0,sub), prior = LD(x_0) - base, TE = LD(x) - LD(x_0).

    Args:
        x: LD(x), one value.
        x_0: LD of the neutral run that each x_0,sub is paired with.
        x_0_sub: LD(x_0,sub) per draw.
        neutral: LD(x_0) per draw.
    """
    return (
        flows.estimate(x_0_sub),
        flows.estimate(x_0 - x_0_sub),
        flows.estimate(x[0] - neutral),
    )


class _Swaps:
    """Role swaps between recorded runs, with the all-roles control kept track of."""

    def __init__(self, model: Backend, ready: Prepared, tick: Callable[[int], None]) -> None:
        self.model, self.ready, self.tick = model, ready, tick
        self.donor_error = float("nan")  # until runs of equal length are compared
        self.everything = list(range(len(ready.tokenized.ids)))

    def __call__(self, base: Recorded, donor: Recorded) -> Float[np.ndarray, "draw state role"]:
        """LD of each base run with a role's residual of its donor, [draw state role].

        Raises:
            NumericalError: Swapping every role does not give the donor's LD.
        """
        groups = [*self.ready.positions, self.everything]
        n_states, n = len(base.states), len(base)
        turn = np.arange(n_states)[:, None] % n == np.arange(n)  # [state draw]
        rows = np.tile(turn, 2) if base.twins else turn
        ld = patch_states(
            self.model,
            base,
            donor.states,
            donor.places,
            groups,
            self.ready.metric,
            tick=self.tick,
            only={len(groups) - 1: rows},
        )
        if all(len(row) == len(self.everything) for row in (*base.rows, *donor.rows)):
            self._control(ld[:, :, -1], donor, turn.T)
        return ld[:, :, :-1]

    def _control(
        self,
        ld: Float[np.ndarray, "draw state"],
        donor: Recorded,
        turn: Bool[np.ndarray, "draw state"],
    ) -> None:
        """Swapping every role gives the donor's LD; only runs of equal length are comparable."""
        error = float(np.abs(ld - donor.contrast[:, None])[turn].max())
        allowed = CONTROL_TOLERANCE * max(1.0, float(np.abs(donor.raw).max()))
        if self.model.spec.dtype == "float32" and not error <= allowed:
            raise NumericalError(
                f"Swapping every role gives an LD that misses the donor's by {error:.2g} logits",
                expected=f"at most {allowed:.2g}",
                do="Report the model's family: its states do not hold all that is passed on",
            )
        self.donor_error = float(np.fmax(self.donor_error, error))


def _draw_against_draw(zero: Recorded, swap: _Swaps) -> Float[np.ndarray, "state role"]:
    """Control: root mean square effect of putting the next neutral draw into each."""
    if len(zero) < 2:
        return np.full((zero.states.shape[0], len(swap.ready.roles)), np.nan)
    donor = zero.take([(i + 1) % len(zero) for i in range(len(zero))])
    effect = swap(zero, donor) - zero.contrast[:, None, None]
    return np.sqrt((effect**2).mean(axis=0))


def _self_patch(model: Backend, ready: Prepared, run: Recorded) -> float:
    """Control: largest effect of writing a run's own states back at all positions."""
    # A hair off, so that the cell is run and not skipped as an exact no-op.
    nudged = run.states.clone()
    nudged[..., 0] = nudged[..., 0] * (1 + 2e-7)
    everything = [list(range(len(ready.tokenized.ids)))]
    ld = patch_states(model, run, nudged, run.places, everything, ready.metric)
    return float(np.abs(ld - run.contrast[:, None, None]).max())


def _require(ready: Prepared) -> None:
    case = ready.tokenized.case
    if ready.lacks_twin:
        raise CaseError(
            "This is a yes/no question without its twin: another noun changes what is true, so "
            "that prior, base and the associative flow are undefined",
            do="Give twin_question, the same prompt asking for the other sense",
            field="twin_question",
        )
    for name, wanted, variant in (
        ("cue", case.cue, ready.variants.neutral),
        ("subject", case.subject, ready.variants.substitute),
    ):
        if not variant:
            why = f"no {name}" if not wanted else "; ".join(ready.notes)
            raise CaseError(
                f"The case has no {'neutral' if name == 'cue' else 'substitute'} variant ({why})",
                do=f"Give a {name}, or the variants themselves",
                field=name,
            )
