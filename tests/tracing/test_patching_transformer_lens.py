"""The same grids by transformer_lens' own patching functions, on a bridge of the same weights."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

import dst
from dst.models.bridge import BridgeBackend
from dst.models.hooks import HooksBackend
from dst.tracing.prepare import prepare
from tests import tiny
from tests.tracing.patched import PROMPT, SWAPPED, case, ids_of

FUNCTIONS = {
    "resid_pre": "get_act_patch_resid_pre",
    "attn_out": "get_act_patch_attn_out",
    "mlp_out": "get_act_patch_mlp_out",
}
HEADS = {
    "z": "get_act_patch_attn_head_out_all_pos",
    "q": "get_act_patch_attn_head_q_all_pos",
    "v": "get_act_patch_attn_head_v_all_pos",
    "pattern": "get_act_patch_attn_head_pattern_all_pos",
}


@pytest.fixture(scope="module", params=["gpt2", pytest.param("llama", marks=pytest.mark.full)])
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """Our engine, and a bridge on a copy of its model (a bridge rewires what it is given)."""
    tokenizer = tiny.byte_bpe()
    scale = 12.0 if request.param == "gpt2" else 3.0
    model = tiny.model(request.param, len(tokenizer) + 3, scale=scale)
    bridge = BridgeBackend(copy.deepcopy(model), tokenizer)
    return HooksBackend(model, tokenizer, name="tiny"), bridge


def theirs(pair: tuple[Any, Any], function: str, donor: str) -> np.ndarray:
    """Denoising in their words: the clean run's states put into the corrupted run."""
    from transformer_lens import patching

    model, bridge = pair[0], pair[1].bridge
    metric = prepare(model, case()).metric
    clean, corrupted = (torch.tensor([ids_of(model, text)]) for text in (PROMPT, donor))

    def contrast(logits: torch.Tensor) -> torch.Tensor:
        last = logits[0, -1].double()
        plus, minus = last[list(metric.plus)], last[list(metric.minus)]
        return plus.logsumexp(0) - minus.logsumexp(0)

    with torch.no_grad():
        _, cache = bridge.run_with_cache(clean)
        return getattr(patching, function)(bridge, corrupted, cache, contrast).cpu().numpy()


@pytest.mark.parametrize("site", [*FUNCTIONS, *HEADS])
def test_their_grid_is_ours(pair: tuple[Any, Any], site: str) -> None:
    grid = dst.patch(
        pair[0],
        case(),
        site=site,
        direction="denoising",
        heads="each" if site in HEADS else None,
        controls=0,
        show_progress=False,
    )
    known = theirs(pair, {**FUNCTIONS, **HEADS}[site], SWAPPED)
    assert known.shape == grid.values.shape[2:]
    np.testing.assert_allclose(grid.value(), known, atol=1e-4)
    assert np.abs(grid.effect()).max() > 1e-3


@pytest.mark.parametrize("site", ["resid_post", "attn_out", "z"])
def test_our_engine_on_their_bridge_gives_the_same_grid(pair: tuple[Any, Any], site: str) -> None:
    """An engine that cannot replay a suffix runs every cell whole."""
    asked: dict[str, Any] = {"site": site, "by": "role", "controls": 2, "show_progress": False}
    ours, bridged = (dst.patch(engine, case(), **asked) for engine in pair)
    np.testing.assert_allclose(ours.values, bridged.values, atol=1e-4)
    np.testing.assert_allclose(ours.delta_norm, bridged.delta_norm, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(ours.fired, bridged.fired)
