"""A map by hand: which edges are kept, the rows, the graph, and the files that others read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest

from dst.core.errors import InputError, ResultError
from dst.core.map_graph import from_json, to_networkx
from dst.core.map_results import ConceptNodes, SemanticMap
from dst.core.position_results import PositionEffects
from dst.core.results import Provenance, open_result

WORDS = ("song", "instrument", "fish")


def by_hand(**fields: Any) -> SemanticMap:
    """Two blocks; song@0 -> fish@1, song@0 -> instrument@2, fish@1 -> instrument@2 are kept."""
    nan = np.nan
    shape = (2, 2, 3, 3)
    effects, q = np.full(shape, nan), np.full(shape, nan)
    effects[0, 0, 0, 2], q[0, 0, 0, 2] = 0.5, 0.01  # song@0 -> fish@1
    effects[1, 0, 0, 1], q[1, 0, 0, 1] = -0.25, 0.02  # song@0 -> instrument@2
    effects[0, 1, 2, 1], q[0, 1, 2, 1] = 0.75, 0.03  # fish@1 -> instrument@2, by "+1"
    effects[1, 1, 2, 1], q[1, 1, 2, 1] = 0.75, 0.03  # the same, by "output"
    effects[0, 0, 2, 1], q[0, 0, 2, 1] = 9.0, 0.05  # not under the rate
    return SemanticMap(
        **{
            "lens": "tuned_lens",
            "words": WORDS,
            "side": ("contextual", "contextual", "associative"),
            "given": np.array([False, True, True]),
            "answer": np.array([False, True, True]),
            "score": np.log([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.125, 0.625, 0.25]]),
            "node": np.array([[True, True, True], [False, True, True], [False, True, True]]),
            "states": np.array([0, 1]),
            "hops": ("+1", "output"),
            "hop_states": np.array([[1, 2], [2, 2]]),
            "effects": effects,
            "control": np.where(np.isnan(effects), nan, 0.0),
            "p": np.where(np.isnan(q), nan, 0.001),
            "q": q,
            "moved": np.array([[1.0, 0.5, 0.5], [nan, 0.5, 0.5]]),
            "donor": "mean of 8 neutral prompts",
            "controls": 20,
            "provenance": Provenance(model="by hand", weights_hash="abc"),
            **fields,
        }
    )


def positions() -> PositionEffects:
    """The token "opera" at state 0 brings "song" at state 0's lens; one edge under .05."""
    effects = np.array([[[[0.3, 0.0, 0.0], [np.nan] * 3]]])
    return PositionEffects(
        form="state",
        lens="tuned_lens",
        tokens=(" opera", " of"),
        roles=("cue", "answer"),
        words=("Fish", "instrument", "absent"),
        word_tokens=(" fish", " instrument", " absent"),
        states=np.array([0]),
        reads=np.array([2]),
        effects=effects,
        control=np.zeros_like(effects),
        p=np.array([[[[0.001, 0.5, 0.001], [np.nan] * 3]]]),
        q=np.array([[[[0.004, 0.5, 0.004], [np.nan] * 3]]]),
        differing=np.array([[1, 0]]),
        draws=3,
        notes=(),
        provenance=Provenance(),
    )


def test_an_edge_is_kept_under_the_rate_and_counted_once_where_two_hops_meet() -> None:
    found = by_hand()
    assert found.n_layers == 2
    assert found.distinct.tolist() == [[True, True], [True, False]]
    rows = [(e["source"], e["state"], e["target"], e["to_state"], e["hop"]) for e in found.edges()]
    assert rows == [
        ("song", 0, "fish", 1, "+1"),
        ("fish", 1, "instrument", 2, "+1"),
        ("song", 0, "instrument", 2, "output"),
    ]
    assert found.to_records() == list(found.edges())
    assert found.to_records()[2]["effect"] == -0.25
    assert int(found.tested.sum()) == 4
    assert len(list(found.edges(found.tested))) == 4
    assert len(list(by_hand(rate=0.015).edges())) == 1


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="a side is one of"):
        by_hand(side=("contextual", "neither", "other"))
    with pytest.raises(ValueError, match="every word stands once"):
        by_hand(words=("song", "song", "fish"))
    with pytest.raises(ValueError, match="one name per hop"):
        by_hand(hops=("+1",))
    with pytest.raises(ValueError, match="every effect with a p has a q"):
        by_hand(p=np.full((2, 2, 3, 3), 0.5))


def test_a_map_is_saved_and_read_back_with_its_second_layer(tmp_path: Path) -> None:
    found = by_hand(positions=positions(), notes=("a note",))
    opened = open_result(found.save(tmp_path / "map"))
    assert isinstance(opened, SemanticMap)
    assert opened.words == WORDS
    assert opened.notes == ("a note",)
    assert opened.to_records() == found.to_records()
    np.testing.assert_array_equal(opened.effects, found.effects)
    assert opened.positions is not None
    np.testing.assert_array_equal(opened.positions.q, positions().q)


def test_nodes_give_a_row_per_state_and_node() -> None:
    nodes = ConceptNodes(
        lens="logit_lens",
        words=("song", "fish"),
        side=("other", "associative"),
        given=np.array([False, True]),
        answer=np.array([False, True]),
        tokens=((" song",), (" fi", "sh")),
        token_ids=np.array([3, 4]),
        score=np.log([[0.5, 0.25], [0.125, 0.75]]),
        node=np.array([[True, True], [False, True]]),
        on_words=np.array([0.8, 0.9]),
        covered=np.array([0.9, 0.8]),
        mass=0.9,
        most=30,
        provenance=Provenance(),
    )
    rows = [(row["state"], row["word"], row["given"]) for row in nodes.to_records()]
    assert rows == [(0, "song", False), (0, "fish", True), (1, "fish", True)]
    assert nodes.to_records()[2]["log_prob"] == pytest.approx(np.log(0.75))


def test_the_graph_is_layered_and_carries_every_number() -> None:
    graph = by_hand().to_networkx()
    assert set(graph) == {
        *("song@0", "instrument@0", "fish@0"),
        *("instrument@1", "fish@1", "instrument@2", "fish@2"),
    }
    assert graph.nodes["fish@1"] == {
        "kind": "concept",
        "word": "fish",
        "state": 1,
        "side": "associative",
        "given": True,
        "answer": True,
        "log_prob": pytest.approx(np.log(0.25)),
    }
    assert set(graph.edges) == {
        *(("song@0", "fish@1"), ("song@0", "instrument@2"), ("fish@1", "instrument@2")),
    }
    edge = graph.edges["song@0", "instrument@2"]
    assert edge["effect"] == -0.25
    assert edge["q"] == 0.02
    assert edge["control"] == 0.0
    assert (edge["state"], edge["to_state"], edge["hop"]) == (0, 2, "output")
    assert graph.graph["model"] == "by hand"
    assert graph.graph["rate"] == 0.05
    assert networkx.is_directed_acyclic_graph(graph)
    mask = by_hand().kept
    mask[1] = False
    assert len(to_networkx(by_hand(), mask).edges) == 2


def test_places_of_the_prompt_join_by_their_words() -> None:
    """An edge to a word that is no node there is left out; words are matched without their case."""
    graph = by_hand(positions=positions()).to_networkx()
    places = [name for name, at in graph.nodes.items() if at["kind"] == "position"]
    assert places == ["[0]@0"]
    assert graph.nodes["[0]@0"]["token"] == " opera"
    assert graph.nodes["[0]@0"]["role"] == "cue"
    assert list(graph.successors("[0]@0")) == ["fish@2"]
    assert graph.edges["[0]@0", "fish@2"]["effect"] == 0.3


def same(one: Any, two: Any) -> bool:
    return (
        dict(one.nodes(data=True)) == dict(two.nodes(data=True))
        and {(u, v): data for u, v, data in one.edges(data=True)}
        == {(u, v): data for u, v, data in two.edges(data=True)}
        and one.graph == two.graph
    )


def test_json_and_graphml_give_the_graph_back(tmp_path: Path) -> None:
    found = by_hand(positions=positions())
    graph = found.to_networkx()
    assert same(from_json(found.to_json(tmp_path / "map.json")), graph)
    read = networkx.read_graphml(found.to_graphml(tmp_path / "map.graphml"))
    read.graph = {k: v for k, v in read.graph.items() if k in graph.graph}
    assert same(read, graph)
    data = json.loads((tmp_path / "map.json").read_text("utf-8"))
    assert data["directed"] is True
    assert {"q", "state", "to_state"} <= set(data["edges"][0])


@pytest.mark.parametrize("write", ["to_json", "to_graphml"])
def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, write: str, monkeypatch: Any
) -> None:
    target = tmp_path / "map"
    getattr(by_hand(), write)(target)
    before = target.read_bytes()

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dst.core.files.os.fsync", full_disk)
    with pytest.raises(ResultError, match="cannot be written"):
        getattr(by_hand(rate=0.015), write)(target)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["map"]


def test_a_file_that_holds_no_map_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    for name in ("a.json", "none.json"):
        with pytest.raises(InputError, match="holds no semantic map"):
            from_json(tmp_path / name)
