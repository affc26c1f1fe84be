"""What holds for every model: random configurations of every family, random prompts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dst.core.sites import RESIDUAL_KINDS, Site
from dst.models.backend import Edit
from dst.models.hooks import HooksBackend
from tests import tiny
from tests.models.test_hooks_sites import close

FEW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def engines(draw: st.DrawFn, families: tuple[str, ...]) -> HooksBackend:
    """A small model of some family: other depth, width, heads, window, weights."""
    family = draw(st.sampled_from(families))
    heads = draw(st.sampled_from([1, 2, 4]))
    d_head = draw(st.sampled_from([8, 16]))
    depth, width = draw(st.integers(1, 4)), heads * d_head
    changes: dict[str, Any] = {}
    if "n_embd" in tiny.FAMILIES[family][1]:
        changes = {"n_embd": width, "n_layer": depth, "n_head": heads}
        changes |= {"rotary_dim": 8} if family == "gptj" else {}
    else:
        changes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
        if "num_key_value_heads" in tiny.FAMILIES[family][1]:
            groups = [n for n in (1, 2, 4) if heads % n == 0]
            changes["num_key_value_heads"] = draw(st.sampled_from(groups))
        changes |= {"word_embed_proj_dim": width} if family == "opt" else {}
        changes |= {"partial_rotary_factor": 0.5} if family == "stablelm" else {}
        changes |= {"num_kv_heads": 1} if family == "falcon_new" else {}
        if "sliding_window" in tiny.FAMILIES[family][1]:
            changes["sliding_window"] = draw(st.integers(1, 9))
    if family != "gpt2":
        changes["tie_word_embeddings"] = draw(st.booleans())
    vocabulary = draw(st.integers(20, 60).filter(lambda n: n != width))
    return HooksBackend(
        tiny.model(family, vocabulary, seed=draw(st.integers(0, 9)), **changes), None, name=family
    )


def prompts(engine: HooksBackend, data: st.DataObject) -> list[list[int]]:
    token = st.integers(0, engine.spec.d_vocab - 1)
    row = st.lists(token, min_size=1, max_size=9)
    return data.draw(st.lists(row, min_size=1, max_size=4))


def sums_and_batches_and_identities(engine: HooksBackend, data: st.DataObject) -> None:
    rows = prompts(engine, data)
    layers = range(engine.spec.n_layers)
    sites = [Site(layer, kind) for layer in layers for kind in RESIDUAL_KINDS]
    run = engine.run(rows, capture=sites)

    # What enters a block, what its parts add, and what leaves it.
    for layer in layers:
        pre, attn, mlp, post = (run.states[Site(layer, kind)].double() for kind in RESIDUAL_KINDS)
        close(pre + attn + mlp, post.double())
        if layer:
            assert torch.equal(pre, run.states[Site(layer - 1, "resid_post")].double())

    # A batch is its rows, whichever side it was padded on.
    width = max(map(len, rows)) + data.draw(st.integers(0, 3))
    left = data.draw(st.booleans())
    ids = torch.randint(engine.spec.d_vocab, (len(rows), width))
    mask = torch.zeros(len(rows), width)
    for i, own in enumerate(rows):
        place = slice(width - len(own), None) if left else slice(len(own))
        ids[i, place], mask[i, place] = torch.tensor(own), 1
    padded = engine.run(ids, mask)
    scale = float(run.logits.abs().max())
    for i, own in enumerate(rows):
        alone = engine.run([own]).logits[0]
        close(run.logits[i, : len(own)], alone, scale)
        close(padded.logits[i, : len(own)], alone, scale)
        close(alone, engine.plain_logits(own), scale)

    # Writing back what is there changes nothing, at any site.
    site = data.draw(st.sampled_from(sites))
    row = data.draw(st.integers(0, len(rows) - 1))
    n = len(rows[row])
    edit = Edit(site, [row], range(n), run.states[site][row : row + 1, :n])
    again = engine.run(rows, edits=[edit])
    for i, ids_of in enumerate(rows):
        close(again.logits[i, : len(ids_of)], run.logits[i, : len(ids_of)], scale)
    assert again.receipts[0].fired == n


@FEW
@given(engines(tiny.SIX), st.data())
def test_sums_batches_and_identities(engine: HooksBackend, data: st.DataObject) -> None:
    sums_and_batches_and_identities(engine, data)


@pytest.mark.full
@MANY
@given(engines(tuple(tiny.FAMILIES)), st.data())
def test_sums_batches_and_identities_of_all(engine: HooksBackend, data: st.DataObject) -> None:
    sums_and_batches_and_identities(engine, data)
