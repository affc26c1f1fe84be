"""What a base run leaves to suffixes, what blocks are given, and how much memory it takes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dst.core.errors import CapabilityError, InterventionError
from dst.core.sites import Site
from dst.models import suffix
from dst.models.backend import Edit
from dst.models.calls import Call, call_of, calls_of
from dst.models.check import check_model
from dst.models.hooks import HooksBackend
from dst.models.memory import (
    MOST_BYTES,
    budget,
    free_bytes,
    is_out_of_memory,
    prefix_bytes,
    suffix_bytes,
)
from dst.models.suffix import Placed, Prefix, Suffixes, record
from tests import tiny

ROWS = [[5, 8, 13, 21, 34], [9, 7, 5], [5, 8, 13, 21, 34]]


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "falcon_new"])
def test_a_recorded_run_is_the_run_with_keys_and_values_of_every_position(family: str) -> None:
    model = tiny.backend(family)
    sites = [Site(1, "resid_pre"), Site(1, "v"), Site(2, "mlp_out")]
    run, prefix = record(model, ROWS, sites, [-1, 0])
    known = model.run(ROWS, capture=sites, logits_at=[-1, 0])
    torch.testing.assert_close(run.logits, known.logits, rtol=1e-5, atol=1e-5)
    for site in sites:
        torch.testing.assert_close(run.states[site], known.states[site], rtol=1e-5, atol=1e-5)
    assert prefix.rows == tuple(map(tuple, ROWS))
    assert len(prefix.keys) == len(prefix.values) == 3
    # Values are not rotated: they are the site's, whatever the window (here 5) is.
    values = prefix.values[1].transpose(1, 2)
    share = values.shape[2] // model.spec.n_kv_heads  # Falcon stores them once per query head
    v = known.states[Site(1, "v")].repeat_interleave(share, dim=2)
    torch.testing.assert_close(values[0], v[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(values[1, :3], v[1, :3], rtol=1e-5, atol=1e-5)
    assert set(prefix.calls) == {3, 5}


def test_keys_and_values_take_as_much_as_they_are_said_to() -> None:
    model = tiny.backend("llama")
    _, prefix = record(model, [ROWS[0]])
    taken = sum(part.numel() * 4 for part in (*prefix.keys, *prefix.values))
    assert taken == prefix_bytes(model, 5)


def test_prefixes_are_joined_row_by_row() -> None:
    model = tiny.backend("gpt2")
    one, two = (record(model, rows)[1] for rows in (ROWS[:1], ROWS[1:2]))
    both = Prefix.joined([one, two])
    assert both.rows == (*one.rows, *two.rows)
    assert torch.equal(both.keys[2][0], one.keys[2][0])
    assert torch.equal(both.values[0][1, :, :3], two.values[0][0])
    assert set(both.calls) == {3, 5}


# -- what blocks are given -------------------------------------------------------------------


def test_arguments_are_cut_to_the_positions_at_hand() -> None:
    table = torch.arange(24.0).view(1, 4, 6)
    alibi = torch.arange(8.0).view(2, 1, 4)
    given = {
        "position_ids": torch.arange(4)[None],
        "position_embeddings": (table, table + 1),
        "alibi": alibi,
        "use_cache": True,
    }
    out = Call(given, "past_key_values", "sdpa").at(slice(1, 4), 4, 3)
    assert out["position_ids"].tolist() == [[1, 2, 3]]
    assert torch.equal(out["position_embeddings"][1], table[:, 1:] + 1)
    assert out["alibi"].shape == (6, 1, 4)
    assert torch.equal(out["alibi"][2:4], alibi)
    assert out["use_cache"] is True
    some = Call(given, "past_key_values", "sdpa").at(torch.tensor([0, 3]), 4, 1)
    assert some["position_ids"].tolist() == [[0, 3]]
    assert torch.equal(some["position_embeddings"][0], table[:, [0, 3]])


def test_a_mask_is_made_where_a_kernel_would_align_queries_with_the_first_key() -> None:
    hidden, call = torch.zeros(1), Call({"attention_mask": None}, "past_key_values", "sdpa")
    assert call.mask(slice(0, 4), hidden, 4) is None
    assert call.mask(torch.tensor([3]), hidden, 4) is None  # it sees everything
    mask = call.mask(slice(2, 4), hidden, 4)
    assert mask.tolist() == [[[[True, True, True, False], [True] * 4]]]
    assert call.mask(torch.tensor([1]), hidden, 4).tolist() == [[[[True, True, False, False]]]]
    given = torch.arange(16.0).view(1, 1, 4, 4)
    call = Call({"attention_mask": given}, "past_key_values", "eager")
    assert torch.equal(call.mask(slice(2, 4), hidden, 4), given[:, :, 2:])
    call = Call({"attention_mask": None}, "past_key_values", "eager")
    with pytest.raises(CapabilityError, match=r"attention \(eager\) is given no mask"):
        call.mask(slice(2, 4), hidden, 4)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"per_layer_input": torch.zeros(1, 4, 8)}, r"per_layer_input of shape \(1, 4, 8\)"),
        ({"attention_mask": torch.zeros(1, 4)}, r"attention_mask of shape \(1, 4\)"),
        ({"position_embeddings": (torch.zeros(1, 3, 8),)}, r"position_embeddings of shape"),
    ],
)
def test_blocks_that_are_given_more_than_positions(given: Any, sentence: str) -> None:
    cache = object()
    with pytest.raises(CapabilityError, match=f"This model's blocks are given {sentence}"):
        call_of({"past_key_values": cache, **given}, cache, "sdpa", 4)


def test_blocks_without_a_place_for_keys_and_values() -> None:
    with pytest.raises(CapabilityError, match="given no place for keys and values"):
        call_of({"use_cache": True}, object(), "sdpa", 4)


def test_attention_of_an_unknown_kind() -> None:
    model = tiny.backend("llama")
    model.model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(CapabilityError, match=r"\(flash_attention_2\) takes no mask per query"):
        calls_of(model, [1, 2], torch.device("cpu"))


# -- the check -------------------------------------------------------------------------------


def wrapped(module: Any, change: Callable[..., Any]) -> None:
    """Put ``change`` around a module's own forward, whose signature stays seen."""
    own = module.forward
    module.forward = functools.wraps(own)(lambda *args, **kwargs: change(own, *args, **kwargs))


def test_attention_that_forgets_what_came_before_is_found_out() -> None:
    """Such a model is right as a whole, and wrong as soon as a part of it is called."""

    def forgetful(own: Any, *args: Any, **kwargs: Any) -> Any:
        cache = kwargs.get("past_key_values")
        if isinstance(cache, suffix._Extended):
            kwargs["past_key_values"] = None
            mask = kwargs["attention_mask"]
            n = kwargs["hidden_states"].shape[1]
            kwargs["attention_mask"] = None if mask is None else mask[..., -n:]
        return own(*args, **kwargs)

    made = tiny.model("llama", 403)
    wrapped(made.model.layers[1].self_attn, forgetful)
    model = HooksBackend(made, tiny.byte_bpe())
    check = check_model(model)
    assert [one.needed_by for one in check.checks if not one.passed] == [("replay",)]
    check.apply(model)
    assert "replay" not in model.can
    assert "a suffix of a changed run equals the full run" in model.cannot["replay"]


def test_a_model_that_keeps_no_keys_and_values_cannot_replay() -> None:
    def without(own: Any, *args: Any, **kwargs: Any) -> Any:
        return own(*args, **{**kwargs, "past_key_values": None})

    made = tiny.model("llama", 403)
    wrapped(made.model.layers[2].self_attn, without)
    model = HooksBackend(made, tiny.byte_bpe())
    with pytest.raises(CapabilityError, match="does not keep one key and value per position"):
        record(model, ROWS)
    check_model(model).apply(model)
    assert "does not keep one key and value" in model.cannot["replay"]
    assert "edits" in model.can


# -- edits of a batch ------------------------------------------------------------------------


def placed(value: torch.Tensor, op: Any = "set") -> Placed:
    edit = Edit(Site(0, "resid_pre"), [0, 1], [], value, op)
    return Placed(edit, torch.tensor([[0], [1]]), torch.tensor([[2], [1]]))


def test_every_row_keeps_account_of_its_own_change() -> None:
    tensor = torch.zeros(2, 3, 4)
    value = torch.tensor([1.0, 2.0])[:, None, None].expand(2, 1, 4)
    item = placed(value)
    out = item.apply(tensor)
    assert tensor.abs().sum() == 0
    assert out[0, 2].tolist() == [1.0] * 4
    assert out[1, 1].tolist() == [2.0] * 4
    assert out.sum() == 12
    assert item.squared.tolist() == [4.0, 16.0]
    own, again = tensor.clone(), placed(value, "add")
    again.apply_in_place(own)
    again.apply_in_place(own)
    assert torch.equal(own, 2 * out)
    assert again.squared.tolist() == [4.0, 16.0]


def test_an_edit_that_no_block_goes_by_is_an_error() -> None:
    with pytest.raises(InterventionError, match=r"The edit at resid_pre\.0 never fired"):
        placed(torch.zeros(2, 1, 4)).receipt()


def test_only_the_rows_of_the_tokens_asked_for_are_multiplied() -> None:
    head = torch.nn.Linear(4, 9, bias=True)
    normed = torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(0))
    whole = head(normed)
    torch.testing.assert_close(suffix._unembedded(head, normed, [7, 2]), whole[..., [7, 2]])
    assert torch.equal(suffix._unembedded(head, normed, None), whole)
    seen: list[int] = []
    head.register_forward_hook(lambda *_: seen.append(1))  # somebody looks: it has to be called
    assert torch.equal(suffix._unembedded(head, normed, [7, 2]), whole[..., [7, 2]])
    assert seen == [1]


@pytest.mark.parametrize("family", ["gemma2", "opt", "gptj"])
def test_caps_scales_and_biases_of_some_tokens(family: str) -> None:
    model = tiny.backend(family)
    run, prefix = record(model, [ROWS[0]], [Site(2, "resid_pre")], [-1])
    runs = Suffixes([0], [2], 1, 5, [], read=(4,), tokens=[11, 3])
    states = run.states[Site(2, "resid_pre")]
    found = suffix.replay(model, prefix, lambda state, rows: states[rows, 1:], runs)
    torch.testing.assert_close(found.logits, run.logits[..., [11, 3]], rtol=1e-4, atol=1e-4)


# -- memory ----------------------------------------------------------------------------------


def test_free_memory_is_what_the_system_says() -> None:
    free = free_bytes(torch.device("cpu"))
    assert 1 << 20 < free < 1 << 46
    assert 0 < budget(torch.device("cpu")) <= MOST_BYTES


def test_what_a_run_takes_grows_with_what_it_computes() -> None:
    model = tiny.backend("llama")
    one = suffix_bytes(model, 1, 10, 0)
    assert suffix_bytes(model, 2, 10, 0) > one
    assert suffix_bytes(model, 1, 20, 0) > one
    assert suffix_bytes(model, 1, 10, 100) == one + 1200
    eager = HooksBackend(tiny.model("llama", 403, attn_implementation="eager"), tiny.byte_bpe())
    assert suffix_bytes(eager, 1, 10, 0) > one  # scores are held as a whole


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (torch.OutOfMemoryError(), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_errors_of_memory_are_told_from_others(error: Exception, known: bool) -> None:
    assert is_out_of_memory(error) is known
