"""The verb: what it puts together, its second layer, and docs/semantic_map.md as it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest

import dst
from dst.core.case import Case
from dst.core.errors import CaseError, InputError
from dst.core.map_graph import from_json
from dst.core.map_results import SemanticMap
from tests import tiny
from tests.test_readme import REPOSITORY, blocks, run_code

PAGE = REPOSITORY / "docs" / "semantic_map.md"
CASE = Case(
    prompt="Anna is at the lake. Anna sees a bass. The bass is a",
    cue="lake",
    subject="bass",
    contextual="fish",
    associative="guitar",
    context_words=["river"],
    competing_words=["song"],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("docs")


@pytest.fixture(scope="module")
def names(folder: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return run_code(PAGE)


def test_every_block_of_the_page_is_run() -> None:
    assert {block.language for block in blocks(PAGE)} == {"python"}
    assert not any(block.not_run for block in blocks(PAGE))


def test_the_page_shows_a_map_with_edges(names: dict[str, Any], folder: Path) -> None:
    found = names["found"]
    assert found.lens == "tuned_lens"
    assert found.kept.any()
    assert sum(names["shares"].values()) == pytest.approx(1.0)
    assert set(names["graph"].edges) == set(from_json(folder / "map.json").edges)
    assert len(networkx.read_graphml(folder / "map.graphml")) == len(names["graph"])
    opened = dst.open_result(folder / "map.npz")
    assert isinstance(opened, SemanticMap)
    assert opened.to_records() == found.to_records()


def test_the_places_of_the_prompt_are_a_second_layer(names: dict[str, Any]) -> None:
    graph = names["whole"].to_networkx()
    kinds = {data["kind"] for _, data in graph.nodes(data=True)}
    assert kinds == {"concept", "position"}
    for source, target in graph.edges:
        assert graph.nodes[source]["state"] < graph.nodes[target]["state"]
        assert graph.nodes[target]["kind"] == "concept"


def test_nodes_and_effects_are_put_together() -> None:
    model = tiny.backend("llama")
    found = dst.semantic_map(model, CASE, most=2, controls=4, seed=3, show=False)
    nodes = dst.concept_nodes(model, CASE, most=2)
    assert found.words == nodes.words
    np.testing.assert_allclose(found.score, nodes.score, atol=1e-5)
    assert found.controls == 4
    assert found.provenance.seed == 3
    assert found.provenance.settings["most"] == 2
    assert any("Drawn with seed 3" in note for note in found.notes)
    assert found.rate == 0.05


def test_what_does_not_belong_together_is_refused() -> None:
    model, other = tiny.backend("llama"), tiny.backend("gpt2")
    places = dst.position_effects(other, CASE)
    with pytest.raises(InputError, match="the model given is another"):
        dst.semantic_map(model, CASE, positions=places, show=False)
    with pytest.raises(CaseError, match="no associative answer"):
        dst.semantic_map(model, CASE.replace(associative=()), show=False)
