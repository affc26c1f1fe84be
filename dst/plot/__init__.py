"""Results in, Plotly figures out: nothing is measured here, only picked and drawn.

Plotly is imported by the first figure, not by ``import dst.plot``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dst.plot.commitment import repairs as repairs
    from dst.plot.comparisons import comparison as comparison
    from dst.plot.components import attribution as attribution
    from dst.plot.concept_map import semantic_map as semantic_map
    from dst.plot.drift_map import drift as drift
    from dst.plot.effect_maps import effect_map as effect_map
    from dst.plot.estimates import estimate_check as estimate_check
    from dst.plot.flows import pathways as pathways
    from dst.plot.heads import head_grid as head_grid
    from dst.plot.importance import concept_importance as concept_importance
    from dst.plot.inspections import patchscope as patchscope
    from dst.plot.inspections import patchscope_agreement as patchscope_agreement
    from dst.plot.knockouts import cuts as cuts
    from dst.plot.omega_map import published_map as published_map
    from dst.plot.patches import patch_grid as patch_grid
    from dst.plot.paths import path_diagram as path_diagram
    from dst.plot.rivers import concept_rivers as concept_rivers
    from dst.plot.scores import coherence as coherence
    from dst.plot.span_view import span_prompt as span_prompt
    from dst.plot.span_view import spans as spans
    from dst.plot.stream import residual as residual
    from dst.plot.study import study_groups as study_groups
    from dst.plot.study import study_marks as study_marks
    from dst.plot.study import study_scores as study_scores
    from dst.plot.tokens import prompt as prompt
    from dst.plot.trajectories import lens as lens
    from dst.plot.words import top_words as top_words

__all__ = [
    "prompt",
    "lens",
    "top_words",
    "pathways",
    "repairs",
    "attribution",
    "cuts",
    "coherence",
    "comparison",
    "residual",
    "patch_grid",
    "head_grid",
    "path_diagram",
    "semantic_map",
    "concept_rivers",
    "concept_importance",
    "published_map",
    "drift",
    "patchscope",
    "patchscope_agreement",
    "estimate_check",
    "effect_map",
    "spans",
    "span_prompt",
    "study_scores",
    "study_groups",
    "study_marks",
]

_MODULES = {
    "study_scores": "dst.plot.study",
    "study_groups": "dst.plot.study",
    "study_marks": "dst.plot.study",
    "spans": "dst.plot.span_view",
    "span_prompt": "dst.plot.span_view",
    "prompt": "dst.plot.tokens",
    "lens": "dst.plot.trajectories",
    "top_words": "dst.plot.words",
    "pathways": "dst.plot.flows",
    "repairs": "dst.plot.commitment",
    "attribution": "dst.plot.components",
    "cuts": "dst.plot.knockouts",
    "coherence": "dst.plot.scores",
    "comparison": "dst.plot.comparisons",
    "residual": "dst.plot.stream",
    "patch_grid": "dst.plot.patches",
    "head_grid": "dst.plot.heads",
    "path_diagram": "dst.plot.paths",
    "semantic_map": "dst.plot.concept_map",
    "concept_rivers": "dst.plot.rivers",
    "concept_importance": "dst.plot.importance",
    "published_map": "dst.plot.omega_map",
    "drift": "dst.plot.drift_map",
    "patchscope": "dst.plot.inspections",
    "patchscope_agreement": "dst.plot.inspections",
    "estimate_check": "dst.plot.estimates",
    "effect_map": "dst.plot.effect_maps",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'dst.plot' has no figure {name!r}; it has {__all__}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
