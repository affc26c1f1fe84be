"""What a measurement costs, known before it: planned work equals the work that is done."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import dst
from dst import cli
from dst.core.errors import CapabilityError, InputError
from dst.core.sites import Site
from dst.core.suggestion import Suggestion
from dst.models.dry import DryEngine, history
from dst.models.hooks import HooksBackend
from dst.models.meter import Work, count, kept_for_later, metered
from dst.studies.rows import measured_row
from dst.testbed import world
from dst.tracing.replay import Cell, Change, record_base, run_cells
from tests import tiny

PROMPT = "Anna is at the lake. Anna sees a bass. What is the bass? The bass is a kind of"
NAMED = dst.Case(prompt=PROMPT, contextual="fish", associative="instrument", subject="bass",
                 cue="at the lake")  # fmt: skip
BARE = dst.Case(prompt=PROMPT, contextual="fish", associative="instrument")


@pytest.fixture(scope="module")
def model() -> Any:
    return dst.load()


# -- planned against done ----------------------------------------------------------------------


def test_what_is_planned_is_what_is_done(model: HooksBackend) -> None:
    """Hits and misses, twins, stories of several lengths: to the last run."""
    found = world.cases("test", n=20, seed=3)
    named = [case for case in found if case.cue and case.subject]
    twins = world.cases("test", n=2, seed=3, kinds=("plain",), askings=("yesno",))
    outcomes = set()
    for case in (*named[:4], *twins):
        cost = dst.estimate(model, case, draws=3)
        with metered() as work:
            report = dst.explain(model, case, draws=3)
        outcomes.add(report.outcome)
        done = work.forwards(len(report.trace.ids), model.spec.n_layers)
        # Doses are planned as if every state could be pushed over.
        assert done <= cost.forwards.mean + 1e-9
        assert done == pytest.approx(cost.forwards.mean, rel=0.02)
        assert cost.forwards.low == cost.forwards.high == cost.forwards.mean
        assert work.passes == pytest.approx(cost.passes, abs=2)
        said = re.search(r"took ([\d.,]+) forward-equivalents", report.notes[-1])
        assert said
        assert float(said[1].replace(",", "")) == pytest.approx(done, abs=0.06)
    assert len(outcomes) > 1


def test_what_is_inferred_lies_between_the_least_and_the_most(model: HooksBackend) -> None:
    cost = dst.estimate(model, BARE, draws=3)
    with metered() as work:
        report = dst.explain(model, BARE, draws=3)
    done = work.forwards(len(report.trace.ids), model.spec.n_layers)
    assert report.suggestion is not None
    assert isinstance(report.suggestion, Suggestion)
    assert report.suggestion.inferred
    assert cost.forwards.low < done <= cost.forwards.high
    assert "inferred" in cost.notes[0]


def test_more_draws_and_failure_modes_cost_more(model: HooksBackend) -> None:
    few, some, many = (dst.estimate(model, NAMED, draws=n).forwards.mean for n in (2, 4, 6))
    assert 1.3 * few < some
    assert 1.15 * some < many
    plain, named = (dst.estimate(model, [NAMED], failure=f).forwards.mean for f in (False, True))
    assert named > 1.2 * plain


def test_a_study_is_its_cases_added_up(model: HooksBackend) -> None:
    cases = world.cases("test", n=6, seed=1)
    cost = dst.estimate(model, cases, draws=2)
    done = 0.0
    for case in cases:
        with metered() as work:
            measured_row(model, case, draws=2, seed=0)
        done += work.forwards(len(dst.trace(model, case).ids), model.spec.n_layers)
    assert (cost.n_cases, cost.worked_out, cost.refused) == (6, 6, 0)
    assert cost.forwards.mean == pytest.approx(done, rel=0.02)
    some = dst.estimate(model, cases, draws=2, sample=3)
    assert some.worked_out == 3
    assert some.forwards.low < some.forwards.mean < some.forwards.high
    assert "3 of 6" in some.notes[0]


def test_nothing_is_measured_for_it(model: HooksBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt itself and the timed batches are all that is run."""
    ran: list[int] = []
    whole = HooksBackend._logits

    def logits(self: HooksBackend, request: Any) -> torch.Tensor:
        ran.append(len(request.batch.ids))
        return whole(self, request)

    monkeypatch.setattr(HooksBackend, "_logits", logits)
    before = {name: weight.clone() for name, weight in model.model.named_parameters()}
    cost = dst.estimate(model, NAMED)
    assert cost.passes > 20
    assert len(ran) <= 8
    assert all(torch.equal(weight, before[n]) for n, weight in model.model.named_parameters())


def test_time_and_bytes_are_told(model: HooksBackend, tmp_path: Path) -> None:
    cost = dst.estimate(model, NAMED, draws=3)
    report = dst.explain(model, NAMED, draws=3)
    assert 0 <= cost.seconds.low <= cost.seconds.mean <= cost.seconds.high
    assert cost.memory > 1 << 20
    saved = report.save(tmp_path / "report.npz").stat().st_size
    assert saved / 4 < cost.output < 40 * saved  # before compression
    text = str(cost)
    assert text.startswith("1 case: ")
    assert "forward-equivalents" in text
    assert dst.open_result(cost.save(tmp_path / "cost.npz")).forwards.mean == cost.forwards.mean


def test_what_cannot_be_estimated_is_a_sentence(model: HooksBackend) -> None:
    with pytest.raises(InputError, match="no cases"):
        dst.estimate(model, [])
    with pytest.raises(InputError, match="sample is 0"):
        dst.estimate(model, [NAMED], sample=0)
    unknown = NAMED.replace(prompt=f"A zyzzyva hums. {PROMPT}")
    with pytest.raises(dst.InputError, match="zyzzyva"):
        dst.estimate(model, unknown)
    with pytest.raises(InputError, match="None of the 1 cases"):
        dst.estimate(model, [unknown])
    assert dst.estimate(model, [NAMED, unknown], draws=2).refused == 1
    with pytest.raises(CapabilityError, match="hooks"):
        dst.estimate(object(), NAMED)  # type: ignore[arg-type]


# -- the engine that computes nothing -----------------------------------------------------------


def test_states_are_equal_where_the_tokens_before_are() -> None:
    ids = torch.tensor([[5, 7, 9, 9], [5, 7, 8, 9], [6, 7, 9, 9]])
    same = history(ids)[:, None] == history(ids)[None]
    assert same[0, 1].tolist() == [True, True, False, False]
    assert same[0, 2].tolist() == [False] * 4
    table = torch.randint(0, 50_000, (2_000, 12), generator=torch.Generator().manual_seed(0))
    assert len(torch.unique(history(table)[:, -1])) > 1_995


@tiny.families()
def test_every_family_does_what_it_says(family: str) -> None:
    """Changes at every place of a prompt: the counted cells are those that are run."""
    model = tiny.backend(family)
    rows = [[5, 6, 7, 8, 9, 10], [5, 6, 11, 8, 9, 10]]
    dry = DryEngine(model, model.run(rows[:1], logits_at=[-1]).last_logits[0])

    def work(engine: HooksBackend) -> Work:
        with metered() as done:
            base = record_base(engine, rows)
            cells = [
                Cell(0, (Change(Site(layer, "resid_pre"), (p,), base.states[layer, 1, [p]]),))
                for layer in range(model.spec.n_layers)
                for p in range(6)
            ]
            run_cells(engine, base, cells, tokens=[1, 2])
        return done

    real, planned = work(model), work(dry)
    assert (real.token_blocks, real.calls) == (planned.token_blocks, planned.calls)
    assert real.passes == planned.passes


# -- the meter ---------------------------------------------------------------------------------


def test_work_is_positions_times_blocks() -> None:
    """Counted by hand: whole runs with their padding, and suffixes."""
    model = tiny.backend("llama")
    n_layers = model.spec.n_layers
    with metered() as work:
        model.run([[5, 6, 7], [5, 6, 7, 8]], logits_at=[-1])
    assert (work.token_blocks, work.calls, work.passes) == (2 * 4 * n_layers, n_layers, 1)
    base = record_base(model, [[5, 6, 7, 8, 9]])
    value = torch.ones(1, model.spec.d_model)
    change = Change(Site(0, "resid_pre"), (2,), value)
    with metered() as work:
        run_cells(model, base, [Cell(0, (change,))], tokens=[1])
    # Three positions on: all of them in every block but the last, where the one that is read
    # is worked on, and keys and values of the other two.
    assert work.token_blocks == 3 * (n_layers - 1) + 1 + 0.25 * 2
    assert work.calls == n_layers + 1
    assert work.forwards(5, n_layers) == work.token_blocks / (5 * n_layers)


def test_meters_nest_and_keep_apart_what_is_kept() -> None:
    with metered() as outer:
        count(10, 1)
        with metered() as inner, kept_for_later():
            count(5, 2)
    count(99, 9)
    assert (outer.token_blocks, outer.passes) == (10, 1)
    assert inner.token_blocks == 0
    assert outer.once is not None
    assert inner.once is not None
    assert (outer.once.token_blocks, inner.once.calls) == (5, 2)


# -- the command -------------------------------------------------------------------------------


def test_the_command_counts_a_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["estimate", PROMPT, "--contextual", "fish", "--associative", "instrument",
             "--subject", "bass", "--cue", "at the lake", "--draws", "2"]  # fmt: skip
    assert cli.main([*asked, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    known = dst.estimate(dst.load(), NAMED, draws=2)
    assert told["forwards"] == pytest.approx(known.forwards.mean)
    assert cli.main(asked) == 0
    assert "forward-equivalents" in capsys.readouterr().out


def test_the_command_counts_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text("".join(json.dumps(case.to_dict()) + "\n" for case in (NAMED, BARE)), "utf-8")
    assert cli.main(["estimate", str(path), "--draws", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["n_cases"], told["worked_out"]) == (2, 2)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ([PROMPT], "no cases file"),
        (["absent.jsonl"], "absent.jsonl"),
        ([PROMPT, "--contextual", "fish", "--draws", "0"], "--draws is 0"),
        ([PROMPT, "--contextual", "fish", "--twin", "proposed"], "only proposed"),
    ],
)
def test_the_command_refuses_in_a_sentence(
    asked: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["estimate", *asked]) == 2
    assert says in capsys.readouterr().err
