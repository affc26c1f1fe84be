"""What an account has only if it is asked for: semantic map, importance, drift and spans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dst.core.case import Case
from dst.core.errors import DSTError
from dst.core.map_results import SemanticMap
from dst.core.results import Result
from dst.models.backend import Backend
from dst.studies.semantic_map import semantic_map
from dst.tracing.drift import drift
from dst.tracing.importance import concept_importance
from dst.tracing.position_effects import position_effects
from dst.tracing.spans import spans

NAMES = {
    "semantic_map": "semantic map",
    "importance": "concept importance",
    "drift": "drift",
    "spans": "spans",
}
"""Fields of a report -> what they are called in its notes."""


@dataclass(frozen=True)
class Asked:
    """What was asked for, by field of the report, and why any of it is not there."""

    results: dict[str, Any]
    notes: tuple[str, ...]


def asked_for(model: Backend, case: Case, names: Sequence[str], *, draws: int, seed: int) -> Asked:
    """Measure what was asked for; what cannot be measured of this case is a note.

    Args:
        model: The model.
        case: The case.
        names: Of `NAMES`.
        draws: Neutral variants to draw where the case gives none.
        seed: Of the draws and of what is drawn at random.
    """
    how: dict[str, Callable[[], Result]] = {
        "semantic_map": lambda: _with_places(
            model, case, semantic_map(model, case, draws=draws, seed=seed), draws, seed
        ),
        "importance": lambda: concept_importance(model, case, draws=draws, seed=seed),
        "drift": lambda: drift(model, case, _twin(case), draws=draws, seed=seed),
        "spans": lambda: spans(model, case, seed=seed),
    }
    results: dict[str, Any] = {}
    notes: list[str] = []
    for name in names:
        try:
            results[name] = how[name]()
        except DSTError as error:
            notes.append(f"No {NAMES[name]}: {error}")
    return Asked(results, tuple(notes))


def _with_places(
    model: Backend, case: Case, found: SemanticMap, draws: int, seed: int
) -> SemanticMap:
    """The map with what the prompt's places bring, or with the reason why not."""
    try:
        places = position_effects(model, case, found.words, draws=draws, seed=seed)
    except DSTError as error:
        return found.replace(notes=(*found.notes, f"Without the prompt's places: {error}"))
    return found.replace(positions=places)


def _twin(case: Case) -> Any:
    """The run to drift from: without distractors, else with the cue of the other sense."""
    return "clean" if case.clean else "swap" if case.swap else "neutral"
