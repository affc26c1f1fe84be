"""`estimate`: what measuring costs, before it starts, in forward passes, time and bytes.

The measuring code itself is carried out on an engine that computes nothing
(`dst.models.dry`): which runs it asks for, where each leaves its base and how they are batched
is then known exactly, and stays so when the measures change.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dst.analysis.flows import estimate as mean_over
from dst.core.case import Case, mentions
from dst.core.errors import CapabilityError, DSTError, InputError
from dst.core.estimate_results import CostEstimate
from dst.core.results import Estimate
from dst.models.backend import Backend
from dst.models.dry import DryEngine
from dst.models.hooks import HooksBackend
from dst.models.memory import budget, device_of, prefix_bytes, suffix_bytes
from dst.models.meter import Work, metered
from dst.models.tokens import tokenize_case
from dst.studies import measure
from dst.studies.explain import explain
from dst.studies.rival import with_rival
from dst.studies.rows import measured_row
from dst.tracing import concept_vectors, words
from dst.tracing.prepare import DRAWS, prepare
from dst.tracing.replaced import ReplacedWords
from dst.tracing.suggest import DRAWS as WORD_DRAWS

SAMPLE = 16
"""Cases of many that are worked out one by one."""

REPEATS = 3
"""Timed runs; their spread gives the interval of the time."""

CALIBRATED_WITH = 512
"""Tokens of the larger of two timed batches."""


def estimate(
    model: Backend,
    cases: Case | Sequence[Case],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    suggest: bool | None = None,
    failure: bool | None = None,
    sample: int = SAMPLE,
) -> CostEstimate:
    """What `dst.explain` of a case, or `dst.run_study` of many, will cost.

    One forward pass of each prompt worked out is run (its outcome says whether the failure
    mode will be measured), and a few batches are timed; everything else is counted without
    being computed. Forward-equivalents = positions times blocks that are recomputed, over those
    of one forward pass of the prompt. Time = measured time of the code around the model +
    calls of a block * a + positions times blocks * b, with a and b from the timed batches.

    The count is exact where the case names its cue and its subject, but for the doses, which
    count as if every state could be pushed over. Where they are to be inferred, ``forwards``
    runs from the first screen of words to the most that is usual, with flows from the first
    word on.

    Args:
        model: The model; the engine must be `hooks`, on this machine.
        cases: One case (as `dst.explain`), or several (as `dst.run_study`).
        draws: Variants to draw where a case gives none.
        seed: Seed of the draws.
        suggest: Whether cue and subject are inferred where a case does not name them; by
            default as `dst.explain` (yes) and `dst.run_study` (no) do.
        failure: Whether a study names failure modes too; `dst.explain` does for a run that
            is not correct.
        sample: Cases of many that are worked out; the rest is taken to be like them.

    Returns:
        A `CostEstimate`; ``str()`` of it is one sentence.

    Raises:
        CapabilityError: The engine is another one than `hooks`.
        InputError: There is no case, or none of those worked out can be measured.
        CaseError, TokenError: The one case does not fit.
    """
    if not isinstance(model, HooksBackend):
        raise CapabilityError(
            f"The engine {type(model).__name__} cannot be asked for its work beforehand",
            do="Load the model with backend='hooks'",
        )
    many = [cases] if isinstance(cases, Case) else list(cases)
    if not many:
        raise InputError("There are no cases", expected="one or more")
    if sample < 1:
        raise InputError(f"sample is {sample}", expected="1 or more")
    one = isinstance(cases, Case)
    suggest = one if suggest is None else suggest
    how: dict[str, Any] = {"draws": draws, "seed": seed}
    measures = ("coherence", "markers", *(("failure",) if failure else ()))

    def account(engine: Backend, case: Case, infer: bool) -> Any:
        if one:
            return explain(engine, case, suggest=infer, **how)
        return measured_row(engine, case, measures=measures, suggest=infer, **how)

    done: list[_Worked] = []
    refused = 0
    chosen = _spread(many, sample)
    for case in chosen:
        try:
            done.append(_work_out(model, case, account, draws, suggest))
        except DSTError:
            if one:
                raise
            refused += 1
    if not done:
        raise InputError(
            f"None of the {len(chosen)} cases that were worked out can be measured",
            do="Ask for one of them alone, which says why",
        )
    return _told(model, len(many), done, refused, seed=seed, draws=draws)


@dataclass(frozen=True)
class _Worked:
    """One case worked out.

    Attributes:
        n_tokens: Of its prompt.
        least: What it takes at the least.
        most: At the most.
        seconds: Of the code around the model.
        memory: Bytes.
        output: Bytes.
        assumed: Whether cue and subject were taken for granted.
    """

    n_tokens: int
    least: Work
    most: Work
    seconds: float
    memory: int
    output: int
    assumed: bool


def _work_out(
    model: HooksBackend,
    case: Case,
    account: Callable[[Backend, Case, bool], Any],
    draws: int,
    suggest: bool,
) -> _Worked:
    ids = tokenize_case(model.tokenizer, case).ids
    dry = _dry(model, model.run([ids], logits_at=[-1]).last_logits[0])
    lacking = not ((case.cue or case.neutral) and (case.subject or case.substitute))
    start = time.perf_counter()
    with metered() as least:
        made = account(dry, case, suggest)
    seconds, most, assumed = time.perf_counter() - start, least, False
    if suggest and lacking:
        case, _ = with_rival(dry, case)
        found = ReplacedWords(dry, prepare(dry, case, draws=WORD_DRAWS), WORD_DRAWS, 0)
        names = [one[0] for one in found.singles()]
        if len(names) > 1:
            named = _assumed(case, names)
            start = time.perf_counter()
            with metered() as most:
                made = account(dry, case.replace(**named, case_id=case.case_id), False)
            twice = 2 if case.twin_question is not None else 1
            # Every word by itself, masked by another, and with the cue.
            rows = twice * (1 + WORD_DRAWS * (3 * len(names) - 2))
            most.token_blocks += rows * len(ids) * model.spec.n_layers
            most.passes += least.passes
            most.calls += least.passes * model.spec.n_layers
            seconds, assumed = seconds + time.perf_counter() - start, True
    memory = _memory(model, len(ids), draws, case.twin_question is not None)
    return _Worked(len(ids), least, most, seconds, memory, _size(made), assumed)


def _assumed(case: Case, names: Sequence[str]) -> dict[str, Any]:
    """A cue and a subject that cost the most: the first word, and the one named most often."""
    often = max(names, key=lambda name: (len(mentions(case.text, name)), names.index(name)))
    subject = case.subject or often
    first = next(name for name in names if name != subject)
    named: dict[str, Any] = {}
    if not (case.cue or case.neutral):
        named["cue"] = (first,)
    if not (case.subject or case.substitute):
        named["subject"] = subject
    return named


def _dry(model: HooksBackend, logits: torch.Tensor) -> DryEngine:
    """A stand-in that knows what the model knows already."""
    dry = DryEngine(model, logits)
    tables: tuple[Any, ...] = (words.KNOWN, concept_vectors.ISOLATED)
    for table in tables:
        if model in table:
            table[dry] = dict(table[model])
    if model in measure.CENTRES:
        measure.CENTRES[dry] = measure.CENTRES[model]
    return dry


def _spread(cases: Sequence[Case], n: int) -> list[Case]:
    """Some of the cases, from the shortest text to the longest at even steps."""
    ordered = sorted(cases, key=lambda case: (len(case.text), case.case_id))
    places = np.unique(np.linspace(0, len(ordered) - 1, min(n, len(ordered))).round().astype(int))
    return [ordered[i] for i in places]


def _told(
    model: HooksBackend, n_cases: int, done: Sequence[_Worked], refused: int, **settings: Any
) -> CostEstimate:
    n_layers = model.spec.n_layers
    share = len(done) / (len(done) + refused)
    scale = n_cases * share / len(done)
    n_tokens = float(np.mean([one.n_tokens for one in done]))
    least, most = (
        np.array([work(one).forwards(one.n_tokens, n_layers) for one in done])
        for work in (lambda one: one.least, lambda one: one.most)
    )
    known_all = len(done) + refused == n_cases
    low, high = (
        (least.sum(), most.sum())
        if known_all
        else (mean_over(least).low * len(least) * scale, mean_over(most).high * len(most) * scale)
    )
    once = max(
        (one.least.once.forwards(n_tokens, n_layers) for one in done if one.least.once), default=0.0
    )
    mean = float(most.sum() * scale)
    blocks = sum(one.most.token_blocks for one in done) * scale + once * n_tokens * n_layers
    calls = sum(one.most.calls for one in done) * scale
    around = sum(one.seconds for one in done) * scale
    seconds = mean_over(
        np.array([around + calls * a + blocks * b for a, b in _rates(model, n_tokens)])
    )
    notes = []
    if any(one.assumed for one in done):
        notes.append(
            "Cue and subject are to be inferred: the most is every word of the prompt tried with "
            "all draws, and flows from its first word on."
        )
    if not known_all:
        notes.append(f"{len(done)} of {n_cases} cases were worked out, from short to long.")
    if refused:
        notes.append(f"{refused} of those cannot be measured.")
    return CostEstimate(
        n_cases=n_cases,
        worked_out=len(done),
        refused=refused,
        n_tokens=n_tokens,
        forwards=Estimate(mean, float(low), float(high), len(done)),
        passes=round(sum(one.most.passes for one in done) * scale),
        once=float(once),
        seconds=Estimate(seconds.mean, max(0.0, seconds.low), seconds.high, seconds.n),
        memory=max(one.memory for one in done),
        output=math.ceil(sum(one.output for one in done) * scale),
        notes=tuple(notes),
        provenance=model.provenance(**settings),
    )


def _rates(model: HooksBackend, n_tokens: float) -> list[tuple[float, float]]:
    """Seconds per call of a block and per position in a block, from a few timed batches."""
    n_layers, length = model.spec.n_layers, max(2, round(n_tokens))
    row = list(np.random.default_rng(0).integers(0, model.spec.d_vocab, length))
    n = max(2, CALIBRATED_WITH // length)

    def timed(n_rows: int) -> float:
        start = time.perf_counter()
        model.run([row] * n_rows, logits_at=[-1])
        return time.perf_counter() - start

    timed(1)
    out = []
    for _ in range(REPEATS):
        small, large = timed(1), timed(n)
        b = max(0.0, large - small) / ((n - 1) * length * n_layers)
        out.append((max(0.0, small / n_layers - b * length), b))
    return out


def _memory(model: HooksBackend, n_tokens: int, draws: int, twins: bool) -> int:
    """Bytes at the most: recorded runs with what is put into them, and one batch.

    Recorded are x and three variants per draw, with their keys and values; a swap holds three
    times the states of its rows. A batch takes what it may, or one run.
    """
    spec = model.spec
    item = next(model.model.parameters()).element_size()
    n_rows = (1 + 3 * draws) * (2 if twins else 1)
    states = (spec.n_layers + 1) * spec.d_model * n_tokens * item
    recorded = n_rows * (states + prefix_bytes(model, n_tokens))
    parts = 3 * spec.n_layers * spec.d_model * n_tokens * item  # attention, MLP and heads
    run = suffix_bytes(model, n_tokens, n_tokens, spec.d_vocab)
    batch = min(budget(device_of(model)), run * max(n_rows, 4096 // n_tokens))
    return recorded + 3 * n_rows * states + n_rows * parts + max(run, batch)


def _size(made: Any) -> int:
    """Bytes of the arrays, numbers and text in a result or a row."""
    if isinstance(made, np.ndarray):
        return made.nbytes
    if isinstance(made, str):
        return len(made.encode())
    if isinstance(made, dict):
        return sum(_size(value) for value in made.values())
    if isinstance(made, (tuple, list)):
        return sum(map(_size, made))
    if dataclasses.is_dataclass(made):
        return sum(_size(getattr(made, field.name)) for field in dataclasses.fields(made))
    return 8
