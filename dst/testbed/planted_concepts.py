"""Planted models whose concepts cause one another at the answer: the graph is known.

A head of block 1 brings the cue's sense to the answer position, where it lights some concepts.
From there on the MLP of a block writes concept onto concept:

    c[target] += gain * clip(c[source], 0, 1)        the switch, two neurons an edge

Around it every block has neurons with random reads and writes, so that moving anything does
something to everything. The twins of a plan have the same noise and no edge (``removed``), or, in
place of each switch, one that reads and writes at random (``random``). The construction is that of
METHOD 14: a ballast makes the norms linear, a token's station is content, heads match by it.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from dst.core.case import Case
from dst.core.errors import InputError
from dst.core.map_results import SemanticMap
from dst.testbed.planted_concept_graph import (
    ANSWERS,
    COMPETING_WORDS,
    CONCEPTS,
    CONTEXT_WORDS,
    ConceptPlan,
    Truth,
    Twin,
    coordinates,
    truth_of,
)
from dst.testbed.planted_concept_model import make_case, make_model, make_tokenizer
from dst.testbed.planted_plan import Edge

__all__ = [
    "CONCEPTS",
    "ConceptPlan",
    "Edge",
    "PlantedConcepts",
    "Recovery",
    "Truth",
    "build",
    "coordinates",
    "recovery",
    "sample",
    "truth_of",
    "twin_of",
]

STRONG = 0.2
"""Logits: half of what the weakest switch of `sample` gives (a gain of .6, a source of .7)."""


@dataclass(frozen=True, eq=False)
class PlantedConcepts:
    """The model of a plan, with its case, and the effects that a measurement must find."""

    plan: ConceptPlan
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    case: Case


def build(plan: ConceptPlan) -> PlantedConcepts:
    """Make the model of a plan, in float32 and evaluation mode, with its tokenizer and case."""
    with torch.random.fork_rng(devices=[]):
        model = make_model(plan)
    return PlantedConcepts(plan, model, make_tokenizer(), make_case())


def twin_of(plan: ConceptPlan, kind: Twin) -> ConceptPlan:
    """The same plan with its switches removed, or reading and writing at random."""
    return replace(plan, twin=kind)


def sample(n: int, seed: int) -> list[ConceptPlan]:
    """Draw ``n`` plans: 5 to 7 blocks, 3 lit concepts, 8 to 12 edges, one overlapping pair.

    Raises:
        InputError: ``n`` is negative.
    """
    if n < 0:
        raise InputError(f"{n} plans were asked for", expected="0 or more")
    rng = np.random.default_rng(seed)
    return [_draw(rng) for _ in range(n)]


def _draw(rng: np.random.Generator) -> ConceptPlan:
    n_layers = int(rng.integers(5, 8))
    words = [str(word) for word in rng.permutation((*CONTEXT_WORDS, *COMPETING_WORDS))]
    lit = tuple((word, round(float(rng.uniform(0.7, 1.0)), 2)) for word in words[:3])
    there, edges = words[:3], dict[tuple[str, str], Edge]()
    for block in sorted(int(b) for b in rng.integers(2, n_layers + 1, int(rng.integers(8, 13)))):
        source = there[int(rng.integers(len(there)))]
        targets = [word for word in CONCEPTS if word != source]
        target = targets[int(rng.integers(len(targets)))]
        gain = round(float(rng.uniform(0.6, 1.2)) * (1 if rng.random() < 0.7 else -1), 2)
        edges.setdefault((source, target), Edge(source, target, block, gain))
        # A word that this block lights is there for the next ones.
        later = [e.target for e in edges.values() if e.block < block and e.gain > 0]
        there = list(dict.fromkeys((*words[:3], *later)))
        there = [word for word in there if word not in ANSWERS]
    pair = (words[0], words[-1], round(float(rng.uniform(0.2, 0.5)), 2))
    return ConceptPlan(n_layers, lit, tuple(edges.values()), (pair,), seed=int(rng.integers(2**31)))


@dataclass(frozen=True)
class Recovery:
    """How a map compares with what was planted; counts of edges, each once.

    Attributes:
        found: Edges that were kept.
        right: Those of them to which planted switches lead.
        side: Those that are side effects; see `Truth.stirs`.
        strong: Planted effects of at least `STRONG` logits.
        strong_found: Those of them that were kept.
    """

    found: int
    right: int
    side: int
    strong: int
    strong_found: int

    def __add__(self, other: Recovery) -> Recovery:
        """Both together."""
        return Recovery(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def precision(self) -> float:
        """Share of the finds that were planted, side effects left out; NaN with none."""
        judged = self.found - self.side
        return self.right / judged if judged else float("nan")

    @property
    def recall(self) -> float:
        """Share of the strong effects that were found; NaN with none."""
        return self.strong_found / self.strong if self.strong else float("nan")


def recovery(map_: SemanticMap, plan: ConceptPlan) -> Recovery:
    """Compare a map of a planted model with its plan.

    Words of the map that are no concepts of the plan have no planted effect.
    """
    truth = truth_of(plan, map_.hop_states.tolist(), map_.states.tolist())
    place = [map_.words.index(word) for word in CONCEPTS]
    concepts = np.ix_(*map(range, map_.hop_states.shape), place, place)
    effect, wired = np.zeros(map_.effects.shape), np.zeros(map_.effects.shape, dtype=bool)
    effect[concepts], wired[concepts] = np.nan_to_num(truth.effect), truth.wired
    stirs = np.zeros(map_.effects.shape[:3], dtype=bool)
    stirs[:, :, place] = truth.stirs
    strong = map_.tested & (np.abs(effect) >= STRONG)
    return Recovery(
        found=int(map_.kept.sum()),
        right=int((map_.kept & wired).sum()),
        side=int((map_.kept & ~wired & stirs[..., None]).sum()),
        strong=int(strong.sum()),
        strong_found=int((strong & map_.kept).sum()),
    )
