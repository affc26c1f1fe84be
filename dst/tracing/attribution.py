"""Counterfactual attribution: what each component adds to LD at i*, and which part is whose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float

from dst.analysis.readout import log_softmax
from dst.core.case import Case
from dst.core.errors import CaseError, NumericalError
from dst.core.results import Attribution
from dst.core.sites import Site
from dst.models.backend import Backend, Run, require
from dst.tracing.prepare import DRAWS, Prepared, prepare
from dst.tracing.replay import MOST_TOKENS

CLOSURE = 1e-4
"""Largest part of LD that the components may miss, relative to max(1, |LD|)."""


def attribution(
    model: Backend,
    case: Case,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    ready: Prepared | None = None,
) -> Attribution:
    """Each component's part of LD at i*, split into base, association and context, in logits.

    s(c) = <g * c / scale(h[L, i*]), dir>, with dir = sum over A+ of softmax weights (of x's
    own logits within A+) times rows of U, minus the same for A-. Scale and dir are those of x
    for every run (LayerNorm: c is centred first; before any soft cap). Components: embedding,
    heads, attention output bias, MLPs, biases of the final norm and the head, and a residue
    ``nonlinear`` that closes the sum to LD(x). Contextual part s(c; x) - s(c; x_0),
    associative s(c; x_0) - s(c; x_0,sub), base s(c; x_0,sub), means over draws.

    Args:
        model: The model.
        case: The case; variants that it lacks are drawn.
        draws: How many variants to draw.
        seed: Seed of the draws.
        ready: The case with these draws, if it was made ready already.

    Raises:
        CaseError: The case has no associative answer, no neutral or no substitute variant, or
            is a yes/no question.
        CapabilityError: The engine cannot give heads.
        NumericalError: The components miss the residual stream by more than 1e-4 of LD.

    Source: METHOD 2b. Splitting heads by the role of their source position would miss
    relays: what is read from a question mark may be all context.
    """
    require(model, "heads")
    require(model, "components")
    ready = prepare(model, case, draws=draws, seed=seed) if ready is None else ready
    if ready.variants.twin is not None or ready.lacks_twin:
        raise CaseError(
            "Attribution reads one position of one prompt, and a yes/no case is two prompts",
            do="Ask for the completion instead of yes or no",
            field="twin_question",
        )
    if not ready.variants.neutral_substitute:
        raise CaseError(
            "The case has no neutral and substitute variants",
            do="Give a cue and a subject, or the variants themselves",
            field="neutral",
        )
    x, zero_runs, both_runs = _recorded(
        model,
        [ready.tokenized.ids],
        [row.ids for row in ready.variants.neutral],
        [row.ids for row in ready.variants.neutral_substitute],
    )
    lens = _Reader(model, ready, x)
    zero, both = lens.read(zero_runs), lens.read(both_runs)
    paired = zero[[i % len(zero) for i in range(len(both))]]
    own = lens.read(x)[0]
    constant = lens.constants()
    names = (*x.names, "norm_bias", "head_bias", "nonlinear")
    pad = np.zeros(3)
    linear = float(own.sum() + constant.sum())
    missed = abs(float(own.sum()) - lens.of_last_state)
    if model.spec.dtype == "float32" and missed > CLOSURE * max(1.0, abs(lens.contrast)):
        raise NumericalError(
            f"The components of {model.spec.name} miss the residual stream by {missed:.2g} logits",
            expected=f"at most {CLOSURE:g} of LD",
            do="Report the model's family",
        )
    base = np.concatenate([both.mean(axis=0), constant, [lens.contrast - linear]])
    return Attribution(
        components=names,
        layers=np.array([*x.layers, *[model.spec.n_layers] * 3]),
        base=base,
        associative=np.concatenate([(paired - both).mean(axis=0), pad]),
        # Context is measured against the same neutral runs, so that the parts close exactly.
        contextual=np.concatenate([own - paired.mean(axis=0), pad]),
        contrast=lens.contrast,
        closure_error=missed,
        provenance=model.provenance(draws=draws, seed=seed),
    )


@dataclass(frozen=True)
class _Components:
    """What was added to the residual at i*, [row component d_model]."""

    names: tuple[str, ...]
    layers: tuple[int, ...]
    vectors: torch.Tensor
    last_state: torch.Tensor
    logits: torch.Tensor

    def rows(self, rows: slice) -> _Components:
        """Those of some rows."""
        return replace(
            self,
            vectors=self.vectors[rows],
            last_state=self.last_state[rows],
            logits=self.logits[rows],
        )


def _recorded(model: Backend, *groups: Sequence[tuple[int, ...]]) -> list[_Components]:
    """The components of groups of rows, run as one batch where that is short enough."""
    every = [row for group in groups for row in group]
    if sum(map(len, every)) > MOST_TOKENS:
        return [_components(model, _run(model, group)) for group in groups]
    together, starts = _components(model, _run(model, every)), np.cumsum([0, *map(len, groups)])
    return [together.rows(slice(a, b)) for a, b in pairwise(starts.tolist())]


def _run(model: Backend, rows: Sequence[tuple[int, ...]]) -> Run:
    n_layers = model.spec.n_layers
    sites = [
        Site(layer, kind) for layer in range(n_layers) for kind in ("attn_out", "mlp_out", "z")
    ]
    ends = [Site(0, "resid_pre"), Site(n_layers - 1, "resid_post")]
    return model.run(rows, capture=[*sites, *ends], logits_at=[-1])


def _components(model: Backend, run: Run) -> _Components:
    """Embedding, heads, attention biases and MLPs at the last position of each row."""
    rows, last = torch.arange(len(run.lengths)), run.lengths - 1

    def at_end(site: Site) -> torch.Tensor:
        state = run.states[site]
        return state[rows.to(state.device), last.to(state.device)]

    names, layers = ["embedding"], [-1]
    parts = [at_end(Site(0, "resid_pre")).double().unsqueeze(1)]
    for layer in range(model.spec.n_layers):
        attn = at_end(Site(layer, "attn_out")).double()
        z = at_end(Site(layer, "z"))
        heads = model.head_outputs(layer, z, attn).double().to(attn.device)
        bias = attn - heads.sum(dim=1)
        parts += [heads, bias.unsqueeze(1), at_end(Site(layer, "mlp_out")).double().unsqueeze(1)]
        names += [f"head {layer}.{h}" for h in range(heads.shape[1])]
        names += [f"attn_bias {layer}", f"mlp {layer}"]
        layers += [layer] * (heads.shape[1] + 2)
    return _Components(
        tuple(names),
        tuple(layers),
        torch.cat([part.to(parts[0].device) for part in parts], dim=1),
        at_end(Site(model.spec.n_layers - 1, "resid_post")).double(),
        run.last_logits.double(),
    )


class _Reader:
    """The linear reading of LD at x: scale and direction frozen."""

    def __init__(self, model: Backend, ready: Prepared, x: _Components) -> None:
        self.model, self.metric = model, ready.metric
        self.scale_from = x.last_state[:1]
        logits = x.logits[0].cpu().numpy()
        self.contrast = float(ready.metric(x.logits)[0])
        plus, minus = list(ready.metric.plus), list(ready.metric.minus)
        # The softmax of x's own logits within each answer, the associative one's negative.
        weight = np.exp(np.concatenate([log_softmax(logits[plus]), log_softmax(logits[minus])]))
        weight[len(plus) :] *= -1
        self.weight = torch.from_numpy(weight)
        self.direction = self.weight @ model.directions(plus + minus).double().cpu()
        self.origin = float(self._project(torch.zeros_like(self.scale_from))[0])
        self.of_last_state = float(self.read_vectors(x.last_state[:1].unsqueeze(1))[0, 0])

    def _project(self, vectors: torch.Tensor) -> Float[np.ndarray, "..."]:
        normed = self.model.final_norm(vectors, self.scale_from).double().cpu()
        return np.asarray((normed @ self.direction).numpy())

    def read_vectors(self, vectors: torch.Tensor) -> Float[np.ndarray, "row component"]:
        """s(c) of vectors [row component d_model], the norm's bias left out."""
        return self._project(vectors) - self.origin

    def read(self, parts: _Components) -> Float[np.ndarray, "row component"]:
        """s(c) of every component of every row."""
        return self.read_vectors(parts.vectors)

    def constants(self) -> Float[np.ndarray, " two"]:
        """What the final norm's bias and the head's bias add to LD."""
        bias = self.model.head_bias([*self.metric.plus, *self.metric.minus]).double().cpu()
        return np.array([self.origin, float(self.weight @ bias)])
