"""What a study costs per case: everything measured as it ships, beside the naive loop.

    python -m benchmarks.study [CASES]

Coherence and markers of cases of the world on the embedded model: traces, lenses, words, doses,
flows, repairs, attribution. The naive loop makes the same numbers with every run, recorded or
changed, as a whole forward pass of its own: no suffix replay, no batches. Both run on one thread,
which suits a model of this width best, in turns on the same cases; the naive loop on some of them.
Two processes then share all cases, one thread each.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks._record import SMOKE, record
from dst.core.case import Case
from dst.models.backend import Backend, Cut, Edit, Run
from dst.models.hooks import HooksBackend
from dst.models.load import load
from dst.studies.batch import over_cases
from dst.studies.measure import coherence, markers, measure
from dst.testbed import world

CASES = 4 if SMOKE else 2000
NAIVE = 1 if SMOKE else 12
"""Cases of the naive loop."""

TURNS = 1 if SMOKE else 4
"""Times that the two take turns: each has a share of the naive loop's cases."""

Numbers = dict[str, np.ndarray]


class OneByOne(HooksBackend):
    """The naive engine: whole forward passes, one row each."""

    def __init__(self, engine: HooksBackend) -> None:
        super().__init__(engine.model, engine.tokenizer, name=engine.spec.name)
        self.can = engine.can - {"replay"}
        self.passes = 0

    def run(  # type: ignore[override]
        self,
        ids: Sequence[Sequence[int]],
        mask: None = None,
        *,
        capture: Any = (),
        edits: Sequence[Edit] = (),
        cuts: Sequence[Cut] = (),
        logits_at: Any = None,
    ) -> Run:
        """Each row by itself, the results put together again."""
        capture, runs = list(capture), []
        for row, tokens in enumerate(ids):
            own = [replace(edit, rows=[0]) for edit in edits if row in edit.rows]
            closed = [replace(cut, rows=[0]) for cut in cuts if row in cut.rows]
            runs.append(
                super().run([tokens], capture=capture, edits=own, cuts=closed, logits_at=logits_at)
            )
        self.passes += len(runs)
        if len(runs) == 1:
            return runs[0]
        return Run(
            torch.nn.utils.rnn.pad_sequence([run.ids[0] for run in runs], batch_first=True),
            torch.cat([run.lengths for run in runs]),
            torch.cat([run.logits for run in runs]),
            torch.cat([run.logit_positions for run in runs]),
            {site: _padded([run.states[site] for run in runs]) for site in capture},
            tuple(receipt for run in runs for receipt in run.receipts),
        )


def _padded(states: Sequence[torch.Tensor]) -> torch.Tensor:
    width = max(state.shape[1] for state in states)
    return torch.cat(
        [
            torch.cat([state, state.new_zeros(1, width - state.shape[1], *state.shape[2:])], dim=1)
            for state in states
        ]
    )


def account(model: Backend, case: Case) -> Numbers:
    """Every score and mark of a case."""
    run = measure(model, case)
    score = coherence(model, case, measured=run)
    found = {one.name: one.value for one in score.scores}
    marks = markers(model, case, measured=run, score=score).marks
    found["marks"] = np.array([mark.state for mark in marks])
    return found


def difference(one: Numbers, two: Numbers) -> float:
    """The largest between two accounts of a case; scores that hang on 0 / 0 have none."""
    gaps = [np.abs(one[name] - two[name]) for name in one]
    return max(float(np.nanmax(gap)) for gap in gaps if not np.isnan(gap).all())


def _worker(cases: Sequence[Case], ready: Any, go: Any, done: Any) -> None:
    """A process of its own: loads, waits for the other, measures its share."""
    torch.set_num_threads(1)
    model = load()
    over_cases(model, cases[:2], account)
    ready.release()
    go.wait()
    failed = [str(one) for one in over_cases(model, cases, account) if isinstance(one, Exception)]
    done.put(failed)


def in_two_processes(cases: Sequence[Case]) -> float:
    """Seconds for all cases, every second one in each of two processes; loading not counted."""
    context = multiprocessing.get_context("spawn")
    ready, go, done = context.Semaphore(0), context.Event(), context.Queue()
    share = [cases[i::2] for i in range(2)]
    workers = [context.Process(target=_worker, args=(part, ready, go, done)) for part in share]
    for worker in workers:
        worker.start()
    for _ in workers:
        ready.acquire()
    start = time.perf_counter()
    go.set()
    failed = [why for _ in workers for why in done.get()]
    seconds = time.perf_counter() - start
    for worker in workers:
        worker.join()
    if failed:
        raise SystemExit(f"{len(failed)} cases failed: {failed[0]}")
    return seconds


def main(arguments: Sequence[str]) -> None:
    """Take turns, then share all cases out."""
    n_cases = int(arguments[0]) if arguments else CASES
    torch.set_num_threads(1)
    model: Any = load()
    naive: Any = OneByOne(model)
    cases = world.cases("test", n=n_cases, seed=0)
    sample = cases[:: max(1, n_cases // NAIVE)][:NAIVE]
    for engine in (naive, model):  # what is kept for every later case is made
        account(engine, sample[0])
    naive.passes, gap = 0, 0.0
    slow, fast = list[float](), list[float]()
    for turn in range(TURNS):
        part = sample[turn::TURNS]
        start = time.perf_counter()
        known = [account(naive, case) for case in part]
        middle = time.perf_counter()
        found = [account(model, case) for case in part]
        fast.append((time.perf_counter() - middle) / len(part))
        slow.append((middle - start) / len(part))
        gap = max(gap, *map(difference, known, found))
    one, two = statistics.median(slow), statistics.median(fast)
    both = in_two_processes(cases) / n_cases
    record(
        "study",
        title="What a study takes per case",
        about=(
            f"Coherence and markers of cases of the world on the embedded model, 8 draws. The "
            f"naive loop: {len(sample)} of the cases, {naive.passes / len(sample):.0f} forward "
            f"passes a case, each alone; medians of {TURNS} turns. Two processes share all "
            f"{n_cases} cases, one thread each, which is both cores."
        ),
        columns=("how", "cases", "seconds per case", "cases per second", "times the naive loop"),
        rows=[
            ("naive loop, one thread", len(sample), one, 1 / one, 1.0),
            ("dst, one thread", len(sample), two, 1 / two, one / two),
            ("dst, two processes", n_cases, both, 1 / both, one / both),
        ],
        targets=[
            ("one thread: time over the naive loop's", two / one, 0.1),
            ("two cores: time over the naive loop's", both / one, 0.1),
            ("largest difference of a score or mark", gap, 1e-4),
        ],
        details={"naive": slow, "dst": fast},
    )


if __name__ == "__main__":
    main(sys.argv[1:])
