"""Repairs of a run at every state, and the commitment: after which state none of them works."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from dst.analysis import commitment as rules
from dst.analysis.flows import estimate, floor_of
from dst.core.case import Case
from dst.core.results import Repairs
from dst.models.backend import Backend
from dst.models.variants import Row, combined
from dst.tracing.prepare import DRAWS, Prepared, prepare
from dst.tracing.progress import progress
from dst.tracing.swaps import Recorded, patch_states


def repairs(
    model: Backend,
    case: Case,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    show_progress: bool = True,
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

    Returns:
        `Repairs`: [repair state] in logits, and one mark per repair.

    Raises:
        CaseError: The case has no associative answer.
        TokenError: The case does not fit the tokenizer.

    Source: METHOD 4. Nothing causal supports the published marks' "irreversible".
    """
    ready = prepare(model, case, draws=draws, seed=seed)
    n_layers = model.spec.n_layers
    recorded = _Recorder(model, ready)
    recipes = {name: _recipe(name, model, ready, recorded) for name in rules.REPAIRS}
    total = sum(
        2 * len(recipe.run) * (n_layers + 1)
        for recipe in recipes.values()
        if isinstance(recipe, _Recipe)
    )
    names, patched, control, marks = [], [], [], []
    with progress("repairs", total, show=show_progress) as tick:
        for name, recipe in recipes.items():
            if isinstance(recipe, str):
                marks.append(rules.absent(name, n_layers, recipe))
                continue
            ld = recipe.apply(model, ready, recipe.run, recipe.value, tick)
            reference = recipe.apply(model, ready, recipe.control, recipe.control_value, tick)
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
        self,
        model: Backend,
        ready: Prepared,
        run: Recorded,
        value: torch.Tensor,
        tick: Callable[[int], None],
    ) -> Float[np.ndarray, "draw state"]:
        """LD of a run repaired at each state."""
        groups, metric = [self.positions], ready.metric
        return patch_states(model, run, value, self.known, groups, metric, tick=tick)[:, :, 0]


def _recipe(name: str, model: Backend, ready: Prepared, recorded: _Recorder) -> _Recipe | str:
    """The repair of this case by that name, or why there is none."""
    variants, ids = ready.variants, ready.tokenized.ids
    if not variants.neutral:
        return "no neutral variant"
    if ready.lacks_twin:
        return "no twin of this yes/no question"
    sources = list(range(len(ids) - 1))
    if name == "restore cue":
        if not variants.clean:
            return "no clean variant of equal length"
        both = combined(model.tokenizer, ids, variants.neutral, variants.clean, "clean")
        run, zero, donor, zero_donor = recorded(variants.clean, both)
        floor = floor_of(estimate(run.contrast - zero.contrast))
        known = torch.minimum(donor.places, zero_donor.places)
        return _Recipe(run, donor.states, zero, zero_donor.states, known, sources, floor)
    if not variants.neutral_substitute:
        return "no substitute variant"
    run, zero, sub, both_run = recorded(variants.substitute, variants.neutral_substitute)
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


class _Recorder:
    """The runs that repairs are made of, each run once."""

    def __init__(self, model: Backend, ready: Prepared) -> None:
        self.model, self.ready = model, ready
        self.runs: dict[tuple[Row, ...], Recorded] = {}

    def __call__(
        self, donors: Sequence[Row], neutral_donors: Sequence[Row]
    ) -> tuple[Recorded, Recorded, Recorded, Recorded]:
        """x, x_0, the donor, and the donor with a neutral cue, as many draws of each."""
        rows = ((self.ready.x,), self.ready.variants.neutral, donors, neutral_donors)
        n = len(neutral_donors)
        x, zero, donor, neutral_donor = (self._recorded(tuple(row)).cycle(n) for row in rows)
        return x, zero, donor, neutral_donor

    def _recorded(self, rows: tuple[Row, ...]) -> Recorded:
        if rows not in self.runs:
            self.runs[rows] = self.ready.record(self.model, rows)
        return self.runs[rows]
