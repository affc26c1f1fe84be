"""One run, worked out before any engine sees it: places, edits, cuts, what is wanted.

Every engine is asked in these terms and answers with states and logits; the rules that
do not depend on an engine (what may be asked, receipts, finite numbers) are kept here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from dst.core.errors import CapabilityError
from dst.core.sites import Site
from dst.models.backend import Cut, Edit, ModelSpec, Positions, Run
from dst.models.batch import Batch, check_finite, logit_places, make_batch
from dst.models.interventions import (
    Resolved,
    check_site,
    cut_receipts,
    keep_a_key,
    resolve_cuts,
    resolve_edits,
)
from dst.models.meter import count


@dataclass(frozen=True)
class Request:
    """What one run is asked to do.

    Attributes:
        batch: Rows moved to the left.
        capture: Sites wanted, without repeats.
        edits: Edits with their places, in the order given.
        cuts: Cuts as given.
        blocked: [row head query key] per cut layer, True where reading is cut.
        places: [row k], absolute positions of the logits wanted.
    """

    batch: Batch
    capture: tuple[Site, ...]
    edits: tuple[Resolved, ...]
    cuts: tuple[Cut, ...]
    blocked: Mapping[int, torch.Tensor]
    places: torch.Tensor

    @property
    def sites(self) -> list[Site]:
        """Every site that is edited or captured, in order."""
        return sorted({*self.capture, *(item.edit.site for item in self.edits)})

    def at(self, site: Site) -> list[Resolved]:
        """The edits at one site, in the order given."""
        return [item for item in self.edits if item.edit.site == site]

    def answer(
        self,
        spec: ModelSpec,
        logits: torch.Tensor,
        states: Mapping[Site, torch.Tensor],
        readable: Mapping[int, torch.Tensor],
    ) -> Run:
        """The run, counted, with a receipt for every edit and cut.

        Args:
            spec: The model's.
            logits: [row k d_vocab] at ``places``.
            states: What was captured.
            readable: Per cut layer, [row head query key], what could be read before the cuts.

        Raises:
            CapabilityError: The forward pass does not go through a site.
            InterventionError: An edit or cut never fired, or a query was left without keys.
            ModelError: Activations or logits are not finite.
        """
        count(self.batch.ids.numel() * spec.n_layers, spec.n_layers)
        for site in self.capture:
            if site not in states:
                raise CapabilityError(f"This model's forward pass does not go through {site}")
        closed = {}
        for layer, seen in readable.items():
            blocked = self.blocked[layer].to(seen.device)
            keep_a_key(seen, blocked, layer)
            closed[layer] = seen & blocked
        receipts = (
            *(item.receipt() for item in self.edits),
            *cut_receipts(self.cuts, self.batch, closed),
        )
        run = Run(
            ids=self.batch.ids,
            lengths=self.batch.lengths,
            logits=logits,
            logit_positions=self.places,
            states={site: states[site] for site in self.capture},
            receipts=receipts,
        )
        check_finite(run, spec.name)
        return run


def work_out(
    spec: ModelSpec,
    missing: Mapping[str, str],
    ids: torch.Tensor | Sequence[Sequence[int]],
    mask: torch.Tensor | None,
    capture: Iterable[Site],
    edits: Sequence[Edit],
    cuts: Sequence[Cut],
    logits_at: Positions | None,
) -> Request:
    """Check what is asked of `Backend.run`, and work out its places.

    Kinds of site that the engine does not have come in ``missing``, each with the reason.

    Raises:
        InputError: The ids do not fit the model.
        InterventionError: A site, row, position or head does not exist.
        CapabilityError: The engine does not have a site, or cannot edit it.
    """
    batch = make_batch(ids, mask, spec)
    capture = tuple(dict.fromkeys(capture))
    for site in (*capture, *(edit.site for edit in edits)):
        check_site(site, spec)
        if reason := missing.get(site.kind):
            raise CapabilityError(f"The site {site} was not found in this model: {reason}")
    for edit in edits:
        if edit.site.kind == "pattern":
            raise CapabilityError(
                f"The site {edit.site} cannot be edited", do="Edit v or z, or use a cut"
            )
    return Request(
        batch=batch,
        capture=capture,
        edits=tuple(resolve_edits(edits, batch, spec)),
        cuts=tuple(cuts),
        blocked=resolve_cuts(cuts, batch, spec),
        places=logit_places(logits_at, batch),
    )
