"""Many cases measured together: the same numbers as one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from dst.core.case import Case
from dst.core.errors import DSTError
from dst.core.lens_results import ReferenceRuns, TunedLens
from dst.models.backend import Backend
from dst.studies.measure import Measured, measure
from dst.tracing.prepare import DRAWS

T = TypeVar("T")


def over_cases(
    model: Backend, cases: Sequence[Case], account: Callable[[Backend, Case], T]
) -> list[T | DSTError]:
    """``account(model, case)`` of every case, in their order; the error where it raises one.

    Args:
        model: The model.
        cases: The cases.
        account: What is made of one case: a function of the model that it is given and the
            case, such as ``dst.coherence``. It must run the model that it is given.

    Returns:
        One result, or the `DSTError` that was raised, per case.
    """
    made: list[T | DSTError] = []
    for case in cases:
        try:
            made.append(account(model, case))
        except DSTError as error:
            made.append(error)
    return made


def measure_cases(
    model: Backend,
    cases: Sequence[Case],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    k: int = 5,
    lens: TunedLens | None = None,
    reference: ReferenceRuns | None = None,
) -> list[Measured | DSTError]:
    """`dst.studies.measure.measure` of every case, in their order; the error where it raises one.

    Args:
        model: The model.
        cases: The cases.
        draws: Variants to draw where a case gives none.
        seed: Seed of the draws and of the bootstrap.
        k: Likeliest words to keep per state.
        lens: A tuned lens of the model; by default the one in its folder, if there is one.
        reference: Its correct runs; by default those in its folder, if there are some.

    Returns:
        One `Measured`, or the `DSTError` that was raised, per case.
    """

    def account(given: Backend, case: Case) -> Measured:
        return measure(given, case, k=k, draws=draws, seed=seed, lens=lens, reference=reference)

    return over_cases(model, cases, account)
