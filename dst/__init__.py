"""dst: why, where and when a transformer language model hallucinates.

Distributional Semantics Tracing (arXiv 2510.06107). The names below are the public list;
each is imported when it is first used, so that ``import dst`` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Case": "dst.core.case",
    "load_cases": "dst.core.case",
    "Site": "dst.core.sites",
    "open_result": "dst.core.results",
    "DSTError": "dst.core.errors",
    "InputError": "dst.core.errors",
    "load": "dst.models.load",
    "check_model": "dst.models.check",
    "trace": "dst.tracing.trace",
    "logit_lens": "dst.tracing.lens",
    "coherence": "dst.studies.measure",
    "markers": "dst.studies.measure",
    "pathways": "dst.tracing.pathways",
    "repairs": "dst.tracing.commitment",
    "attribution": "dst.tracing.attribution",
    "cut_effects": "dst.tracing.cuts",
    "dose": "dst.tracing.dose",
    "explain": "dst.studies.explain",
}

__all__ = [
    "Case",
    "DSTError",
    "InputError",
    "Site",
    "__version__",
    "attribution",
    "check_model",
    "coherence",
    "cut_effects",
    "dose",
    "explain",
    "load",
    "load_cases",
    "logit_lens",
    "markers",
    "open_result",
    "pathways",
    "repairs",
    "trace",
]

if TYPE_CHECKING:
    from dst.core.case import Case as Case
    from dst.core.case import load_cases as load_cases
    from dst.core.errors import DSTError as DSTError
    from dst.core.errors import InputError as InputError
    from dst.core.results import open_result as open_result
    from dst.core.sites import Site as Site
    from dst.models.check import check_model as check_model
    from dst.models.load import load as load
    from dst.studies.explain import explain as explain
    from dst.studies.measure import coherence as coherence
    from dst.studies.measure import markers as markers
    from dst.tracing.attribution import attribution as attribution
    from dst.tracing.commitment import repairs as repairs
    from dst.tracing.cuts import cut_effects as cut_effects
    from dst.tracing.dose import dose as dose
    from dst.tracing.lens import logit_lens as logit_lens
    from dst.tracing.pathways import pathways as pathways
    from dst.tracing.trace import trace as trace


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dst' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
