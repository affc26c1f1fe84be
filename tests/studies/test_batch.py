"""Many cases measured: each as by itself, whatever stands beside it; each run recorded once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import dst
from dst.core.errors import DSTError, TokenError
from dst.models.hooks import HooksBackend
from dst.models.meter import metered
from dst.studies.batch import measure_cases, over_cases
from dst.studies.failure import failure
from dst.studies.measure import Measured, coherence, markers, measure
from dst.testbed import world
from dst.tracing.commitment import repairs
from dst.tracing.dose import dose
from dst.tracing.pathways import pathways
from dst.tracing.prepare import prepare
from dst.tracing.recordings import Recordings

DRAWS = 3

PLAIN = dst.Case(
    prompt="Anna is at the lake. Anna sees a bass. What is the bass? The bass is a kind of",
    contextual="fish", associative="instrument", subject="bass", cue="at the lake",
    context_words=["river", "harbour"], competing_words=["song", "choir"], case_id="plain",
)  # fmt: skip
LONGER = PLAIN.replace(
    prompt=f"The road is long. The wall is white. {PLAIN.prompt}", case_id="longer"
)
CUELESS = PLAIN.replace(cue=(), case_id="cueless")
UNKNOWN = PLAIN.replace(prompt=f"A zyzzyva hums. {PLAIN.prompt}", case_id="unknown")


@pytest.fixture(scope="module")
def model() -> Any:
    return dst.load()


@pytest.fixture(scope="module")
def cases() -> list[dst.Case]:
    (twin,) = world.cases("test", n=1, seed=0, kinds=("plain",), askings=("yesno",))
    return [PLAIN, UNKNOWN, LONGER, CUELESS, twin]


@pytest.fixture(scope="module")
def together(model: HooksBackend, cases: Sequence[dst.Case]) -> list[Measured | DSTError]:
    return measure_cases(model, cases, draws=DRAWS)


def numbers(model: HooksBackend, case: dst.Case, run: Measured) -> dict[str, np.ndarray]:
    """Every number that the scores and marks of a case are told by, and what they rest on."""
    score = coherence(model, case, measured=run)
    found = {one.name: one.value for one in score.scores}
    marks = markers(model, case, measured=run, score=score).marks
    found["marks"] = np.array([[mark.state, mark.low, mark.high] for mark in marks])
    found["resid"] = run.seen.resid
    if run.paths is not None and run.fixes is not None:
        found |= {"n_ctx": run.paths.contextual_removal, "d_asc": run.paths.associative_insertion}
        found |= {"patched": run.fixes.patched, "control": run.fixes.control}
    if run.parts is not None:
        found["parts"] = run.parts.contextual
    if run.pushes is not None:
        found["dose"] = run.pushes.value
    return found


def test_each_case_is_as_by_itself(
    model: HooksBackend, cases: Sequence[dst.Case], together: Sequence[Any]
) -> None:
    """Of any length, without a cue, with a twin; a case that fails is its error, in its place."""
    assert len(together) == len(cases)
    assert isinstance(together[1], TokenError)
    assert "zyzzyva" in str(together[1])
    for case, run in zip(cases, together, strict=True):
        if case is not UNKNOWN:
            alone = numbers(model, case, measure(model, case, draws=DRAWS))
            found = numbers(model, case, run)
            assert set(found) == set(alone)
            for name, values in alone.items():
                np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5, err_msg=name)
    assert together[3].paths is None  # no cue
    assert together[4].parts is None  # two prompts


def test_the_same_cases_give_the_same_bits(
    model: HooksBackend, cases: Sequence[dst.Case], together: Sequence[Any]
) -> None:
    again = measure_cases(model, cases, draws=DRAWS)
    for case, one, two in zip(cases, together, again, strict=True):
        if isinstance(one, DSTError):
            assert str(one) == str(two)
            continue
        assert isinstance(two, Measured)
        first, second = numbers(model, case, one), numbers(model, case, two)
        for name, values in first.items():
            np.testing.assert_array_equal(values, second[name], err_msg=name)


def test_neighbours_change_nothing(model: HooksBackend, together: Sequence[Any]) -> None:
    """Neither who stands beside a case nor what was remembered from cases before."""
    (alone,) = measure_cases(dst.load(), [LONGER], draws=DRAWS)
    assert isinstance(alone, Measured)
    one, two = numbers(model, LONGER, together[2]), numbers(model, LONGER, alone)
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name], err_msg=name)


def test_only_errors_of_ours_are_kept(model: HooksBackend) -> None:
    def account(_: Any, case: dst.Case) -> str:
        if case is UNKNOWN:
            raise ZeroDivisionError
        return case.case_id

    assert over_cases(model, [PLAIN, LONGER], account) == ["plain", "longer"]
    with pytest.raises(ZeroDivisionError):
        over_cases(model, [PLAIN, UNKNOWN], account)
    assert measure_cases(model, []) == []


# -- runs are recorded once ------------------------------------------------------------------


def test_what_shares_recordings_records_them_once(model: HooksBackend) -> None:
    """Flows, repairs, doses and the failure mode of one case start from one batch of runs."""
    ready = prepare(model, PLAIN, draws=DRAWS)
    n_tokens = len(ready.tokenized.ids)

    def work(runs: Recordings | None) -> tuple[float, Any]:
        how: dict[str, Any] = {"draws": DRAWS, "runs": runs}
        with metered() as done:
            paths, fixes = pathways(model, PLAIN, **how), repairs(model, PLAIN, **how)
            pushed = dose(model, PLAIN, runs=runs)
            mode = failure(model, PLAIN, paths=paths, fixes=fixes, **how)
        return done.forwards(n_tokens, model.spec.n_layers), (paths, fixes, pushed, mode)

    alone, one = work(None)
    shared, two = work(Recordings(model, PLAIN, draws=DRAWS))
    # Recorded: x and three variants per draw, four times or once (a dose needs x alone).
    every = 1 + 3 * DRAWS
    assert alone - shared == pytest.approx(2 * every + 1)
    np.testing.assert_allclose(one[0].contextual_removal, two[0].contextual_removal, atol=1e-5)
    np.testing.assert_allclose(one[1].patched, two[1].patched, atol=1e-5)
    np.testing.assert_allclose(one[2].value, two[2].value, rtol=0.02)
    assert one[3].mode == two[3].mode


def test_recordings_are_those_of_the_rows_asked_for(model: HooksBackend) -> None:
    """In the order asked for, repeated as asked, whichever batch they were run in."""
    runs = Recordings(model, PLAIN, draws=DRAWS)
    ready = runs.ready
    neutral = ready.variants.neutral
    other = [ready.variants.swap[0]] if ready.variants.swap else [neutral[0]]
    rows = [neutral[1], ready.x, neutral[1], *other]
    found, known = runs(rows), ready.record(model, rows)
    assert found.rows == known.rows
    np.testing.assert_allclose(found.contrast, known.contrast, atol=1e-5)
    assert float((found.states - known.states).abs().max()) < 1e-4
    assert [found.base.rows[i] for i in found.recorded] == list(found.rows)  # type: ignore[union-attr]
