"""Where in the network a tensor lives, by the field's names, and which state that is.

A *layer* counts blocks from 0, as in transformer_lens. A *state* counts what the
residual stream has been through: state 0 is the embedding, state l is the output of
block l of L (1-based). Every mark that `dst` reports is a state.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from dst.core.errors import InputError, InterventionError

RESIDUAL_KINDS = ("resid_pre", "attn_out", "mlp_out", "resid_post")
"""Vectors of width d_model. attn_out and mlp_out are what is *added* to the residual
(after Gemma-2's and OLMo-2's post-norms), so that
resid_post = resid_pre + attn_out + mlp_out at every layer."""

HEAD_KINDS = ("q", "k", "v", "z", "pattern")
"""Inside attention. q, k, v are what the projections put out, before any query/key norm
and before rotary embedding: q is [head d_head], k and v are [kv_head d_head]. z is what
enters the output projection, [head d_head]. pattern is [head query key], rows sum to 1."""

KINDS = RESIDUAL_KINDS + HEAD_KINDS

_TRANSFORMER_LENS = re.compile(
    r"blocks\.(?P<layer>\d+)\."
    rf"(?:hook_(?P<residual>{'|'.join(RESIDUAL_KINDS)})|attn\.hook_(?P<head>{'|'.join(HEAD_KINDS)}))"
)
_SHORT = re.compile(r"(?P<kind>[a-z_]+)\.(?P<layer>\d+)")


@dataclass(frozen=True, order=True)
class Site:
    """One tensor of the network: the layer (0-based) and what is read there.

    Attributes:
        layer: Block index, counted from 0.
        kind: One of `KINDS`.

    Raises:
        InterventionError: The kind is not one of `KINDS`, or the layer is negative.
    """

    layer: int
    kind: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InterventionError(
                f"The site kind {self.kind!r} does not exist",
                expected="one of " + ", ".join(KINDS),
            )
        if self.layer < 0:
            raise InterventionError(
                f"The site {self.kind} names layer {self.layer}",
                expected="a layer counted from 0",
            )

    @classmethod
    def parse(cls, text: str) -> Site:
        """Read ``resid_post.3`` or transformer_lens' ``blocks.3.hook_resid_post``."""
        if match := _SHORT.fullmatch(text):
            return cls(int(match["layer"]), match["kind"])
        if match := _TRANSFORMER_LENS.fullmatch(text):
            return cls(int(match["layer"]), match["residual"] or match["head"])
        raise InterventionError(
            f"The site {text!r} cannot be read",
            expected="KIND.LAYER such as resid_post.3, or blocks.3.hook_resid_post",
        )

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}"


def state_of(site: Site) -> int:
    """The state that a residual site is: resid_pre of layer l is state l, resid_post is l + 1.

    The one place where layers (0-based) become states (0 = embedding, l = after block l).

    Raises:
        InterventionError: The site is not a residual state.
    """
    if site.kind == "resid_pre":
        return site.layer
    if site.kind == "resid_post":
        return site.layer + 1
    raise InterventionError(
        f"The site {site} is not a state of the residual stream",
        expected="resid_pre or resid_post",
    )


def state_at(depth: float, n_layers: int) -> int:
    """The state at a share of depth: round(depth * L), halves up.

    Raises:
        InputError: The depth is not between 0 and 1.
    """
    if not 0 <= depth <= 1:
        raise InputError(f"The depth is {depth}", expected="a share from 0 to 1")
    return math.floor(depth * n_layers + 0.5)


def site_of_state(state: int, n_layers: int) -> Site:
    """The site that holds a state: resid_pre of the next block, or resid_post of the last.

    Raises:
        InterventionError: The state is outside 0..n_layers.
    """
    if not 0 <= state <= n_layers:
        raise InterventionError(
            f"The state {state} does not exist",
            expected=f"0 (the embedding) to {n_layers} (the output of the last block)",
        )
    return Site(state, "resid_pre") if state < n_layers else Site(n_layers - 1, "resid_post")
