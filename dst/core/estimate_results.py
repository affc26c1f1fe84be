"""What a measurement costs: what was worked out before it, in forward passes, time and bytes."""

from typing import Any

from dst.core.results import Estimate, Provenance, Result, result


@result
class CostEstimate(Result):
    """The cost of measuring some cases, worked out before anything is measured.

    A forward-equivalent is one forward pass of a case's own prompt: its tokens times the model's
    blocks. What is recomputed from some block and position on counts as the part that it is.

    Attributes:
        n_cases: Cases asked about.
        worked_out: Cases whose every run was worked out; the others are taken to be like them.
        refused: Cases among those worked out that cannot be measured.
        n_tokens: Tokens of the prompts worked out, on average.
        forwards: Forward-equivalents of all cases. The ends are equal where all is known
            beforehand; where it is inferred what to measure, the mean is the most.
        passes: Runs of the model, each a batch, whole or from some block on.
        once: Forward-equivalents for what is kept from then on (words by themselves, ordinary
            states), of a prompt of ``n_tokens``; 0 where it is there already.
        seconds: Wall time on this machine as it is now; the interval is that of the runs that
            it was calibrated with.
        memory: Bytes at the most beside the model's own.
        output: Bytes of the results, before compression.
        notes: What was taken for granted.
    """

    n_cases: int
    worked_out: int
    refused: int
    n_tokens: float
    forwards: Estimate
    passes: int
    once: float
    seconds: Estimate
    memory: int
    output: int
    notes: tuple[str, ...]
    provenance: Provenance

    def __str__(self) -> str:
        many = "1 case" if self.n_cases == 1 else f"{self.n_cases} cases"
        extra = f", and {self.once:,.0f} once" if self.once >= 0.5 else ""
        return (
            f"{many}: {_range(self.forwards, '{:,.0f}')} forward-equivalents in {self.passes:,} "
            f"passes{extra}; {_time(self.seconds)}; {_bytes(self.memory)} of memory beside the "
            f"model, {_bytes(self.output)} of results."
        )

    def to_records(self) -> list[dict[str, Any]]:
        """One row."""
        return [
            {
                "n_cases": self.n_cases,
                "worked_out": self.worked_out,
                "refused": self.refused,
                "n_tokens": self.n_tokens,
                "forwards": self.forwards.mean,
                "forwards_low": self.forwards.low,
                "forwards_high": self.forwards.high,
                "passes": self.passes,
                "once": self.once,
                "seconds": self.seconds.mean,
                "seconds_low": self.seconds.low,
                "seconds_high": self.seconds.high,
                "memory": self.memory,
                "output": self.output,
            }
        ]


def _range(value: Estimate, form: str) -> str:
    low, mean, high = (form.format(one) for one in (value.low, value.mean, value.high))
    if low == high:
        return mean
    return f"{low} to {high}" if mean == high else f"{mean} ({low} to {high})"


def _time(seconds: Estimate) -> str:
    unit, name = next(
        ((size, name) for size, name in ((86400, "days"), (3600, "h"), (60, "min"))
         if seconds.mean >= 2 * size),
        (1, "s"),
    )  # fmt: skip
    told = Estimate(seconds.mean / unit, seconds.low / unit, seconds.high / unit, seconds.n)
    return f"{_range(told, '{:.2g}' if told.mean < 10 else '{:.0f}')} {name}"


def _bytes(n: int) -> str:
    for size, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if n >= size:
            return f"{n / size:.3g} {name}"
    return f"{n} bytes"
