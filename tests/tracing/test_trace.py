"""The trace against two independent forward passes: transformers' own, and one written by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import dst
from dst.core.case import Case
from dst.core.errors import CaseError, ModelError, TokenError
from dst.models.hooks import HooksBackend
from dst.models.identity import weights_hash
from tests import tiny

LAKE = "Anna is at the lake. Anna sees a bass. What is the bass? The bass is a"
SHORT = "The bass is a"


def case(prompt: str = LAKE, **changes: Any) -> Case:
    return Case(**{"prompt": prompt, "contextual": "fish", "associative": "guitar"} | changes)


# -- transformer blocks written from the formula ------------------------------------------------


def by_hand(model: Any, ids: list[int]) -> dict[str, np.ndarray]:
    """The residual stream of a Llama or GPT-2 in float64, from its weights alone."""
    weights = {name: tensor.double() for name, tensor in model.state_dict().items()}
    run = _llama if model.config.model_type == "llama" else _gpt2
    resid, attn, mlp, logits = run(model.config, weights, torch.tensor(ids))
    return {
        "resid": torch.stack(resid).numpy(),
        "attn_out": torch.stack(attn).numpy(),
        "mlp_out": torch.stack(mlp).numpy(),
        "logits": logits.numpy(),
    }


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal softmax attention, [head pos d_head] each, back to [pos head*d_head]."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    pattern = scores.masked_fill(future, -math.inf).softmax(-1)
    return (pattern @ v).transpose(0, 1).flatten(1)


def _heads(x: torch.Tensor, n: int) -> torch.Tensor:
    return x.unflatten(-1, (n, -1)).transpose(0, 1)


def _llama(config: Any, w: dict[str, torch.Tensor], ids: torch.Tensor) -> tuple[Any, ...]:
    d_head = config.hidden_size // config.num_attention_heads
    theta = config.rope_parameters["rope_theta"]
    rate = theta ** (-torch.arange(0, d_head, 2).double() / d_head)
    angle = torch.arange(len(ids)).double().outer(rate).repeat(1, 2)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return w[name] * x / (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).sqrt()

    def rotated(x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, -1)
        return x * angle.cos() + torch.cat([-b, a], -1) * angle.sin()

    h = w["model.embed_tokens.weight"][ids]
    resid, attn, mlp = [h], [], []
    for layer in range(config.num_hidden_layers):
        part = f"model.layers.{layer}"
        x = norm(h, f"{part}.input_layernorm.weight")
        q = rotated(_heads(x @ w[f"{part}.self_attn.q_proj.weight"].T, config.num_attention_heads))
        k = rotated(_heads(x @ w[f"{part}.self_attn.k_proj.weight"].T, config.num_key_value_heads))
        v = _heads(x @ w[f"{part}.self_attn.v_proj.weight"].T, config.num_key_value_heads)
        share = config.num_attention_heads // config.num_key_value_heads
        z = _attend(q, k.repeat_interleave(share, 0), v.repeat_interleave(share, 0))
        attn.append(z @ w[f"{part}.self_attn.o_proj.weight"].T)
        h = h + attn[-1]
        x = norm(h, f"{part}.post_attention_layernorm.weight")
        gate = torch.nn.functional.silu(x @ w[f"{part}.mlp.gate_proj.weight"].T)
        up = x @ w[f"{part}.mlp.up_proj.weight"].T
        mlp.append((gate * up) @ w[f"{part}.mlp.down_proj.weight"].T)
        h = h + mlp[-1]
        resid.append(h)
    return resid, attn, mlp, norm(h, "model.norm.weight") @ w["lm_head.weight"].T


def _gpt2(config: Any, w: dict[str, torch.Tensor], ids: torch.Tensor) -> tuple[Any, ...]:
    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.pow(2).mean(-1, keepdim=True) + config.layer_norm_epsilon).sqrt()
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]  # Conv1D: [in out]

    h = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][: len(ids)]
    resid, attn, mlp = [h], [], []
    for layer in range(config.n_layer):
        part = f"transformer.h.{layer}"
        qkv = linear(norm(h, f"{part}.ln_1"), f"{part}.attn.c_attn").chunk(3, -1)
        z = _attend(*(_heads(x, config.n_head) for x in qkv))
        attn.append(linear(z, f"{part}.attn.c_proj"))
        h = h + attn[-1]
        x = linear(norm(h, f"{part}.ln_2"), f"{part}.mlp.c_fc")
        x = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        mlp.append(linear(x, f"{part}.mlp.c_proj"))
        h = h + mlp[-1]
        resid.append(h)
    return resid, attn, mlp, norm(h, "transformer.ln_f") @ w["lm_head.weight"].T


def close(a: np.ndarray, b: np.ndarray, tolerance: float = 1e-5) -> bool:
    """Equal within float32: relative to the largest entry."""
    return a.shape == b.shape and float(np.abs(a - b).max()) <= tolerance * np.abs(b).max()


# -- what is recorded ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("prompt", [LAKE, SHORT])
def test_states_are_those_of_the_formula(family: str, prompt: str) -> None:
    model = tiny.backend(family)
    seen = dst.trace(model, case(prompt))
    expected = by_hand(model.model, seen.ids.tolist())
    for name in ("resid", "attn_out", "mlp_out"):
        assert close(getattr(seen, name), expected[name]), name
    assert close(seen.logits, expected["logits"][-1])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_states_are_those_that_transformers_reports(family: str) -> None:
    model = tiny.backend(family)
    seen = dst.trace(model, case())
    with torch.no_grad():
        plain = model.model(torch.tensor([seen.ids.tolist()]), output_hidden_states=True)
        last = model.anatomy.final_norm(torch.from_numpy(seen.resid[-1]))
    n_layers = model.spec.n_layers
    for state in range(n_layers):
        assert close(seen.resid[state], plain.hidden_states[state][0].numpy()), state
    assert close(last.numpy(), plain.hidden_states[n_layers][0].numpy())  # that one is normed
    assert close(seen.logits, plain.logits[0, -1].numpy())


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "olmo2", "gptj", "qwen3_moe"])
def test_what_blocks_add_is_the_difference_of_states(family: str) -> None:
    seen = dst.trace(tiny.backend(family), case())
    summed = seen.resid[:-1] + seen.attn_out + seen.mlp_out
    assert close(summed, seen.resid[1:])
    assert np.abs(seen.attn_out).max() > 0
    assert np.abs(seen.mlp_out).max() > 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma2"])
def test_a_batch_of_unequal_cases_is_its_cases_alone(family: str) -> None:
    model = tiny.backend(family)
    cases = [case(SHORT), case(), case("What is the bass? The bass is a")]
    together = dst.trace(model, cases)
    assert isinstance(together, list)
    assert len({len(seen.ids) for seen in together}) == 3
    for one, batched in zip(cases, together, strict=True):
        alone = dst.trace(model, one)
        assert batched.ids.tolist() == alone.ids.tolist()
        assert batched.roles == alone.roles
        for name in ("resid", "attn_out", "mlp_out", "logits"):
            assert close(getattr(batched, name), getattr(alone, name)), name
        assert batched.contrast == pytest.approx(alone.contrast, abs=1e-4)


def test_no_cases_give_no_traces() -> None:
    assert dst.trace(tiny.backend("gpt2"), []) == []


# -- tokens, roles, answers ----------------------------------------------------------------------


def test_tokens_and_roles_by_hand() -> None:
    model = tiny.backend("llama", tiny.word_level)
    seen = dst.trace(
        model,
        Case(
            prompt="Anna sees a bass . Ben is at the lake . the bass is a",
            contextual="fish",
            associative="instrument",
            subject="bass",
            cue="at the lake",
            distractor="Anna sees",
        ),
    )
    expected = [
        ("<s>", "bos"), ("Anna", "distractor"), ("sees", "distractor"), ("a", "rest"),
        ("bass", "subject_1"), (".", "relay"), ("Ben", "relay"), ("is", "relay"),
        ("at", "cue"), ("the", "cue"), ("lake", "cue"), (".", "relay"), ("the", "relay"),
        ("bass", "subject_2"), ("is", "rest"), ("a", "answer"),
    ]  # fmt: skip
    assert list(zip(seen.tokens, seen.roles, strict=True)) == expected
    vocabulary = model.tokenizer.get_vocab()
    assert seen.ids.tolist() == [vocabulary[token] for token, _ in expected]
    assert seen.answer_position == 15
    assert seen.contextual_ids.tolist() == [vocabulary["fish"]]
    assert seen.associative_ids.tolist() == [vocabulary["instrument"]]


def test_the_contrast_by_hand() -> None:
    """Two forms a side: LD is the difference of the logs of the summed exponentials."""
    model = tiny.backend("llama", tiny.word_level)
    seen = dst.trace(
        model,
        case("the bass is a", contextual=["fish", "animal"], associative=["guitar", "drum"]),
    )
    ids = model.tokenizer("the bass is a")["input_ids"]
    with torch.no_grad():
        logits = model.model(torch.tensor([ids])).logits[0, -1].double().tolist()
    word = model.tokenizer.get_vocab()
    odds = [
        math.log(sum(math.exp(logits[word[form]]) for form in forms))
        for forms in (("fish", "animal"), ("guitar", "drum"))
    ]
    assert seen.contrast == pytest.approx(odds[0] - odds[1], abs=1e-5)
    assert seen.model_output == model.tokenizer.decode([int(np.argmax(logits))])


def test_answers_that_begin_alike_are_read_where_they_part() -> None:
    model = tiny.backend("llama", tiny.word_level)
    seen = dst.trace(model, case("the bass is", contextual="a fish", associative="a bass"))
    longer = dst.trace(model, case("the bass is a", contextual="fish", associative="bass"))
    assert seen.shared == ("a",)
    assert seen.ids.tolist() == longer.ids.tolist()
    assert seen.roles[-2:] == ("rest", "answer")
    assert np.array_equal(seen.resid, longer.resid)
    assert seen.contrast == longer.contrast


def test_a_prefix_is_read_as_the_reply_so_far() -> None:
    model = tiny.backend("llama", tiny.word_level)
    parted = dst.trace(model, case("the bass", prefix=" is a"))
    whole = dst.trace(model, case("the bass is a"))
    assert np.array_equal(parted.resid, whole.resid)


def test_a_chat_goes_through_the_template_and_says_so() -> None:
    model = tiny.backend("llama")
    seen = dst.trace(model, case(LAKE, chat=True, subject="bass", prefix="It is a"))
    text = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": LAKE}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    expected = model.tokenizer(text + "It is a", add_special_tokens=False)["input_ids"]
    assert seen.ids.tolist() == expected
    assert seen.roles.count("subject_3") == 1
    assert "template" in seen.roles
    assert any("chat template" in note for note in seen.notes)
    assert any("thinking" in note for note in seen.notes)


def test_forms_that_are_not_read_are_listed() -> None:
    seen = dst.trace(tiny.backend("gpt2"), case())
    assert seen.contextual_forms == (" fish",)
    assert any("Fish" in reason for reason in seen.dropped_forms)


# -- what is refused -------------------------------------------------------------------------------


def test_a_case_without_the_other_answer_is_refused() -> None:
    with pytest.raises(CaseError, match="no associative answer") as caught:
        dst.trace(tiny.backend("gpt2"), case(associative=()))
    assert caught.value.field == "associative"
    assert "dst.explain" in str(caught.value)


def test_a_chat_without_a_template_is_refused() -> None:
    tokenizer = tiny.byte_bpe.__wrapped__()
    tokenizer.chat_template = None
    model = HooksBackend(tiny.model("gpt2", len(tokenizer) + 3), tokenizer)
    with pytest.raises(TokenError, match="no chat template"):
        dst.trace(model, case(chat=True))


def test_activations_that_are_not_finite_are_refused_by_name() -> None:
    tokenizer = tiny.byte_bpe()
    broken = tiny.model("llama", len(tokenizer) + 3)
    with torch.no_grad():
        broken.model.layers[1].mlp.down_proj.weight[3, 5] = math.nan
    with pytest.raises(ModelError, match=r"NaN or infinity in mlp_out\.1"):
        dst.trace(HooksBackend(broken, tokenizer), case())


# -- number types, and what is left as it was --------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_states_are_kept_exactly_in_float32(family: str, dtype: torch.dtype) -> None:
    tokenizer = tiny.byte_bpe()
    model = HooksBackend(tiny.model(family, len(tokenizer) + 3).to(dtype), tokenizer)
    seen = dst.trace(model, case())
    with torch.no_grad():
        plain = model.model(torch.tensor([seen.ids.tolist()]), output_hidden_states=True)
    assert seen.resid.dtype == np.float32
    for state in range(model.spec.n_layers):
        expected = plain.hidden_states[state][0]
        assert expected.dtype == dtype
        assert np.array_equal(seen.resid[state], expected.float().numpy()), state
    assert seen.provenance.dtype == str(dtype).removeprefix("torch.")
    # bfloat16 has 8 significant bits: each of 3 blocks rounds its sums to 2^-8 of their size.
    full = dst.trace(tiny.backend(family), case())
    assert close(seen.resid, full.resid, tolerance=0.1)


def test_the_model_is_left_as_it_was() -> None:
    model = tiny.backend("gpt2")
    module, tokenizer = model.model, model.tokenizer
    module.train()
    before = (weights_hash(module), module.config._attn_implementation, tokenizer.padding_side)
    dst.trace(model, [case(), case(SHORT)])
    after = (weights_hash(module), module.config._attn_implementation, tokenizer.padding_side)
    assert after == before
    assert all(part.training for part in module.modules())
    hooks = [
        hook
        for part in module.modules()
        for hook in (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
    ]
    assert hooks == []


def test_a_trace_is_the_same_twice_and_says_what_made_it() -> None:
    model = tiny.backend("llama")
    one, two = dst.trace(model, case()), dst.trace(model, case())
    assert np.array_equal(one.resid, two.resid)
    assert one.contrast == two.contrast
    assert one.provenance == two.provenance
    assert one.provenance.weights_hash == weights_hash(model.model)
    assert set(one.provenance.versions) == {"dst", "torch", "transformers", "numpy"}
