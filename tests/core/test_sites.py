"""Sites by name, and the one conversion between layers and states."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dst.core.errors import InterventionError
from dst.core.sites import HEAD_KINDS, KINDS, RESIDUAL_KINDS, Site, site_of_state, state_of

LAYERS = st.integers(0, 200)


@given(LAYERS, st.sampled_from(KINDS))
def test_a_site_reads_back_from_its_own_text(layer: int, kind: str) -> None:
    site = Site(layer, kind)
    assert Site.parse(str(site)) == site


@given(LAYERS)
def test_transformer_lens_names_mean_the_same_sites(layer: int) -> None:
    for kind in RESIDUAL_KINDS:
        assert Site.parse(f"blocks.{layer}.hook_{kind}") == Site(layer, kind)
    for kind in HEAD_KINDS:
        assert Site.parse(f"blocks.{layer}.attn.hook_{kind}") == Site(layer, kind)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "resid_pre",
        "resid_pre.",
        "resid_pre.x",
        "resid_pre.-1",
        "resid_pre.1 ",
        " resid_pre.1",
        "blocks.1.attn.hook_resid_pre",  # no such hook in transformer_lens
        "blocks.1.hook_q",
        "blocks.1.hook_resid_mid",
        "blocks.-1.hook_resid_pre",
        "blocks.1.mlp.hook_post",
    ],
)
def test_text_that_names_no_site_is_refused(text: str) -> None:
    with pytest.raises(InterventionError, match=r"cannot be read; expected KIND\.LAYER"):
        Site.parse(text)


def test_an_unknown_kind_is_refused_and_the_kinds_are_listed() -> None:
    with pytest.raises(InterventionError, match="'resid_mid' does not exist; expected one of res"):
        Site(0, "resid_mid")
    with pytest.raises(InterventionError, match="'mlp_in' does not exist"):
        Site.parse("mlp_in.3")


def test_a_negative_layer_is_refused() -> None:
    with pytest.raises(InterventionError, match="layer -1; expected a layer counted from 0"):
        Site(-1, "resid_pre")


def test_sites_are_ordered_by_layer() -> None:
    assert sorted([Site(1, "attn_out"), Site(0, "z")]) == [Site(0, "z"), Site(1, "attn_out")]


def test_states_and_layers_by_hand() -> None:
    # A model of three blocks: the embedding is what enters block 0, state 3 is what leaves block 2.
    assert [site_of_state(state, 3) for state in range(4)] == [
        Site(0, "resid_pre"),
        Site(1, "resid_pre"),
        Site(2, "resid_pre"),
        Site(2, "resid_post"),
    ]
    assert state_of(Site(0, "resid_pre")) == 0
    assert state_of(Site(2, "resid_pre")) == state_of(Site(1, "resid_post")) == 2


@given(st.integers(1, 100), st.data())
def test_every_state_has_a_site_and_every_such_site_that_state(n: int, data: st.DataObject) -> None:
    state = data.draw(st.integers(0, n))
    assert state_of(site_of_state(state, n)) == state


@pytest.mark.parametrize("state", [-1, 4])
def test_a_state_outside_the_model_is_refused(state: int) -> None:
    with pytest.raises(InterventionError, match=f"state {state} does not exist; expected 0"):
        site_of_state(state, 3)


@pytest.mark.parametrize("kind", ["attn_out", "mlp_out", *HEAD_KINDS])
def test_only_the_residual_stream_has_states(kind: str) -> None:
    with pytest.raises(InterventionError, match=f"{kind}.1 is not a state"):
        state_of(Site(1, kind))
