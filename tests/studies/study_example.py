"""A study table made by hand, in which one score tells every error and another none."""

from __future__ import annotations

from typing import Any

import numpy as np

from dst.core.study_results import StudyTable
from dst.studies.rows import as_arrow

WORDS = ("bass", "crane", "pike", "ram", "seal", "bat")
MEASURES = ("coherence", "markers")
HOSTILE = "</script><script>alert(1)</script> & $x$"


def rows(n: int = 48, seed: int = 0) -> list[dict[str, Any]]:
    """Half of them wrong; ``separation`` is low where they are; ``margin`` is noise."""
    rng = np.random.default_rng(seed)
    made: list[dict[str, Any]] = []
    for i in range(n):
        wrong = i % 2 == 0
        curve = [0.0, *((0.2 if wrong else 0.8) + 0.05 * rng.normal(size=4))]
        noise = rng.normal(size=5).tolist()
        row: dict[str, Any] = {
            "case_id": f"case-{i}",
            "group": WORDS[i % len(WORDS)] if i else HOSTILE,
            "status": "ok",
            "outcome": "hallucination" if wrong else "correct",
            "error": float(wrong),
            "answer_prob": float(rng.uniform(0.3, 0.9)),
            "model": "a model",
            "n_layers": 4,
            "commitment (causal, de-prime)": 2.0 if wrong and i % 4 else None,
            "onset (published (guide) on dss_published)": 1.0,
            "separation": curve,
            "margin": noise,
        }
        for name, values in (("separation", curve), ("margin", noise)):
            row |= {
                f"{name}@{d:g}": values[k] for k, d in enumerate((0.25, 0.5, 0.75, 1.0), start=1)
            }
        made.append(row)
    made.append({"case_id": "odd", "group": "bass", "status": "ok", "outcome": "neither",
                 "answer_prob": 0.5, "model": "a model"})  # fmt: skip
    made.append({"case_id": "bad", "group": "bass", "status": "failed", "reason": "no such word",
                 "model": "a model"})  # fmt: skip
    return made


def table(n: int = 48, seed: int = 0) -> StudyTable:
    return StudyTable(as_arrow(rows(n, seed), MEASURES))
