"""Results of paths and gradient estimates: attribution patching, path patching, edge attribution.

Effects are changes of LD when something of the base run is replaced by the donor's,
LD(patched) - LD(base), in logits: positive is toward A+. An estimate never comes without its
agreement with exact patching.

Names of parts: senders are ``embedding``, ``head l.h``, ``attn l``, ``mlp l``; receivers are
``q l.h``, ``k l.g``, ``v l.g`` (g counts key/value heads), ``q l``, ``k l``, ``v l`` of a whole
layer, ``mlp l`` and ``logits``. Layers and heads count from 0.
"""

from dataclasses import field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from dst.core.results import Provenance, Result, result


@result
class Agreement:
    """How far an estimate agrees with exact patching, on the cells where both are known.

    Attributes:
        estimate: Name of the estimate.
        n: Cells compared.
        n_all: Cells that there are.
        chosen: How the compared cells were chosen, in words.
        spearman: Rank correlation of estimate and exact effect (of the sizes, where the
            estimate has no sign); NaN where either is constant or fewer than 3 cells differ.
        top_k: How many cells the next share counts: 10, or all over ``floor`` if fewer are.
        top_overlap: Share of the k largest exact effects, by size, that are among the k largest
            estimates; NaN where no effect is over ``floor``.
        sign_agreement: Share of the cells with an exact effect over ``floor`` whose estimate
            has the same sign; NaN for an estimate without a sign, or with no such cell.
        floor: Size under which an exact effect has no sign, in logits.
        mean_error: Mean |estimate - exact| over the compared cells, in logits.
        worst: The cells with the largest |estimate - exact|, largest first.
        worst_estimate: Their estimates, in logits.
        worst_exact: Their exact effects, in logits.
        reason: Why a number is NaN; "" where none is.
    """

    estimate: str
    n: int
    n_all: int
    chosen: str
    spearman: float
    top_k: int
    top_overlap: float
    sign_agreement: float
    floor: float
    mean_error: float
    worst: tuple[str, ...]
    worst_estimate: Float[np.ndarray, " worst"]
    worst_exact: Float[np.ndarray, " worst"]
    reason: str = ""

    def __str__(self) -> str:
        return (
            f"{self.estimate} against exact patching on {self.n} of {self.n_all} cells: "
            f"Spearman {self.spearman:.2f}, top-{self.top_k} overlap {self.top_overlap:.2f}, "
            f"same sign {self.sign_agreement:.2f}, mean error {self.mean_error:.2g} logits"
        )


@result
class AttributionPatch(Result):
    """Gradient estimates of a patch grid, layer by position, role or head.

    Attributes:
        site: Kind of site that is patched.
        by: ``position``, ``role`` or ``head``: what a column is.
        columns: Name of each column.
        positions: Positions that each column patches.
        estimates: Names: ``atp`` = (donor - base) . gradient; ``softmax`` recomputes the
            attention pattern (q and k only); ``graddrop`` averages |.| over backward passes
            with one layer dropped; ``atp_star`` does both. See `dst.attribution_patch`.
        value: Each estimate of LD(patched) - LD(base), in logits. ``graddrop`` and
            ``atp_star`` are sizes, without a sign.
        exact: LD(patched) - LD(base) by a run of its own, in logits; NaN where none was made.
        agreement: One per estimate.
        base: LD of the case's own run.
        donor: LD of the donor's run.
        fired: Places that a cell patches; 0 where the donor has nothing to put there.
        delta_norm: L2 norm of donor - base at the cell.
        self_patch_error: Control: largest |effect| of putting the base's own states back.
        donor_error: Control: |LD - donor's LD| when all positions of the first state are
            patched; NaN where some positions have no counterpart in the donor.
        slope_error: Control: |slope of LD along the patch, by two runs a hundredth of the way
            to either side, - ``atp``| at the cell with the largest ``atp``, in logits; NaN in half
            precision.
        notes: What was drawn or left out.
        provenance: What it takes to compute this again.
    """

    site: str
    by: str
    columns: tuple[str, ...]
    positions: tuple[tuple[int, ...], ...]
    estimates: tuple[str, ...]
    value: Float[np.ndarray, "estimate layer column"]
    exact: Float[np.ndarray, "layer column"]
    agreement: tuple[Agreement, ...]
    base: float
    donor: float
    fired: Int[np.ndarray, "layer column"]
    delta_norm: Float[np.ndarray, "layer column"]
    self_patch_error: float
    donor_error: float
    slope_error: float
    notes: tuple[str, ...] = ()
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        if not len(self.columns) == len(self.positions) == self.exact.shape[1]:
            raise ValueError("one name and one set of positions per column are needed")
        if not len(self.estimates) == len(self.agreement) == len(self.value):
            raise ValueError("one name and one agreement per estimate are needed")

    def __getitem__(self, estimate: str) -> Float[np.ndarray, "layer column"]:
        """The grid of one estimate, by its name.

        Raises:
            KeyError: There is none; the message lists the names there are.
        """
        if estimate not in self.estimates:
            raise KeyError(f"{estimate!r}; the estimates here are {', '.join(self.estimates)}")
        return self.value[self.estimates.index(estimate)]

    def to_records(self) -> list[dict[str, Any]]:
        """One row per layer and column."""
        return [
            {"site": self.site, "layer": layer, self.by: name}
            | {e: float(self.value[i, layer, c]) for i, e in enumerate(self.estimates)}
            | {
                "exact": float(self.exact[layer, c]),
                "fired": int(self.fired[layer, c]),
                "delta_norm": float(self.delta_norm[layer, c]),
            }
            for layer in range(self.exact.shape[0])
            for c, name in enumerate(self.columns)
        ]


@result
class PathEffects(Result):
    """Exact path patching: what LD does when one receiver alone hears the donor's sender.

    Attributes:
        senders: Names of the senders.
        receivers: Names of the receivers.
        effect: LD(edge patched) - LD(base), in logits; NaN where the sender does not come before
            the receiver.
        node: LD(sender patched for everything after it) - LD(base), in logits.
        fired: Positions at which a receiver's input was changed.
        delta_norm: L2 norm of the change of what the receiver puts out; for ``logits`` of what
            comes into the final norm.
        floor: |effect| of a random direction as large as the largest sender's difference, sent
            into each receiver instead.
        base: LD of the case's own run.
        donor: LD of the donor's run.
        self_patch_error: Control: largest |effect| of an edge whose donor is the base itself,
            run like any other; an edge that changes nothing is not run and is exactly 0.
        sum_error: Control: largest difference, over receivers, between base input plus all
            senders' differences and the donor's own input, relative to the largest input.
        donor_error: Control: |LD - donor's LD| with every sender patched into ``logits``.
        notes: What was drawn or left out.
        provenance: What it takes to compute this again.
    """

    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    effect: Float[np.ndarray, "sender receiver"]
    node: Float[np.ndarray, " sender"]
    fired: Int[np.ndarray, "sender receiver"]
    delta_norm: Float[np.ndarray, "sender receiver"]
    floor: Float[np.ndarray, " receiver"]
    base: float
    donor: float
    self_patch_error: float
    sum_error: float
    donor_error: float
    notes: tuple[str, ...] = ()
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        _check_names(self.senders, self.receivers, self.effect)

    def strongest(self, n: int = 10) -> list[tuple[str, str, float]]:
        """The ``n`` largest edges by size: sender, receiver, effect in logits."""
        return _strongest(self.senders, self.receivers, self.effect, n)

    def to_records(self) -> list[dict[str, Any]]:
        """One row per edge."""
        return [
            {
                "sender": self.senders[s],
                "receiver": self.receivers[r],
                "effect": float(self.effect[s, r]),
                "node": float(self.node[s]),
                "fired": int(self.fired[s, r]),
                "delta_norm": float(self.delta_norm[s, r]),
            }
            for s, r in np.argwhere(~np.isnan(self.effect)).tolist()
        ]


@result
class EdgeScores(Result):
    """Edge attribution patching: a gradient estimate for every edge and every node.

    Attributes:
        method: ``eap`` (gradient at the base) or ``eap_ig`` (mean over interpolated embeddings).
        steps: Gradients that were averaged.
        senders: Names of the senders.
        receivers: Names of the receivers.
        score: Estimate of LD(edge patched) - LD(base), in logits; NaN where there is no edge.
        node: The same of a sender patched for everything after it.
        exact: Path patching of the edges that were compared, in logits; NaN elsewhere.
        node_exact: Exact effect of the nodes that were compared; NaN elsewhere.
        agreement: Of the edges, with exact path patching.
        node_agreement: Of the nodes.
        base: LD of the case's own run.
        donor: LD of the donor's run.
        closure_error: Control: largest |sum of a sender's edges - its node's score|, in logits;
            NaN where some receivers were left out.
        completeness_error: (score of the embedding) - (LD(donor) - LD(base)), in logits: 0 for
            enough steps of ``eap_ig``; for ``eap`` what one gradient misses.
        notes: What was drawn or left out.
        provenance: What it takes to compute this again.
    """

    method: str
    steps: int
    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    score: Float[np.ndarray, "sender receiver"]
    node: Float[np.ndarray, " sender"]
    exact: Float[np.ndarray, "sender receiver"]
    node_exact: Float[np.ndarray, " sender"]
    agreement: Agreement
    node_agreement: Agreement
    base: float
    donor: float
    closure_error: float
    completeness_error: float
    notes: tuple[str, ...] = ()
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        _check_names(self.senders, self.receivers, self.score)

    def strongest(self, n: int = 10) -> list[tuple[str, str, float]]:
        """The ``n`` largest edges by size: sender, receiver, score in logits."""
        return _strongest(self.senders, self.receivers, self.score, n)

    def to_records(self) -> list[dict[str, Any]]:
        """One row per edge."""
        return [
            {
                "sender": self.senders[s],
                "receiver": self.receivers[r],
                "score": float(self.score[s, r]),
                "exact": float(self.exact[s, r]),
                "node": float(self.node[s]),
            }
            for s, r in np.argwhere(~np.isnan(self.score)).tolist()
        ]


def _check_names(
    senders: tuple[str, ...], receivers: tuple[str, ...], grid: Float[np.ndarray, "..."]
) -> None:
    if grid.shape != (len(senders), len(receivers)):
        raise ValueError("one name per sender and per receiver is needed")


def _strongest(
    senders: tuple[str, ...],
    receivers: tuple[str, ...],
    grid: Float[np.ndarray, "sender receiver"],
    n: int,
) -> list[tuple[str, str, float]]:
    edges = np.argwhere(~np.isnan(grid)).tolist()
    edges.sort(key=lambda edge: -abs(grid[edge[0], edge[1]]))
    return [(senders[s], receivers[r], float(grid[s, r])) for s, r in edges[:n]]
