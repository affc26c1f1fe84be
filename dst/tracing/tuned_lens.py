"""`fit_tuned_lens`: one affine map per state, after which the model's own head reads its output.

    tuned lens at state l < L:  U N(h + A_l h + b_l),   A_l, b_l = argmin E KL(output || lens)

No closed form exists for the KL, and its surface is badly scaled: a few dimensions of a residual
stream are a hundred times larger than the others. So every dimension is standardised, the
search starts at a ridge regression from h[l] to h[L] (which is the answer where h[l] is an affine
image of h[L]), and Adam goes on from there.

Texts are parted in three. One part fits. The second chooses the regression's strength and the
step to stop at. The third is only read: its KL is what is reported, and where no map has a lower
one than the logit lens, the state keeps the logit lens.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from dst.core.errors import CapabilityError, InputError
from dst.core.lens_results import TunedLens
from dst.core.sites import site_of_state
from dst.models.backend import Backend, require
from dst.models.reference import reference_sentences
from dst.models.text import encode
from dst.tracing.concept_vectors import knows
from dst.tracing.progress import progress

SHARES = (0.6, 0.2, 0.2)
"""Of the texts: to fit, to choose by, to report on."""

STEPS = 300
"""Steps of Adam per state at the most."""

BATCH = 512
"""Positions in one step."""

EVERY, PATIENCE = 10, 4
"""Steps between two looks at the second part, and looks without a gain before it stops."""

RATE = 0.3
"""Adam's rate times d_model: one step then moves the output by under a third of its size."""

RIDGES = (1e-8, 1e-6, 1e-4, 1e-2, 1e-1, 1.0)
"""Strengths of the regression that are tried, relative to the variance of one dimension."""

MOST_LOGITS = 2**24
"""Logits computed at once."""

MOST_VALUES = 2**28
"""Numbers of residual states held at once; of longer texts, positions are drawn."""

LEAST_TEXTS = 10
"""Fewer than this leave no two texts for each part."""


def fit_tuned_lens(
    model: Backend,
    texts: Sequence[str] | None = None,
    *,
    steps: int = STEPS,
    seed: int = 0,
    show: bool = True,
) -> TunedLens:
    """Affine maps A_l h + b_l that minimise KL(output || lens) in nats, for every state l < L.

    All positions count but the first of each text (the attention sink). Held-out positions
    that some other part's text shares up to there are left out: their states are the same.

    Args:
        model: The model; its weights are not changed.
        texts: Ordinary text of the kind that will be read; by default the model's 200
            reference sentences, which are few for a wide model. Texts with words that it
            does not know are left out.
        steps: Steps of Adam per state at the most; 0 keeps the regression.
        seed: Seed of the parting and of the batches. The same seed gives the same maps.
        show: Show the progress of long fits.

    Returns:
        A `TunedLens`: maps [map d_model d_model], [map d_model], the held-out KL per state
        beside the logit lens's. On held-out text it is never worse than the logit lens.

    Raises:
        InputError: Too few texts, or none known to the model; steps is negative.
        CapabilityError: The engine cannot differentiate its readout (weights elsewhere).

    Source: Belrose et al. 2023 (tuned lens); METHOD 13. We differ in the start (theirs is the
    logit lens), the standardised dimensions, and in the fall-back to the logit lens.
    """
    require(model, "lens")
    if steps < 0:
        raise InputError(f"steps is {steps}", expected="a number from 0 up")
    rows = _rows(model, texts)
    rng = np.random.default_rng(seed)
    parts = _parts(rows, rng)
    states = _states(model, rows, parts, rng, show)
    fit, stop, held = states
    if min(len(part[0]) for part in states) == 0:
        raise InputError(
            "The texts are so alike that none of their positions is left to judge the lens by",
            do="Give more texts, or more different ones",
        )
    _refuse_if_no_gradient(model, fit[0, 0])
    generator = torch.Generator().manual_seed(seed)
    n_layers, d_model = model.spec.n_layers, model.spec.d_model
    weight = np.zeros((n_layers, d_model, d_model), dtype=np.float32)
    bias = np.zeros((n_layers, d_model), dtype=np.float32)
    kl, kl_logit = np.full(n_layers, math.nan), np.full(n_layers, math.nan)
    with progress("tuned lens", n_layers * (steps + 1), unit="step", show=show) as tick:
        for state in range(n_layers):
            best = _fit(
                model,
                _Pairs(fit[state], fit[-1]),
                _Pairs(stop[state], stop[-1]),
                steps,
                generator,
                tick,
            )
            judged = _Pairs(held[state], held[-1])
            kl[state] = kl_logit[state] = _mean_kl(model, judged, None)
            tuned = _mean_kl(model, judged, best)
            if tuned < kl_logit[state]:
                weight[state], bias[state] = (m.float().cpu().numpy() for m in (best.A, best.b))
                kl[state] = tuned
    undefined = "the logit lens is not finite here"
    return TunedLens(
        weight=weight,
        bias=bias,
        kl=kl,
        kl_logit_lens=kl_logit,
        reasons=tuple("" if math.isfinite(value) else undefined for value in kl),
        fitted=kl < kl_logit,
        n_texts=len(rows),
        n_fit=len(fit[0]),
        n_stop=len(stop[0]),
        n_held_out=len(held[0]),
        provenance=model.provenance(seed=seed, steps=steps, texts=_digest(rows)),
    )


def translate(
    lens: TunedLens, state: int, resid: Float[np.ndarray, "*rows d_model"]
) -> Float[np.ndarray, "*rows d_model"]:
    """A state as the lens reads it: h + A_l h + b_l, float32; at the last state h itself."""
    if state == len(lens.weight):
        return resid
    return resid + resid @ lens.weight[state].T + lens.bias[state]


def refuse_another_model(model: Backend, lens: TunedLens) -> None:
    """Stop where a lens was fitted to other weights.

    Raises:
        InputError: In one sentence.
    """
    if lens.provenance.weights_hash != model.spec.weights_hash:
        raise InputError(
            f"The tuned lens was fitted to {lens.provenance.model} ({lens.provenance.dtype}), and "
            f"the model given has other weights ({model.spec.name}, {model.spec.dtype})",
            do="Fit one to this model with dst.fit_tuned_lens",
        )


# -- texts to pairs of states -----------------------------------------------------------------


def _rows(model: Backend, texts: Sequence[str] | None) -> list[tuple[int, ...]]:
    """Token ids of the texts that the model knows, each once, in their order."""
    if isinstance(texts, str):
        raise InputError("texts is one text", expected="a list of texts")
    given = reference_sentences(model.spec.name) if texts is None else list(texts)
    rows = dict.fromkeys(
        encode(model.tokenizer, text).ids[: model.spec.window]
        for text in given
        if text.strip() and knows(model, text)
    )
    if len(rows) < LEAST_TEXTS:
        raise InputError(
            f"The model knows the words of {len(rows)} of {len(given)} texts",
            expected=f"{LEAST_TEXTS} different ones or more",
            do="Give texts=[...] of the kind that the model was trained on",
        )
    return list(rows)


def _parts(
    rows: Sequence[tuple[int, ...]], rng: np.random.Generator
) -> list[list[tuple[int, int]]]:
    """(text, position) of the three parts; no part's position continues an earlier part's text."""
    order = rng.permutation(len(rows))
    cuts = np.round(np.cumsum(SHARES)[:-1] * len(rows)).astype(int)
    seen: set[tuple[int, ...]] = set()
    parts = []
    for texts in np.split(order, cuts):
        places: dict[tuple[int, ...], tuple[int, int]] = {}
        for text in texts.tolist():
            for position in range(1, len(rows[text])):
                places.setdefault(rows[text][: position + 1], (text, position))
        parts.append([place for prefix, place in places.items() if prefix not in seen])
        seen.update(places)
    return parts


def _states(
    model: Backend,
    rows: Sequence[tuple[int, ...]],
    parts: Sequence[Sequence[tuple[int, int]]],
    rng: np.random.Generator,
    show: bool,
) -> list[torch.Tensor]:
    """[state position d_model] of each part, float32, on the device of the head."""
    n_layers, d_model = model.spec.n_layers, model.spec.d_model
    most = max(1, MOST_VALUES // ((n_layers + 1) * d_model))
    total = sum(len(part) for part in parts)
    kept = [
        sorted(part[i] for i in rng.permutation(len(part))[: math.ceil(most * len(part) / total)])
        for part in parts
    ]
    sites = [site_of_state(state, n_layers) for state in range(n_layers + 1)]
    device = model.directions([0]).device
    states = [torch.empty(n_layers + 1, len(part), d_model, device=device) for part in kept]
    wanted: dict[int, list[tuple[int, int, int]]] = {}  # text: (position, part, place in it)
    for part, places in enumerate(kept):
        for place, (text, position) in enumerate(places):
            wanted.setdefault(text, []).append((position, part, place))
    with progress("reading texts", len(wanted), unit="text", show=show) as tick:
        texts = list(wanted)
        for start in range(0, len(texts), 32):
            batch = texts[start : start + 32]
            run = model.run([rows[text] for text in batch], capture=sites, logits_at=[-1])
            for state, site in enumerate(sites):
                for row, text in enumerate(batch):
                    for position, part, place in wanted[text]:
                        states[part][state, place] = run.states[site][row, position]
            tick(len(batch))
    return states


def _digest(rows: Sequence[tuple[int, ...]]) -> str:
    return hashlib.sha256(repr(list(rows)).encode()).hexdigest()[:16]


# -- one state ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pairs:
    """States of one depth and of the output, position by position, [position d_model]."""

    here: torch.Tensor
    final: torch.Tensor

    def batches(self, size: int) -> Iterator[_Pairs]:
        for here, final in zip(self.here.split(size), self.final.split(size), strict=True):
            yield _Pairs(here, final)

    def take(self, index: torch.Tensor) -> _Pairs:
        return _Pairs(self.here[index], self.final[index])


@dataclass(frozen=True)
class _Map:
    """h -> h + A h + b."""

    A: torch.Tensor
    b: torch.Tensor

    def __call__(self, h: torch.Tensor) -> torch.Tensor:
        return h + h @ self.A.T + self.b


@dataclass(frozen=True)
class _Standard:
    """Coordinates in which the search is well scaled: x = (h - mean) / sd, output / size."""

    mean: torch.Tensor
    sd: torch.Tensor
    size: torch.Tensor

    @classmethod
    def of(cls, pairs: _Pairs) -> _Standard:
        sd = pairs.here.std(dim=0, correction=0)
        sd = torch.where(sd > 1e-6 * sd.max(), sd, 1.0)  # a dimension that is always the same
        return cls(pairs.here.mean(dim=0), sd, pairs.final.pow(2).mean().sqrt())

    def map(self, W: torch.Tensor, c: torch.Tensor) -> _Map:
        """The map whose change of h is size * (x W + c)."""
        A = self.size * (W / self.sd[:, None]).T
        return _Map(A, self.size * c - A @ self.mean)


def _fit(
    model: Backend,
    fit: _Pairs,
    stop: _Pairs,
    steps: int,
    generator: torch.Generator,
    tick: Callable[[int], None],
) -> _Map:
    """The map with the lowest KL on ``stop``: of the regressions, and of Adam's way from there."""
    space = _Standard.of(fit)
    starts = [(W, c, _mean_kl(model, stop, space.map(W, c))) for W, c in _regressions(fit, space)]
    W, c, lowest = min(starts, key=lambda start: start[2] if start[2] == start[2] else math.inf)
    tick(1)
    best, since = space.map(W, c), 0
    W, c = W.clone().requires_grad_(), c.clone().requires_grad_()
    rate = RATE / model.spec.d_model
    adam = torch.optim.Adam([W, c], lr=rate)
    size = min(BATCH, max(1, MOST_LOGITS // model.spec.d_vocab))
    for step in range(steps):
        index = torch.randperm(len(fit.here), generator=generator)[:size].to(fit.here.device)
        with torch.enable_grad():
            loss = _kl(model, fit.take(index), space.map(W, c)).mean()
            W.grad, c.grad = torch.autograd.grad(loss, [W, c])
        for group in adam.param_groups:
            group["lr"] = rate * (1 - step / steps)
        adam.step()
        tick(1)
        if (step + 1) % EVERY and step + 1 < steps:
            continue
        now = space.map(W.detach(), c.detach())
        kl = _mean_kl(model, stop, now)
        if kl < lowest:
            best, lowest, since = now, kl, 0
        else:
            since += 1
        if since == PATIENCE:
            tick(steps - step - 1)
            break
    return best


def _regressions(pairs: _Pairs, space: _Standard) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """No map, a constant, and ridge regressions from x to (h[L] - h) / size.

    A position weighs 1 / |h[L]|^2: the final norm divides by that size.
    """
    d_model = pairs.here.shape[1]
    zero = torch.zeros(d_model, d_model, device=pairs.here.device)
    yield zero, zero[0]
    x = ((pairs.here - space.mean) / space.sd).double()
    y = ((pairs.final - pairs.here) / space.size).double()
    weight = 1 / pairs.final.double().pow(2).sum(dim=1, keepdim=True).clamp_min(1e-30)
    weight /= weight.sum()
    x_mean, y_mean = (weight * x).sum(dim=0), (weight * y).sum(dim=0)
    yield zero, y_mean.float()
    x, y = x - x_mean, y - y_mean
    values, vectors = torch.linalg.eigh((weight * x).T @ x)
    target = vectors.T @ ((weight * x).T @ y)
    for ridge in RIDGES:
        W = vectors @ (target / (values.clamp_min(0) + ridge)[:, None])
        yield W.float(), (y_mean - x_mean @ W).float()


def _kl(model: Backend, pairs: _Pairs, through: _Map | None) -> torch.Tensor:
    """KL(output || lens) of each position, in nats, float32."""
    with torch.no_grad():
        log_p = model.unembed(pairs.final).float().log_softmax(dim=-1)
    read = pairs.here if through is None else through(pairs.here)
    log_q = model.unembed(read).float().log_softmax(dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def _mean_kl(model: Backend, pairs: _Pairs, through: _Map | None) -> float:
    size = max(1, MOST_LOGITS // model.spec.d_vocab)
    with torch.no_grad():
        every = [_kl(model, part, through).double() for part in pairs.batches(size)]
    return float(torch.cat(every).mean())


def _refuse_if_no_gradient(model: Backend, h: torch.Tensor) -> None:
    with torch.enable_grad():
        logits = model.unembed(h.clone().requires_grad_())
    if not logits.requires_grad:
        raise CapabilityError(
            f"The readout of {model.spec.name} cannot be differentiated here: its weights are "
            "elsewhere",
            do="Fit the lens where the weights are, and open it with dst.open_result",
        )
