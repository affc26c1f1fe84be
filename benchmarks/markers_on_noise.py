"""How often each mark is found on curves that are pure noise: the table of docs/scores.md.

    python benchmarks/markers_on_noise.py [N] [SEED]

Published marks read a share around 0.5 whose steps have standard deviation 0.02. Lens marks read
a margin around 0 logits with steps of 1 logit. Both are AR(1) with persistence 0.9.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np

from dst.analysis import markers
from dst.core.results import Mark, Score

LAYERS = (4, 12, 30, 80)

PUBLISHED: dict[str, Callable[[Score], Mark]] = {
    "onset, published (guide)": markers.onset_published_guide,
    "inversion, published (guide)": markers.inversion_published_guide,
    "commitment, published (guide)": markers.commitment_published_guide,
    "onset, published (code)": markers.onset_published_cas,
    "inversion, published (code)": markers.inversion_published_cas,
    "commitment, published (code)": markers.commitment_published_cas,
}


def _commitment(margin: Score) -> Mark:
    return markers.lens_commitment(margin, np.sign(margin.value) == np.sign(margin.value[-1]))


def _onset(margin: Score) -> Mark:
    """Onset against the band of the same noise: its 2.5 % quantile at every state."""
    spread = 1 / math.sqrt(1 - 0.9**2)
    return markers.lens_onset(margin, np.full(len(margin.value), -1.96 * spread), delta=0.0)


LENS: dict[str, Callable[[Score], Mark]] = {
    "onset, lens (dst), delta 0": _onset,
    "inversion, lens (dst), floor 0": lambda m: markers.lens_inversion(m, 0.0),
    "inversion, lens (dst), floor 2": lambda m: markers.lens_inversion(m, 2.0),
    "commitment, lens (dst)": _commitment,
}


def main(n: int = 20_000, seed: int = 0) -> None:
    print(f"share of noise curves with the mark (n = {n}, seed = {seed})")
    print("| mark | " + " | ".join(f"L = {layers}" for layers in LAYERS) + " |")
    print("|---|" + "---|" * len(LAYERS))
    for rules, centre, step in ((PUBLISHED, 0.5, 0.02), (LENS, 0.0, 1.0)):
        for name, rule in rules.items():
            rates = [
                markers.noise_rate(rule, n, seed, n_layers=layers, centre=centre, step=step)
                for layers in LAYERS
            ]
            print(f"| {name} | " + " | ".join(f"{rate:.3f}" for rate in rates) + " |", flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:3]))
