"""Repairs of a run at every state, and the commitment: after which state none of them works."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from dst.analysis import commitment as rules
from dst.analysis.flows import estimate, floor_of
from dst.core.case import Case
from dst.core.results import Repairs
from dst.models.backend import Backend
from dst.models.variants import Row, combined
from dst.tracing.prepare import DRAWS, Prepared
from dst.tracing.progress import progress
from dst.tracing.recordings import Recordings
from dst.tracing.swaps import Recorded, patch_states


def repairs(
    model: Backend,
    case: Case,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    show_progress: bool = True,
    runs: Recordings | None = None,
) -> Repairs:
    """LD of a run repaired at each state, of its control, and the commitment of each repair.

    Sources are all positions before i*. At state l, for every source j:

    * ``de-prime``: h[l, j] += h[l, j](x_0,sub) - h[l, j](x_0), which takes away what the
      noun brings without context and keeps what the context wrote there;
    * ``replace subject``: the subject's positions of x_sub (beside it, because it destroys
      context that passes through the subject);
    * ``restore cue``: h[l, j] of the equal-length clean twin, if the case has one;
    * ``remove cue``: h[l, j] of x_0; it breaks a success, the reverse direction.

    A repair works at l when LD_patched > tau **and** LD_patched - LD(the same repair of
    x_0) > tau: what it frees must be context, not the sign of the base (for ``remove cue``
    both with the sign turned, and the control is x_sub). Commitment = 1 + the last state at
    which it works.

    Args:
        model: The model.
        case: The case; variants that it lacks are drawn.
        draws: How many variants to draw.
        seed: Seed of the draws and the bootstrap.
        show_progress: Draw a line with the time left on the error stream after two seconds.
        runs: The runs of this case with these draws, if something else is measured on them too.

    Returns:
        `Repairs`: [repair state] in logits, and one mark per repair.

    Raises:
        CaseError: The case has no associative answer.
        TokenError: The case does not fit the tokenizer.

    Source: METHOD 4. Nothing causal supports the published marks' "irreversible".
    """
    runs = Recordings(model, case, draws=draws, seed=seed) if runs is None else runs
    ready, n_layers = runs.ready, model.spec.n_layers
    lacking = {name: _lacking(name, ready) for name in rules.REPAIRS}
    cells = 2 * (n_layers + 1) * sum(_draws(name, ready) for name in lacking if not lacking[name])
    names, patched, control, marks = [], [], [], []
    with progress("repairs", cells, show=show_progress) as tick:
        for name, reason in lacking.items():
            if reason:
                marks.append(rules.absent(name, n_layers, reason))
                continue
            recipe = _recipe(name, model, runs)
            ld, reference = recipe.apply(model, ready, tick)
            contrast = float(recipe.run.contrast[0])
            names.append(name)
            patched.append(ld.mean(axis=0))
            control.append(reference.mean(axis=0))
            marks.append(rules.commitment(name, contrast, ld, reference, recipe.floor, seed=seed))
    return Repairs(
        names=tuple(names),
        patched=np.array(patched).reshape(len(names), n_layers + 1),
        control=np.array(control).reshape(len(names), n_layers + 1),
        commitments=tuple(marks),
        provenance=model.provenance(seed=seed, draws=draws),
    )


@dataclass(frozen=True)
class _Recipe:
    """One repair: the run that it changes, its control, and the states that it puts in.

    Attributes:
        run: x, once per draw.
        value: What is put into it, [state row pos d_model].
        control: The run that the same repair must leave as it is.
        control_value: What is put into the control.
        known: [row pos], below 0 where nothing is put in.
        positions: Where.
        floor: tau.
    """

    run: Recorded
    value: torch.Tensor
    control: Recorded
    control_value: torch.Tensor
    known: torch.Tensor
    positions: list[int]
    floor: float

    def apply(
        self, model: Backend, ready: Prepared, tick: Callable[[int], None]
    ) -> tuple[Float[np.ndarray, "draw state"], Float[np.ndarray, "draw state"]]:
        """LD of the run repaired at each state, and of the control."""
        base = Recorded.joined([self.run, self.control])
        given = [
            replace(runs, states=states, places=self.known)
            for runs, states in ((self.run, self.value), (self.control, self.control_value))
        ]
        put, groups, metric = Recorded.joined(given), [self.positions], ready.metric
        ld = patch_states(model, base, put.states, put.places, groups, metric, tick=tick)
        return ld[: len(self.run), :, 0], ld[len(self.run) :, :, 0]


def _lacking(name: str, ready: Prepared) -> str:
    """Why there is no such repair of this case; "" if there is one."""
    variants = ready.variants
    if not variants.neutral:
        return "no neutral variant"
    if ready.lacks_twin:
        return "no twin of this yes/no question"
    if name == "restore cue":
        return "" if variants.clean else "no clean variant of equal length"
    return "" if variants.neutral_substitute else "no substitute variant"


def _draws(name: str, ready: Prepared) -> int:
    """How many draws a repair has."""
    others = ready.variants.clean if name == "restore cue" else ready.variants.substitute
    return max(len(ready.variants.neutral), len(others))


def _recipe(name: str, model: Backend, runs: Recordings) -> _Recipe:
    """The repair of this case by that name."""
    ready = runs.ready
    variants, ids = ready.variants, ready.tokenized.ids
    sources = list(range(len(ids) - 1))
    if name == "restore cue":
        both = combined(model.tokenizer, ids, variants.neutral, variants.clean, "clean")
        run, zero, donor, zero_donor = _recorded(runs, variants.clean, both)
        floor = floor_of(estimate(run.contrast - zero.contrast))
        known = torch.minimum(donor.places, zero_donor.places)
        return _Recipe(run, donor.states, zero, zero_donor.states, known, sources, floor)
    run, zero, sub, both_run = _recorded(runs, variants.substitute, variants.neutral_substitute)
    floor = max(
        floor_of(estimate(zero.contrast - both_run.contrast)),
        floor_of(estimate(run.contrast - zero.contrast)),
    )
    known = torch.minimum(torch.minimum(zero.places, both_run.places), sub.places)
    if name == "de-prime":
        away = both_run.states - zero.states
        return _Recipe(run, run.states + away, zero, zero.states + away, known, sources, floor)
    if name == "replace subject":
        subject = ready.tokenized.positions_of("subject")
        return _Recipe(run, sub.states, zero, both_run.states, known, subject, floor)
    return _Recipe(run, zero.states, sub, both_run.states, known, sources, floor)


def _recorded(
    runs: Recordings, donors: Sequence[Row], neutral_donors: Sequence[Row]
) -> tuple[Recorded, Recorded, Recorded, Recorded]:
    """x, x_0, the donor, and the donor with a neutral cue, as many draws of each."""
    rows = ((runs.ready.x,), runs.ready.variants.neutral, donors, neutral_donors)
    n = len(neutral_donors)
    x, zero, donor, neutral_donor = (runs(row).cycle(n) for row in rows)
    return x, zero, donor, neutral_donor
