"""`run_study` on a real model: what its rows hold, and that stopping it changes nothing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dst
from dst.core.case import Case
from dst.core.errors import CaseError, InputError
from dst.core.results import Pathways
from dst.core.study_results import StudyTable
from dst.models import memory
from dst.studies import study as module
from dst.studies import worker
from dst.studies.batch import over_cases
from dst.studies.measure import coherence, markers, measure
from dst.studies.rows import MARKS, MEASURES, columns, measured_row
from dst.studies.study import StudyInterrupted, run_study
from tests.studies import study_cases

CASES = study_cases.cases(8, flows=3)


def study(folder: Path, some: Sequence[Case] | None = None, **how: Any) -> StudyTable:
    """A study in batches of three with two draws; by default of eight cases, two with flows."""
    given = {"draws": 2, "batch_cases": 3, "show_progress": False} | how
    model = given.pop("model", study_cases.model())
    return run_study(model, CASES if some is None else some, out=folder, **given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was never stopped, with every measure."""
    made = tmp_path_factory.mktemp("study")
    study(made, measures=MEASURES)
    return made


@pytest.fixture(scope="module")
def table(folder: Path) -> StudyTable:
    return dst.open_study(folder)


# -- rows ----------------------------------------------------------------------------------


def test_one_row_per_case_in_the_order_of_the_cases(table: StudyTable) -> None:
    assert table.column("case_id").tolist() == [f"case-{i}" for i in range(8)]
    # Sorted by length, so the batches have another order; the case of length 0 comes first.
    assert table.column("batch").tolist() == [0, 1, 0, 0, 1, 2, 1, 2]
    assert [case.content_hash() for case in CASES] == list(table.column("content_hash"))
    assert len(set(table.column("key"))) == 8


def test_a_row_holds_what_the_verbs_say_of_the_case(table: StudyTable) -> None:
    model, case = study_cases.model(), CASES[0]
    run = measure(model, case, draws=2)
    assert isinstance(run.paths, Pathways)
    row = table.to_records()[0]
    assert row["contrast"] == run.seen.contrast
    assert row["prompt_tokens"] == len(run.seen.ids)
    logits = run.seen.logits.astype(np.float64)
    p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert row["answer_prob"] == pytest.approx(p.max(), rel=1e-6)
    assert row["contextual_prob"] == pytest.approx(p[run.seen.contextual_ids].sum(), rel=1e-6)
    assert row["entropy"] == pytest.approx(-(p * np.log(p)).sum(), rel=1e-6)
    assert row["answer"] == run.seen.model_output.strip()
    for name in ("base", "prior", "total_effect"):
        term = getattr(run.paths, name)
        assert (row[name], row[f"{name}.low"]) == (term.mean, pytest.approx(term.low))
    assert row["base"] + row["prior"] + row["total_effect"] == pytest.approx(row["contrast"])
    np.testing.assert_array_equal(
        row["contextual_insertion"], run.paths.at_answer("contextual_insertion")
    )
    score = coherence(model, case, measured=run)
    for one in score.scores:
        want = [None if math.isnan(value) else value for value in one.value]
        assert row[one.name] == want
        # Three blocks: a quarter of the depth is state round(.75) = 1, a half 2, 3/4 2, all 3.
        stored = [row[f"{one.name}@{depth}"] for depth in ("0.25", "0.5", "0.75", "1")]
        assert stored == [want[1], want[2], want[2], want[3]]
        assert row[f"{one.name}.reasons"] == list(one.reasons)
    for mark in markers(model, case, measured=run, score=score).marks:
        column = f"{mark.name} ({mark.definition})"
        assert row[column] == (None if math.isnan(mark.state) else mark.state)
        assert row[f"{column}.reason"] == (mark.reason or None)
    failure = dst.failure(model, case, draws=2)
    assert row["failure_rule"] == failure.rule
    for finding in failure.findings:
        assert row[f"finding: {finding.name}"] == finding.holds


def test_the_columns_are_fixed_whatever_the_cases_are(table: StudyTable, tmp_path: Path) -> None:
    fixed = columns(MEASURES)
    others = set(table.names) - set(fixed)
    assert table.names[: len(fixed)] == tuple(fixed)
    assert all(name.startswith("finding: ") for name in others)
    broken = study_cases.cases(4)[3:]
    alone = study(tmp_path, broken, measures=MEASURES)
    assert alone.names == tuple(fixed)
    for name, kind in fixed.items():
        assert alone.arrow.schema.field(name).type == kind
        assert table.arrow.schema.field(name).type == kind


def test_every_mark_of_a_case_has_a_column_that_is_known_before(table: StudyTable) -> None:
    case = study_cases.cases(1)[0]
    made = markers(study_cases.model(), case, measured=measure(study_cases.model(), case, draws=2))
    assert {(mark.name, mark.definition) for mark in made.marks} <= set(MARKS)


def test_no_column_says_when_or_where(table: StudyTable) -> None:
    assert not [
        n for n in table.names if {"time", "second", "host", "worker", "date"} & {*n.split("_")}
    ]


def test_a_case_that_cannot_be_measured_is_a_row_with_its_reason(table: StudyTable) -> None:
    row = table.to_records()[3]
    assert (row["status"], row["reason_kind"]) == ("failed", "TokenError")
    assert row["reason"].startswith("The model does not know 'xylophone'")
    assert row["outcome"] is row["contrast"] is row["dss_causal"] is None
    assert table.reasons("dss_causal")[3] == row["reason"]
    assert table.failures() == {row["reason"]: 1}
    assert table.outcomes()["failed"] == 1


def test_a_case_without_a_cue_says_why_it_has_no_pathways(table: StudyTable) -> None:
    row = table.to_records()[5]
    assert row["status"] == "ok"
    assert row["paths_reason"] == "The two pathways were not measured: the case names no cue."
    assert row["total_effect"] is None
    assert row["dss_causal"] == [None] * 4
    assert table.reasons("dss_causal@0.5")[5] == row["paths_reason"]
    assert row["commitment (causal, de-prime).reason"] == row["paths_reason"]
    assert row["margin@0.75"] is not None


def test_error_is_one_for_a_hallucination_and_undefined_for_neither() -> None:
    outcomes = {}
    for case in study_cases.cases(3):
        for contextual, associative in (("fish", "instrument"), ("instrument", "fish")):
            asked = case.replace(contextual=contextual, associative=associative)
            row = measured_row(study_cases.model(), asked, measures=(), draws=2, seed=0)
            outcomes[row["outcome"]] = row["error"]
    answer = dst.trace(study_cases.model(), study_cases.cases(1)[0]).model_output.strip()
    for sides in ({"contextual": answer}, {"associative": answer}):
        asked = study_cases.cases(1)[0].replace(**sides, cue=(), neutral=())
        row = measured_row(study_cases.model(), asked, measures=(), draws=2, seed=0)
        outcomes[row["outcome"]] = row["error"]
    assert outcomes == {"neither": None, "correct": 0.0, "hallucination": 1.0}


def test_how_cases_are_batched_changes_no_number_beyond_rounding(
    table: StudyTable, tmp_path: Path
) -> None:
    alone = study(tmp_path, batch_cases=1, measures=MEASURES)
    assert alone.column("batch").tolist() != table.column("batch").tolist()
    compare(alone, table, but={"batch", "key"})


def compare(one: StudyTable, other: StudyTable, *, but: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """The same rows, text and marks; numbers to 1e-5."""
    assert one.names == other.names
    for name in set(one.names) - but:
        a, b = (t.arrow.column(name).to_pylist() for t in (one, other))
        if name in one.scores:
            a, b = one.curve(name).tolist(), other.curve(name).tolist()
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=name)
        elif pa.types.is_floating(one.arrow.schema.field(name).type) and " (" not in name:
            np.testing.assert_allclose(
                one.column(name), other.column(name), rtol=1e-5, atol=1e-5, err_msg=name
            )
        else:
            assert a == b, name


def test_less_can_be_measured(tmp_path: Path) -> None:
    made = study(tmp_path, study_cases.cases(1), measures=())
    assert "dss_causal" not in made.names
    assert made.column("total_effect")[0] == made.column("total_effect")[0]


# -- Parquet elsewhere -----------------------------------------------------------------------


def test_it_reads_straight_into_pandas(folder: Path, table: StudyTable) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.read_parquet(folder / "results.parquet")
    assert frame["case_id"].tolist() == [f"case-{i}" for i in range(8)]
    np.testing.assert_array_equal(frame["margin@0.75"].to_numpy(), table.column("margin"))
    assert math.isnan(frame["margin@0.75"][3])
    pd.testing.assert_frame_equal(frame, table.to_pandas())


def test_it_reads_straight_into_polars(folder: Path, table: StudyTable) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.read_parquet(folder / "results.parquet")
    assert frame["case_id"].to_list() == [f"case-{i}" for i in range(8)]
    assert frame["margin@0.75"].to_list() == table.arrow.column("margin@0.75").to_pylist()


# -- stopping and going on ---------------------------------------------------------------------


def interrupting(after: int) -> Callable[..., dict[str, Any]]:
    """`measured_row` that is interrupted from the keyboard at a case."""
    left = iter(range(after, -1, -1))

    def row(*given: Any, **how: Any) -> dict[str, Any]:
        if next(left) == 0:
            raise KeyboardInterrupt
        return measured_row(*given, **how)

    return row


@pytest.mark.parametrize("after", [0, 4, 7])
def test_stopped_from_the_keyboard_it_goes_on_to_the_same_bytes(
    folder: Path, tmp_path: Path, after: int
) -> None:
    done = after // 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "measured_row", interrupting(after))
        with pytest.raises(StudyInterrupted, match=f"Stopped after {done} of 3 batches; the same"):
            study(tmp_path, measures=MEASURES)
    assert len(list((tmp_path / "parts").glob("*"))) == done
    study(tmp_path, measures=MEASURES)
    whole, again = ((place / "results.parquet").read_bytes() for place in (folder, tmp_path))
    assert whole == again


def test_a_finished_study_is_read_and_not_run(
    folder: Path, table: StudyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "measured_row", None)
    assert study(folder, measures=MEASURES).arrow.equals(table.arrow)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"draws": 3}, "draws was 2 and is 3"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"some": CASES[:7]}, "there were 8 cases and are 7"),
        ({"batch_cases": 2}, "batch cases was 3 and is 2"),
        ({"suggest": True}, "suggest was False and is True"),
    ],
)
def test_another_study_is_refused_and_says_what_is_other(
    folder: Path, change: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load", None)  # it is refused before a model is loaded
    before = {path: path.read_bytes() for path in folder.rglob("*.parquet")}
    with pytest.raises(InputError) as caught:
        study(folder, **{"measures": MEASURES, "model": "never-loaded"} | change)
    assert sentence in str(caught.value)
    assert "--fresh" in str(caught.value)
    assert before == {path: path.read_bytes() for path in folder.rglob("*.parquet")}


def test_other_weights_are_refused(folder: Path) -> None:
    from tests import tiny

    other = tiny.backend("llama", tiny.word_level, seed=1)
    with pytest.raises(InputError, match="the model's weights hash was"):
        study(folder, measures=MEASURES, model=other)


def test_other_versions_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = worker.Worker.about

    def other(self: worker.Worker) -> worker.About:
        found = about(self)
        return dataclasses.replace(found, versions={**found.versions, "torch": "9.9"})

    monkeypatch.setattr(worker.Worker, "about", other)
    with pytest.raises(InputError, match=r"the version of torch was .* and is 9\.9"):
        study(folder, measures=MEASURES)


def test_fresh_starts_anew_and_keeps_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    some = study_cases.cases(3)
    study(tmp_path, some, measures=())
    again = study(tmp_path, some[:2], measures=(), draws=3, fresh=True)
    assert len(again) == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert len(list((tmp_path / "parts").glob("*"))) == 1


# -- what goes wrong on the way ------------------------------------------------------------------


def test_a_batch_that_does_not_fit_is_halved_by_a_fixed_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def small(model: Any, cases: Sequence[Case], account: Any) -> Any:
        tried.append(len(cases))
        if len(cases) > 2:
            raise MemoryError
        return over_cases(model, cases, account)

    monkeypatch.setattr(worker, "over_cases", small)
    made = study(tmp_path, study_cases.cases(6), batch_cases=6, measures=())
    assert tried == [6, 3, 1, 2, 3, 1, 2]
    told = pq.read_metadata(tmp_path / "parts" / "000000.parquet").metadata[b"dst.batch"]
    assert b'"halved": [[0, 6], [0, 3], [3, 3]]' in told
    assert made.outcomes() == {"neither": 5, "failed": 1}
    assert "halved" not in " ".join(made.names)
    monkeypatch.undo()
    compare(made, study(tmp_path, study_cases.cases(6), batch_cases=6, measures=(), fresh=True))


def test_a_case_that_does_not_fit_by_itself_is_a_failed_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(model: Any, cases: Sequence[Case], account: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(worker, "over_cases", none)
    made = study(tmp_path, study_cases.cases(2))
    assert made.failures() == {"The case does not fit into memory by itself.": 2}


def breaking(error: Exception) -> Callable[..., Any]:
    def trace(*given: Any, **how: Any) -> Any:
        raise error

    return trace


def test_a_case_that_breaks_the_code_is_a_row_that_names_the_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dst.studies.rows.measure", breaking(ZeroDivisionError("by zero")))
    row = study(tmp_path, study_cases.cases(1)).to_records()[0]
    assert row["reason"] == "A fault of dst or of the model's code: ZeroDivisionError: by zero"
    assert row["reason_kind"] == "ZeroDivisionError"


@pytest.mark.parametrize("error", [OSError("disk"), RuntimeError("CUDA error: device lost")])
def test_a_fault_that_is_not_the_cases_stops_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("dst.studies.rows.measure", breaking(error))
    with pytest.raises(type(error)):
        study(tmp_path, study_cases.cases(1))
    monkeypatch.undo()
    assert study(tmp_path, study_cases.cases(1)).outcomes() == {"neither": 1}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"engine": "spark"}, "There is no engine 'spark'; expected local or ray."),
        ({"workers": 0}, "workers is 0; expected 1 or more."),
        ({"draws": 0}, "draws is 0; expected 1 or more."),
        ({"some": []}, "There are no cases; expected one or more."),
        ({"labels": "no.such:thing"}, "The labels 'no.such:thing' cannot be imported"),
        ({"loading": {"dtype": "float32"}}, "loading was given with a model that is loaded"),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing_behind(
    tmp_path: Path, given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError) as caught:
        study(tmp_path / "out", **given)
    assert str(caught.value).startswith(sentence)
    assert list(tmp_path.iterdir()) == []


def test_a_lens_of_another_model_is_refused_before_anything_runs(tmp_path: Path) -> None:
    from dst.tracing.reference import shipped_lens

    lens, _ = shipped_lens(dst.load(check=False))
    with pytest.raises(InputError):
        study(tmp_path / "out", lens=lens)
    assert list(tmp_path.iterdir()) == []


def test_the_room_of_a_batch_of_runs_is_fixed_when_the_study_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, seen = iter(range(1 << 20, 2 << 20)), []
    monkeypatch.setattr(memory, "free_bytes", lambda device: next(free) * 4)

    def row(model: Any, case: Case, **how: Any) -> dict[str, Any]:
        seen.append(memory.budget(memory.device_of(model)))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return {"status": "ok"}

    monkeypatch.setattr(worker, "measured_row", row)
    with pytest.raises(StudyInterrupted):
        study(tmp_path, CASES[:3], batch_cases=1)
    study(tmp_path, CASES[:3], batch_cases=1)
    assert len(seen) == 4
    assert set(seen) == {1 << 20}
    assert memory.budget(memory.device_of(study_cases.model())) > 1 << 20


# -- labels --------------------------------------------------------------------------------------


def kind(case: Case) -> dict[str, Any]:
    """A label from the case alone."""
    if case.subject == "xylophone":
        raise CaseError("It has no kind", field="subject")
    return {"kind": "animal" if case.group in ("bass", "bat", "crane") else "thing", "length": 1.5}


def rate(model: Any, case: Case) -> dict[str, Any]:
    """A label that asks the model."""
    rate = float(model.spec.n_layers) + len(case.contextual)
    return {"error_rate": rate, "undefined": math.nan}


def test_labels_are_columns(tmp_path: Path) -> None:
    made = study(tmp_path, measures=(), labels=kind)
    kinds = made.column("kind").tolist()
    assert kinds == ["animal", "animal", "animal", None, "animal", "animal", "animal", "animal"]
    assert made.column("length").tolist()[:3] == [1.5] * 3
    assert made.column("labels_reason")[3].startswith("It has no kind")
    assert made.study["settings"]["labels"].endswith("test_study.kind")
    with pytest.raises(InputError, match=r"labels was .*test_study\.kind and is nothing"):
        study(tmp_path, measures=())


def test_labels_by_name_are_asked_where_the_model_is(tmp_path: Path) -> None:
    made = study(tmp_path, study_cases.cases(2), measures=(), labels=f"{__name__}:rate")
    assert made.column("error_rate").tolist() == [4.0, 4.0]
    assert made.arrow.column("undefined").null_count == 2


def test_a_label_may_not_take_a_columns_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="The labels name the column 'outcome'"):
        study(tmp_path, study_cases.cases(1), measures=(), labels=lambda case: {"outcome": "x"})


def test_a_label_that_is_text_here_and_a_number_there_is_refused(tmp_path: Path) -> None:
    mixed = {"case-0": 1, "case-1": "one"}
    with pytest.raises(InputError, match="The column 'x' cannot be stored"):
        study(tmp_path, study_cases.cases(2), measures=(), labels=lambda c: {"x": mixed[c.case_id]})
