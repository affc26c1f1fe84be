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
    "load_dataset": "dst.studies.datasets",
    "label": "dst.studies.labels",
    "check_model": "dst.models.check",
    "trace": "dst.tracing.trace",
    "logit_lens": "dst.tracing.lens",
    "failure": "dst.studies.failure",
    "fit_tuned_lens": "dst.tracing.tuned_lens",
    "reference_runs": "dst.tracing.reference",
    "coherence": "dst.studies.measure",
    "markers": "dst.studies.measure",
    "pathways": "dst.tracing.pathways",
    "repairs": "dst.tracing.commitment",
    "attribution": "dst.tracing.attribution",
    "cut_effects": "dst.tracing.cuts",
    "dose": "dst.tracing.dose",
    "drift": "dst.tracing.drift",
    "patchscope": "dst.tracing.patchscopes",
    "patchscope_agreement": "dst.tracing.patchscope_agreement",
    "fit_patchscope_map": "dst.tracing.patchscope_maps",
    "patch": "dst.tracing.patching",
    "causal_trace": "dst.tracing.causal_tracing",
    "ablate": "dst.tracing.ablation",
    "cut_attention": "dst.tracing.attention_cuts",
    "cross_patch": "dst.tracing.transfers",
    "backpatch": "dst.tracing.transfers",
    "patch_effects": "dst.tracing.patch_effects",
    "explain": "dst.studies.explain",
    "compare": "dst.studies.compare",
    "estimate": "dst.studies.estimate",
    "suggest": "dst.tracing.suggest",
    "run_study": "dst.studies.study",
    "open_study": "dst.core.study_results",
    "correlate": "dst.studies.correlate",
    "spans": "dst.tracing.spans",
    "attribution_patch": "dst.tracing.attribution_patching",
    "edge_attribution": "dst.tracing.edge_attribution",
    "gradients": "dst.tracing.gradients",
    "path_patch": "dst.tracing.path_patching",
    "concept_importance": "dst.tracing.importance",
    "importance_published": "dst.tracing.importance",
    "concept_nodes": "dst.tracing.concept_nodes",
    "semantic_map": "dst.studies.semantic_map",
    "position_effects": "dst.tracing.position_effects",
    "published_map": "dst.tracing.published_map",
}

__all__ = [
    "Case",
    "DSTError",
    "InputError",
    "Site",
    "__version__",
    "ablate",
    "attribution",
    "attribution_patch",
    "backpatch",
    "causal_trace",
    "check_model",
    "coherence",
    "compare",
    "concept_importance",
    "concept_nodes",
    "correlate",
    "cross_patch",
    "cut_attention",
    "cut_effects",
    "dose",
    "drift",
    "edge_attribution",
    "estimate",
    "explain",
    "failure",
    "fit_patchscope_map",
    "fit_tuned_lens",
    "gradients",
    "importance_published",
    "label",
    "load",
    "load_cases",
    "load_dataset",
    "logit_lens",
    "markers",
    "open_result",
    "open_study",
    "patch",
    "patch_effects",
    "patchscope",
    "patchscope_agreement",
    "path_patch",
    "pathways",
    "position_effects",
    "published_map",
    "reference_runs",
    "repairs",
    "run_study",
    "semantic_map",
    "spans",
    "suggest",
    "trace",
]

if TYPE_CHECKING:
    from dst.core.case import Case as Case
    from dst.core.case import load_cases as load_cases
    from dst.core.errors import DSTError as DSTError
    from dst.core.errors import InputError as InputError
    from dst.core.results import open_result as open_result
    from dst.core.sites import Site as Site
    from dst.core.study_results import open_study as open_study
    from dst.models.check import check_model as check_model
    from dst.models.load import load as load
    from dst.studies.compare import compare as compare
    from dst.studies.correlate import correlate as correlate
    from dst.studies.datasets import load_dataset as load_dataset
    from dst.studies.estimate import estimate as estimate
    from dst.studies.explain import explain as explain
    from dst.studies.failure import failure as failure
    from dst.studies.labels import label as label
    from dst.studies.measure import coherence as coherence
    from dst.studies.measure import markers as markers
    from dst.studies.semantic_map import semantic_map as semantic_map
    from dst.studies.study import run_study as run_study
    from dst.tracing.ablation import ablate as ablate
    from dst.tracing.attention_cuts import cut_attention as cut_attention
    from dst.tracing.attribution import attribution as attribution
    from dst.tracing.attribution_patching import attribution_patch as attribution_patch
    from dst.tracing.causal_tracing import causal_trace as causal_trace
    from dst.tracing.commitment import repairs as repairs
    from dst.tracing.concept_nodes import concept_nodes as concept_nodes
    from dst.tracing.cuts import cut_effects as cut_effects
    from dst.tracing.dose import dose as dose
    from dst.tracing.drift import drift as drift
    from dst.tracing.edge_attribution import edge_attribution as edge_attribution
    from dst.tracing.gradients import gradients as gradients
    from dst.tracing.importance import concept_importance as concept_importance
    from dst.tracing.importance import importance_published as importance_published
    from dst.tracing.lens import logit_lens as logit_lens
    from dst.tracing.patch_effects import patch_effects as patch_effects
    from dst.tracing.patching import patch as patch
    from dst.tracing.patchscope_agreement import patchscope_agreement as patchscope_agreement
    from dst.tracing.patchscope_maps import fit_patchscope_map as fit_patchscope_map
    from dst.tracing.patchscopes import patchscope as patchscope
    from dst.tracing.path_patching import path_patch as path_patch
    from dst.tracing.pathways import pathways as pathways
    from dst.tracing.position_effects import position_effects as position_effects
    from dst.tracing.published_map import published_map as published_map
    from dst.tracing.reference import reference_runs as reference_runs
    from dst.tracing.spans import spans as spans
    from dst.tracing.suggest import suggest as suggest
    from dst.tracing.trace import trace as trace
    from dst.tracing.transfers import backpatch as backpatch
    from dst.tracing.transfers import cross_patch as cross_patch
    from dst.tracing.tuned_lens import fit_tuned_lens as fit_tuned_lens


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dst' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
