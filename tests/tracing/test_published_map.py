"""The published map: its rules by an implementation of a few loops, and its documented defect."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from dst import published_map
from dst.core.errors import InputError
from dst.core.published_map_results import PublishedMap
from dst.core.results import open_result
from dst.models.hooks import HooksBackend
from dst.testbed.planted import Plant, build
from tests import tiny
from tests.tracing import patched

EVERYTHING: dict[str, Any] = {"least": 0.0, "most_edges": 10**6}


@cache
def on_tiny(family: str = "gpt2") -> tuple[Any, PublishedMap]:
    model = tiny.backend(family)
    return model, published_map(model, patched.case(), ["drum"], most_nodes=12, **EVERYTHING)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_nodes_and_edges_by_loops_on_the_plain_model(family: str) -> None:
    model, found = on_tiny(family)
    ids = patched.ids_of(model, patched.PROMPT)
    unembedding = model.model.get_output_embeddings().weight.detach()
    with torch.no_grad():
        out = model.model(torch.tensor([ids]), output_hidden_states=True)
    before = out.logits[0, -1].softmax(-1)
    assert found.states.tolist() == [1, 2, 3]
    fill = patched.ids_of(model, "a.")[-1]
    forced = [i for text in ("drum", " drum") if len(pieces := ids_of(model, text)) == 1
              for i in pieces]  # fmt: skip
    for state in (1, 2):  # transformers norms the last hidden state
        h = out.hidden_states[state][0]
        logits = unembedding @ h[-1]
        sums: dict[str, list[int]] = defaultdict(list)
        for token in [*logits.argsort(descending=True, stable=True)[:60].tolist(), *forced]:
            word = model.tokenizer.decode([token]).strip().lower()
            if word and token not in sums[word]:
                sums[word].append(token)
        score = {word: float(logits[tokens].sum()) for word, tokens in sums.items() if word}
        best = sorted(score, key=lambda word: -score[word])[:12]
        mine = [i for i, s in enumerate(found.node_states) if s == state]
        assert [found.words[i] for i in mine] == best
        np.testing.assert_allclose(found.scores[mine], [score[w] for w in best], rtol=1e-4)
        for i, word in zip(mine, best, strict=True):
            e = unembedding[ids_of(model, word)].mean(0)
            position = int((h @ e).argmax())
            assert found.positions[i] == position
            if position == len(ids) - 1:
                assert i not in found.sources
                continue
            changed = [*ids[:position], fill, *ids[position + 1 :]]
            with torch.no_grad():
                after = model.model(torch.tensor([changed])).logits[0, -1].softmax(-1)
            omega = {
                found.words[w]: value
                for v, w, value in zip(found.sources, found.targets, found.omega, strict=True)
                if v == i
            }
            for other in best:
                if other != word:
                    expected = float((before - after)[sums[other]].sum())
                    assert omega.get(other, 0.0) == pytest.approx(expected, abs=1e-6)


def ids_of(model: Any, text: str) -> list[int]:
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def rows(found: PublishedMap) -> dict[tuple[int, int], list[dict[int, float]]]:
    """The row of every node that causes something, by (state, position); keys are targets."""
    by_source: dict[int, dict[int, float]] = defaultdict(dict)
    for v, w, omega in zip(found.sources, found.targets, found.omega, strict=True):
        by_source[v][w] = omega
    out: dict[tuple[int, int], list[dict[int, float]]] = defaultdict(list)
    for v, row in by_source.items():
        out[int(found.node_states[v]), int(found.positions[v])].append(row)
    return out


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_documented_defect_words_of_one_position_have_one_row(family: str) -> None:
    shared = [group for group in rows(on_tiny(family)[1]).values() if len(group) > 1]
    assert shared
    for group in shared:
        for row in group[1:]:
            for target in row.keys() & group[0].keys():
                assert row[target] == group[0][target]


def test_edges_are_cut_as_published() -> None:
    model, everything = on_tiny()
    few = published_map(model, patched.case(), ["drum"], most_nodes=12, least=1e-6, most_edges=5)
    for state in few.states:
        sizes = [abs(e["omega"]) for e in few.edges if e["state"] == state]
        every = [abs(e["omega"]) for e in everything.edges if e["state"] == state]
        assert sizes == sorted(every, reverse=True)[:5]
    none = published_map(model, patched.case(), [], least=1.0)
    assert none.edges == ()


def test_an_answer_position_causes_nothing_and_six_layers_are_spread_evenly() -> None:
    _, found = on_tiny()
    last = len(found.tokens) - 1
    assert last in found.positions
    assert last not in {edge["position"] for edge in found.edges}
    model = tiny.backend("gpt2", n_layer=11)
    assert published_map(model, patched.case()).states.tolist() == [1, 3, 5, 7, 9, 11]


def test_graph_and_file(tmp_path: Any) -> None:
    _, found = on_tiny()
    graph = found.to_networkx()
    assert graph.number_of_nodes() == len(found.words)
    assert graph.number_of_edges() == len(found.edges)
    edge = found.edges[0]
    ends = (f"{edge['source']}@{edge['state']}", f"{edge['target']}@{edge['state']}")
    assert graph.edges[ends]["omega"] == edge["omega"]
    again = open_result(found.save(tmp_path / "published"))
    assert again.edges == found.edges


def test_bad_input_is_refused_in_a_sentence() -> None:
    model, _ = on_tiny()
    with pytest.raises(InputError, match="most_nodes is 0"):
        published_map(model, patched.case(), most_nodes=0)
    made = build(Plant())
    planted = HooksBackend(made.model, made.tokenizer, name="planted")
    with pytest.raises(InputError, match=r'no token for "\."'):
        published_map(planted, made.case)
