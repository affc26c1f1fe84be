"""Results that belong to a model, not to one case: its tuned lens, its correct runs."""

import hashlib
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from dst.core.results import Provenance, Result, _check_reasons, result

LOGIT_LENS, TUNED_LENS = "logit_lens", "tuned_lens"
"""The two lenses by name."""


@result
class TunedLens(Result):
    """One affine map per state, after which the model's own norm and head read its output.

    State l < L is read as U N(h + A_l h + b_l); state L is the output and has no map.

    Attributes:
        weight: A_l, so that a row vector h goes to h + h @ A_l.T + b_l.
        bias: b_l.
        kl: Mean KL(output || tuned lens) on held-out text, in nats.
        kl_logit_lens: The same of the logit lens, on the same positions.
        reasons: Why a state's KL is NaN, "" where it is not.
        fitted: Whether the state has a map; where none was better than the logit lens on
            held-out text, A_l and b_l are 0 and the two lenses are one.
        n_texts: Texts that it was fitted on and judged by, together.
        n_fit: Positions that the maps were fitted to.
        n_stop: Positions that chose the strength of the start and the step to stop at.
        n_held_out: Positions that ``kl`` is the mean over.
        provenance: What it takes to compute this again; the weights it belongs to.
    """

    weight: Float[np.ndarray, "map d_model d_model"]
    bias: Float[np.ndarray, "map d_model"]
    kl: Float[np.ndarray, " map"]
    kl_logit_lens: Float[np.ndarray, " map"]
    reasons: tuple[str, ...]
    fitted: Bool[np.ndarray, " map"]
    n_texts: int
    n_fit: int
    n_stop: int
    n_held_out: int
    provenance: Provenance

    def __post_init__(self) -> None:
        _check_reasons("kl", self.kl, self.reasons)
        if self.weight[~self.fitted].any() or self.bias[~self.fitted].any():
            raise ValueError("a state that was not fitted has the map 0")

    @property
    def fingerprint(self) -> str:
        """16 digits that tell this lens from another."""
        data = hashlib.sha256(np.ascontiguousarray(self.weight).tobytes())
        data.update(np.ascontiguousarray(self.bias).tobytes())
        return data.hexdigest()[:16]

    def to_records(self) -> list[dict[str, Any]]:
        """One row per state with a map."""
        return [
            {
                "state": state,
                "kl": float(self.kl[state]),
                "kl_logit_lens": float(self.kl_logit_lens[state]),
                "fitted": bool(self.fitted[state]),
                "reason": reason,
            }
            for state, reason in enumerate(self.reasons)
        ]


@result
class ReferenceRuns(Result):
    """What correct runs of a model look like: the band, the doses, the ordinary sentences.

    Attributes:
        case_ids: Every case that was run.
        outcomes: What each ended in: ``correct``, ``hallucination``, ``neither``, or
            ``left out: ...`` with the reason.
        lenses: The lenses that the margins were read with.
        margin: Lens LD of the correct runs, in the order of ``case_ids``, in logits.
        dose: Smallest push that turns the answer, of the first correct runs, as a share of
            the state's norm; NaN where no push up to 8 norms does.
        tuned_lens: Fingerprint of the tuned lens, "" where none was given.
        sentences: The reference sentences that the model knows, against which a word's lens
            logit is standardised.
        provenance: What it takes to compute this again; the weights it belongs to.
    """

    case_ids: tuple[str, ...]
    outcomes: tuple[str, ...]
    lenses: tuple[str, ...]
    margin: Float[np.ndarray, "lens run state"]
    dose: Float[np.ndarray, "dosed_run state"]
    tuned_lens: str
    sentences: tuple[str, ...]
    provenance: Provenance

    def __post_init__(self) -> None:
        if len(self.outcomes) != len(self.case_ids):
            raise ValueError("one outcome per case is needed")
        if self.outcomes.count("correct") != self.margin.shape[1]:
            raise ValueError("one margin per correct run is needed")
        if len(self.lenses) != len(self.margin):
            raise ValueError("one margin per lens is needed")

    @property
    def correct(self) -> tuple[str, ...]:
        """The cases that were answered correctly: the run axis."""
        pairs = zip(self.case_ids, self.outcomes, strict=True)
        return tuple(case_id for case_id, outcome in pairs if outcome == "correct")

    def margin_of(self, lens: str) -> Float[np.ndarray, "run state"] | None:
        """The correct runs' margins by one lens; None where they were not read with it."""
        return self.margin[self.lenses.index(lens)] if lens in self.lenses else None

    def to_records(self) -> list[dict[str, Any]]:
        """One row per correct run, lens and state."""
        return [
            {
                "case_id": case_id,
                "lens": lens,
                "state": state,
                "margin": float(self.margin[i, run, state]),
                "dose": float(self.dose[run, state]) if run < len(self.dose) else float("nan"),
            }
            for i, lens in enumerate(self.lenses)
            for run, case_id in enumerate(self.correct)
            for state in range(self.margin.shape[2])
        ]
