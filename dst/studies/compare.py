"""`compare`: two cases of one model, or one case of two models, quantity by quantity."""

from __future__ import annotations

from collections.abc import Iterator

from dst.analysis import differences as rules
from dst.core.case import Case
from dst.core.comparison_results import Comparison, Difference
from dst.core.errors import InputError
from dst.core.results import Provenance, Report
from dst.studies.compare_claims import comparison_claims

SAME = ("prompt", "prefix", "chat", "system", "contextual", "associative")
"""Fields of a case that make it the same question with the same two answers."""

DEPTHS = (0.25, 0.5, 0.75)
"""Shares of depth at which DSS* is compared, beside its total."""


def compare(
    a: Report, b: Report, *, names: tuple[str, str] = ("A", "B"), seed: int = 0
) -> Comparison:
    """How two runs differ: LD and its terms, when the flows arrive, DSS*, commitment.

    Every quantity as A, B and A - B. LD is exact. Base, prior and effect of the context are means
    over draws: the interval of their difference is Welch's (draws of A and B count as
    independent). Arrival and DSS* are functions of the draws: percentiles of A* - B* over
    bootstrap resamples of the draws. A commitment has an interval per run: the difference lies
    between the far ends of the two. States are compared as shares of depth, l / L, so that
    models of different depth can be. Intervals are at 95 %, each on its own: of twenty
    quantities that do not differ one is told apart by chance.

    Args:
        a: A report, as `dst.explain` makes it.
        b: Another: of the same model, or of the same case.
        names: What to call the two.
        seed: Seed of the bootstrap.

    Returns:
        `Comparison`: differences in logits and shares, sentences, notes on what else differs.

    Raises:
        InputError: Neither the model nor the case is the same: says what differs.

    Source: dst. METHOD 0 (split), 2a (arrival), 3a (DSS*), 4 (commitment).
    """
    kind, notes = _comparable(a, b, names)
    differences = (*_sum(a, b), *_over_draws(a, b, seed), *_commitments(a, b))
    return Comparison(
        kind=kind,
        names=names,
        a=a,
        b=b,
        differences=differences,
        claims=comparison_claims(a, b, names, differences),
        notes=notes,
        provenance=Provenance(
            versions=a.provenance.versions,
            settings={"a": a.provenance.weights_hash, "b": b.provenance.weights_hash},
            seed=seed,
        ),
    )


# -- what may be compared ------------------------------------------------------------------------


def _comparable(a: Report, b: Report, names: tuple[str, str]) -> tuple[str, tuple[str, ...]]:
    """Two cases, two models, or two runs of one case; with what else differs.

    Raises:
        InputError: Neither is the same.
    """
    one_model = _identity(a.provenance) == _identity(b.provenance)
    other = [name for name in SAME if getattr(a.case, name) != getattr(b.case, name)]
    if other and not one_model:
        raise InputError(
            f"{names[0]} is a run of {a.provenance.model or 'a model'} and {names[1]} of "
            f"{b.provenance.model or 'another model'}, on cases that differ in {_listed(other)}",
            expected="one model with two cases, or two models with one case",
            do="Explain the same case with both (with the same two answers given), or two cases "
            "with one of them",
        )
    kind = "two models" if not one_model else "two cases" if other else "two runs"
    return kind, tuple(_notes(a, b, names, kind))


def _identity(told: Provenance) -> tuple[str, str]:
    """What says that two models are one: the hash of the weights, or name and revision."""
    return (told.weights_hash, "") if told.weights_hash else (told.model, told.revision)


def _notes(a: Report, b: Report, names: tuple[str, str], kind: str) -> Iterator[str]:
    fields = [name for name in _stated(a.case) if _stated(a.case)[name] != _stated(b.case)[name]]
    if fields:
        yield f"The cases differ in {_listed(fields)}."
    if (a.case.contextual, a.case.associative) != (b.case.contextual, b.case.associative):
        yield "LD is between other answers in the two: their signs compare, and less their sizes."
    if kind == "two models":
        yield (
            "Logits of two models have scales of their own: shares (DSS*) and depths compare, "
            "sizes in logits less."
        )
    for name, report in zip(names, (a, b), strict=True):
        inferred = getattr(report.suggestion, "inferred", ())
        if inferred:
            yield f"Inferred in {name}: {_listed(list(inferred))}."
    settings = (dict(a.provenance.settings), dict(b.provenance.settings))
    changed = sorted(
        key
        for key in settings[0].keys() | settings[1].keys()
        if settings[0].get(key) != settings[1].get(key)
    )
    for key in (*changed, *(["seed"] if a.provenance.seed != b.provenance.seed else [])):
        left, right = (
            report.provenance.seed if key == "seed" else given.get(key)
            for report, given in zip((a, b), settings, strict=True)
        )
        yield f"Made with {key} {left!r} and {right!r}."
    if kind == "two runs" and not changed and a.provenance.seed == b.provenance.seed:
        yield "Model, case and settings are the same."


def _stated(case: Case) -> dict[str, object]:
    """What a case states, without its name."""
    left_out = ("case_id", "label", "group")
    fields = (name for name in Case.__dataclass_fields__ if name not in left_out)
    return {name: getattr(case, name) for name in fields}


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


# -- the quantities --------------------------------------------------------------------------------


def _sum(a: Report, b: Report) -> Iterator[Difference]:
    """LD, and the terms that add up to it."""
    yield rules.exact("LD", "sum", "logits", a.trace.contrast, b.trace.contrast)
    for name, field in (
        ("base", "base"),
        ("prior of the subject", "prior"),
        ("effect of the context", "total_effect"),
    ):
        yield rules.of_means(
            name,
            getattr(a.pathways, field, None),
            getattr(b.pathways, field, None),
        )


def _over_draws(a: Report, b: Report, seed: int) -> tuple[Difference, ...]:
    """Arrival of both flows and DSS* over depth."""
    return rules.over_draws(a.pathways, b.pathways, DEPTHS, seed=seed)


def _commitments(a: Report, b: Report) -> Iterator[Difference]:
    """The commitment of every repair that was asked of both runs."""
    marks = [
        {mark.definition: mark for mark in report.repairs.commitments} if report.repairs else {}
        for report in (a, b)
    ]
    for definition in marks[0]:
        if definition in marks[1]:
            one, two = marks[0][definition], marks[1][definition]
            if not (one.reason and two.reason):
                name = f"commitment, {definition.removeprefix('causal, ')}"
                yield rules.of_marks(name, "commitment", one, two)
