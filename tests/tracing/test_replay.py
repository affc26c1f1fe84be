"""Suffixes of changed runs against full runs: every family, site, op, cut, capture, receipt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dst.core.errors import CapabilityError, InterventionError, ModelError
from dst.core.sites import KINDS, Site, site_of_state
from dst.models import memory, suffix
from dst.models.backend import Edit
from dst.models.hooks import HooksBackend
from dst.models.memory import suffix_bytes
from dst.tracing import planning, replay
from dst.tracing.replay import Base, Cell, CellRuns, Change, Closed, record_base, run_cells
from tests import tiny

EDITED = tuple(kind for kind in KINDS if kind != "pattern")
EQUAL = 5e-6
"""Largest difference, relative to the largest logit, that rounding in another order leaves."""


def prompts(seed: int = 0, lengths: Sequence[int] = (9, 7, 9, 12)) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(5, 300, size=n).tolist() for n in lengths]


def random_change(
    model: Any, length: int, rng: np.random.Generator, kinds: Sequence[str] = EDITED
) -> Change:
    spec, kind = model.spec, kinds[int(rng.integers(len(kinds)))]
    n = int(rng.integers(1, 4))
    positions = tuple(rng.choice(length, size=n, replace=False).tolist())
    heads: tuple[int, ...] | None = None
    shape: tuple[int, ...] = (n, spec.d_model)
    if kind in ("q", "k", "v", "z"):
        n_heads = spec.heads_at(kind)
        if rng.random() < 0.5:
            some = rng.choice(n_heads, size=int(rng.integers(1, n_heads + 1)), replace=False)
            heads = tuple(some.tolist())
        shape = (n, n_heads if heads is None else len(heads), spec.d_head)
    value = torch.tensor(rng.normal(size=shape), dtype=torch.float32)
    site = Site(int(rng.integers(spec.n_layers)), kind)
    return Change(site, positions, value, "add" if rng.random() < 0.3 else "set", heads)


def random_cut(model: Any, length: int, rng: np.random.Generator) -> Closed:
    key = int(rng.integers(1, length - 2))  # windows are 5 wide: the next two can see it
    heads = None if rng.random() < 0.5 else (int(rng.integers(model.spec.n_heads)),)
    layer = int(rng.integers(model.spec.n_layers))
    return Closed(layer, tuple(range(key + 1, min(key + 3, length))), (key,), heads)


def random_cells(
    model: Any, rows: Sequence[Sequence[int]], n: int = 40, seed: int = 0, **kinds: Any
) -> list[Cell]:
    rng, cells = np.random.default_rng(seed), []
    for _ in range(n):
        row = int(rng.integers(len(rows)))
        length = len(rows[row])
        n_changes = int(rng.integers(0, 3))
        changes = [random_change(model, length, rng, **kinds) for _ in range(n_changes)]
        n_cuts = int(rng.integers(1, 3)) if not changes or rng.random() < 0.3 else 0
        cuts = [random_cut(model, length, rng) for _ in range(n_cuts)]
        cells.append(Cell(row, tuple(changes), tuple(cuts)))
    return cells


def in_full(model: Any, base: Base, cells: Sequence[Cell], **asked: Any) -> CellRuns:
    """The reference: the same cells by an engine that cannot replay."""
    other = HooksBackend(model.model, model.tokenizer)
    other.can = other.can - {"replay"}
    return run_cells(other, base, cells, **asked)


def assert_equal(found: CellRuns, known: CellRuns, lengths: Sequence[int] = ()) -> None:
    assert found.notes == ()  # else they were full runs
    gap = (found.logits - known.logits).abs().max()
    assert float(gap) <= EQUAL * float(known.logits.abs().max())
    np.testing.assert_array_equal(found.fired, known.fired)
    np.testing.assert_allclose(found.delta_norm, known.delta_norm, rtol=1e-5, atol=1e-5)
    assert set(found.states) == set(known.states)
    for site, states in known.states.items():
        scale = float(states.abs().max())
        for i, length in enumerate(lengths):
            gap = (found.states[site][i, :length] - states[i, :length]).abs().max()
            assert float(gap) <= EQUAL * scale, (site, i)


@pytest.fixture
def only_suffixes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called, full runs fail."""

    def refuse(*_: Any) -> None:
        raise AssertionError("these were to be suffixes")

    return lambda: monkeypatch.setattr(HooksBackend, "_logits", refuse)


# -- equal to full runs ----------------------------------------------------------------------


@tiny.families()
def test_every_change_and_cut(family: str, only_suffixes: Callable[[], None]) -> None:
    model, rows = tiny.backend(family), prompts()
    base, cells = record_base(model, rows), random_cells(model, rows)
    assert base.prefix is not None
    known = in_full(model, base, cells)
    only_suffixes()
    assert_equal(run_cells(model, base, cells), known)


@tiny.families()
def test_the_residual_at_every_state_and_position(family: str) -> None:
    """The grid that is patched most, whose last block is run at one position only."""
    model = tiny.backend(family)
    rows = prompts(lengths=(8, 8))  # these differ at the first word
    base, n_layers = record_base(model, rows), model.spec.n_layers
    cells = [
        Cell(0, (Change(site_of_state(state, n_layers), (p,), base.states[state, 1, p][None]),))
        for state in range(n_layers + 1)
        for p in range(8)
    ]
    found = run_cells(model, base, cells, tokens=(3, 17))
    assert_equal(found, in_full(model, base, cells, tokens=(3, 17)))
    # By plain edits, without a cell.
    edits = [
        Edit(site_of_state(i // 8, n_layers), [i], [i % 8], base.states[i // 8, 1, i % 8])
        for i in range(len(cells))
    ]
    plain = model.run([rows[0]] * len(cells), edits=edits, logits_at=[-1]).last_logits
    torch.testing.assert_close(found.logits[:, 0], plain[:, [3, 17]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_captured_states_logits_at_several_positions_and_some_tokens(family: str) -> None:
    model, rows = tiny.backend(family), prompts()
    base = record_base(model, rows, (-1, 2, -3))
    cells = random_cells(model, rows, seed=1)
    sites = [Site(0, "z"), Site(1, "resid_pre"), Site(1, "attn_out"), Site(1, "k")]
    sites += [Site(2, "resid_post"), Site(2, "mlp_out"), Site(0, "resid_post")]
    lengths = [len(rows[cell.row]) for cell in cells]
    for asked in ({"capture": sites}, {"capture": sites[:2], "tokens": [5, 7]}, {"tokens": [1]}):
        known = in_full(model, base, cells, **asked)
        assert_equal(run_cells(model, base, cells, **asked), known, lengths)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "falcon"])
def test_eager_attention(family: str) -> None:
    made = tiny.model(family, 403, attn_implementation="eager")
    model, rows = HooksBackend(made, tiny.byte_bpe()), prompts()
    base, cells = record_base(model, rows), random_cells(model, rows)
    assert_equal(run_cells(model, base, cells), in_full(model, base, cells))


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_count_from_the_first_real_token_of_a_padded_row(side: str) -> None:
    model, rows = tiny.backend("gpt2"), prompts(lengths=(9, 5))
    ids = torch.zeros(2, 9, dtype=torch.long)
    ids[0], mask = torch.tensor(rows[0]), torch.ones(2, 9, dtype=torch.bool)
    place = slice(4, 9) if side == "left" else slice(0, 5)
    mask[1] = False
    ids[1, place], mask[1, place] = torch.tensor(rows[1]), True
    value = torch.randn(2, model.spec.d_model, generator=torch.Generator().manual_seed(0))
    edit = Edit(Site(1, "resid_pre"), [1], [1, -1], value)
    known = model.run(ids, mask, edits=[edit], logits_at=[-1]).last_logits[1]
    cell = Cell(1, (Change(Site(1, "resid_pre"), (1, -1), value),))
    found = run_cells(model, record_base(model, rows), [cell]).logits[0, 0]
    torch.testing.assert_close(found, known, rtol=1e-4, atol=1e-4)


@settings(max_examples=12)
@given(seed=st.integers(0, 2**16), family=st.sampled_from(tiny.SIX), n_layers=st.integers(1, 4))
def test_random_cells_of_random_models(seed: int, family: str, n_layers: int) -> None:
    depth = "n_layer" if family == "gpt2" else "num_hidden_layers"
    made = tiny.model(family, 403, seed=seed, **{depth: n_layers})
    model = HooksBackend(made, tiny.byte_bpe())
    rng = np.random.default_rng(seed)
    rows = prompts(seed, rng.integers(4, 20, size=3).tolist())
    base = record_base(model, rows, (-1, 0))
    cells = random_cells(model, rows, 12, seed)
    capture = [Site(int(rng.integers(n_layers)), "mlp_out")]
    lengths = [len(rows[cell.row]) for cell in cells]
    known = in_full(model, base, cells, capture=capture)
    assert_equal(run_cells(model, base, cells, capture=capture), known, lengths)


def test_half_precision_runs() -> None:
    model = HooksBackend(tiny.model("llama", 403).to(torch.bfloat16), tiny.byte_bpe())
    rows = prompts()
    base, cells = record_base(model, rows), random_cells(model, rows)
    found, known = run_cells(model, base, cells), in_full(model, base, cells)
    assert found.notes == ()
    gap = (found.logits - known.logits).abs().max() / known.logits.abs().max()
    assert float(gap) < 0.05


# -- what is not run -------------------------------------------------------------------------


def test_a_cell_that_puts_what_is_there_is_not_run_and_is_exact(
    only_suffixes: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = tiny.backend("llama"), prompts()
    base = record_base(model, rows, (-1, 1))
    cells = [
        Cell(row, (Change(site_of_state(state, 3), (1, 3), base.states[state, row, [1, 3]]),))
        for state in range(4)
        for row in range(len(rows))
    ]
    only_suffixes()
    monkeypatch.setattr(suffix, "replay", None)
    ticks: list[int] = []
    found = run_cells(model, base, cells, tokens=[4, 9], tick=ticks.append)
    assert torch.equal(found.logits, base.logits[[c.row for c in cells]][..., [4, 9]])
    assert found.fired.tolist() == [2] * len(cells)
    assert found.delta_norm.tolist() == [0.0] * len(cells)
    assert sum(ticks) == len(cells)


def test_positions_that_put_what_is_there_are_left_out() -> None:
    model, rows = tiny.backend("llama"), prompts()
    base = record_base(model, rows)
    value = base.states[1, 0].clone()[:9]
    value[5] += 1
    cell = Cell(0, (Change(Site(1, "resid_pre"), tuple(range(9)), value),))
    (planned,) = planning.plan(base, [cell], 3, whole=False)
    assert planned is not None
    assert (planned.start, planned.first, planned.changes[0].positions) == (1, 5, (5,))
    assert_equal(run_cells(model, base, [cell]), in_full(model, base, [cell]))
    # Not where something was changed before: what the base has is no longer there.
    both = Cell(0, (Change(Site(0, "mlp_out"), (2,), value[:1], "add"), *cell.changes))
    (planned,) = planning.plan(base, [both], 3, whole=False)
    assert planned is not None
    assert (planned.start, planned.first) == (0, 0)
    assert_equal(run_cells(model, base, [both]), in_full(model, base, [both]))


def test_only_blocks_and_positions_after_the_change_are_computed() -> None:
    model, rows = tiny.backend("llama"), prompts(lengths=(9,))
    base = record_base(model, rows)
    seen: list[tuple[int, tuple[int, ...]]] = []
    blocks = model.model.model.layers
    handles = [
        block.mlp.register_forward_pre_hook(
            lambda module, args, layer=layer: seen.append((layer, tuple(args[0].shape[:2])))
        )
        for layer, block in enumerate(blocks)
    ]
    value = torch.ones(1, model.spec.d_model)
    cells = [Cell(0, (Change(Site(layer, "resid_pre"), (6,), value),)) for layer in (1, 2, 1)]
    run_cells(model, base, cells)
    for handle in handles:
        handle.remove()
    assert seen == [(1, (2, 3)), (2, (3, 1))]  # the third joins; then one position is read


def test_cells_of_other_positions_share_a_batch_where_calls_cost_more() -> None:
    model, rows = tiny.backend("llama"), prompts(lengths=(9,))
    value = torch.ones(1, model.spec.d_model)
    cells = [Cell(0, (Change(Site(0, "resid_pre"), (p,), value),)) for p in range(9)]
    planned = planning.plan(record_base(model, rows), cells, 3, whole=False)
    todo = [cell for cell in planned if cell is not None]
    assert len(list(planning.batches(model, todo, lambda length, first: 99))) == 1
    parts = list(planning.batches(model, todo, lambda length, first: 4))
    assert sorted(cell.index for part in parts for cell in part) == list(range(9))
    assert max(map(len, parts)) == 4
    assert planning.call_worth(model) > 9


# -- memory ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama() -> Any:
    return tiny.backend("llama")


def test_the_size_of_a_batch_changes_nothing(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = prompts()
    cells = random_cells(llama, rows)
    known = in_full(llama, record_base(llama, rows), cells)
    monkeypatch.setattr(replay, "MOST_TOKENS", 20)
    assert_equal(run_cells(llama, record_base(llama, rows), cells), known)
    # No room for anything: one run at a time, keys and values of one row at a time.
    monkeypatch.setattr(memory, "budget", lambda device: 1)
    base = record_base(llama, rows)
    assert base.prefix is None
    assert_equal(run_cells(llama, base, cells), known)


def test_a_batch_that_does_not_fit_is_halved(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = prompts()
    base, cells = record_base(llama, rows), random_cells(llama, rows)
    known, whole = in_full(llama, base, cells), suffix.replay

    def small(engine: Any, prefix: Any, state: Any, runs: Any) -> Any:
        if len(runs.rows) > 3:
            raise torch.OutOfMemoryError
        return whole(engine, prefix, state, runs)

    monkeypatch.setattr(suffix, "replay", small)
    found = run_cells(llama, base, cells)
    assert found.notes
    assert all("did not fit into memory and was halved" in note for note in found.notes)
    np.testing.assert_array_equal(found.fired, known.fired)
    torch.testing.assert_close(found.logits, known.logits, rtol=1e-4, atol=1e-4)

    def none(*_: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(suffix, "replay", none)
    with pytest.raises(ModelError, match=r"^One run does not fit into memory\. Shorten the"):
        run_cells(llama, base, cells)


def test_full_runs_that_do_not_fit_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = tiny.backend("gpt2"), prompts()
    model.can = model.can - {"replay"}
    base, cells = record_base(model, rows), random_cells(model, rows)
    known, whole = run_cells(model, base, cells), HooksBackend._logits

    def small(self: HooksBackend, request: Any) -> torch.Tensor:
        if len(request.batch.ids) > 7:
            raise torch.OutOfMemoryError
        return whole(self, request)

    monkeypatch.setattr(HooksBackend, "_logits", small)
    found = run_cells(model, base, cells)
    assert found.notes
    np.testing.assert_array_equal(found.fired, known.fired)
    torch.testing.assert_close(found.logits, known.logits, rtol=1e-4, atol=1e-4)


def test_a_long_prompt_stays_within_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny.model("llama", 403, max_position_embeddings=1024)
    model, rows = HooksBackend(made, tiny.byte_bpe()), prompts(lengths=(1024, 1024))
    base, room, sizes = record_base(model, rows), 40 << 20, list[tuple[int, int]]()
    monkeypatch.setattr(memory, "budget", lambda device: room)
    whole = suffix.replay

    def noted(engine: Any, prefix: Any, state: Any, runs: Any) -> Any:
        sizes.append((len(runs.rows), suffix_bytes(model, 1024 - runs.first, 1024, 0)))
        return whole(engine, prefix, state, runs)

    monkeypatch.setattr(suffix, "replay", noted)
    groups = [(p,) for p in range(0, 1024, 64)] + [tuple(range(a, a + 256)) for a in (0, 256, 768)]
    cells = [
        Cell(0, (Change(Site(layer, "resid_pre"), group, base.states[layer, 1, list(group)]),))
        for layer in range(3)
        for group in groups
    ]
    found = run_cells(model, base, cells, tokens=[1, 2])
    assert all(n == 1 or n * each <= room for n, each in sizes)
    assert sum(n for n, _ in sizes) == len(cells)
    some = list(range(0, len(cells), 9))
    known = in_full(model, base, [cells[i] for i in some], tokens=[1, 2])
    torch.testing.assert_close(found.logits[some], known.logits, rtol=1e-4, atol=1e-4)


# -- nothing of the model is left changed ----------------------------------------------------


def hooks_of(model: Any) -> list[int]:
    return [
        len(hooks)
        for module in model.model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_run_that_is_broken_off_leaves_the_model_as_it_was(error: type[BaseException]) -> None:
    model, rows = tiny.backend("llama"), prompts()
    model.model.train()
    base, cells = record_base(model, rows), random_cells(model, rows)
    known = run_cells(model, base, cells)
    weights = {name: weight.clone() for name, weight in model.model.state_dict().items()}
    before, calls = hooks_of(model), iter(range(4))

    def stop(*_: Any) -> None:
        if next(calls, None) is None:
            raise error

    handle = model.model.model.layers[2].mlp.register_forward_hook(stop)
    with pytest.raises(error):
        run_cells(model, base, cells)
    handle.remove()
    assert hooks_of(model) == before
    assert all(module.training for module in model.model.modules())
    for name, weight in model.model.state_dict().items():
        assert torch.equal(weight, weights[name])
    assert torch.equal(run_cells(model, base, cells).logits, known.logits)
    assert hooks_of(model) == before


def test_what_is_given_is_not_changed(llama: Any) -> None:
    rows = prompts()
    base, cells = record_base(llama, rows), random_cells(llama, rows)
    assert base.prefix is not None
    tensors = [base.states, base.logits, *base.prefix.keys, *base.prefix.values]
    tensors += [change.value for cell in cells for change in cell.changes]
    copies = [tensor.clone() for tensor in tensors]
    run_cells(llama, base, cells)
    assert all(torch.equal(*pair) for pair in zip(tensors, copies, strict=True))


def test_two_threads_with_one_model(llama: Any) -> None:
    rows = prompts()
    base = record_base(llama, rows)
    plans = [random_cells(llama, rows, seed=seed) for seed in range(4)]
    known = [run_cells(llama, base, cells).logits for cells in plans]
    found: dict[int, torch.Tensor] = {}

    def work(i: int) -> None:
        found[i] = run_cells(llama, base, plans[i]).logits

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(plans))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, logits in enumerate(known):
        assert torch.equal(found[i], logits)


# -- other engines ---------------------------------------------------------------------------


class Own(HooksBackend):
    """An engine that runs in a way of its own: a replay would go round it."""

    def run(self, *args: Any, **kwargs: Any) -> Any:
        return super().run(*args, **kwargs)


def test_an_engine_with_a_run_of_its_own_runs_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny.model("llama", 403)
    model, rows = Own(made, tiny.byte_bpe()), prompts()
    monkeypatch.setattr(suffix, "record", None)
    monkeypatch.setattr(suffix, "replay", None)
    base, cells = record_base(model, rows), random_cells(model, rows)
    assert base.prefix is None
    assert run_cells(model, base, cells).logits.shape == (40, 1, 403)


def test_what_turns_out_not_to_be_possible_runs_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = tiny.backend("llama"), prompts()
    kept, cells = record_base(model, rows), random_cells(model, rows)
    known = in_full(model, kept, cells)

    def refuse(*_: Any) -> Any:
        raise CapabilityError("This model's blocks are given a riddle")

    monkeypatch.setattr(suffix, "calls_of", refuse)
    base = record_base(model, rows)
    assert base.prefix is None
    assert torch.equal(base.logits, kept.logits)
    found = run_cells(model, base, cells)
    assert found.notes == ("Full runs: This model's blocks are given a riddle.",)
    assert torch.equal(found.logits, known.logits)
    np.testing.assert_array_equal(found.fired, known.fired)


def test_patterns_are_captured_by_full_runs(llama: Any) -> None:
    rows = prompts()
    base, cells = record_base(llama, rows), random_cells(llama, rows, 5)
    found = run_cells(llama, base, cells, capture=[Site(1, "pattern")])
    known = in_full(llama, base, cells, capture=[Site(1, "pattern")])
    assert torch.equal(found.states[Site(1, "pattern")], known.states[Site(1, "pattern")])


def test_bases_are_joined_row_by_row(llama: Any) -> None:
    one, two = prompts(0, (9, 7)), prompts(1, (12, 9))
    parts = [record_base(llama, rows) for rows in (one, two)]
    joined = Base.joined(parts)
    assert joined.rows == (*parts[0].rows, *parts[1].rows)
    assert joined.prefix is not None
    cells = random_cells(llama, joined.rows)
    assert_equal(run_cells(llama, joined, cells), in_full(llama, joined, cells))
    assert Base.joined(parts[:1]) is parts[0]


# -- errors ----------------------------------------------------------------------------------


def wrong(change: Change | None = None, row: int = 0, cuts: tuple[Closed, ...] = ()) -> Cell:
    return Cell(row, () if change is None else (change,), cuts)


ONE = torch.ones(64)
WRONG = {
    "The site resid_pre.3 does not exist": wrong(Change(Site(3, "resid_pre"), (1,), ONE)),
    "Cell 1 names no position at resid_pre.0": wrong(Change(Site(0, "resid_pre"), (), ONE)),
    "names position 9 of a prompt with 9 tokens": wrong(Change(Site(0, "z"), (9,), ONE)),
    r"has shape \(1, 5\)": wrong(Change(Site(0, "mlp_out"), (1,), torch.ones(5))),
    "names a place twice": wrong(Change(Site(0, "resid_pre"), (1, -8), ONE)),
    "names head 4": wrong(Change(Site(0, "z"), (1,), ONE[:16], heads=(4,))),
    "names heads": wrong(Change(Site(0, "mlp_out"), (1,), ONE, heads=(0,))),
    "The site pattern.0 cannot be edited": wrong(Change(Site(0, "pattern"), (1,), ONE)),
    "has NaN or infinity": wrong(Change(Site(0, "resid_pre"), (1,), ONE * float("nan"))),
    "Cell 1 names row 4": wrong(Change(Site(0, "resid_pre"), (1,), ONE), row=4),
    "Cell 1 changes and cuts nothing": wrong(),
    "The cut at layer 3 does not exist": wrong(cuts=(Closed(3, (2,), (1,)),)),
    "The cut at layer 0 cuts nothing": wrong(cuts=(Closed(0, (1,), (2,)),)),
    "The cuts at layer 0 leave a query without keys": wrong(cuts=(Closed(0, (1,), (0, 1)),)),
}


@pytest.mark.parametrize("can_replay", [True, False])
@pytest.mark.parametrize("sentence", WRONG)
def test_a_cell_that_cannot_be_carried_out(llama: Any, sentence: str, can_replay: bool) -> None:
    base = record_base(llama, prompts())
    good = Cell(1, (Change(Site(0, "resid_pre"), (1,), ONE),))
    run = run_cells if can_replay else in_full
    with pytest.raises((InterventionError, CapabilityError), match=sentence) as caught:
        run(llama, base, [good, WRONG[sentence]])
    assert "\n" not in str(caught.value)


def test_one_of_many_values_is_not_finite(llama: Any) -> None:
    base = record_base(llama, prompts())
    value = [ONE, ONE, ONE * float("inf")]
    cells = [Cell(0, (Change(Site(0, "resid_pre"), (1,), v),)) for v in value]
    with pytest.raises(InterventionError, match="has NaN or infinity"):
        run_cells(llama, base, cells)


def test_logits_that_are_not_finite() -> None:
    model = tiny.backend("llama")
    base = record_base(model, prompts())
    with torch.no_grad():
        model.model.lm_head.weight[3] = float("nan")
    cell = Cell(0, (Change(Site(0, "resid_pre"), (1,), ONE),))
    with pytest.raises(ModelError, match="NaN or infinite logits"):
        run_cells(model, base, [cell], tokens=[3])


def test_no_cell_at_all(llama: Any) -> None:
    base = record_base(llama, prompts(), (-1, 0))
    found = run_cells(llama, base, [], tokens=[1, 2, 3], capture=[Site(0, "z")])
    assert found.logits.shape == (0, 2, 3)
    assert len(found.fired) == len(found.delta_norm) == len(found.states[Site(0, "z")]) == 0
