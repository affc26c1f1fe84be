"""An engine that computes nothing: what would be run is worked out, checked and counted.

Any measurement can be carried out on it. Which runs it asks for, how they are batched and where
each leaves its base are those of the real engine, because it is the same code; the numbers that
come out mean nothing. So a plan's cost is known before it starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch

from dst.core.sites import HEAD_KINDS, Site, state_of
from dst.models.backend import Cut, Edit, Positions, Run
from dst.models.hooks import HooksBackend
from dst.models.request import work_out

PRIME, FACTOR = 8_388_593, 1_315_423_911
"""Of `history`; under 2**23, so that float32 holds every number."""


class DryEngine(HooksBackend):
    """Stands in for an engine and answers every run with the same logits.

    States differ where the tokens before them differ, so that what would be an exact no-op is
    one here too.

    Args:
        engine: The engine.
        logits: What every run puts out, [d_vocab].
    """

    computes: ClassVar[bool] = False

    def __init__(self, engine: HooksBackend, logits: torch.Tensor) -> None:
        self.anatomy, self.tokenizer, self.spec = engine.anatomy, engine.tokenizer, engine.spec
        self.can, self.cannot, self.notes = engine.can, engine.cannot, engine.notes
        self.engine, self._lock = engine.engine, engine._lock
        self.logits = logits.detach().float().cpu()

    def run(
        self,
        ids: torch.Tensor | Sequence[Sequence[int]],
        mask: torch.Tensor | None = None,
        *,
        capture: Iterable[Site] = (),
        edits: Sequence[Edit] = (),
        cuts: Sequence[Cut] = (),
        logits_at: Positions | None = None,
    ) -> Run:
        """One forward pass that is counted and not made; refuses what `HooksBackend.run` does."""
        spec = self.spec
        request = work_out(spec, self.anatomy.missing, ids, mask, capture, edits, cuts, logits_at)
        states = {site: self.state(site, request.batch.ids) for site in request.capture}
        for item in request.edits:
            item.fired += item.row_index.numel()
        places = request.batch.ids.shape[1]
        readable = {
            layer: torch.ones(len(request.batch.ids), 1, places, places, dtype=torch.bool).tril()
            for layer in request.blocked
        }
        logits = self.logits.expand(*request.places.shape, -1).clone()
        return request.answer(spec, logits, states, readable)

    def final_norm(
        self, resid: torch.Tensor, scale_from: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Zeros, so that components and state agree."""
        return torch.zeros_like(resid)

    def unembed(self, resid: torch.Tensor, scale_from: torch.Tensor | None = None) -> torch.Tensor:
        """The logits of every run."""
        return self.logits.expand(*resid.shape[:-1], -1).clone()

    def head_outputs(self, layer: int, z: torch.Tensor, attn_out: torch.Tensor) -> torch.Tensor:
        """Zeros, [... head d_model]."""
        return torch.zeros(*z.shape[:-1], self.spec.d_model)

    def replayed(self, turned: Sequence[bool], n_read: int) -> torch.Tensor:
        """Logits of changed runs, [run k d_vocab]; the sign turned where a state was pushed."""
        sign = torch.where(torch.tensor(list(turned)), -1.0, 1.0)
        return (sign[:, None, None] * self.logits).expand(-1, n_read, -1)

    def state(self, site: Site, ids: torch.Tensor) -> torch.Tensor:
        """What stands at a site: one number per position, in the first component."""
        spec, (n_rows, n_pos) = self.spec, ids.shape
        if site.kind == "pattern":
            return torch.zeros(n_rows, spec.n_heads, n_pos, n_pos)
        if site.kind in HEAD_KINDS:
            return torch.zeros(n_rows, n_pos, spec.heads_at(site.kind), spec.d_head)
        out = torch.zeros(n_rows, n_pos, spec.d_model)
        if site.kind in ("resid_pre", "resid_post"):
            depth = state_of(site)
            out[..., 0] = (history(ids) + depth if depth else 1 + ids % PRIME).float()
        return out


def history(ids: torch.Tensor) -> torch.Tensor:
    """[row pos]: a whole number for the tokens up to each position, below `PRIME`.

    Equal where they are equal; where they are not, it is the same once in millions.
    """
    out, so_far = torch.empty_like(ids), torch.zeros_like(ids[:, 0])
    for place in range(ids.shape[1]):
        so_far = (so_far * FACTOR + ids[:, place] + 1) % PRIME
        out[:, place] = so_far + 1
    return out
