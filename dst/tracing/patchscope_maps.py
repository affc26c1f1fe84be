"""From the states of one model to those of another: affine maps, and which state goes where."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from dst.core.errors import InputError, InterventionError
from dst.core.patchscope_results import PatchscopeMap
from dst.core.sites import site_of_state
from dst.models.backend import Backend
from dst.models.reference import reference_sentences
from dst.models.text import encode
from dst.tracing.concept_vectors import knows
from dst.tracing.progress import progress

HELD_OUT = 0.2
"""Share of the texts that judge a map."""

BATCH = 32
"""Texts that are run together."""

RCOND = 1e-5
"""Directions in which the source's states vary by less than this share of the most are left
out: that is the rounding of float32 states, and fitting it would fit noise."""


def fit_patchscope_map(
    model: Backend,
    target_model: Backend,
    texts: Sequence[str] | None = None,
    *,
    states: Sequence[int] | None = None,
    target_states: Sequence[int] | None = None,
    seed: int = 0,
    show_progress: bool = True,
) -> PatchscopeMap:
    """The affine map from one model's states to another's that is best in least squares.

    min over A, b of sum |A h[l, i] + b - h'[l', i']|^2 over tokens of the same texts, one map
    per state. Tokens i and i' belong together if they end at the same character, so the two
    tokenizers may differ; each text's first token, in many models like no other, is left out.
    ``r2`` judges it on a fifth of the texts that was not fitted to.

    Args:
        model: Whose states are mapped.
        target_model: To whose states.
        texts: Ordinary text; by default the shipped sentences that both tokenizers know. More
            than the source's width of tokens is needed for a map that is determined.
        states: States of the source, all by default.
        target_states: The target's state for each; by default at the same share of depth.
        seed: Which texts are held out.
        show_progress: Draw a line with the time left on the error stream after two seconds.

    Raises:
        InputError: There are too few texts, or no tokens that end at the same character.
        InterventionError: A state does not exist, or the two lists differ in length.

    Source: Ghandeharioun et al. 2024, section 4.4 (across models of one family); METHOD 13.
    """
    source_states = states_of(states, model)
    there = target_states_of(target_states, source_states, model, target_model)
    if texts is None:
        shipped = reference_sentences(model.spec.name)
        texts = [text for text in shipped if knows(model, text) and knows(target_model, text)]
    texts = list(texts)
    if len(texts) < 5:
        raise InputError(
            f"The map has {len(texts)} texts to be fitted to",
            expected="5 or more that both tokenizers know",
            do="Give texts=[...]",
        )
    random.Random(seed).shuffle(texts)
    n_held = max(1, round(HELD_OUT * len(texts)))
    fit, held = texts[n_held:], texts[:n_held]
    ours, theirs = _paired(model, target_model, fit, source_states, there)
    ours_held, theirs_held = _paired(model, target_model, held, source_states, there)
    weight, bias, r2 = [], [], []
    with progress("mapping states", len(there), unit="state", show=show_progress) as tick:
        for x, y, x_held, y_held in zip(ours, theirs, ours_held, theirs_held, strict=True):
            a, b = least_squares(x, y)
            left = float(((y_held - x_held @ a.T - b) ** 2).sum())
            whole = float(((y_held - y.mean(axis=0)) ** 2).sum())
            weight.append(a)
            bias.append(b)
            r2.append(1 - left / whole if whole else float("nan"))
            tick(1)
    n_fit, n_held_out = len(ours[0]), len(ours_held[0])
    notes = []
    if n_fit <= model.spec.d_model:
        notes.append(
            f"{n_fit} tokens for {model.spec.d_model} dimensions: the map of least norm is one "
            "of many; more text would determine it."
        )
    return PatchscopeMap(
        source_states=np.array(source_states),
        target_states=np.array(there),
        weight=np.array(weight, dtype=np.float32),
        bias=np.array(bias, dtype=np.float32),
        r2=np.array(r2),
        n_fit=n_fit,
        n_held_out=n_held_out,
        source_hash=model.spec.weights_hash,
        target_hash=target_model.spec.weights_hash,
        notes=tuple(notes),
        provenance=model.provenance(seed=seed, target_model=target_model.spec.name),
    )


def least_squares(
    x: Float[np.ndarray, "token source"], y: Float[np.ndarray, "token target"]
) -> tuple[Float[np.ndarray, "target source"], Float[np.ndarray, " target"]]:
    """A, b of least |x A' + b - y|^2, of least norm where several are as good."""
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    solution = np.linalg.lstsq(x - mean_x, y - mean_y, rcond=RCOND)[0]
    return solution.T, mean_y - mean_x @ solution


def states_of(states: Sequence[int] | None, model: Backend) -> list[int]:
    """The states asked for, all by default.

    Raises:
        InterventionError: There is none, or one does not exist.
    """
    n_layers = model.spec.n_layers
    found = list(range(n_layers + 1) if states is None else states)
    if not found:
        raise InterventionError("No state is named", expected="at least one")
    for state in found:
        site_of_state(state, n_layers)
    return found


def target_states_of(
    asked: int | Sequence[int] | None, states: Sequence[int], model: Backend, target: Backend
) -> list[int]:
    """Where each state goes: one for all, one for each, or the same share of depth.

    Raises:
        InterventionError: A state does not exist, or the numbers differ.
    """
    n_layers = target.spec.n_layers
    if asked is None:
        there = [round(state * n_layers / model.spec.n_layers) for state in states]
    else:
        there = [asked] * len(states) if isinstance(asked, int) else list(asked)
    if len(there) != len(states):
        raise InterventionError(
            f"There are {len(there)} target states and {len(states)} states",
            expected="one for all, or one for each",
        )
    for state in there:
        site_of_state(state, n_layers)
    return there


def mapped(
    vectors: torch.Tensor, state: int, target_state: int, mapping: PatchscopeMap | None
) -> torch.Tensor:
    """f(h) of vectors [... d_model] of one state."""
    if mapping is None:
        return vectors
    pairs = zip(mapping.source_states.tolist(), mapping.target_states.tolist(), strict=True)
    i = list(pairs).index((state, target_state))
    weight, bias = torch.from_numpy(mapping.weight[i]), torch.from_numpy(mapping.bias[i])
    return vectors.float().cpu() @ weight.T + bias


def check_mapping(
    model: Backend,
    target: Backend,
    mapping: PatchscopeMap | None,
    states: Sequence[int],
    asked: int | Sequence[int] | None,
) -> list[int]:
    """The target states; stop where states cannot go from one model to the other.

    Raises:
        InterventionError: The widths differ and there is no mapping, the mapping lacks a state,
            or target states are asked for beside it.
        InputError: The mapping is of other models.
    """
    if mapping is None:
        if model.spec.d_model != target.spec.d_model:
            raise InterventionError(
                f"States of {model.spec.name} have {model.spec.d_model} numbers and those of "
                f"{target.spec.name} {target.spec.d_model}",
                expected="a mapping between them",
                do="Fit one with dst.fit_patchscope_map(model, target_model)",
            )
        return target_states_of(asked, states, model, target)
    if (mapping.source_hash, mapping.target_hash) != (
        model.spec.weights_hash,
        target.spec.weights_hash,
    ):
        raise InputError(
            "The mapping belongs to other models than these two",
            do="Fit one with dst.fit_patchscope_map(model, target_model)",
        )
    if asked is not None:
        raise InterventionError(
            "Target states are asked for beside a mapping, which has its own",
            do="Leave target_state out, or fit the mapping with target_states=...",
        )
    goes = dict(zip(mapping.source_states.tolist(), mapping.target_states.tolist(), strict=True))
    if missing := [state for state in states if state not in goes]:
        raise InterventionError(
            f"The mapping has no state {missing[0]}", expected=f"one of {sorted(goes)}"
        )
    return [goes[state] for state in states]


def _paired(
    model: Backend,
    target: Backend,
    texts: Sequence[str],
    states: Sequence[int],
    target_states: Sequence[int],
) -> tuple[list[Float[np.ndarray, "token source"]], list[Float[np.ndarray, "token target"]]]:
    """Per state, both models' states of the tokens that end at the same character of a text."""
    ends = [(_ends(model, text), _ends(target, text)) for text in texts]
    pairs = [
        [(one[end], two[end]) for end in one if end in two and one[end] and two[end]]
        for one, two in ends
    ]
    if not any(pairs):
        raise InputError("The two tokenizers have no token that ends at the same character")
    here = [[i for i, _ in some] for some in pairs]
    there = [[j for _, j in some] for some in pairs]
    return _states(model, texts, here, states), _states(target, texts, there, target_states)


def _states(
    model: Backend, texts: Sequence[str], places: Sequence[Sequence[int]], states: Sequence[int]
) -> list[Float[np.ndarray, "token d_model"]]:
    """States of some tokens of each text, one array per state."""
    sites = [site_of_state(state, model.spec.n_layers) for state in states]
    found: list[list[np.ndarray]] = [[] for _ in sites]
    for start in range(0, len(texts), BATCH):
        some = range(start, min(start + BATCH, len(texts)))
        rows = [encode(model.tokenizer, texts[i]).ids for i in some]
        run = model.run(rows, capture=sites, logits_at=[-1])
        for kept, site in zip(found, sites, strict=True):
            state = run.states[site].float().cpu().numpy()
            kept += [state[row, list(places[i])] for row, i in enumerate(some)]
    return [np.concatenate(kept).astype(np.float64) for kept in found]


def _ends(model: Backend, text: str) -> dict[int, int]:
    """Character at which a token ends -> its position."""
    offsets = encode(model.tokenizer, text).offsets
    return {end: i for i, (start, end) in enumerate(offsets) if end > start}
