"""`check_model`: what holds for this model, measured when it is loaded.

Random token ids, tolerances relative to the largest activation. A model that fails a
check is not refused: the capability that rests on it is switched off and named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from dst.core.errors import DSTError, ModelError
from dst.core.sites import Site
from dst.models.backend import Backend, Cut, Edit

TOLERANCE = {"float32": 1e-5, "float64": 1e-9, "bfloat16": 4e-2, "float16": 5e-3}
"""Largest relative difference that counts as equal, by number type."""

LENGTHS = (9, 6, 4)
"""Tokens of the random prompts, shortened to the model's window."""


@dataclass(frozen=True)
class Check:
    """One check: what must hold, whether it does, and by how much.

    Attributes:
        name: What must hold, in words.
        passed: Whether it does.
        error: The largest relative difference seen; NaN if the check could not run.
        needed_by: Capabilities that rest on it.
        reason: Why it failed, "" if it passed.
    """

    name: str
    passed: bool
    error: float
    needed_by: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True)
class ModelCheck:
    """The verdict on a model.

    Attributes:
        model: Its name.
        checks: Every check.
        tolerance: The relative tolerance that was used.
    """

    model: str
    checks: tuple[Check, ...]
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def apply(self, engine: Any) -> None:
        """Switch off, and name, what rests on a failed check.

        Raises:
            ModelError: The plain forward pass itself is not reproduced: then no number
                of this model can be trusted.
        """
        cannot = dict(engine.cannot)
        for check in self.checks:
            if check.passed:
                continue
            if "logits" in check.needed_by:
                raise ModelError(
                    f"{self.model} fails the check '{check.name}' ({check.reason})",
                    expected="the logits of a plain forward pass",
                    do="Update dst/models/families.py for this architecture",
                )
            for capability in check.needed_by:
                cannot.setdefault(capability, f"'{check.name}' does not hold ({check.reason})")
        engine.cannot = cannot
        engine.can = frozenset(engine.can - set(cannot))


def check_model(model: Backend) -> ModelCheck:
    """Measure what holds for a model: the identities that every result rests on.

    Checks: logits equal a plain forward pass; N and U of the last state are the logits;
    resid_pre + attn_out + mlp_out = resid_post at every layer; a batch equals its rows
    alone, padded on either side; writing back what is there changes nothing; writing
    something else changes the output; a key that is cut from everything no longer matters.

    Returns:
        Every check with its largest relative difference.

    Raises:
        ModelError: The model's forward pass itself fails or is not finite.
    """
    spec = model.spec
    tolerance = TOLERANCE.get(spec.dtype, 4e-2)
    generator = torch.Generator().manual_seed(0)
    rows = [
        torch.randint(0, spec.d_vocab, (min(n, spec.window),), generator=generator).tolist()
        for n in LENGTHS
    ]
    probe = _Probe(model, rows, tolerance)
    run = probe.measure
    checks = (
        run("logits equal a plain forward pass", ("logits",), probe.plain_forward),
        run("the last state, normed and unembedded, is the logits", ("lens",), probe.last_state),
        run("resid_pre + attn_out + mlp_out = resid_post", ("components",), probe.residual_sum),
        run("a batch equals its rows alone, padded on either side", ("batch",), probe.batch),
        run("writing back what is there changes nothing", ("edits",), probe.identity_edit),
        run("writing something else changes the output", ("edits",), probe.real_edit),
        run("a key cut from every query no longer matters", ("cuts",), probe.cut),
        run("zeroing the heads changes what attention adds", ("heads",), probe.heads),
    )
    return ModelCheck(spec.name, checks, tolerance)


class _Probe:
    """The checks, each returning its largest relative difference (or a reason to fail)."""

    def __init__(self, model: Backend, rows: list[list[int]], tolerance: float) -> None:
        self.model, self.rows, self.tolerance = model, rows, tolerance
        self.n_layers = model.spec.n_layers
        self.last = Site(self.n_layers - 1, "resid_post")

    def measure(
        self, name: str, needed_by: tuple[str, ...], test: Callable[[], float]
    ) -> Check:
        try:
            error = test()
        except _Failed as failed:
            return Check(name, False, float("nan"), needed_by, str(failed))
        except DSTError as failed:
            if "logits" in needed_by:
                raise
            return Check(name, False, float("nan"), needed_by, str(failed))
        passed = error <= self.tolerance
        reason = "" if passed else f"relative difference {error:.1e}, over {self.tolerance:.0e}"
        return Check(name, passed, error, needed_by, reason)

    def plain_forward(self) -> float:
        ours = self.model.run([self.rows[0]]).logits[0]
        plain = getattr(self.model, "plain_logits", None)
        if plain is None:
            return 0.0
        return _relative(ours, plain(self.rows[0]))

    def last_state(self) -> float:
        run = self.model.run([self.rows[0]], capture=[self.last])
        return _relative(self.model.unembed(run.states[self.last]), run.logits)

    def residual_sum(self) -> float:
        kinds = ("resid_pre", "attn_out", "mlp_out", "resid_post")
        sites = [Site(layer, kind) for layer in range(self.n_layers) for kind in kinds]
        states: Mapping[Site, torch.Tensor] = self.model.run([self.rows[0]], capture=sites).states
        worst = 0.0
        for layer in range(self.n_layers):
            pre, attn, mlp, post = (states[Site(layer, kind)].float() for kind in kinds)
            worst = max(worst, _relative(pre + attn + mlp, post))
        return worst

    def batch(self) -> float:
        alone = [self.model.run([row], logits_at=[-1]).last_logits[0] for row in self.rows]
        width = max(map(len, self.rows))
        worst = 0.0
        for side in ("right", "left"):
            ids = torch.zeros(len(self.rows), width, dtype=torch.long)
            mask = torch.zeros(len(self.rows), width, dtype=torch.bool)
            for i, row in enumerate(self.rows):
                place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
                ids[i, place], mask[i, place] = torch.tensor(row), True
            together = self.model.run(ids, mask, logits_at=[-1]).last_logits
            worst = max(worst, *(_relative(together[i], alone[i]) for i in range(len(alone))))
        return worst

    def identity_edit(self) -> float:
        site = Site(self.n_layers // 2, "resid_pre")
        base = self.model.run([self.rows[0]], capture=[site])
        everywhere = list(range(len(self.rows[0])))
        edit = Edit(site, [0], everywhere, base.states[site])
        return _relative(self.model.run([self.rows[0]], edits=[edit]).logits, base.logits)

    def real_edit(self) -> float:
        for kind in ("resid_pre", "attn_out", "mlp_out", "resid_post"):
            site = Site(self.n_layers - 1, kind)
            base = self.model.run([self.rows[0]], capture=[site])
            # A uniform shift would be invisible to LayerNorm, so every other sign turns.
            value = -3 * base.states[site][:, -1:].roll(1, -1)
            edited = self.model.run([self.rows[0]], edits=[Edit(site, [0], [-1], value)])
            if _relative(edited.logits[:, -1], base.logits[:, -1]) <= self.tolerance:
                raise _Failed(f"an edit at {site} did not change the logits")
            if _relative(edited.logits[:, :-1], base.logits[:, :-1]) > self.tolerance:
                raise _Failed(f"an edit at {site} of the last position changed an earlier one")
        return 0.0

    def cut(self) -> float:
        row, last = self.rows[0], len(self.rows[0]) - 1
        other = [(row[1] + 1) % self.model.spec.d_vocab if i == 1 else t for i, t in enumerate(row)]
        if last < 2:
            raise _Failed("the window is too short to check a cut")
        cuts = [
            Cut(layer, [0, 1], list(range(2, last + 1)), [1]) for layer in range(self.n_layers)
        ]
        with_key = self.model.run([row, other], logits_at=[-1]).last_logits
        without = self.model.run([row, other], logits_at=[-1], cuts=cuts).last_logits
        if _relative(with_key[0], with_key[1]) <= self.tolerance:
            raise _Failed("changing a token does not change the output, so a cut cannot show")
        return _relative(without[0], without[1])

    def heads(self) -> float:
        site, out = Site(self.n_layers - 1, "z"), Site(self.n_layers - 1, "attn_out")
        base = self.model.run([self.rows[0]], capture=[site, out])
        zero = torch.zeros_like(base.states[site][:, -1:])
        edited = self.model.run([self.rows[0]], edits=[Edit(site, [0], [-1], zero)], capture=[out])
        if _relative(edited.states[out][:, -1], base.states[out][:, -1]) <= self.tolerance:
            raise _Failed("zeroing the heads does not change what attention adds")
        return 0.0


class _Failed(Exception):
    """A check that does not come out as a difference."""


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """max |a - b| / max |b|."""
    a, b = a.float().cpu(), b.float().cpu()
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))
