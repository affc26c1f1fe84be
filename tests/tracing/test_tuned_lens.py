"""The tuned lens where the answer is known, where it cannot help, and through every engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch

import dst
from dst.core.case import Case
from dst.core.errors import CapabilityError, InputError
from dst.core.lens_results import TunedLens
from dst.models.hooks import HooksBackend
from dst.tracing import tuned_lens as module
from tests import tiny

CASE = Case(
    prompt="Anna is at the lake. Anna sees a bass. What is the bass? The bass is a",
    contextual="fish",
    associative="guitar",
)


def words(n: int, seed: int = 0, length: int = 16) -> list[str]:
    """Texts of random signs: more tokens of a byte-level vocabulary than a model is wide."""
    rng = np.random.default_rng(seed)
    letters = np.array([chr(code) for code in range(33, 127)])
    return [
        " ".join("".join(rng.choice(letters, rng.integers(1, 5))) for _ in range(length))
        for _ in range(n)
    ]


TEXTS = words(40)


def passing(d_model: int = 64, *, turned: bool, seed: int = 0) -> tuple[HooksBackend, list[Any]]:
    """A model whose blocks add nothing; ``turned`` then puts a random affine map after each.

    Returns:
        The backend, and per block the map (R, t), with h[l + 1] = R h[l] + t.
    """
    tokenizer = tiny.byte_bpe()
    model = tiny.model("llama", len(tokenizer) + 3, seed=seed)
    rng = np.random.default_rng(seed)
    maps = []
    with torch.no_grad():
        model.lm_head.weight.mul_(4)  # so that two different states say different things
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
            if turned:
                R = torch.from_numpy(np.linalg.qr(rng.normal(size=(d_model, d_model)))[0]).float()
                t = torch.from_numpy(rng.normal(size=d_model) * 0.3).float()
                maps.append((R, t))
                layer.register_forward_hook(_turn(R, t))
    return HooksBackend(model, tokenizer, name="passing"), maps


def _turn(R: torch.Tensor, t: torch.Tensor) -> Any:
    def hook(_module: Any, _args: Any, out: Any) -> Any:
        if isinstance(out, torch.Tensor):
            return out @ R.T + t
        return (out[0] @ R.T + t, *out[1:])

    return hook


@pytest.fixture(scope="module")
def random() -> tuple[Any, TunedLens]:
    model = tiny.backend("llama")
    return model, dst.fit_tuned_lens(model, TEXTS, steps=60, show=False)


# -- the answer is known ----------------------------------------------------------------------


def test_an_affine_image_of_the_output_is_read_exactly() -> None:
    """h[L] = M h[l] + t: then A_l = M - 1, b_l = t, and the lens says what the model says."""
    model, maps = passing(turned=True)
    lens = dst.fit_tuned_lens(model, TEXTS, steps=0, show=False)
    assert lens.fitted.all()
    assert (lens.kl_logit_lens > 0.5).all()
    assert (lens.kl < 1e-4).all()
    searched = dst.fit_tuned_lens(model, TEXTS, steps=40, show=False)
    assert (searched.kl < 1e-4).all()
    M, t = torch.eye(64), torch.zeros(64)
    for state in (2, 1, 0):
        R, shift = maps[state]
        M, t = M @ R, M @ shift + t
        expected = (M - torch.eye(64)).numpy()
        np.testing.assert_allclose(lens.weight[state], expected, atol=2e-2 * np.abs(expected).max())
        np.testing.assert_allclose(lens.bias[state], t.numpy(), atol=2e-2 * float(t.abs().max()))


def test_the_readout_with_the_lens_is_the_output_and_without_it_is_not() -> None:
    model, _ = passing(turned=True)
    lens = dst.fit_tuned_lens(model, TEXTS, steps=0, show=False)
    seen = dst.trace(model, CASE)
    tuned, plain = dst.logit_lens(model, seen, lens=lens), dst.logit_lens(model, seen)
    assert (tuned.lens, plain.lens) == ("tuned_lens", "logit_lens")
    np.testing.assert_allclose(tuned.margin, seen.contrast, atol=0.05)
    assert (tuned.kl_to_output < 1e-3).all()
    assert (plain.kl_to_output[:-1] > 0.3).all()
    assert tuned.margin[-1] == plain.margin[-1] == pytest.approx(seen.contrast, abs=1e-4)
    assert tuned.top_ids[0, 0] == seen.logits.argmax()


def test_where_the_logit_lens_is_exact_it_is_kept() -> None:
    """Blocks that add nothing: no map can be better, and the result says that there is none."""
    model, _ = passing(turned=False)
    lens = dst.fit_tuned_lens(model, TEXTS, steps=30, show=False)
    assert not lens.fitted.any()
    assert not lens.weight.any()
    assert not lens.bias.any()
    assert lens.kl == pytest.approx(0, abs=1e-6)
    assert np.array_equal(lens.kl, lens.kl_logit_lens)
    seen = dst.trace(model, CASE)
    tuned = dst.logit_lens(model, seen, lens=lens)
    assert np.array_equal(tuned.margin, dst.logit_lens(model, seen).margin)


def test_a_map_that_is_worse_on_held_out_text_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny.backend("llama")
    honest, calls = module._fit, list[int]()

    def misled(*args: Any) -> Any:
        """At the second of three states the search returns what no text speaks for."""
        calls.append(1)
        best = honest(*args)
        return module._Map(-best.A - 1.0, best.b) if len(calls) == 2 else best

    monkeypatch.setattr(module, "_fit", misled)
    lens = dst.fit_tuned_lens(model, TEXTS[:20], steps=0, show=False)
    assert lens.fitted.tolist() == [True, False, True]
    assert lens.kl[1] == lens.kl_logit_lens[1]
    assert not lens.weight[1].any()
    assert lens.weight[2].any()


# -- real models --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "opt"])
def test_on_held_out_text_it_is_never_worse_than_the_logit_lens(family: str) -> None:
    """LayerNorm with bias, a soft cap and 1 + w, an offset: the readout is the model's own."""
    model = tiny.backend(family)
    lens = dst.fit_tuned_lens(model, TEXTS[:24], steps=20, show=False)
    assert (lens.kl <= lens.kl_logit_lens).all()
    assert np.array_equal(lens.fitted, lens.kl < lens.kl_logit_lens)
    assert lens.reasons == ("",) * model.spec.n_layers


def test_regression_and_search_each_lower_the_kl(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.backend("llama")
    start = dst.fit_tuned_lens(model, TEXTS, steps=0, show=False)
    assert (start.kl < 0.5 * start.kl_logit_lens).all()
    monkeypatch.setattr(module, "RIDGES", ())  # the search alone, from a constant
    constant = dst.fit_tuned_lens(model, TEXTS, steps=0, show=False)
    searched = dst.fit_tuned_lens(model, TEXTS, steps=150, show=False)
    assert (searched.kl < constant.kl).all()
    assert searched.kl[-1] < 0.5 * constant.kl[-1]
    assert (searched.kl < 1.1 * start.kl).all()  # two ways, one optimum


def test_the_held_out_kl_is_scipy_s_on_transformers_own_states(
    random: tuple[Any, TunedLens],
) -> None:
    model, lens = random
    rows = module._rows(model, TEXTS)
    *_, held = module._parts(rows, np.random.default_rng(0))
    assert lens.n_held_out == len(held)
    final_norm, head = model.model.model.norm, model.model.lm_head
    plain: list[list[float]] = [[] for _ in range(3)]
    tuned: list[list[float]] = [[] for _ in range(3)]
    with torch.no_grad():
        for text in {text for text, _ in held}:
            positions = [position for one, position in held if one == text]
            output = model.model(torch.tensor([rows[text]]), output_hidden_states=True)
            log_p = scipy.special.log_softmax(output.logits[0, positions].double().numpy(), -1)
            for state in range(3):
                h = output.hidden_states[state][0, positions]
                A, b = (torch.from_numpy(m[state]) for m in (lens.weight, lens.bias))
                for kls, read in ((plain, h), (tuned, h + h @ A.T + b)):
                    logits = head(final_norm(read)).double().numpy()
                    log_q = scipy.special.log_softmax(logits, -1)
                    kls[state] += (np.exp(log_p) * (log_p - log_q)).sum(-1).tolist()
    np.testing.assert_allclose(lens.kl_logit_lens, [np.mean(kl) for kl in plain], rtol=1e-3)
    np.testing.assert_allclose(lens.kl, [np.mean(kl) for kl in tuned], rtol=1e-3)


def test_no_part_holds_a_state_of_another() -> None:
    rows = [(1, 5, 6, 7), (1, 5, 6, 8), (1, 5, 9, 7), (1, 5, 6), (2, 5, 6, 7)] * 1
    rows += [(1, 5, 6, i) for i in range(10, 30)]
    parts = module._parts(rows, np.random.default_rng(0))
    seen = [{rows[text][: position + 1] for text, position in part} for part in parts]
    assert sum(map(len, seen)) == len(set.union(*seen)) == sum(map(len, parts))
    assert all(position > 0 for part in parts for _, position in part)
    assert [len(part) > 0 for part in parts] == [True, True, True]


def test_the_same_seed_gives_the_same_lens_and_another_seed_another() -> None:
    model = tiny.backend("llama")
    once, again, other = (
        dst.fit_tuned_lens(model, TEXTS[:20], steps=12, seed=seed, show=False) for seed in (0, 0, 1)
    )
    assert np.array_equal(once.weight, again.weight)
    assert once.fingerprint == again.fingerprint != other.fingerprint
    assert once.provenance.seed == 0
    assert once.provenance.settings == again.provenance.settings


def test_the_model_is_left_as_it_was() -> None:
    model = tiny.backend("llama")
    before = {name: weight.clone() for name, weight in model.model.state_dict().items()}
    wanted = [weight.requires_grad for weight in model.model.parameters()]
    dst.fit_tuned_lens(model, TEXTS[:12], steps=5, show=False)
    assert all(torch.equal(before[name], w) for name, w in model.model.state_dict().items())
    assert [weight.requires_grad for weight in model.model.parameters()] == wanted
    assert all(weight.grad is None for weight in model.model.parameters())


def test_the_readout_is_differentiable_only_where_that_is_asked() -> None:
    model = tiny.backend("gemma2")
    h = torch.randn(2, 64)
    assert not model.unembed(h).requires_grad
    with torch.no_grad():
        assert not model.unembed(h.clone().requires_grad_()).requires_grad
    h.requires_grad_()
    logits = model.unembed(h)
    (slope,) = torch.autograd.grad(logits[0, 7], h)
    step = torch.zeros_like(h)
    step[0, 3] = 1e-2
    up, down = (model.unembed((h + sign * step).detach())[0, 7] for sign in (1, -1))
    assert float(slope[0, 3]) == pytest.approx(float(up - down) / 2e-2, rel=2e-2)
    assert not slope[1].any()


@pytest.mark.parametrize("engine", ["bridge", "nnsight"])
def test_every_engine_fits_the_same_lens(engine: str) -> None:
    weights = tiny.model("llama", len(tiny.byte_bpe()) + 3)
    reference = dst.load(weights, tokenizer=tiny.byte_bpe(), check=False)
    other = dst.load(weights, tokenizer=tiny.byte_bpe(), backend=engine, check=False)
    ours, theirs = (
        dst.fit_tuned_lens(model, TEXTS[:20], steps=5, show=False) for model in (reference, other)
    )
    np.testing.assert_allclose(theirs.kl, ours.kl, rtol=1e-3)
    np.testing.assert_allclose(theirs.weight, ours.weight, atol=1e-3 * np.abs(ours.weight).max())


def test_half_precision_has_a_lens_of_its_own() -> None:
    tokenizer = tiny.byte_bpe()
    whole = tiny.backend("llama")
    half = HooksBackend(tiny.model("llama", len(tokenizer) + 3).to(torch.bfloat16), tokenizer)
    lens = dst.fit_tuned_lens(half, TEXTS[:20], steps=5, show=False)
    assert (lens.kl <= lens.kl_logit_lens).all()
    with pytest.raises(InputError, match=r"\(bfloat16\), and the model given has other weights"):
        dst.logit_lens(whole, dst.trace(whole, CASE), lens=lens)


# -- saved, refused -------------------------------------------------------------------------------


def test_it_comes_back_from_a_file(random: tuple[Any, TunedLens], tmp_path: Path) -> None:
    model, lens = random
    back = dst.open_result(lens.save(tmp_path / "lens.npz"))
    assert isinstance(back, TunedLens)
    assert back.fingerprint == lens.fingerprint
    assert back.provenance.weights_hash == model.spec.weights_hash
    seen = dst.trace(model, CASE)
    ours, theirs = (dst.logit_lens(model, seen, lens=one).margin for one in (lens, back))
    assert np.array_equal(ours, theirs)
    assert [row["kl"] for row in back.to_records()] == lens.kl.tolist()
    assert [row["state"] for row in back.to_records()] == [0, 1, 2]


def test_another_model_is_refused_in_one_sentence(random: tuple[Any, TunedLens]) -> None:
    _, lens = random
    other = tiny.backend("llama", seed=1)
    with pytest.raises(InputError, match=r"fitted to tiny-llama .* has other weights") as error:
        dst.logit_lens(other, dst.trace(other, CASE), lens=lens)
    assert "dst.fit_tuned_lens" in str(error.value)
    assert "\n" not in str(error.value)


def test_texts_that_cannot_be_used_are_refused() -> None:
    model = tiny.backend("llama")
    with pytest.raises(InputError, match="knows the words of 3 of 3 texts; expected 10"):
        dst.fit_tuned_lens(model, TEXTS[:3])
    with pytest.raises(InputError, match="knows the words of 1 of 30 texts"):
        dst.fit_tuned_lens(model, [TEXTS[0]] * 30)
    with pytest.raises(InputError, match="texts is one text"):
        dst.fit_tuned_lens(model, TEXTS[0])
    with pytest.raises(InputError, match="steps is -1"):
        dst.fit_tuned_lens(model, TEXTS, steps=-1)
    with pytest.raises(InputError, match="none of their positions is left"):
        dst.fit_tuned_lens(model, ["lake" * n for n in range(1, 31)])
    closed = tiny.backend("llama", tiny.word_level)
    with pytest.raises(InputError, match="The model knows the words of 0 of 200 texts"):
        dst.fit_tuned_lens(closed)


def test_an_engine_that_cannot_differentiate_its_readout_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny.backend("llama")
    plain = model.unembed
    monkeypatch.setattr(model, "unembed", lambda resid, scale_from=None: plain(resid).detach())
    with pytest.raises(CapabilityError, match="readout of tiny-llama cannot be differentiated"):
        dst.fit_tuned_lens(model, TEXTS, steps=1, show=False)


def test_a_readout_that_is_not_finite_is_nan_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny.backend("llama")
    honest = module._mean_kl

    def broken(model: Any, pairs: Any, through: Any) -> float:
        value = honest(model, pairs, through)
        return float("nan") if through is None else value

    monkeypatch.setattr(module, "_mean_kl", broken)
    lens = dst.fit_tuned_lens(model, TEXTS[:12], steps=0, show=False)
    assert np.isnan(lens.kl).all()
    assert set(lens.reasons) == {"the logit lens is not finite here"}
    assert not lens.fitted.any()
