"""The backward pass of the reference engine: states kept in the graph, and their gradients.

Gradients are taken with respect to states alone. No weight's ``requires_grad`` is read or set,
and no ``.grad`` is written: a model comes out as it went in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from dst.core.errors import CapabilityError, InterventionError, ModelError
from dst.core.sites import Site
from dst.models.backend import Differentiable, Gradients, Through


class Tape:
    """States of one forward pass, kept as nodes of the graph.

    Args:
        drop: Blocks whose attn_out and mlp_out pass no gradient back.
    """

    def __init__(self, drop: Iterable[int] = ()) -> None:
        self.states: dict[Site, torch.Tensor] = {}
        self.dropped = {Site(layer, kind) for layer in drop for kind in ("attn_out", "mlp_out")}

    @property
    def needs(self) -> list[Site]:
        """Sites that must be visited whatever is asked: the start of the graph, what is dropped."""
        return [Site(0, "resid_pre"), *sorted(self.dropped)]

    def keep(self, site: Site, value: torch.Tensor) -> torch.Tensor:
        """Keep a state; the model goes on with a copy, for some blocks add in place later on."""
        if not value.requires_grad:  # the embedding of a model whose weights are frozen
            value = value.detach().requires_grad_(True)
        self.states[site] = value
        return (value.detach() if site in self.dropped else value).clone()

    def keep_pattern(self, site: Site, value: torch.Tensor) -> None:
        """Keep an attention pattern, which was used before a hook can see it."""
        self.states[site] = value

    def backward(
        self,
        logits: torch.Tensor,
        metric: Differentiable,
        sites: Sequence[Site],
        through: Sequence[Through],
        name: str,
    ) -> Gradients:
        """Differentiate the metric by every state that is asked for.

        Raises:
            InterventionError: The metric is not one number per row, or does not depend
                differentiably on the logits.
            CapabilityError: The output does not depend on a site.
            ModelError: A gradient is not finite.
        """
        value = metric(logits)
        if value.shape != logits.shape[:1] or not value.requires_grad:
            raise InterventionError(
                f"The metric returns shape {tuple(value.shape)}"
                + ("" if value.requires_grad else " without a gradient"),
                expected=f"one number per row, {tuple(logits.shape[:1])}, computed from the "
                "logits in torch",
            )
        wanted = list(dict.fromkeys([*sites, *(part.receiver for part in through)]))
        for site in wanted:
            if site not in self.states:
                raise CapabilityError(f"This model's forward pass does not go through {site}")
        found: Sequence[torch.Tensor | None] = torch.autograd.grad(
            value.sum(),
            [self.states[site] for site in wanted],
            retain_graph=bool(through),
            allow_unused=True,
        )
        gradients = {}
        for site, gradient in zip(wanted, found, strict=True):
            if gradient is None and not self.dropped:
                raise CapabilityError(f"This model's output does not depend on {site}")
            state = self.states[site]
            gradients[site] = torch.zeros_like(state) if gradient is None else gradient
            if not bool(torch.isfinite(gradients[site]).all()):
                raise ModelError(
                    f"{name} has NaN or infinity in the gradient at {site}",
                    expected="finite gradients",
                    do="Load it in float32",
                )
        return Gradients(
            value=value.detach(),
            logits=logits.detach(),
            states={site: self.states[site].detach() for site in sites},
            gradients={site: gradients[site].detach() for site in sites},
            through=tuple(self._through(part, gradients[part.receiver]) for part in through),
        )

    def _through(self, part: Through, gradient: torch.Tensor) -> torch.Tensor:
        """J^T gradient, J the derivative of the receiver by the residual that it reads."""
        if part.heads is not None:
            own = torch.zeros_like(gradient)
            own[:, :, list(part.heads)] = gradient[:, :, list(part.heads)]
            gradient = own
        for kind in reads(part.receiver):
            source = self.states[Site(part.receiver.layer, kind)]
            (found,) = torch.autograd.grad(
                self.states[part.receiver], source, gradient, retain_graph=True, allow_unused=True
            )
            if found is not None:
                return found.detach()
        raise CapabilityError(f"{part.receiver} reads no state of the residual stream")


def reads(receiver: Site) -> tuple[str, ...]:
    """Sites of the receiver's block through which it may read the residual, nearest first.

    An MLP after attention reads resid_pre + attn_out, of which attn_out is the nearer node; an
    MLP beside attention (GPT-J, Falcon) does not depend on attn_out and reads resid_pre.

    Raises:
        InterventionError: The site is no receiver.
    """
    if receiver.kind in ("q", "k", "v"):
        return ("resid_pre",)
    if receiver.kind == "mlp_out":
        return ("attn_out", "resid_pre")
    raise InterventionError(
        f"The site {receiver} receives nothing from the residual stream by itself",
        expected="q, k, v or mlp_out",
    )
