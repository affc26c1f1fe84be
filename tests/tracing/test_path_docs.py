"""What docs/patching.md says of paths and gradient estimates holds for its example."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import dst
from dst.models.load import embedded_path
from tests.test_readme import REPOSITORY

PAGE = Path(REPOSITORY / "docs" / "patching.md").read_text("utf-8")


def test_the_section_on_paths_and_estimates_holds() -> None:
    model = dst.load()
    card = json.loads((embedded_path() / "card.json").read_text("utf-8"))
    case = dst.Case.from_dict(card["demo"]["hallucinated"])
    for name in ("path_patch", "attribution_patch", "edge_attribution", "gradients"):
        assert f"dst.{name}(" in PAGE
    paths = dst.path_patch(model, case, receivers=("q", "k", "v", "mlp", "logits"))
    assert max(paths.self_patch_error, paths.sum_error, paths.donor_error) < 1e-4
    assert np.nanmax(paths.floor) > 0.01  # not rounding
    edges = dst.edge_attribution(model, case, sample=32)
    assert edges.closure_error < 1e-4
    assert abs(edges.completeness_error) < 0.02 * abs(edges.donor - edges.base) + 1e-3
    assert edges.provenance.settings["method"] == "eap_ig"
    assert edges.provenance.settings["steps"] == 30
    estimate = dst.attribution_patch(model, case, site="k", by="position")
    quality = {one.estimate: one.mean_error for one in estimate.agreement}
    assert quality["softmax"] < quality["atp"]
    assert np.isfinite(estimate.slope_error)
