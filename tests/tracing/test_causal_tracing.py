"""Causal tracing: noise and restored states by hand, and the form with other tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import dst
from dst.core.errors import CapabilityError, InterventionError
from dst.core.sites import Site
from dst.models.backend import Edit
from dst.models.reference import reference_sentences
from dst.tracing.prepare import prepare
from tests import tiny
from tests.tracing.patched import PROMPT, case, contrast, ids_of, state

EMBEDDING = Site(0, "resid_pre")


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.backend("llama")


def spread(model: Any) -> float:
    """Standard deviation of the embeddings of the reference sentences, text by text."""
    rows = [ids_of(model, text) for text in reference_sentences(model.spec.name)]
    return float(torch.cat([state(model, row, EMBEDDING)[1:] for row in rows]).std())


def trace(model: Any, **asked: Any) -> Any:
    return dst.causal_trace(model, case(), **{"controls": 2, "show_progress": False, **asked})


@pytest.mark.parametrize(("site", "window"), [("resid_pre", 1), ("resid_post", 1), ("mlp_out", 3)])
def test_noise_and_restored_states_are_those_by_hand(model: Any, site: str, window: int) -> None:
    grid = trace(model, corrupt="noise", site=site, window=window, by="role", draws=2, seed=5)
    ready = prepare(model, case())
    subject = ready.tokenized.positions_of("subject")
    own = ids_of(model, PROMPT)
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn((2, len(subject), model.spec.d_model), generator=generator)
    noise = noise * 3 * spread(model)
    assert grid.direction == "denoising"
    assert grid.source == "noise"
    assert grid.donor[0] == pytest.approx([contrast(model, _logits(model, own, []))] * 2, abs=1e-4)
    for draw in range(2):
        corrupt = Edit(EMBEDDING, [0], subject, noise[draw], "add")
        base = contrast(model, _logits(model, own, [corrupt]))
        assert grid.base[0, draw] == pytest.approx(base, abs=1e-3)
        for i in range(model.spec.n_layers):
            layers = range(max(0, i - window // 2), min(model.spec.n_layers, i + (window + 1) // 2))
            for j, positions in enumerate(grid.column_positions):
                edits = [corrupt]
                for layer in layers:
                    clean = state(model, own, Site(layer, site))[list(positions)]
                    edits.append(Edit(Site(layer, site), [0], list(positions), clean))
                known = contrast(model, _logits(model, own, edits))
                assert grid.values[0, draw, i, j] == pytest.approx(known, abs=1e-3)
    assert np.abs(grid.effect()).max() > 0.05


def _logits(model: Any, ids: list[int], edits: list[Edit]) -> torch.Tensor:
    return model.run([ids], edits=edits, logits_at=[-1]).last_logits[0]


def test_everything_restored_is_the_clean_run(model: Any) -> None:
    for site in ("resid_pre", "attn_out", "z"):
        found = trace(model, corrupt="noise", site=site, by="role", draws=2).controls
        assert found.donor_error < 1e-3
        assert found.self_patch_error < 1e-3


def test_restoring_all_noised_embeddings_is_full_recovery_and_the_rest_is_nothing(
    model: Any,
) -> None:
    grid = trace(model, corrupt="noise", by=["subject", "lake"], draws=3)
    np.testing.assert_allclose(grid.values[0, :, 0, 0], grid.donor[0], atol=1e-4)
    assert (grid.effects()[:, 0, 1] == 0).all()  # no noise there: an exact no-op
    assert (grid.delta_norm[:, 0, 1] == 0).all()
    n = len(prepare(model, case()).tokenized.positions_of("subject"))
    assert (grid.fired[:, :, 0] == n).all()  # the noise itself is not counted


def test_the_receipt_is_of_the_restored_state_alone(model: Any) -> None:
    grid = trace(model, corrupt="noise", by=[[-1]], site="resid_post", draws=1, layers=[1])
    subject = prepare(model, case()).tokenized.positions_of("subject")
    own = ids_of(model, PROMPT)
    noise = torch.randn(
        (1, len(subject), model.spec.d_model), generator=torch.Generator().manual_seed(0)
    )
    corrupt = Edit(EMBEDDING, [0], subject, noise[0] * 3 * spread(model), "add")
    site = Site(1, "resid_post")
    noised = model.run([own], edits=[corrupt], capture=[site]).states[site][0, -1]
    delta = float((state(model, own, site)[-1] - noised).norm())
    assert grid.delta_norm[0, 0, 0] == pytest.approx(delta, rel=1e-2)


def test_more_noise_and_another_seed_are_other_runs(model: Any) -> None:
    one, again = (trace(model, corrupt="noise", by="role", seed=1) for _ in range(2))
    np.testing.assert_array_equal(one.values, again.values)
    assert one.values.shape[1] == 10
    assert not np.array_equal(one.base, trace(model, corrupt="noise", by="role", seed=2).base)
    still = trace(model, corrupt="noise", by="role", noise=1e-6, draws=1)
    assert still.base[0, 0] == pytest.approx(one.donor[0, 0], abs=1e-3)


def test_other_tokens_are_a_patch_in_the_denoising_direction(model: Any) -> None:
    grid = trace(model, by="role")
    known = dst.patch(
        model,
        case(),
        donor="substitute",
        direction="denoising",
        by="role",
        metric=("LD", "prob"),
        show_progress=False,
    )
    np.testing.assert_allclose(grid.values, known.values, atol=1e-6)
    assert grid.technique == "causal tracing"
    assert grid.metrics == ("LD", "prob")


def test_what_cannot_be_traced_is_said(model: Any) -> None:
    with pytest.raises(InterventionError, match="The span 'subject' has no position"):
        dst.causal_trace(model, case(subject=None, substitute=()), corrupt="noise")
    with pytest.raises(CapabilityError, match="A pattern is patched between two runs only"):
        trace(model, corrupt="noise", site="pattern")
