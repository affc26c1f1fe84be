"""Ablations against whole runs with zeros, with means taken by hand, and with single states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import dst
from dst.core.errors import CapabilityError, InputError, InterventionError
from dst.core.sites import Site
from dst.tracing.prepare import prepare
from tests import tiny
from tests.tracing.patched import PROMPT, case, contrast, ids_of, put, state

REFERENCE = ["Anna sees a bass.", "The bank of the river is green.", "the bat is an animal ."]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> Any:
    return tiny.backend(request.param, scale=12.0 if request.param == "gpt2" else 3.0)


def ablate(model: Any, **asked: Any) -> Any:
    return dst.ablate(model, case(), **{"controls": 2, "show_progress": False, **asked})


def mean_by_hand(model: Any, site: Site) -> torch.Tensor:
    """Mean over all tokens but first ones, a text at a time."""
    rows = [ids_of(model, text) for text in REFERENCE]
    return torch.cat([state(model, row, site)[1:] for row in rows]).mean(dim=0)


@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "mlp_out", "z", "k"])
@pytest.mark.parametrize("kind", ["zero", "mean"])
def test_every_cell_is_a_whole_run(model: Any, site: str, kind: str) -> None:
    heads = "each" if site in ("z", "k") else None
    grid = ablate(model, kind=kind, site=site, by="role", heads=heads, reference=REFERENCE)
    own = ids_of(model, PROMPT)
    for i in range(model.spec.n_layers):
        place = Site(i, site)
        value = mean_by_hand(model, place)
        value = value if kind == "mean" else torch.zeros_like(value)
        for j, positions in enumerate(grid.column_positions):
            head = grid.column_heads[j]
            changed = value if head < 0 else value[[head]]
            known = put(model, own, [(place, positions, changed, None if head < 0 else [head])])
            assert grid.value()[i, j] == pytest.approx(contrast(model, known), abs=1e-4)
    assert np.abs(grid.effect()).max() > 0.01
    assert grid.recovery_reason == "there is no donor run that it could be a share of"
    assert grid.controls.donor_reason == "an ablation has no donor run"


def test_a_window_ablates_the_layers_around(model: Any) -> None:
    grid = ablate(model, kind="zero", site="mlp_out", window=3, by="all")
    own = ids_of(model, PROMPT)
    zero = torch.zeros(model.spec.d_model)
    for i, layers in enumerate([(0, 1), (0, 1, 2), (1, 2)]):
        changes = [(Site(l, "mlp_out"), range(len(own)), zero, None) for l in layers]
        known = contrast(model, put(model, own, changes))
        assert grid.value()[i, 0] == pytest.approx(known, abs=1e-4)


def test_resampling_takes_states_of_the_reference_set(model: Any) -> None:
    # Of a text of two tokens only the second counts: every state drawn is that one, and so
    # is the mean.
    one = {"by": "role", "site": "attn_out", "reference": ["the bass"]}
    drawn, mean = (ablate(model, kind=kind, draws=3, **one) for kind in ("resample", "mean"))
    assert drawn.values.shape[1] == 3
    for draw in range(3):
        np.testing.assert_allclose(drawn.values[0, draw], mean.values[0, 0], atol=1e-5)


def test_resampling_draws_anew_for_each_draw_and_position(model: Any) -> None:
    one = ablate(model, kind="resample", by="position", site="resid_pre", seed=3)
    assert one.values.shape[1] == 8
    assert len(np.unique(one.values[0, :, 1, -1].round(6))) > 4
    again = ablate(model, kind="resample", by="position", site="resid_pre", seed=3)
    np.testing.assert_array_equal(one.values, again.values)
    other = ablate(model, kind="resample", by="position", site="resid_pre", seed=4)
    assert not np.array_equal(one.values, other.values)


def test_the_shipped_sentences_are_the_reference_set(model: Any) -> None:
    from dst.models.reference import reference_sentences

    shipped = ablate(model, by="all")
    given = ablate(model, by="all", reference=reference_sentences(model.spec.name))
    np.testing.assert_allclose(shipped.values, given.values, atol=1e-6)
    assert shipped.provenance.settings["reference"] == "shipped"


def test_all_heads_at_zero_are_attention_without_its_bias(model: Any) -> None:
    """Z = 0 leaves the projection's bias alone: on Llama, which has none, attn_out = 0."""
    if model.spec.family != "llama":
        return
    z = ablate(model, kind="zero", site="z", by="all")
    attention = ablate(model, kind="zero", site="attn_out", by="all")
    np.testing.assert_allclose(z.values, attention.values, atol=1e-4)


def test_what_cannot_be_ablated_is_said(model: Any) -> None:
    with pytest.raises(InputError, match="The ablation 'noise'; expected 'zero', 'mean' or"):
        ablate(model, kind="noise")
    with pytest.raises(CapabilityError, match="A pattern is patched between two runs only"):
        ablate(model, site="pattern")
    with pytest.raises(InterventionError, match="The site 'mlp' does not exist"):
        ablate(model, site="mlp")
    with pytest.raises(InputError, match="The reference set has no text"):
        ablate(model, reference=["a"])
    with pytest.raises(InterventionError, match="has no position"):
        ablate(model, by=["violin"])


def test_prompts_with_a_twin_are_ablated_together() -> None:
    model = tiny.backend("llama")
    text = "Anna is at the lake. Anna sees a bass. Is the bass a {}?"
    given = case(
        prompt=text.format("fish"),
        contextual="yes",
        associative="no",
        twin_question=text.format("song"),
        swap=(),
        neutral=text.format("fish").replace("lake", "bank"),
        substitute=text.format("fish").replace("bass", "drum"),
    )
    grid = dst.ablate(model, given, kind="resample", by="role", draws=2, show_progress=False)
    assert np.isfinite(grid.values).all()
    ready = prepare(model, given)
    assert ready.variants.twin is not None
    zero = dst.ablate(model, given, kind="zero", by="all", show_progress=False)
    for i in range(model.spec.n_layers):
        lds = []
        for row in (ready.x.ids, ready.variants.twin.ids):
            value = torch.zeros(model.spec.d_model)
            logits = put(model, row, [(Site(i, "attn_out"), range(len(row)), value, None)])
            lds.append(contrast(model, logits, given))
        assert zero.value()[i, 0] == pytest.approx((lds[0] - lds[1]) / 2, abs=1e-4)
