"""`published_map`: the semantic map by its published rules, to be compared with ours.

It stands here by name, beside `dst.semantic_map`, because it falls short of what it says:

- Summing raw logits rewards words with many cased forms, and a logit of a state without the
  final norm is not what the model would say. There is no list of stop words.
- p(v) is the position with the largest dot product, so that a position of large norm (a sink)
  takes most words.
- An edge v -> w depends on v through p(v) alone: all words that share p(v) have the same row. It
  is the effect of a *position* on the *output*, not of a concept on a concept, and the layer
  enters only by p and by which words are nodes.
- A token replaced by "." is an unusual text, and no control says what any such change would do.

`dst.position_effects` asks the same question with a control.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from dst.analysis.readout import log_softmax
from dst.core.case import Case
from dst.core.errors import InputError
from dst.core.published_map_results import PublishedMap
from dst.core.sites import site_of_state
from dst.models.backend import Backend
from dst.models.tokens import tokenize_case
from dst.tracing.concept_vectors import published_directions

MOST_NODES = 30
"""K: nodes of a layer."""

CANDIDATES = 5
"""Tokens that are grouped into nodes, as a multiple of K."""

LAYERS = 6
"""Layers that are mapped, evenly spaced over the depth."""

LEAST = 1e-6
"""|Omega| that an edge must exceed, in probability."""

MOST_EDGES = 50
"""Edges of a layer, those of the largest |Omega|."""

FILL = "."
"""What a token is replaced by."""


def published_map(
    model: Backend,
    case: Case,
    words: Sequence[str] | None = None,
    *,
    most_nodes: int = MOST_NODES,
    layers: int = LAYERS,
    least: float = LEAST,
    most_edges: int = MOST_EDGES,
) -> PublishedMap:
    """Nodes by summed raw logits and Omega edges, layer by layer, by the published rules.

        s[l](v) = sum over v's tokens among the 5 K largest of <U_token, h[l, i*]>   (no final norm)
        p[l](v) = argmax over i of <h[l, i], e(v)>,  e(v) the mean unembedding row over v's pieces
        Omega[l](v => w) = P(w | x) - P(w | x with the token at p[l](v) replaced by ".")

    in probability, at the output. Tokens are grouped by their lower-cased surface form and the
    ``most_nodes`` largest sums are the nodes; edges with |Omega| > ``least`` are kept, at most
    ``most_edges`` a layer; a word whose p is i* causes nothing.

    The source leaves three things open, decided here: P(w) is the sum over w's tokens, a word has
    no edge to itself, and the ``most_edges`` are of each layer.

    Args:
        model: The model.
        case: The case.
        words: Words whose tokens are candidates at every layer, where they are one token each; by
            default the case's context and competing words.
        most_nodes: K.
        layers: How many layers, evenly spaced; all of a shallower model.
        least: In probability.
        most_edges: Of each layer.

    Returns:
        `PublishedMap`.

    Raises:
        InputError: A number is out of range, or the tokenizer has no token for ".".

    Source: METHOD 6 (the code of the third version of arXiv 2510.06107). What falls short is said
    at the head of this module.
    """
    for name, number in (
        ("most_nodes", most_nodes),
        ("layers", layers),
        ("most_edges", most_edges),
    ):
        if number < 1:
            raise InputError(f"{name} is {number}", expected="1 or more")
    tokenized = tokenize_case(model.tokenizer, case)
    ids = tokenized.ids
    asked = (*case.context_words, *case.competing_words) if words is None else tuple(words)
    n_layers = model.spec.n_layers
    states = np.unique(np.linspace(1, n_layers, layers).round().astype(int))
    sites = [site_of_state(int(state), n_layers) for state in states]
    run = model.run([ids], capture=sites, logits_at=[-1])
    unembedding, forced = _float(model.directions()), _single_tokens(model, asked)
    nodes = [
        node
        for state, site in zip(states, sites, strict=True)
        for node in _nodes(
            model, int(state), _float(run.states[site][0]), unembedding, forced, most_nodes
        )
    ]
    effect = _effects(model, ids, {node.position for node in nodes}, run.last_logits[0])
    sources, targets, omega = [], [], []
    for state in states:
        here = [i for i, node in enumerate(nodes) if node.state == state]
        found = [
            (v, w, float(effect[nodes[v].position][list(nodes[w].tokens)].sum()))
            for v in here
            for w in here
            if v != w and nodes[v].position != len(ids) - 1
        ]
        found = [edge for edge in found if abs(edge[2]) > least]
        found.sort(key=lambda edge: -abs(edge[2]))
        for v, w, value in found[:most_edges]:
            sources.append(v)
            targets.append(w)
            omega.append(value)
    return PublishedMap(
        tokens=tokenized.tokens,
        states=states,
        words=tuple(node.word for node in nodes),
        node_states=np.array([node.state for node in nodes], dtype=int),
        scores=np.array([node.score for node in nodes], dtype=float),
        positions=np.array([node.position for node in nodes], dtype=int),
        sources=np.array(sources, dtype=int),
        targets=np.array(targets, dtype=int),
        omega=np.array(omega, dtype=float),
        notes=("Edges are effects of positions: words with the same position share their row.",),
        provenance=model.provenance(
            most_nodes=most_nodes, layers=layers, least=least, most_edges=most_edges,
            words=list(asked),
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class _Node:
    """A word at a state: its tokens among the candidates, their summed logit, its position."""

    word: str
    state: int
    tokens: tuple[int, ...]
    score: float
    position: int


def _nodes(
    model: Backend,
    state: int,
    resid: Float[np.ndarray, "pos d_model"],
    unembedding: Float[np.ndarray, "d_vocab d_model"],
    forced: Sequence[int],
    most: int,
) -> list[_Node]:
    """The nodes of a state, the largest score first."""
    logits = unembedding @ resid[-1]
    best = np.argsort(-logits, kind="stable")[: CANDIDATES * most]
    groups: dict[str, list[int]] = {}
    for token in dict.fromkeys([*best.tolist(), *forced]):
        surface = model.tokenizer.decode([token], clean_up_tokenization_spaces=False)
        groups.setdefault(surface.strip().lower(), []).append(token)
    groups.pop("", None)
    score = {word: float(logits[tokens].sum()) for word, tokens in groups.items()}
    kept = sorted(groups, key=lambda word: -score[word])[:most]
    kept = [word for word in kept if _pieces(model, word)]
    # p(v): the position whose state goes best with the mean unembedding row of v's pieces.
    position = (resid @ published_directions(model, kept).T).argmax(axis=0)
    return [
        _Node(word, state, tuple(groups[word]), score[word], int(p))
        for word, p in zip(kept, position, strict=True)
    ]


def _effects(
    model: Backend, ids: Sequence[int], positions: set[int], logits: torch.Tensor
) -> dict[int, Float[np.ndarray, " d_vocab"]]:
    """P(x) - P(x with a token replaced by "."), over the vocabulary, for some positions."""
    fill = _pieces(model, f"a{FILL}")[-1]  # as it stands after a word
    if model.tokenizer.decode([fill]).strip() != FILL:
        raise InputError(
            f'The tokenizer has no token for "{FILL}", by which the published map replaces words',
            do="Use dst.position_effects",
        )
    before = _prob(logits)
    out = {}
    for position in sorted(positions):
        row = [*ids[:position], fill, *ids[position + 1 :]]
        out[position] = before - _prob(model.run([row], logits_at=[-1]).last_logits[0])
    return out


def _single_tokens(model: Backend, words: Sequence[str]) -> list[int]:
    """Tokens of words that are one token, without and with a leading space."""
    pieces = [_pieces(model, text) for word in words for text in (word, f" {word}")]
    return [ids[0] for ids in pieces if len(ids) == 1]


def _pieces(model: Backend, text: str) -> list[int]:
    return [int(i) for i in model.tokenizer(text, add_special_tokens=False)["input_ids"]]


def _prob(logits: torch.Tensor) -> Float[np.ndarray, " d_vocab"]:
    return np.asarray(np.exp(log_softmax(logits.float().cpu().numpy())))


def _float(tensor: torch.Tensor) -> np.ndarray:
    return np.asarray(tensor.detach().to("cpu", torch.float32).numpy())
