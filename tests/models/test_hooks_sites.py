"""The reference engine's sites, against Llama and GPT-2 written out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dst.core.errors import CapabilityError, InputError, InterventionError, ModelError
from dst.core.sites import KINDS, RESIDUAL_KINDS, Site
from dst.models.backend import Edit
from dst.models.hooks import HooksBackend
from tests import tiny
from tests.models.manual import FORWARD, recorded

ROWS = [[5, 9, 33, 7, 100, 6, 8], [11, 3, 3, 80], [9]]
BOTH = pytest.mark.parametrize("family", FORWARD)
LAYERS = range(3)


def close(a: torch.Tensor, b: torch.Tensor, scale: float | None = None) -> None:
    """Equal to 1e-5 of the largest value: what two orders of summing may differ by."""
    assert a.shape == b.shape
    largest = float(b.abs().max()) if scale is None else scale
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * largest)


def changed(family: str, engine: HooksBackend, site: Site, put: Any) -> Any:
    """The manual forward of the first row with one site changed by ``put``."""

    def change(layer: int, kind: str, value: torch.Tensor) -> torch.Tensor:
        return put(value.clone()) if (layer, kind) == (site.layer, site.kind) else value

    return recorded(family, engine.model, ROWS[0], change)


# -- captures -------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_every_site_of_every_row_is_what_the_formula_says(family: str, implementation: str) -> None:
    engine = tiny.backend(family, attn_implementation=implementation)
    sites = [Site(layer, kind) for layer in LAYERS for kind in KINDS]
    run = engine.run(ROWS, capture=sites)
    assert list(run.states) == sites
    assert run.lengths.tolist() == [7, 4, 1]
    for row, ids in enumerate(ROWS):
        logits, seen = recorded(family, engine.model, ids)
        n = len(ids)
        close(run.logits[row, :n], logits)
        for site in sites:
            state = run.states[site][row]
            state = state[:, :n, :n] if site.kind == "pattern" else state[:n]
            close(state, seen[site.layer, site.kind])


@BOTH
def test_a_pattern_reads_only_what_came_before_and_sums_to_one(family: str) -> None:
    engine = tiny.backend(family)
    (pattern,) = engine.run(ROWS, capture=[Site(1, "pattern")]).states.values()
    assert pattern.shape == (3, 4, 7, 7)
    torch.testing.assert_close(pattern.sum(-1), torch.ones(3, 4, 7))
    assert not pattern.triu(1).any()


@BOTH
def test_logits_are_given_where_they_are_asked_for(family: str) -> None:
    engine = tiny.backend(family)
    whole = engine.run(ROWS).logits
    last = engine.run(ROWS, logits_at=[-1])
    assert last.logit_positions.tolist() == [[6], [3], [0]]
    assert last.logits.shape == (3, 1, engine.spec.d_vocab)
    close(last.last_logits, torch.stack([whole[0, 6], whole[1, 3], whole[2, 0]]))
    own = engine.run(ROWS[:2], logits_at=[[0, -1], [1, 2]])
    assert own.logit_positions.tolist() == [[0, 6], [1, 2]]
    close(own.logits, torch.stack([whole[0, [0, 6]], whole[1, [1, 2]]]))


def test_states_are_captured_after_the_edits_at_their_site() -> None:
    engine = tiny.backend("llama")
    site = Site(1, "resid_pre")
    value = torch.arange(64.0)
    run = engine.run(ROWS[:1], capture=[site], edits=[Edit(site, [0], [2], value)])
    assert torch.equal(run.states[site][0, 2], value)


def test_what_is_captured_is_a_copy() -> None:
    engine = tiny.backend("falcon")  # adds attention to the MLP's tensor in place
    sites = [Site(1, kind) for kind in RESIDUAL_KINDS]
    run = engine.run(ROWS[:1], capture=sites)
    pre, attn, mlp, post = (run.states[site] for site in sites)
    close(pre + attn + mlp, post)
    assert len({state.data_ptr() for state in run.states.values()}) == 4


# -- edits ----------------------------------------------------------------------------------

EDITABLE = [kind for kind in KINDS if kind != "pattern"]


@BOTH
@pytest.mark.parametrize("op", ["set", "add"])
@pytest.mark.parametrize("kind", EDITABLE)
def test_an_edit_changes_its_places_and_what_follows(family: str, kind: str, op: str) -> None:
    engine = tiny.backend(family)
    site = Site(1, kind)
    heads = engine.spec.heads_at(kind)
    shape = (2, 64) if kind in RESIDUAL_KINDS else (2, heads, 16)
    value = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    places = [1, -2]

    def put(state: torch.Tensor) -> torch.Tensor:
        state[places] = value if op == "set" else state[places] + value
        return state

    logits, seen = changed(family, engine, site, put)
    _, before = recorded(family, engine.model, ROWS[0])
    after = [Site(layer, k) for layer in LAYERS for k in EDITABLE]
    edit = Edit(site, [0], places, value, op=op)  # type: ignore[arg-type]
    run = engine.run(ROWS[:2], capture=after, edits=[edit])
    close(run.logits[0], logits)
    for other in after:
        close(run.states[other][0], seen[other.layer, other.kind])
    # The other row is as it was.
    alone, _ = recorded(family, engine.model, ROWS[1])
    close(run.logits[1, :4], alone)
    (receipt,) = run.receipts
    assert (receipt.where, receipt.fired, receipt.rows) == (f"{op} {kind}.1", 2, (0,))
    delta = (seen[1, kind] - before[1, kind]).pow(2).sum() ** 0.5
    assert receipt.delta_norm == pytest.approx(float(delta), rel=1e-5)


@BOTH
@pytest.mark.parametrize("kind", ["q", "k", "v", "z"])
def test_an_edit_of_some_heads_leaves_the_others(family: str, kind: str) -> None:
    engine = tiny.backend(family)
    site, head = Site(2, kind), engine.spec.heads_at(kind) - 1
    value = torch.randn(7, 1, 16, generator=torch.Generator().manual_seed(2))

    def put(state: torch.Tensor) -> torch.Tensor:
        state[:, head] = value[:, 0]
        return state

    logits, seen = changed(family, engine, site, put)
    edit = Edit(site, [0], range(7), value, heads=[head])
    run = engine.run(ROWS[:1], capture=[site, Site(2, "attn_out")], edits=[edit])
    close(run.logits[0], logits)
    close(run.states[site][0], seen[2, kind])
    close(run.states[Site(2, "attn_out")][0], seen[2, "attn_out"])


def test_heads_are_changed_in_the_order_given() -> None:
    engine = tiny.backend("gpt2")
    site = Site(0, "z")
    value = torch.stack([torch.full((16,), 2.0), torch.full((16,), 1.0)])
    edit = Edit(site, [0], [3], value, heads=[2, 1])
    state = engine.run(ROWS[:1], capture=[site], edits=[edit]).states[site]
    assert (state[0, 3, 2] == 2).all()
    assert (state[0, 3, 1] == 1).all()
    assert not (state[0, 3, 0] == 1).any()


def test_positions_may_differ_by_row_and_count_from_each_rows_end() -> None:
    engine = tiny.backend("llama")
    site = Site(0, "resid_post")
    base = engine.run(ROWS[:2], capture=[site]).states[site]
    value = torch.randn(2, 2, 64)
    edit = Edit(site, [1, 0], [[0, -1], [-1, -7]], value, op="add")
    run = engine.run(ROWS[:2], capture=[site], edits=[edit])
    expected = base.clone()
    expected[1, 0] += value[0, 0]
    expected[1, 3] += value[0, 1]
    expected[0, 6] += value[1, 0]
    expected[0, 0] += value[1, 1]
    close(run.states[site][0], expected[0])
    close(run.states[site][1, :4], expected[1, :4])
    assert run.receipts[0].fired == 4
    assert run.receipts[0].delta_norm == pytest.approx(float(value.norm()), rel=1e-5)


@pytest.mark.parametrize("shape", [(), (64,), (1, 64), (3, 64), (2, 1, 64), (2, 3, 64), (2, 3, 1)])
def test_a_value_is_broadcast_to_row_position_width(shape: tuple[int, ...]) -> None:
    engine = tiny.backend("llama")
    site = Site(1, "mlp_out")
    value = torch.randn(shape)
    edit = Edit(site, [0, 1], [0, 1, 2], value)
    state = engine.run(ROWS[:2], capture=[site], edits=[edit]).states[site]
    assert torch.equal(state[:, :3], value.expand(2, 3, 64))


def test_edits_at_one_site_are_made_in_order() -> None:
    engine = tiny.backend("llama")
    site = Site(1, "resid_pre")
    two, three = torch.tensor(2.0), torch.tensor(3.0)
    edits = [Edit(site, [0], [1], two), Edit(site, [0], [1], three, op="add")]
    run = engine.run(ROWS[:1], capture=[site], edits=edits)
    assert (run.states[site][0, 1] == 5).all()
    assert [receipt.fired for receipt in run.receipts] == [1, 1]
    assert run.receipts[1].delta_norm == pytest.approx(3 * 64**0.5)


def test_a_value_of_another_type_takes_the_models() -> None:
    engine = tiny.backend("llama")
    site = Site(1, "resid_pre")
    edit = Edit(site, [0], [1], torch.full((64,), 2, dtype=torch.int64))
    run = engine.run(ROWS[:1], capture=[site], edits=[edit])
    assert run.states[site].dtype == torch.float32
    assert (run.states[site][0, 1] == 2).all()


ONE = torch.ones(())
WRONG_EDITS: dict[str, tuple[Edit, str]] = {
    "layer": (Edit(Site(3, "resid_pre"), [0], [0], ONE), "resid_pre.3 does not exist; expected a"),
    "row": (Edit(Site(0, "resid_pre"), [2], [0], ONE), "names row 2; expected a row from 0 to 1"),
    "negative row": (Edit(Site(0, "resid_pre"), [-1], [0], ONE), "names row -1"),
    "no row": (Edit(Site(0, "resid_pre"), [], [0], ONE), "names no row or no position"),
    "no position": (Edit(Site(0, "resid_pre"), [0], [], ONE), "names no row or no position"),
    "no position of a row": (
        Edit(Site(0, "resid_pre"), [0], [[]], ONE),
        "has 1 lists of positions for 1 rows; expected one list for all rows, or one for each, n",
    ),
    "position": (
        Edit(Site(0, "resid_pre"), [1], [4], ONE),
        "names position 4 of a prompt with 4 tokens; expected a position inside the prompt",
    ),
    "negative position": (Edit(Site(0, "resid_pre"), [1], [-5], ONE), "names position -5 of a"),
    "lists for rows": (
        Edit(Site(0, "resid_pre"), [0, 1], [[0], [1], [2]], ONE),
        "has 3 lists of positions for 2 rows",
    ),
    "uneven lists": (
        Edit(Site(0, "resid_pre"), [0, 1], [[0], [1, 2]], ONE),
        "lists of positions of unequal length",
    ),
    "a place twice": (Edit(Site(0, "resid_pre"), [0], [6, -1], ONE), "names a place twice"),
    "a row twice": (Edit(Site(0, "resid_pre"), [0, 0], [1], ONE), "names a place twice"),
    "op": (Edit(Site(0, "resid_pre"), [0], [0], ONE, op="mul"), "the op 'mul'; expected 'set'"),  # type: ignore[arg-type]
    "heads elsewhere": (
        Edit(Site(0, "attn_out"), [0], [0], ONE, heads=[0]),
        "names heads; expected heads at q, k, v, z only",
    ),
    "head": (Edit(Site(0, "q"), [0], [0], ONE, heads=[4]), "names head 4; expected a head from 0"),
    "kv head": (Edit(Site(0, "k"), [0], [0], ONE, heads=[2]), "names head 2; .* from 0 to 1"),
    "no head": (Edit(Site(0, "q"), [0], [0], ONE, heads=[]), "names no head, or one twice"),
    "a head twice": (Edit(Site(0, "q"), [0], [0], ONE, heads=[1, 1]), "names no head, or one twi"),
    "shape": (
        Edit(Site(0, "resid_pre"), [0], [0, 1], torch.ones(3, 64)),
        r"has shape \(3, 64\); expected one that broadcasts to \(1, 2, 64\)",
    ),
    "too many rows": (
        Edit(Site(0, "resid_pre"), [0], [0], torch.ones(2, 1, 64)),
        r"has shape \(2, 1, 64\); expected one that broadcasts to \(1, 1, 64\)",
    ),
    "shape of heads": (
        Edit(Site(0, "z"), [0], [0], torch.ones(2, 16), heads=[0]),
        r"has shape \(2, 16\); expected one that broadcasts to \(1, 1, 1, 16\)",
    ),
    "NaN": (
        Edit(Site(0, "resid_pre"), [0], [0], torch.tensor(float("nan"))),
        "has NaN or infinity",
    ),
}


@pytest.mark.parametrize("name", WRONG_EDITS)
def test_an_edit_that_cannot_be_made_is_one_sentence(name: str) -> None:
    edit, sentence = WRONG_EDITS[name]
    with pytest.raises(InterventionError, match=sentence):
        tiny.backend("llama").run(ROWS[:2], edits=[edit])


def test_a_pattern_cannot_be_edited() -> None:
    edit = Edit(Site(0, "pattern"), [0], [0], ONE)
    with pytest.raises(CapabilityError, match=r"pattern\.0 cannot be edited"):
        tiny.backend("llama").run(ROWS, edits=[edit])


def test_a_capture_that_does_not_exist_is_one_sentence() -> None:
    with pytest.raises(InterventionError, match=r"resid_post\.3 does not exist; .* 0 to 2 of tiny"):
        tiny.backend("llama").run(ROWS, capture=[Site(3, "resid_post")])


def test_a_site_that_is_never_reached_is_one_sentence() -> None:
    engine = tiny.backend("llama")
    # As a model that leaves its last block out, by a rule of its own.
    engine.model.model.layers = torch.nn.ModuleList(list(engine.model.model.layers)[:2])
    engine.model.config.num_hidden_layers = 2
    with pytest.raises(CapabilityError, match=r"does not go through resid_post\.2"):
        engine.run(ROWS, capture=[Site(2, "resid_post")])
    edit = Edit(Site(2, "resid_post"), [0], [0], ONE)
    with pytest.raises(InterventionError, match=r"edit at resid_post\.2 never fired"):
        engine.run(ROWS, edits=[edit])


# -- batches --------------------------------------------------------------------------------


@tiny.families()
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_equals_its_rows_alone(family: str, side: str) -> None:
    engine = tiny.backend(family)
    ids = torch.full((3, 9), 0)
    mask = torch.zeros(3, 9, dtype=torch.bool)
    for i, row in enumerate(ROWS):
        place = slice(9 - len(row), None) if side == "left" else slice(len(row))
        ids[i, place], mask[i, place] = torch.tensor(row), True
    sites = [Site(2, kind) for kind in ("resid_pre", "attn_out", "k", "z")]
    value = torch.randn(64)
    edits = [Edit(Site(1, "resid_pre"), [0, 1, 2], [-1], value)]
    together = engine.run(ids, mask, capture=sites, edits=edits)
    assert together.ids.shape == (3, 7)  # moved to the left, no wider than the longest
    for i, row in enumerate(ROWS):
        edit = Edit(Site(1, "resid_pre"), [0], [-1], value)
        alone = engine.run([row], capture=sites, edits=[edit])
        close(together.logits[i, : len(row)], alone.logits[0])
        for site in sites:
            close(together.states[site][i, : len(row)], alone.states[site][0])


def test_one_prompt_may_be_a_flat_tensor() -> None:
    engine = tiny.backend("llama")
    flat = engine.run(torch.tensor(ROWS[0]), torch.ones(7))
    assert torch.equal(flat.logits, engine.run([ROWS[0]]).logits)


@pytest.mark.parametrize(
    ("ids", "mask", "sentence"),
    [
        ([], None, "has no tokens; expected at least one token in every row"),
        ([[]], None, "has no tokens"),
        ([[1], []], None, "has no tokens"),
        ([1, 2, 3], None, "not a list of prompts; expected one list of ids per prompt"),
        (torch.zeros(1, 0, dtype=torch.long), None, "has no tokens"),
        (torch.ones(1, 2, dtype=torch.long), torch.zeros(1, 2), "has no tokens"),
        (torch.ones(1, 3, dtype=torch.long), torch.tensor([[1, 0, 1]]), "The mask has holes"),
        (torch.ones(1, 3, dtype=torch.long), torch.tensor([[0, 1, 0]]), "The mask has holes"),
        (
            torch.ones(1, 3, dtype=torch.long),
            torch.ones(1, 2),
            r"shape \(1, 2\); expected \(1, 3\)",
        ),
        ([[384]], None, "token id 384; expected ids from 0 to 383"),
        ([[5, -1]], None, "token id -1; expected ids from 0 to 383"),
        ([[1] * 129], None, "has 129 tokens; expected at most 128, the window of tiny-llama"),
    ],
)
def test_ids_that_are_no_prompts_are_one_sentence(ids: Any, mask: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        tiny.backend("llama").run(ids, mask)


def test_the_whole_window_can_be_used() -> None:
    engine = tiny.backend("gpt2")
    assert engine.run([[7] * 128], logits_at=[-1]).logits.isfinite().all()


# -- numbers that are none ------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named_by_site(bad: float) -> None:
    engine = tiny.backend("llama")
    with torch.no_grad():
        engine.model.model.layers[1].mlp.down_proj.weight[3, 4] = bad
    sites = [Site(layer, kind) for layer in LAYERS for kind in RESIDUAL_KINDS]
    with pytest.raises(ModelError, match=r"tiny-llama has NaN or infinity in mlp_out\.1"):
        engine.run(ROWS, capture=sites)
    with pytest.raises(ModelError, match="puts out NaN or infinite logits; expected finite logits"):
        engine.run(ROWS)


def test_an_overflowing_sum_is_no_nan() -> None:
    engine = tiny.backend("llama")
    site = Site(2, "resid_post")
    large = torch.full((64,), 3e37)  # finite, and their sum over the positions is not
    run = engine.run(ROWS, capture=[site], edits=[Edit(site, [0], range(7), large)])
    assert (run.states[site][0] == 3e37).all()
