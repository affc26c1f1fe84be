"""Results in, Plotly figures out: nothing is measured here, only picked and drawn.

Plotly is imported by the first figure, not by ``import dst.plot``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dst.plot.commitment import repairs as repairs
    from dst.plot.components import attribution as attribution
    from dst.plot.flows import pathways as pathways
    from dst.plot.knockouts import cuts as cuts
    from dst.plot.scores import coherence as coherence
    from dst.plot.stream import residual as residual
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
    "residual",
]

_MODULES = {
    "prompt": "dst.plot.tokens",
    "lens": "dst.plot.trajectories",
    "top_words": "dst.plot.words",
    "pathways": "dst.plot.flows",
    "repairs": "dst.plot.commitment",
    "attribution": "dst.plot.components",
    "cuts": "dst.plot.knockouts",
    "coherence": "dst.plot.scores",
    "residual": "dst.plot.stream",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'dst.plot' has no figure {name!r}; it has {__all__}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
