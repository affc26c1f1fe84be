"""`failure`: measure what the rules of failure ask, and name the mode."""

from __future__ import annotations

from dst.analysis.failures import failure_mode
from dst.core.case import Case
from dst.core.failure_results import FailureMode
from dst.core.results import Pathways, Repairs
from dst.models.backend import Backend
from dst.tracing.failures import failure_evidence
from dst.tracing.prepare import DRAWS
from dst.tracing.recordings import Recordings


def failure(
    model: Backend,
    case: Case,
    *,
    paths: Pathways | None = None,
    fixes: Repairs | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    show_progress: bool = True,
    runs: Recordings | None = None,
) -> FailureMode:
    """Why a run hallucinates: knowledge or format, lag, collapse, hijack, or unclassified.

    Rules on effects on LD, in logits; the first whose conditions all hold names the mode
    (`dst.analysis.failures`; every number is in `FailureEvidence`, per state or shift by state).

    Args:
        model: The model.
        case: The case; it needs a subject and a cue (or variants), and x_clean for the first
            rule, x_swap for the best separation.
        paths: Its two flows, if they were measured already.
        fixes: Its repairs, likewise.
        draws: How many variants to draw.
        seed: Seed of the draws and of the random directions.
        show_progress: Draw a line with the time left on the error stream after two seconds.
        runs: The runs of this case with these draws, if something else is measured on them too.

    Returns:
        `FailureMode`: the mode ("" for a run that is correct), the first rule that holds
        whatever the outcome, every condition with its numbers.

    Raises:
        CaseError: The case has no associative answer, no cue or no subject; says which.

    Source: METHOD 7. The paper names two modes and gives no criterion that can be measured.
    """
    evidence = failure_evidence(
        model,
        case,
        paths=paths,
        fixes=fixes,
        draws=draws,
        seed=seed,
        show_progress=show_progress,
        runs=runs,
    )
    return failure_mode(evidence)
