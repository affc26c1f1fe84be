"""Results of patching: a grid of counterfactual runs with its controls, and means over cases.

Two runs take part in every grid. The *base* run is changed; the *donor* run is where the
states come from. Axes: ``metric``, ``draw`` (variants of the prompt, or draws of noise),
``layer`` (0-based, the block at which something is put in or cut), ``column`` (positions,
roles, spans, heads, or layers that a state comes from).
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from dst.core.case import Case
from dst.core.results import Provenance, Result, result
from dst.core.statistics_results import EffectMap

UNITS = {
    "LD": "logits",
    "log_prob": "nats",
    "log_prob_associative": "nats",
    "prob": "probability",
    "prob_associative": "probability",
    "kl": "nats",
    "sequence_log_prob": "nats",
    "sequence_log_prob_associative": "nats",
}
"""Metrics of a patched run, each with its unit; see `dst.tracing.metrics` for the formulas."""

LEAST_DIFFERENCE = 1.0
"""|LD(donor) - LD(base)| in nats under which a share of it says nothing (METHOD 4)."""

QUANTILE = 0.95
"""Share of the random cells whose effect lies under a control's floor."""


@result
class Controls:
    """What every grid is checked with, in the units of its metrics.

    Attributes:
        self_patch_error: |LD - LD(base)| when a run's own states are put back, really run (a
            cell that changes nothing is not run, and is exact); NaN for cuts.
        donor_error: Largest |LD - LD(donor)| when everything is patched; NaN with a reason.
        donor_reason: Why there is no ``donor_error``; "" if there is one.
        random_donor: Effect of putting a random donor's states into random cells of the grid.
        random_donor_is: Whose states those are.
        random_direction: Effect, in the same cells, of a change of the donor's norm in a
            random direction.
        random_layers: The layer of each random cell.
        random_columns: The column of each random cell.
    """

    self_patch_error: float
    donor_error: float
    donor_reason: str
    random_donor: Float[np.ndarray, "metric random"]
    random_donor_is: str
    random_direction: Float[np.ndarray, "metric random"]
    random_layers: Int[np.ndarray, " random"]
    random_columns: Int[np.ndarray, " random"]

    def __post_init__(self) -> None:
        if np.isnan(self.donor_error) != bool(self.donor_reason):
            raise ValueError("donor_error: NaN if and only if there is a reason")

    @property
    def random_donor_floor(self) -> Float[np.ndarray, " metric"]:
        """95 % quantile of |effect| of a random donor; NaN where none was run."""
        return _floor(self.random_donor)

    @property
    def random_direction_floor(self) -> Float[np.ndarray, " metric"]:
        """95 % quantile of |effect| of a random direction of the same norm; NaN likewise."""
        return _floor(self.random_direction)


@result
class PatchGrid(Result):
    """One counterfactual run per cell: layer by column, for every draw and metric.

    Attributes:
        technique: ``activation patching``, ``causal tracing``, ``ablation``,
            ``attention cut``, ``cross-prompt patching``, ``backpatching``.
        direction: ``noising`` (the prompt's own run is changed: what is lost is what the
            cell was needed for), ``denoising`` (the other run is changed: what comes back is
            what the cell is enough for), or "" where there is no such choice.
        source: What is put in: the donor's name, ``zero``, ``mean``, ``cut``...
        site: The kind of site that is changed; ``attention`` for cuts.
        window: How many layers a cell changes, centred on its own, cut off at the ends.
        metrics: Names, each of `UNITS`; the first is always ``LD``.
        layers: The layer of each row of the grid.
        column_kind: What a column is: ``position``, ``role``, ``span``, ``all``, ``head``,
            ``head x position`` (and so on), or ``source layer``.
        columns: The name of each column: the token, the role, the span, ``head 3``...
        column_positions: The prompt's positions that a column changes.
        column_heads: The head that a column changes, -1 for all.
        values: Each metric of each patched run; NaN in a column with a reason.
        base: Each metric of the runs that are changed.
        donor: Each metric of the runs that states come from; NaN where there is no such run.
        flips: Whether LD has the other sign than in the base run.
        fired: Places changed or cut (position x layer, or query x key); 0 where a draw has
            no such position.
        delta_norm: L2 norm of the change; 0 where donor and base agree, NaN for cuts.
        coverage: Share of a column's positions that the other run has too, least over draws.
        reasons: Why a column is NaN in every draw; "" where it is not.
        tokens: The prompt's tokens as text.
        roles: The role of each.
        case: The case.
        controls: What the grid was checked with.
        notes: What was drawn, matched or left out.
        provenance: What it takes to compute this again.
    """

    technique: str
    direction: str
    source: str
    site: str
    window: int
    metrics: tuple[str, ...]
    layers: Int[np.ndarray, " layer"]
    column_kind: str
    columns: tuple[str, ...]
    column_positions: tuple[tuple[int, ...], ...]
    column_heads: tuple[int, ...]
    values: Float[np.ndarray, "metric draw layer column"]
    base: Float[np.ndarray, "metric draw"]
    donor: Float[np.ndarray, "metric draw"]
    flips: Bool[np.ndarray, "draw layer column"]
    fired: Int[np.ndarray, "draw layer column"]
    delta_norm: Float[np.ndarray, "draw layer column"]
    coverage: Float[np.ndarray, " column"]
    reasons: tuple[str, ...]
    tokens: tuple[str, ...]
    roles: tuple[str, ...]
    case: Case
    controls: Controls
    notes: tuple[str, ...]
    provenance: Provenance

    def __post_init__(self) -> None:
        n = len(self.coverage)
        per_column = (self.columns, self.column_positions, self.column_heads, self.reasons)
        if any(len(field) != n for field in per_column):
            raise ValueError("one name, head, reason and list of positions per column is needed")
        if len(self.metrics) != len(self.base) or self.metrics[:1] != ("LD",):
            raise ValueError("one name per metric is needed, LD first")
        if unknown := [name for name in self.metrics if name not in UNITS]:
            raise ValueError(f"the metric {unknown[0]} is none of {', '.join(UNITS)}")
        if len(self.tokens) != len(self.roles):
            raise ValueError("one role per token is needed")
        undefined = np.isnan(self.values).all(axis=(0, 1, 2))
        if undefined.tolist() != [bool(reason) for reason in self.reasons]:
            raise ValueError("a column is NaN if and only if there is a reason")

    def value(self, metric: str = "LD") -> Float[np.ndarray, "layer column"]:
        """A metric of the patched runs, mean over the draws that have the cell."""
        return _mean(self.values[self._index(metric)])

    def effect(self, metric: str = "LD") -> Float[np.ndarray, "layer column"]:
        """Patched minus base, mean over draws, in the metric's unit."""
        return _mean(self.effects(metric))

    def effects(self, metric: str = "LD") -> Float[np.ndarray, "draw layer column"]:
        """Patched minus base of every draw, in the metric's unit."""
        i = self._index(metric)
        return self.values[i] - self.base[i, :, None, None]

    @property
    def contrast(self) -> Float[np.ndarray, "layer column"]:
        """LD of the patched runs, mean over draws, in logits."""
        return self.value("LD")

    @property
    def recovery(self) -> Float[np.ndarray, "layer column"]:
        """(LD(patched) - LD(base)) / (LD(donor) - LD(base)), each a mean over draws.

        0 leaves the base run as it is, 1 turns it into the donor's. NaN where there is
        `recovery_reason`.
        """
        if self.recovery_reason:
            return np.full(self.values.shape[2:], np.nan)
        return self.effect("LD") / self._difference + 0.0  # 0, not -0, where nothing changes

    @property
    def recovery_reason(self) -> str:
        """Why recovery is undefined; "" where it is defined."""
        if np.isnan(self._difference):
            return "there is no donor run that it could be a share of"
        if abs(self._difference) < LEAST_DIFFERENCE:
            return (
                f"LD of donor and base differ by {abs(self._difference):.2f}, less than "
                f"{LEAST_DIFFERENCE:g} nat"
            )
        return ""

    @property
    def flip(self) -> Float[np.ndarray, "layer column"]:
        """Share of the draws in which LD has the other sign than in the base run."""
        share = self.flips.mean(axis=0, dtype=np.float64)
        return np.where([bool(reason) for reason in self.reasons], np.nan, share)

    def floor(self, metric: str = "LD") -> float:
        """The larger of the two random controls' floors: what an effect must exceed."""
        i = self._index(metric)
        both = [self.controls.random_donor_floor[i], self.controls.random_direction_floor[i]]
        known = [value for value in both if not np.isnan(value)]
        return float(max(known)) if known else float("nan")

    def unit(self, metric: str = "LD") -> str:
        """The unit of a metric's values and effects."""
        return UNITS[self.metrics[self._index(metric)]]

    def to_records(self) -> list[dict[str, Any]]:
        """One row per layer and column, means over draws."""
        values = {name: self.value(name) for name in self.metrics}
        effect, recovery, flip = self.effect("LD"), self.recovery, self.flip
        return [
            {
                "layer": int(layer),
                "column": self.columns[j],
                "head": self.column_heads[j],
                "positions": " ".join(map(str, self.column_positions[j])),
            }
            | {name: float(value[i, j]) for name, value in values.items()}
            | {
                "effect": float(effect[i, j]),
                "recovery": float(recovery[i, j]),
                "flip": float(flip[i, j]),
                "fired": int(self.fired[:, i, j].sum()),
                "delta_norm": float(self.delta_norm[:, i, j].mean()),
                "coverage": float(self.coverage[j]),
                "reason": self.reasons[j],
            }
            for i, layer in enumerate(self.layers)
            for j in range(len(self.columns))
        ]

    def _index(self, metric: str) -> int:
        if metric not in self.metrics:
            raise KeyError(f"{metric!r}; the metrics here are {', '.join(self.metrics)}")
        return self.metrics.index(metric)

    @property
    def _difference(self) -> float:
        return float((self.donor[0] - self.base[0]).mean())


@result
class PatchEffects(Result):
    """Effects of one technique over many cases: mean, interval, permutation, false discoveries.

    Attributes:
        technique: As `PatchGrid.technique`.
        direction: As `PatchGrid.direction`.
        source: As `PatchGrid.source`.
        site: The kind of site that is changed.
        window: Layers that a cell changes.
        metric: Whose effect.
        layers: The layer of each row.
        columns: Roles that occur in at least two cases.
        effects: Effect of each case, mean over its draws; NaN where a case lacks the role.
        random_effects: The same with another case's run as the donor (a derangement).
        statistics: Mean, interval (cases resampled by group), p against the random donor and
            q over the map.
        case_ids: The cases, in order.
        groups: The group of each, resampled together.
        failures: Cases left out, each with its reason.
        self_patch_error: Largest over cases.
        donor_error: Largest over cases; NaN if none could be checked.
        random_donor_is: Whose states the random donor's are.
        notes: What a reader must know.
        provenance: What it takes to compute this again.
    """

    technique: str
    direction: str
    source: str
    site: str
    window: int
    metric: str
    layers: Int[np.ndarray, " layer"]
    columns: tuple[str, ...]
    effects: Float[np.ndarray, "case layer column"]
    random_effects: Float[np.ndarray, "case layer column"]
    statistics: EffectMap
    case_ids: tuple[str, ...]
    groups: tuple[str, ...]
    failures: tuple[str, ...]
    self_patch_error: float
    donor_error: float
    random_donor_is: str
    notes: tuple[str, ...]
    provenance: Provenance

    def __post_init__(self) -> None:
        if not len(self.case_ids) == len(self.groups) == len(self.effects):
            raise ValueError("one id and one group per case is needed")
        if len(self.columns) != self.effects.shape[2]:
            raise ValueError("one name per column is needed")

    @property
    def mean(self) -> Float[np.ndarray, "layer column"]:
        """Mean effect over cases, in the metric's unit."""
        return self.statistics.mean

    @property
    def low(self) -> Float[np.ndarray, "layer column"]:
        """Lower end of the 95 % interval of the mean."""
        return self.statistics.low

    @property
    def high(self) -> Float[np.ndarray, "layer column"]:
        """Upper end of the 95 % interval of the mean."""
        return self.statistics.high

    @property
    def p(self) -> Float[np.ndarray, "layer column"]:
        """Two-sided p of effect = effect of the random donor."""
        return self.statistics.p

    @property
    def q(self) -> Float[np.ndarray, "layer column"]:
        """The same after Benjamini-Hochberg over the map."""
        return self.statistics.q

    def to_records(self) -> list[dict[str, Any]]:
        """One row per layer and column."""
        rows = self.statistics.to_records()
        names = {"layer": self.layers.tolist(), "column": self.columns}
        return [{k: names[k][v] if k in names else v for k, v in row.items()} for row in rows]


def _mean(draws: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is not NaN; NaN where nothing is."""
    known = ~np.isnan(draws)
    n = known.sum(axis=0)
    total = np.where(known, draws, 0.0).sum(axis=0)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def _floor(effects: np.ndarray) -> np.ndarray:
    if not effects.shape[1]:
        return np.full(len(effects), np.nan)
    return np.quantile(np.abs(effects), QUANTILE, axis=1)
