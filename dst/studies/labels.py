"""`label`: whether a model hallucinates on each case, by the definition the data set asks for.

Every definition is also a function of a model and a case that gives columns, so that a study takes
it by name: ``labels="dst.studies.labels:sampled"``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dst.analysis.labels import (
    Match,
    check_match,
    halogen_scores,
    matches,
    multiple_choice,
    normalised,
    outcome_of_contrast,
    sampled_rate,
    yes_no_report,
)
from dst.analysis.proportion import wilson
from dst.analysis.readout import contrast, log_softmax, outcome
from dst.core.case import Case, prompt_of
from dst.core.errors import CaseError, DSTError, InputError
from dst.core.label_results import HalogenScores, Labels, YesNoReport
from dst.core.results import NOT_GIVEN
from dst.models.backend import Backend, require
from dst.models.text import encode, refuse_unknown, render
from dst.models.tokens import TokenizedCase, forms_in_place, tokenize_case
from dst.studies.adapters import halogen
from dst.studies.adapters.account import Dataset
from dst.studies.adapters.reading import read_rows
from dst.studies.batch import over_cases
from dst.studies.sampling import SAMPLES, check_samples, sample_outcomes
from dst.tracing.progress import progress

Columns = dict[str, Any]
"""``label_outcome`` and ``label_error`` (1, 0 or NaN), then numbers and texts of the kind."""

Definition = Callable[..., Columns]


def label(
    model: Backend,
    cases: Sequence[Case],
    kind: str | None = None,
    *,
    knowledge: bool = True,
    show_progress: bool = True,
    **settings: Any,
) -> Labels:
    """Whether the model hallucinates on each case: correct, hallucination, or neither.

    Kinds (METHOD 8):
        ``contrast``: the sign of LD, in logits; a forced choice.
        ``greedy_token``: whose form the likeliest token at i* begins; ``neither`` counted apart.
        ``sampled``: the more frequent answer of K samples at temperature 1, and the rate of
            hallucination with Wilson's interval. Settings ``samples`` (K >= 20), ``seed``.
        ``yes_no``: the likelier of the summed forms of yes and no, against the right one; invalid
            where both together have less than p = .05.
        ``generation``: the greedy continuation against the right and wrong answers, normalised.
            Settings ``tokens``, ``match`` (``starts``, ``exact``, ``contains``).
        ``multiple_choice``: TruthfulQA's MC1 and MC2 from the choices' whole log-probabilities.

    Args:
        model: The model.
        cases: The cases.
        kind: The definition; by default that of the data set, or ``greedy_token``.
        knowledge: Add ``knows``: whether the greedy answer is right on more than half of the clean
            variants (1 or 0; NaN for a case without any).
        show_progress: Draw a line with the time left on the error stream after two seconds.
        **settings: Of the kind.

    Returns:
        `Labels`: an outcome or a reason per case, the numbers it rests on; ``error`` is 1 for a
        hallucination, 0 for a correct answer and NaN else.

    Raises:
        InputError: The kind or a setting is unknown.
        CapabilityError: The engine cannot generate.
    """
    kind = kind or (cases.kind if isinstance(cases, Dataset) else "greedy_token")
    define = _definition(kind, settings)
    if kind == "generation":
        require(model, "generate")

    def account(given: Backend, case: Case) -> Columns:
        return define(given, case) | ({"knows": knows(given, case)} if knowledge else {})

    rows: list[Columns | DSTError] = []
    with progress("labelling", len(cases), unit="case", show=show_progress) as done:
        for start in range(0, len(cases), TOGETHER):
            some = list(cases[start : start + TOGETHER])
            rows += over_cases(model, some, account)
            done(len(some))
    return _collected(model, cases, kind, rows, settings)


TOGETHER = 64
"""Cases labelled between two steps of the progress line."""


# -- the definitions -------------------------------------------------------------------------


def by_contrast(model: Backend, case: Case) -> Columns:
    """The sign of LD at i*, in logits."""
    seen, logits = _answer_logits(model, case)
    _need_both(seen)
    value = float(contrast(logits, seen.contextual_ids, seen.associative_ids))
    return _columns(outcome_of_contrast(value), label_contrast=value)


def greedy_token(model: Backend, case: Case) -> Columns:
    """Whose form the likeliest token at i* begins; p of both answers beside it."""
    seen, logits = _answer_logits(model, case)
    prob = np.exp(log_softmax(logits))
    greedy = int(prob.argmax())
    plus, minus = seen.contextual_ids, seen.associative_ids
    return _columns(
        outcome(greedy, plus, minus),
        greedy_token=str(model.tokenizer.decode([greedy])),
        greedy_prob=float(prob[greedy]),
        prob_contextual=float(prob[list(plus)].sum()),
        prob_associative=float(prob[list(minus)].sum()),
    )


def sampled(model: Backend, case: Case, *, samples: int = SAMPLES, seed: int = 0) -> Columns:
    """The rate of hallucination among K samples at temperature 1, with Wilson's interval."""
    counts = sample_outcomes(model, case, samples=samples, seed=seed)
    rate = sampled_rate(counts["hallucination"], counts["correct"], samples)
    wrong, right = counts["hallucination"], counts["correct"]
    likelier = "hallucination" if wrong > right else "correct" if right > wrong else "neither"
    return _columns(
        likelier,
        error_rate=rate.rate,
        error_rate_low=rate.low,
        error_rate_high=rate.high,
        invalid_rate=rate.invalid_rate,
        error_rate_of_valid=rate.rate_of_valid,
        n_samples=float(samples),
    )


def yes_no(model: Backend, case: Case) -> Columns:
    """Yes or no, whichever has more probability over its forms, against the right one."""
    seen, logits = _answer_logits(model, case)
    _need_both(seen)
    prob = np.exp(log_softmax(logits))
    right, wrong = (
        float(prob[list(ids)].sum()) for ids in (seen.contextual_ids, seen.associative_ids)
    )
    gold = _polarity(case.contextual)
    rival = "no" if gold == "yes" else "yes"
    invalid = right + wrong < NOT_GIVEN
    said = "invalid" if invalid else gold if right > wrong else rival
    named = {"invalid": "neither", gold: "correct", rival: "hallucination"}
    return _columns(
        named[said],
        gold=gold,
        said=said,
        prob_yes=right if gold == "yes" else wrong,
        prob_no=wrong if gold == "yes" else right,
    )


def generation(model: Backend, case: Case, *, tokens: int = 16, match: Match = "starts") -> Columns:
    """The first line of the greedy continuation against all forms of both answers.

    A case without wrong answers counts every other answer that says something as wrong.
    """
    rendered = render(model.tokenizer, case)
    encoding = encode(model.tokenizer, rendered.text, special=rendered.special)
    refuse_unknown(model.tokenizer, encoding)
    new = model.generate(list(encoding.ids), tokens)
    whole = str(model.tokenizer.decode([*encoding.ids, *new], skip_special_tokens=True))
    before = str(model.tokenizer.decode(list(encoding.ids), skip_special_tokens=True))
    text = whole[len(before) :] if whole.startswith(before) else model.tokenizer.decode(new)
    said = (text.strip().splitlines() or [""])[0].strip()
    right = matches(said, case.contextual, match)
    wrong = matches(said, case.associative, match)
    if not case.associative:
        wrong = not right and bool(normalised(said))
    named = "correct" if right and not wrong else "hallucination" if wrong > right else "neither"
    return _columns(named, generated=said)


def by_choices(model: Backend, case: Case) -> Columns:
    """TruthfulQA's MC1 and MC2; the first right answer of the case is the best one."""
    if not case.associative:
        raise CaseError("The case has no wrong choice", do="Give associative answers")
    choices = (*case.contextual, *case.associative)
    log_prob = choice_log_probs(model, case, choices)
    right = np.arange(len(choices)) < len(case.contextual)
    score = multiple_choice(log_prob, right)
    return _columns(
        "correct" if score.mc1 else "hallucination",
        mc1=score.mc1,
        mc2=score.mc2,
        choice=choices[int(log_prob.argmax())],
    )


def choice_log_probs(model: Backend, case: Case, choices: Sequence[str]) -> np.ndarray:
    """Log-probability of whole texts after the prompt, in nats: summed over tokens.

    A choice is tokenised as given, where it stands, and teacher-forced. As in the official scores,
    nothing is divided by its length.

    Raises:
        TokenError: A choice cannot follow the prompt.
    """
    rendered = render(model.tokenizer, case)
    encoding = encode(model.tokenizer, rendered.text, special=rendered.special)
    refuse_unknown(model.tokenizer, encoding)
    forms = [
        forms_in_place(model.tokenizer, rendered, encoding, [choice])[0][0].ids
        for choice in choices
    ]
    value = np.zeros(len(forms))
    by_length: dict[int, list[int]] = {}
    for i, ids in enumerate(forms):
        by_length.setdefault(len(ids), []).append(i)
    for n, places in by_length.items():
        rows = [[*encoding.ids, *forms[i]] for i in places]
        run = model.run(rows, logits_at=list(range(-n - 1, -1)))
        log_prob = log_softmax(run.logits.float().cpu().numpy())
        for row, i in enumerate(places):
            value[i] = log_prob[row, np.arange(n), list(forms[i])].sum()
    return value


def knows(model: Backend, case: Case) -> float:
    """Whether the greedy answer is right on more than half of the clean variants: 1, 0 or NaN."""
    if not case.clean:
        return math.nan
    fields = {"contextual": case.contextual, "associative": case.associative}
    alike: dict[str, Any] = {"chat": case.chat, "system": case.system, "prefix": case.prefix}
    right = []
    for variant in case.clean:
        clean = Case(prompt=prompt_of(variant), **fields, **alike)  # type: ignore[arg-type]
        right.append(greedy_token(model, clean)["label_outcome"] == "correct")
    return float(sum(right) > len(right) / 2)


KINDS: dict[str, tuple[Definition, str]] = {
    "contrast": (by_contrast, "The sign of the contrast between the two answers."),
    "greedy_token": (greedy_token, "Whose form the likeliest token at i* begins."),
    "sampled": (sampled, "The more frequent answer among samples at temperature 1."),
    "yes_no": (yes_no, "The likelier of yes and no, summed over forms, against the right one."),
    "generation": (generation, "The greedy continuation against the answers, normalised."),
    "multiple_choice": (by_choices, "Whether the best choice is likelier than every wrong one."),
}
"""Kind -> its definition and how it decides."""


# -- reports -----------------------------------------------------------------------------


def yes_bias(labels: Labels) -> YesNoReport:
    """Accuracy by what is right, and the bias to yes, of cases labelled as ``yes_no``.

    Raises:
        InputError: The labels are of another kind.
    """
    if labels.kind != "yes_no":
        raise InputError(f"These labels are of the kind {labels.kind}", expected="yes_no")
    kept = [i for i, found in enumerate(labels.outcome) if found]
    gold, said = ([labels.texts[name][i] for i in kept] for name in ("gold", "said"))
    return yes_no_report(gold, said, labels.provenance)


def rates(labels: Labels, *, known: bool = False) -> list[dict[str, Any]]:
    """Hallucinations / valid answers of every group, with Wilson's interval; the whole comes last.

    Invalid answers are counted beside it. Group-level rates weigh every case alike.

    Args:
        labels: Of cases.
        known: Only cases whose clean variants the model gets right (the knowledge filter).
    """
    keep = [found != "" for found in labels.outcome]
    if known:
        knowing = labels.numbers.get("knows", np.full(len(keep), math.nan))
        keep = [k and value == 1 for k, value in zip(keep, knowing, strict=True)]
    groups = sorted({g for g, k in zip(labels.group, keep, strict=True) if k and g})
    return [_rate(labels, keep, group) for group in (*groups, None)]


def _rate(labels: Labels, keep: Sequence[bool], group: str | None) -> dict[str, Any]:
    found = [
        name
        for name, kept, own in zip(labels.outcome, keep, labels.group, strict=True)
        if kept and group in (None, own)
    ]
    wrong, right = found.count("hallucination"), found.count("correct")
    low, high = wilson(wrong, wrong + right)
    return {
        "group": group or "all",
        "error_rate": wrong / (wrong + right) if wrong + right else math.nan,
        "low": low,
        "high": high,
        "n": wrong + right,
        "n_invalid": found.count("neither"),
    }


def halogen_report(
    path: str | Path,
    *,
    task: str | None = None,
    abstains: Callable[[str], bool] | None = None,
) -> HalogenScores:
    """HALoGEN's three scores of a file of verified replies of one model.

    Args:
        path: The file, with ``response`` and its atoms.
        task: One of the nine, where columns and prompts do not tell.
        abstains: Whether a reply abstains; by default by `halogen.ABSTAINED`, a rule of ours.

    Raises:
        InputError: The file cannot be read, or a row has no atoms; names the row.
    """
    rows = read_rows(Path(path), "*.csv")
    named = halogen.task_of(rows[0], task)
    counted = [
        halogen.verified(
            row, named, None if abstains is None else abstains(str(row.values.get("response", "")))
        )
        for row in rows
    ]
    false, total, answered = (
        np.array([count[name] for count in counted]) for name in ("false", "total", "answered")
    )
    return halogen_scores(
        false,
        total,
        answered,
        task=named,
        abstaining_is_right=named in halogen.ABSTAINING_IS_RIGHT,
    )


# -- inside --------------------------------------------------------------------------------


def _definition(kind: str, settings: Mapping[str, Any]) -> Definition:
    if kind not in KINDS:
        raise InputError(f"There is no label {kind!r}", expected="one of " + ", ".join(KINDS))
    define, _ = KINDS[kind]
    takes = list(inspect.signature(define).parameters)[2:]
    if other := [name for name in settings if name not in takes]:
        raise InputError(
            f"The label {kind} has no setting {other[0]!r}",
            expected="its settings: " + (", ".join(takes) or "none"),
        )
    check_samples(settings.get("samples", SAMPLES))  # here, so that it is no reason of every case
    check_match(settings.get("match", "starts"))
    return partial(define, **settings)


def _columns(found: str, **columns: Any) -> Columns:
    error = {"hallucination": 1.0, "correct": 0.0}.get(found, math.nan)
    return {"label_outcome": found, "label_error": error, **columns}


def _collected(
    model: Backend,
    cases: Sequence[Case],
    kind: str,
    rows: Sequence[Columns | DSTError],
    settings: Mapping[str, Any],
) -> Labels:
    given: list[Columns] = [{} if isinstance(row, DSTError) else row for row in rows]
    names = dict.fromkeys(name for row in given for name in row)
    columns = {name: [row.get(name) for row in given] for name in names}
    named = tuple(str(row.get("label_outcome", "")) for row in given)
    columns = {k: v for k, v in columns.items() if not k.startswith(("label_outcome", "label_err"))}
    texts = {k: v for k, v in columns.items() if any(isinstance(item, str) for item in v)}
    return Labels(
        kind=kind,
        case_id=tuple(case.case_id for case in cases),
        group=tuple(case.group or "" for case in cases),
        outcome=named,
        numbers={
            k: np.array([math.nan if item is None else item for item in v], dtype=np.float64)
            for k, v in columns.items()
            if k not in texts
        },
        texts={k: tuple(item or "" for item in v) for k, v in texts.items()},
        reason=tuple(str(row) if isinstance(row, DSTError) else "" for row in rows),
        note=KINDS[kind][1],
        provenance=model.provenance(
            seed=settings.get("seed", 0) if kind == "sampled" else None,
            kind=kind,
            **{name: value for name, value in settings.items() if name != "seed"},
        ),
    )


def _answer_logits(model: Backend, case: Case) -> tuple[TokenizedCase, np.ndarray]:
    """A case as tokens, and the logits at its answer position."""
    seen = tokenize_case(model.tokenizer, case)
    run = model.run([seen.ids], logits_at=[-1])
    return seen, run.last_logits[0].float().cpu().numpy()


def _need_both(seen: TokenizedCase) -> None:
    if not seen.associative:
        raise CaseError("The case has no associative answer", do="Give associative answers")


def _polarity(forms: Sequence[str]) -> str:
    """``yes`` or ``no``: what a right answer means, however it is written."""
    said = {form.strip().casefold() for form in forms}
    if said <= {"yes", "true"}:
        return "yes"
    if said <= {"no", "false"}:
        return "no"
    raise CaseError(f"The right answer is {sorted(said)[0]!r}", expected="yes or no, true or false")
