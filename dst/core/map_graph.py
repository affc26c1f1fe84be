"""A semantic map as a layered graph, and as files that other tools read.

A node is a concept at a state, ``word@l``; a place of the prompt, where its effects were
measured, is ``[p]@l``. An edge goes from the state where something was moved to the state where
its effect was read.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from dst.core.errors import InputError
from dst.core.files import write_atomic, write_text_atomic
from dst.core.map_results import SemanticMap
from dst.core.position_results import PositionEffects

if TYPE_CHECKING:
    import networkx


def to_networkx(
    map_: SemanticMap, edges: Bool[np.ndarray, "hop source concept concept"] | None = None
) -> "networkx.DiGraph":
    """The map as a `networkx.DiGraph`.

    Nodes: every node of every state, with kind (``concept``), word, state, side, given, answer and
    log_prob (nats). Edges: state, to_state, hop, effect and control (logits), p and q. Where the
    map has position effects, the places of the prompt follow (kind ``position``, with pos, token,
    role, state) with those of their edges under the map's rate. Graph attributes: the
    provenance, and what a reader of the file has to know.

    Args:
        map_: The map.
        edges: Which edges; by default those kept (q < rate), or `dst.analysis.semantic_map.pruned`.
    """
    import networkx

    graph = networkx.DiGraph(
        model=map_.provenance.model,
        weights_hash=map_.provenance.weights_hash,
        lens=map_.lens,
        donor=map_.donor,
        controls=map_.controls,
        rate=map_.rate,
        n_layers=map_.n_layers,
        hops=", ".join(map_.hops),
        unit="logits",
    )
    for state, i in zip(*np.nonzero(map_.node), strict=True):
        graph.add_node(
            f"{map_.words[i]}@{state}",
            kind="concept",
            word=map_.words[i],
            state=int(state),
            side=map_.side[i],
            given=bool(map_.given[i]),
            answer=bool(map_.answer[i]),
            log_prob=float(map_.score[state, i]),
        )
    for edge in map_.edges(mask=edges):
        ends = f"{edge['source']}@{edge['state']}", f"{edge['target']}@{edge['to_state']}"
        numbers = {name: edge[name] for name in edge if name not in ("source", "target")}
        graph.add_edge(*ends, **numbers)
    if map_.positions is not None:
        _add_positions(graph, map_, map_.positions)
    return graph


def to_graphml(map_: SemanticMap, path: str | Path) -> Path:
    """Write `to_networkx` as GraphML, atomically; Gephi, Cytoscape and yEd read it.

    Raises:
        ResultError: The path cannot be written.
    """
    import networkx

    text = "\n".join(networkx.generate_graphml(to_networkx(map_), named_key_ids=True))
    return write_text_atomic(path, f"<?xml version='1.0' encoding='utf-8'?>\n{text}\n")


def to_json(map_: SemanticMap, path: str | Path) -> Path:
    """Write `to_networkx` as node-link JSON, atomically; `from_json` reads it.

    Raises:
        ResultError: The path cannot be written.
    """
    import networkx

    data = networkx.node_link_data(to_networkx(map_), edges="edges")
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, indent=1)
    return write_atomic(path, lambda stream: stream.write(text.encode("utf-8") + b"\n"))


def from_json(path: str | Path) -> "networkx.DiGraph":
    """The graph that `to_json` wrote.

    Raises:
        InputError: The file is missing, or is no such graph.
    """
    import networkx

    try:
        data = json.loads(Path(path).read_text("utf-8"))
        return networkx.node_link_graph(data, edges="edges")
    except (OSError, ValueError, KeyError, TypeError, networkx.NetworkXError) as error:
        raise InputError(
            f"{path} holds no semantic map ({error})", do="Give a file written by to_json"
        ) from None


def _add_positions(graph: Any, map_: SemanticMap, effects: PositionEffects) -> None:
    """The places of the prompt, and their edges to the map's nodes."""
    spelled = {word.casefold(): word for word in map_.words}
    for row in effects.edges(map_.rate):
        target = f"{spelled.get(row['word'].casefold())}@{row['read']}"
        if target not in graph:
            continue
        place = f"[{row['pos']}]@{row['state']}"
        graph.add_node(
            place,
            kind="position",
            **{name: row[name] for name in ("pos", "token", "role", "state")},
        )
        numbers = {name: float(row[name]) for name in ("effect", "control", "p", "q")}
        graph.add_edge(place, target, state=row["state"], to_state=row["read"], **numbers)
