"""The logit lens against scipy, plain transformers, and planted readouts."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import nn

import dst
from dst.core.case import Case
from dst.core.errors import InputError, NumericalError
from dst.models.hooks import HooksBackend
from tests import tiny
from tests.studies.planted import PROMPT, planted

LAKE = "Anna is at the lake. Anna sees a bass. What is the bass? The bass is a"
CASE = Case(prompt=LAKE, contextual=["fish", "animal"], associative="guitar")


def lens_logits(model: Any, resid: np.ndarray) -> np.ndarray:
    """[state d_vocab] from transformers' own last two modules, in float64."""
    body = model.model.model if hasattr(model.model, "model") else model.model.transformer
    norm = body.norm if hasattr(body, "norm") else body.ln_f
    with torch.no_grad():
        logits = model.model.lm_head(norm(torch.from_numpy(resid)))
    return logits.double().numpy()


# -- every number, by somebody else's code ----------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_number_is_scipy_s(family: str) -> None:
    model = tiny.backend(family)
    seen = dst.trace(model, CASE)
    lens = dst.logit_lens(model, seen, k=4)
    logits = lens_logits(model, seen.resid[:, -1])
    prob = scipy.special.softmax(logits, axis=-1)
    log_prob = scipy.special.log_softmax(logits, axis=-1)
    plus, minus = seen.contextual_ids, seen.associative_ids

    def same(ours: np.ndarray, theirs: Any) -> None:
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)

    same(lens.entropy, scipy.stats.entropy(prob, axis=-1))
    same(lens.kl_to_output, [scipy.stats.entropy(prob[-1], row) for row in prob])
    same(lens.contextual_prob, prob[:, plus].sum(-1))
    same(lens.associative_prob, prob[:, minus].sum(-1))
    same(lens.answer_prob, prob[:, [*plus, *minus]].sum(-1))
    logsumexp = scipy.special.logsumexp
    same(lens.margin, logsumexp(logits[:, plus], -1) - logsumexp(logits[:, minus], -1))
    order = np.argsort(-log_prob, axis=-1)[:, :4]
    assert np.array_equal(lens.top_ids, order)
    same(lens.top_log_prob, np.take_along_axis(log_prob, order, -1))
    for state, row in enumerate(order):
        said = [model.tokenizer.decode([int(i)]) for i in row]
        assert [word.strip() for word in lens.top_words[state]] == [w.strip() for w in said]


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
def test_the_last_state_is_the_output(family: str) -> None:
    """Soft caps, logit scales, LayerNorm's bias, Gemma's 1 + w: whatever the head does."""
    model = tiny.backend(family)
    seen = dst.trace(model, CASE)
    lens = dst.logit_lens(model, seen)
    log_prob = scipy.special.log_softmax(seen.logits.astype(np.float64))
    assert lens.margin[-1] == pytest.approx(seen.contrast, abs=1e-4)
    assert lens.kl_to_output[-1] == 0.0
    assert lens.top_ids[-1, 0] == seen.logits.argmax()
    np.testing.assert_allclose(lens.top_log_prob[-1], np.sort(log_prob)[::-1][:5], atol=1e-4)


# -- planted readouts: numbers known before the model is run ------------------------------------


def test_a_planted_readout_comes_out() -> None:
    """Logits of two words at every state, all others 0: margin, entropy and KL by hand."""
    fish, guitar = [2.0, 1.0, 3.0, -1.0], [0.0, 4.0, 2.5, 5.0]
    model = planted({"fish": fish, "guitar": guitar})
    seen = dst.trace(model, Case(prompt=PROMPT, contextual="fish", associative="guitar"))
    lens = dst.logit_lens(model, seen)
    others = model.spec.d_vocab - 2

    def distribution(state: int) -> list[float]:
        total = math.exp(fish[state]) + math.exp(guitar[state]) + others
        return [math.exp(fish[state]) / total, math.exp(guitar[state]) / total, 1 / total]

    p_fish, p_guitar, p_other = distribution(3)
    for state in range(4):
        q_fish, q_guitar, q_other = distribution(state)
        entropy = -q_fish * math.log(q_fish) - q_guitar * math.log(q_guitar)
        entropy -= others * q_other * math.log(q_other)
        kl = p_fish * math.log(p_fish / q_fish) + p_guitar * math.log(p_guitar / q_guitar)
        kl += others * p_other * math.log(p_other / q_other)
        assert lens.margin[state] == pytest.approx(fish[state] - guitar[state], abs=1e-4)
        assert lens.contextual_prob[state] == pytest.approx(q_fish, abs=1e-4)
        assert lens.associative_prob[state] == pytest.approx(q_guitar, abs=1e-4)
        assert lens.entropy[state] == pytest.approx(entropy, abs=1e-3)
        assert lens.kl_to_output[state] == pytest.approx(kl, abs=1e-3)
    assert [words[0] for words in lens.top_words] == ["fish", "guitar", "fish", "guitar"]
    assert lens.answer_is_final.tolist() == [False, True, False, True]
    records = lens.to_records()
    assert [row["top_word"] for row in records] == ["fish", "guitar", "fish", "guitar"]
    assert [row["margin"] for row in records] == lens.margin.tolist()


def test_the_likelier_form_decides_whether_the_answer_is_final() -> None:
    """Both forms of one answer count apart: the last says animal, earlier ones say fish."""
    model = planted({"fish": [3, 1, 2, 1], "animal": [1, 3, 1, 2], "guitar": [0, 0, 4, 0]})
    seen = dst.trace(
        model, Case(prompt=PROMPT, contextual=["fish", "animal"], associative="guitar")
    )
    lens = dst.logit_lens(model, seen)
    assert lens.answer_is_final.tolist() == [False, True, False, True]


# -- what is refused -------------------------------------------------------------------------------


def test_a_trace_of_another_model_is_refused() -> None:
    seen = dst.trace(tiny.backend("llama"), CASE)
    with pytest.raises(InputError, match="trace is of tiny-llama"):
        dst.logit_lens(tiny.backend("llama", seed=1), seen)


@pytest.mark.parametrize("k", [0, -1, 10_000])
def test_a_k_out_of_range_is_refused(k: int) -> None:
    model = tiny.backend("llama")
    with pytest.raises(InputError, match=f"k is {k}; expected 1 to"):
        dst.logit_lens(model, dst.trace(model, CASE), k=k)


class _Scaled(nn.Module):
    def __init__(self, norm: nn.Module, by: float) -> None:
        super().__init__()
        self.norm, self.by = norm, by

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.by * self.norm(x)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("by", [None, 1.01])
def test_a_final_norm_that_is_not_the_model_s_is_found_out(family: str, by: float | None) -> None:
    """Somebody names the wrong module as the norm (or one that is off by a hundredth)."""
    model = tiny.backend(family)
    seen = dst.trace(model, CASE)
    norm = model.anatomy.final_norm
    wrong = nn.Identity() if by is None else _Scaled(norm, by)
    model.anatomy = dataclasses.replace(model.anatomy, final_norm=wrong)
    with pytest.raises(NumericalError, match="misses the logits"):
        dst.logit_lens(model, seen)


def test_a_norm_applied_twice_is_found_out() -> None:
    """The mistake of a lens on transformers' last hidden state, which is normed already."""
    model = tiny.backend("llama")
    with torch.no_grad():
        model.model.model.norm.weight.copy_(torch.linspace(0.2, 3.0, 64))
    model = HooksBackend(model.model, model.tokenizer)
    seen = dst.trace(model, CASE)
    dst.logit_lens(model, seen)
    resid = seen.resid.copy()
    resid[-1] = model.final_norm(torch.from_numpy(resid[-1])).numpy()
    with pytest.raises(NumericalError, match="misses the logits"):
        dst.logit_lens(model, seen.replace(resid=resid))


# -- number types ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize(("dtype", "bits"), [(torch.bfloat16, 8), (torch.float16, 11)])
def test_half_precision_reads_the_same_within_its_bits(
    family: str, dtype: torch.dtype, bits: int
) -> None:
    tokenizer = tiny.byte_bpe()
    model = HooksBackend(tiny.model(family, len(tokenizer) + 3).to(dtype), tokenizer)
    seen = dst.trace(model, CASE)
    lens = dst.logit_lens(model, seen)
    logits = lens_logits(
        tiny.backend(family), seen.resid[:, -1]
    )  # the same states, read in float32
    read = scipy.special.logsumexp(logits[:, seen.contextual_ids], -1)
    read -= scipy.special.logsumexp(logits[:, seen.associative_ids], -1)
    size = np.abs(logits).max(-1)
    # norm and head round their weights, input and output: a few units in the last place
    assert (np.abs(lens.margin - read) <= 8 * 2.0**-bits * size).all()
    assert lens.margin[-1] == pytest.approx(seen.contrast, abs=8 * 2.0**-bits * size[-1])
