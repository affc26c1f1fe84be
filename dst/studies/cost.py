"""What an account took, told in its notes: the work that `dst.estimate` counts beforehand."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from dst.core.results import Report
from dst.models.meter import metered

P = ParamSpec("P")


def with_cost(account: Callable[P, Report]) -> Callable[P, Report]:
    """The same account, its work counted: a note says how many forward passes of the prompt."""

    @wraps(account)
    def counted(*args: P.args, **kwargs: P.kwargs) -> Report:
        with metered() as work:
            report = account(*args, **kwargs)
        seen = report.trace
        forwards = work.forwards(len(seen.ids), len(seen.resid) - 1)
        note = (
            f"The account took {forwards:,.1f} forward-equivalents of the prompt, in "
            f"{work.passes} runs of the model."
        )
        return report.replace(notes=(*report.notes, note))

    return counted
