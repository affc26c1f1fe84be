"""What a whole account of one prompt takes, from bare prompt to failure mode.

    python -m benchmarks.explain [embedded|gpt2]

The prompt and its two answers alone: cue and subject are inferred, 8 variants are drawn, flows,
repairs, scores and marks are measured, and the failure mode of a run that fails is named. On the
embedded model, misses of the world. On GPT-2 small's shape with random weights, whose own
likeliest known words are taken as answers: 32 tokens; where such a model gives no cue to infer,
words are tried first, then the account is made with the story's cue and subject.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

import dst
from benchmarks._record import SMOKE, record
from benchmarks.patching import gpt2_small
from dst.core.case import Case
from dst.models.hooks import HooksBackend
from dst.models.meter import metered
from dst.models.tokens import tokenize_case
from dst.testbed import world

PROMPTS = 1 if SMOKE else 8
RUNS = 1 if SMOKE else 3
TOKENS = 32


def bare(case: Case) -> Case:
    """The prompt and its answers, as a person would give them."""
    return Case(
        prompt=case.prompt, contextual=case.contextual, associative=case.associative,
        context_words=case.context_words, competing_words=case.competing_words,
    )  # fmt: skip


def misses(model: Any, n: int) -> list[Case]:
    """Stories that the model gets wrong and whose words can be inferred."""
    found: list[Case] = []
    for case in world.cases("test", n=200, seed=0, kinds=("plain", "far", "prime", "shift")):
        if len(found) == n:
            break
        prompt = bare(case)
        report = dst.explain(model, prompt)
        if report.outcome == "hallucination" and report.failure is not None:
            found.append(prompt)
    return found


def timed(model: Any, case: Case, **how: Any) -> dict[str, float]:
    """Seconds and forward-equivalents of an account, planned and done."""
    planned = dst.estimate(model, case, **how)
    with metered() as work:
        start = time.perf_counter()
        report = dst.explain(model, case, **how)
        seconds = time.perf_counter() - start
    n_tokens = len(report.trace.ids)
    return {
        "tokens": n_tokens,
        "seconds": seconds,
        "planned_seconds": planned.seconds.mean,
        "forwards": work.forwards(n_tokens, model.spec.n_layers),
        "least": planned.forwards.low,
        "most": planned.forwards.high,
        "memory": planned.memory,
        "mode": report.failure is not None,
    }


def embedded() -> None:
    """Misses of the embedded model, warm, on one thread (as the command line runs it)."""
    torch.set_num_threads(1)
    model = dst.load()
    cases = misses(model, PROMPTS)
    runs = [[timed(model, case) for _ in range(RUNS)] for case in cases]
    rows = []
    for case, of_case in zip(cases, runs, strict=True):
        seconds = [run["seconds"] for run in of_case]
        last = of_case[-1]
        rows.append(
            (
                case.text, last["tokens"], statistics.median(seconds), min(seconds),
                last["forwards"], last["least"], last["most"],
            )
        )  # fmt: skip
    slowest = max(row[2] for row in rows)
    record(
        "explain",
        title="What a whole account of a prompt takes",
        about=(
            f"`dst.explain` on the embedded model, warm, one thread, {RUNS} runs a prompt: cue and "
            "subject inferred, 8 draws, failure mode named. Forward-equivalents as they were, and "
            "what `dst.estimate` said they would be at the least and at the most; where cue and "
            "subject are given, plan and work agree to 2 % (a test holds that)."
        ),
        columns=("prompt", "tokens", "median s", "min s", "forward-equivalents", "least", "most"),
        rows=rows,
        targets=[("the slowest prompt, median seconds", slowest, 3.0)],
        details={"runs": runs},
    )


def gpt2() -> None:
    """GPT-2 small's shape: the account, and where its time goes."""
    torch.set_num_threads(os.cpu_count() or 1)
    config, family = gpt2_small(**({} if SMOKE else {"initializer_range": 0.05}))
    torch.manual_seed(0)
    tokenizer = dst.load().tokenizer
    model = HooksBackend(family(config).eval(), tokenizer, name="GPT-2 small, random weights")
    case = next(
        case
        for case in world.cases("test", n=300, seed=0)
        if case.cue and case.subject and len(tokenize_case(tokenizer, case).ids) == TOKENS
    )
    case = with_own_answers(model, case)
    start = time.perf_counter()
    found = dst.suggest(model, bare(case))
    words = time.perf_counter() - start
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows: list[tuple[str | float | None, ...]] = []
    runs: list[dict[str, float]] = []
    if found.cue and found.subject:
        runs.append(timed(model, bare(case)))
        seconds = runs[0]["seconds"]
    else:
        runs.append(timed(model, case, suggest=False))
        seconds = runs[0]["seconds"] + words
    peak = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    last = runs[-1]
    rows.append(("words tried", words, float(found.forward_passes), None, None))
    rows.append(
        ("account", last["seconds"], last["forwards"], last["most"], last["planned_seconds"])
    )
    rows.append(("together", seconds, None, None, None))
    record(
        "explain_gpt2",
        title="What an account takes on GPT-2 small's shape",
        about=(
            f"Random weights, {TOKENS} tokens, 8 draws, {torch.get_num_threads()} threads; the "
            "failure mode is measured too. Planned: what `dst.estimate` said beforehand. The "
            f"account took {peak / 2**20:.0f} MiB more than before, {last['memory'] / 2**20:.0f} "
            "MiB were said to be the most."
        ),
        columns=("what", "seconds", "forward-equivalents", "planned", "planned seconds"),
        rows=rows,
        targets=[("seconds together", seconds, 60.0)],
        details={"runs": runs, "peak": peak},
    )


def with_own_answers(model: HooksBackend, case: Case) -> Case:
    """The model's two likeliest words that the tokenizer knows as answers, the first as wrong."""
    tokenizer = model.tokenizer
    logits = model.run([tokenize_case(tokenizer, case).ids], logits_at=[-1]).last_logits[0]
    said = list[str]()
    for token in logits[: len(tokenizer)].argsort(descending=True).tolist():
        word = tokenizer.decode([token]).strip()
        whole = tokenizer(f" {word}", add_special_tokens=False)["input_ids"] == [token]
        if whole and word.isalpha() and word.casefold() not in case.text.casefold():
            said.append(word)
        if len(said) == 2:
            break
    return case.replace(
        associative=said[0], contextual=said[1], context_words=(), competing_words=(),
        case_id=case.case_id,
    )  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    """Both, or the one that is named."""
    for name, run in (("embedded", embedded), ("gpt2", gpt2)):
        if not arguments or name in arguments:
            run()


if __name__ == "__main__":
    main(sys.argv[1:])
