"""`check_model`: what holds for this model, measured when it is loaded.

Random token ids, tolerances relative to the largest activation. A model that fails a
check is not refused: the capability that rests on it is switched off and named. Only a
model whose plain forward pass is not reproduced, or that looks ahead, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dst.core.errors import DSTError, ModelError
from dst.core.sites import RESIDUAL_KINDS, Site, site_of_state
from dst.models import suffix
from dst.models.backend import Backend, Cut, Edit, Run
from dst.models.hooks import HooksBackend

TOLERANCE = {"float32": 1e-5, "float64": 1e-6, "bfloat16": 4e-2, "float16": 5e-3}
"""Largest relative difference that counts as equal, by number type. Models in float64
still compute their norms and rotary tables in float32."""

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
            ModelError: The plain forward pass itself is not reproduced, or is not causal:
                then no number of this model can be trusted.
        """
        cannot = dict(engine.cannot)
        for check in self.checks:
            if check.passed:
                continue
            if "logits" in check.needed_by:
                raise ModelError(
                    f"{self.model} fails the check '{check.name}' ({check.reason})",
                    expected="a decoder-only language model whose parts are where "
                    "dst/models/families.py looks for them",
                )
            for capability in check.needed_by:
                cannot.setdefault(capability, f"'{check.name}' does not hold ({check.reason})")
        engine.cannot = cannot
        engine.can = frozenset(engine.can - set(cannot))


def check_model(model: Backend) -> ModelCheck:
    """Measure what holds for a model: the identities that every result rests on.

    Checks: logits equal a plain forward pass; no output depends on a later token; N and U
    of the last state are the logits, also with the norm's scale frozen;
    resid_pre + attn_out + mlp_out = resid_post at every layer; a batch equals its rows
    alone, padded on either side; writing back what is there changes nothing; writing
    something else changes the output, and no earlier one; a key that is cut from everything
    no longer matters; q, k, v and z belong to the heads that they are said to, and the heads
    add up to attn_out; pattern times v is z; gradients agree with each other and with the slope
    that two edited runs show; blocks called from any block and position on give what full runs
    give.

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
        run("no output depends on a later token", ("logits",), probe.causal),
        run("the last state, normed and unembedded, is the logits", ("lens",), probe.last_state),
        run("resid_pre + attn_out + mlp_out = resid_post", ("components",), probe.residual_sum),
        run("a batch equals its rows alone, padded on either side", ("batch",), probe.batch),
        run("writing back what is there changes nothing", ("edits",), probe.identity_edit),
        run("writing something else changes the output", ("edits",), probe.real_edit),
        run("a key cut from every query no longer matters", ("cuts",), probe.cut),
        run("q, k, v and z belong to their heads", ("heads",), probe.heads),
        run("pattern times v is z", ("patterns",), probe.patterns),
        run("gradients are slopes of the output", ("gradients",), probe.gradients),
        run("a suffix of a changed run equals the full run", ("replay",), probe.replay),
    )
    return ModelCheck(spec.name, checks, tolerance)


class _Probe:
    """The checks, each returning its largest relative difference (or a reason to fail)."""

    def __init__(self, model: Backend, rows: list[list[int]], tolerance: float) -> None:
        self.model, self.rows, self.tolerance = model, rows, tolerance
        self.row, self.end = rows[0], len(rows[0]) - 1
        self.n_layers = model.spec.n_layers
        self.last = Site(self.n_layers - 1, "resid_post")

    def measure(self, name: str, needed_by: tuple[str, ...], test: Callable[[], float]) -> Check:
        try:
            error = test()
        except Exception as failed:  # an unknown architecture can fail in any way
            if "logits" in needed_by and isinstance(failed, DSTError):
                raise
            lines = str(failed).strip().splitlines() or [type(failed).__name__]
            return Check(name, False, float("nan"), needed_by, lines[0].rstrip("."))
        passed = error <= self.tolerance
        reason = "" if passed else f"relative difference {error:.1e}, over {self.tolerance:.0e}"
        return Check(name, passed, error, needed_by, reason)

    def plain_forward(self) -> float:
        return _relative(self.model.run([self.row]).logits[0], self.model.plain_logits(self.row))

    def causal(self) -> float:
        other = [*self.row[:-1], (self.row[-1] + 1) % self.model.spec.d_vocab]
        ours, others = (self.model.plain_logits(row) for row in (self.row, other))
        return _relative(others[:-1], ours[:-1]) if self.end else 0.0

    def last_state(self) -> float:
        run = self.model.run([self.row], capture=[self.last])
        state = run.states[self.last]
        # Another state's scale, and back: a frozen scale is told from the norm's own.
        frozen = self.model.final_norm(state, state), self.model.final_norm(3 * state, state)
        normed = self.model.final_norm(state)
        zero = self.model.final_norm(torch.zeros_like(state), state)
        return max(
            _relative(self.model.unembed(state), run.logits),
            _relative(frozen[0], normed),
            _relative(frozen[1] - zero, 3 * (frozen[0] - zero)),
        )

    def residual_sum(self) -> float:
        sites = [Site(layer, kind) for layer in range(self.n_layers) for kind in RESIDUAL_KINDS]
        states = self.model.run([self.row], capture=sites).states
        worst = 0.0
        for layer in range(self.n_layers):
            pre, attn, mlp, post = (states[Site(layer, kind)].double() for kind in RESIDUAL_KINDS)
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
        base = self.model.run([self.row], capture=[site])
        edit = Edit(site, [0], range(len(self.row)), base.states[site])
        return _relative(self.model.run([self.row], edits=[edit]).logits, base.logits)

    def real_edit(self) -> float:
        sites = [Site(self.n_layers - 1, kind) for kind in RESIDUAL_KINDS]
        base = self.model.run([self.row], capture=sites)
        # One row per site. A uniform shift would be invisible to LayerNorm, so it is turned.
        edits = [
            Edit(site, [row], [-1], -3 * base.states[site][:, -1:].roll(1, -1))
            for row, site in enumerate(sites)
        ]
        edited = self.model.run([self.row] * len(sites), edits=edits)
        for row, site in enumerate(sites):
            if _relative(edited.logits[row, -1], base.logits[0, -1]) <= self.tolerance:
                raise _FailedError(f"an edit at {site} did not change the logits")
            if self.end and (
                _relative(edited.logits[row, :-1], base.logits[0, :-1]) > self.tolerance
            ):
                raise _FailedError(f"an edit at {site} of the last position changed an earlier one")
        return 0.0

    def cut(self) -> float:
        if self.end < 2:
            raise _FailedError("the window is too short to check a cut")
        vocabulary = self.model.spec.d_vocab
        other = [(t + 1) % vocabulary if i == 1 else t for i, t in enumerate(self.row)]
        cuts = [Cut(layer, [0, 1], range(2, self.end + 1), [1]) for layer in range(self.n_layers)]
        later = range(2, self.end + 1)
        with_key = self.model.run([self.row, other], logits_at=later).logits
        without = self.model.run([self.row, other], logits_at=later, cuts=cuts).logits
        if _relative(with_key[0], with_key[1]) <= self.tolerance:
            raise _FailedError("changing a token does not change the output: a cut cannot show")
        return _relative(without[0], without[1])

    def heads(self) -> float:
        """An edit of one head of q, k or v changes z where it should, and nowhere else.

        A query changes z at its own position, a key or value at later ones; in its own head,
        or in the query heads that share a key/value head.
        """
        if self.end < 1:
            raise _FailedError("the window is too short to check heads")
        spec = self.model.spec
        layers = sorted({0, self.n_layers - 1})
        sites = [Site(layer, kind) for layer in layers for kind in ("q", "k", "v", "z")]
        base = self.model.run([self.row], capture=sites).states
        edits = []
        for row, site in enumerate(sites):
            place, head = self._place(site.kind), spec.heads_at(site.kind) - 1
            # Turned, not scaled: OLMo-2 norms q and k over all heads at once.
            value = base[site][:, place : place + 1, head:].roll(1, -1)
            edits.append(Edit(site, [row], [place], value, heads=[head]))
        outs = [Site(layer, kind) for layer in layers for kind in ("z", "attn_out")]
        # The last row is left as it is, to compare with.
        rows = [self.row] * (len(sites) + 1)
        seen = self.model.run(rows, capture=outs, edits=edits).states
        worst = 0.0
        for row, site in enumerate(sites):
            z, attn_out = (seen[Site(site.layer, kind)] for kind in ("z", "attn_out"))
            change = (z[row] - z[-1]).abs().amax(-1).double().cpu()  # [pos head]
            place, is_read = self._place(site.kind), site.kind in ("k", "v")
            own = slice(-(spec.n_heads // spec.heads_at(site.kind)), None)
            reached = change[place + is_read :, own].amax(0)
            change[place : None if is_read else place + 1, own] = 0.0
            elsewhere = float(change.max())
            if float(reached.min()) <= elsewhere:
                raise _FailedError(f"an edit of the last head of {site} does not reach z there")
            if torch.equal(attn_out[row], attn_out[-1]):
                raise _FailedError(f"an edit of {site} does not change what attention adds")
            worst = max(worst, elsewhere / max(float(z[-1].abs().max()), 1e-30))
        for layer in layers:
            z, attn_out = (seen[Site(layer, kind)][-1].double() for kind in ("z", "attn_out"))
            # What the heads leave over is the projection's bias, the same at every position.
            bias = attn_out - self.model.head_outputs(layer, z, attn_out).sum(-2)
            worst = max(worst, _relative(attn_out - bias + bias[:1], attn_out))
        return worst

    def _place(self, kind: str) -> int:
        """A position that later ones read, and where a query has more than one key."""
        return self.end // 2 if kind in ("k", "v") else max(1, self.end // 2)

    def patterns(self) -> float:
        kinds = ("pattern", "v", "z")
        sites = [Site(layer, kind) for layer in range(self.n_layers) for kind in kinds]
        states = self.model.run([self.row], capture=sites).states
        share = self.model.spec.n_heads // self.model.spec.n_kv_heads
        worst = 0.0
        for layer in range(self.n_layers):
            pattern, v, z = (states[Site(layer, kind)].double() for kind in kinds)
            mixed = torch.einsum("bhqk,bkhd->bqhd", pattern, v.repeat_interleave(share, dim=2))
            worst = max(worst, _relative(mixed, z))
        return worst

    def gradients(self) -> float:
        """A block's output and the next block's input are one tensor, so they have one gradient.

        And the gradient of the first state is the slope of the output along it, by edited runs
        on either side: to 5 % at one step at least, for a short one drowns in float32 and a long
        one bends.
        """
        if "gradients" not in self.model.can:
            return 0.0  # not offered, and said so already
        pairs = [
            (Site(layer - 1, "resid_post"), Site(layer, "resid_pre"))
            for layer in range(1, self.n_layers)
        ]
        first = Site(0, "resid_pre")
        direction = torch.randn(self.model.spec.d_vocab, generator=torch.Generator().manual_seed(1))

        def metric(logits: torch.Tensor) -> torch.Tensor:
            return logits[:, -1] @ direction.to(logits)

        sites = [first, *(site for pair in pairs for site in pair)]
        found = self.model.gradients([self.row], sites=sites, metric=metric)
        if self.model.spec.dtype in ("float32", "float64"):
            self._slope(first, found.states[first], found.gradients[first], metric)
        differences = [_relative(found.gradients[a], found.gradients[b]) for a, b in pairs]
        return max(differences, default=0.0)

    def _slope(
        self,
        site: Site,
        state: torch.Tensor,
        slope: torch.Tensor,
        metric: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        # Each position moves by a share of its own norm: a padding token's embedding may be 0.
        unit = slope / slope.norm(dim=-1, keepdim=True).clamp_min(1e-30)
        step = unit * state.norm(dim=-1, keepdim=True)
        sizes = (1e-2, 1e-3, 1e-4)
        edits = [
            Edit(site, [row], range(len(self.row)), state + size * step)
            for row, size in enumerate((*sizes, *(-size for size in sizes)))
        ]
        values = metric(self.model.run([self.row] * len(edits), edits=edits, logits_at=[-1]).logits)
        ahead, behind = values.double().cpu().chunk(2)
        measured = (ahead - behind) / (2 * torch.tensor(sizes, dtype=torch.float64))
        expected = float((slope.double() * step.double()).sum())
        if float((measured - expected).abs().min()) > 0.05 * abs(expected):
            raise _FailedError(
                f"where the gradient says {expected:.3g}, edited runs give "
                + ", ".join(f"{value:.3g}" for value in measured)
            )

    def replay(self) -> float:
        """Blocks called from every state, and from the first, a middle and the last position on.

        Each run puts another state in at one place; full runs with the same edits are the truth.
        """
        if "replay" not in self.model.can or not isinstance(self.model, HooksBackend):
            return 0.0  # not offered, and said so already
        sites = [site_of_state(state, self.n_layers) for state in range(self.n_layers + 1)]
        base, prefix = suffix.record(self.model, [self.row], sites, [-1])
        worst = 0.0
        for first in sorted({0, self.end // 2, self.end}):
            edits = [
                Edit(site, [run], [first], -3 * base.states[site][:, first : first + 1].roll(1, -1))
                for run, site in enumerate(sites)
            ]
            full = self.model.run([self.row] * len(sites), edits=edits, logits_at=[-1])
            runs = suffix.Suffixes(
                rows=[0] * len(sites),
                starts=range(len(sites)),
                first=first,
                length=len(self.row),
                edits=[
                    suffix.Placed(edit, torch.tensor([[run]]), torch.tensor([[first]]))
                    for run, edit in enumerate(edits)
                ],
                read=(self.end,),
            )
            found = suffix.replay(self.model, prefix, _states_of(base, sites, first), runs)
            worst = max(worst, _relative(found.logits, full.logits))
        return worst


class _FailedError(Exception):
    """A check that does not come out as a difference."""


def _states_of(
    base: Run, sites: Sequence[Site], first: int
) -> Callable[[int, torch.Tensor], torch.Tensor]:
    """State l of some rows of a run from a position on, [row pos d_model]."""

    def state(number: int, rows: torch.Tensor) -> torch.Tensor:
        return base.states[sites[number]][rows, first:]

    return state


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Max |a - b| / max |b|."""
    a, b = a.double().cpu(), b.double().cpu()
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))
