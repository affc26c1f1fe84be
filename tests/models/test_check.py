"""`check_model`: every family passes; what does not hold is found, switched off and named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from dst.core.errors import CapabilityError, ModelError
from dst.core.sites import Site
from dst.models import families
from dst.models.backend import CAPABILITIES, require
from dst.models.check import TOLERANCE, Check, ModelCheck, check_model
from dst.models.hooks import HooksBackend
from tests import tiny
from tests.models.test_roles import TOKENIZERS


def failed(check: ModelCheck) -> dict[str, str]:
    """Capability -> the reason why it fails, by the first check that does."""
    found: dict[str, str] = {}
    for one in check.checks:
        for capability in () if one.passed else one.needed_by:
            found.setdefault(capability, one.reason)
    return found


def checked(engine: HooksBackend) -> dict[str, str]:
    """What fails; it must then be switched off, and the rest be left on."""
    off = failed(check := check_model(engine))
    check.apply(engine)
    assert engine.can == set(CAPABILITIES) - set(off)
    for capability, reason in off.items():
        assert reason
        assert reason in engine.cannot[capability]
        with pytest.raises(CapabilityError, match=f"cannot do '{capability}'"):
            require(engine, capability)
    return off


# -- what holds -----------------------------------------------------------------------------


@tiny.families()
@pytest.mark.parametrize("tokenizer", ["byte_bpe", "sentencepiece", "word_level"])
def test_every_family_passes(family: str, tokenizer: str) -> None:
    engine = tiny.backend(family, TOKENIZERS[tokenizer])
    check = check_model(engine)
    assert failed(check) == {}
    assert check.passed
    assert all(one.error <= 2e-6 for one in check.checks)  # float32, well inside the tolerance
    assert checked(engine) == {}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("falcon", {"alibi": True}),
        ("falcon", {"multi_query": False}),
        ("falcon", {"multi_query": False, "alibi": True, "bias": True, "parallel_attn": False}),
        ("falcon_new", {"num_ln_in_parallel_attn": 1}),
        ("gpt_neox", {"use_parallel_residual": False}),
        ("gpt_neox", {"attention_bias": False}),
        ("stablelm", {"use_parallel_residual": True}),
        ("stablelm", {"qk_layernorm": True, "partial_rotary_factor": 0.5}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"num_hidden_layers": 1}),
        ("llama", {"num_key_value_heads": 1}),
        ("gpt2", {"attn_implementation": "eager"}),
        ("gemma2", {"tie_word_embeddings": False}),
    ],
)
def test_the_shapes_that_a_family_can_take_pass(family: str, changes: dict[str, Any]) -> None:
    assert checked(tiny.backend(family, **changes)) == {}


def of_class(name: str, **changes: Any) -> HooksBackend:
    """A small model of any class of transformers."""
    sizes = tiny._GROUPED | tiny._MOE | {"vocab_size": 99, "head_dim": 16, "num_local_experts": 4}
    config = getattr(transformers, f"{name}Config")(**sizes | changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
    return HooksBackend(model, tiny.byte_bpe())


FEW = ("Cohere", "Glm4", "GptOss", "Mixtral")
MORE = (
    *(
        "Apertus",
        "Arcee",
        "Cohere2",
        "Ernie4_5",
        "Exaone4",
        "Gemma",
        "GPTBigCode",
        "Glm",
        "Glm4Moe",
    ),
    *("Granite", "GraniteMoe", "Helium", "HunYuanDenseV1", "Llama4Text", "Nemotron", "Olmo"),
    *("Olmo3", "Olmoe", "Persimmon", "Phi", "Phimoe", "Qwen2Moe", "SeedOss", "Starcoder2"),
)


@pytest.mark.parametrize("name", [*FEW, *(pytest.param(n, marks=pytest.mark.full) for n in MORE)])
def test_families_pass_by_the_names_of_their_modules(name: str) -> None:
    assert checked(of_class(name)) == {}


def test_a_family_that_adds_the_residual_inside_its_parts() -> None:
    off = checked(of_class("Bloom", n_layer=2, n_head=4))
    assert set(off) == {"components", "heads"}  # z is there, and no head's part of the sum


def test_a_factor_on_what_is_added() -> None:
    assert set(checked(of_class("Granite", residual_multiplier=0.5))) == {"components"}
    assert checked(of_class("Granite", logits_scaling=4.0)) == {}


@pytest.mark.full
@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_number_types_pass_with_their_own_tolerance(family: str, dtype: torch.dtype) -> None:
    if family == "qwen3_moe" and dtype == torch.float64:
        pytest.skip("its experts do not run in float64")
    model = tiny.model(family, 384).to(dtype)
    engine = HooksBackend(model, tiny.byte_bpe())
    assert checked(engine) == {}
    assert check_model(engine).tolerance == TOLERANCE[str(dtype).removeprefix("torch.")]


def test_a_run_in_float64_is_float64() -> None:
    engine = HooksBackend(tiny.model("gpt2", 384).double(), tiny.byte_bpe())
    run = engine.run([[1, 2, 3]], capture=[Site(0, "resid_pre")])
    assert run.logits.dtype == run.states[Site(0, "resid_pre")].dtype == torch.float64
    # GPT-2 rounds nothing to float32 on the way, so that here the tolerance is met by far.
    assert max(check.error for check in check_model(engine).checks) < 1e-14


def test_every_capability_but_generating_is_proved() -> None:
    check = check_model(tiny.backend("llama"))
    proved = {capability for one in check.checks for capability in one.needed_by}
    assert proved == set(CAPABILITIES) - {"generate"}
    assert len({one.name for one in check.checks}) == len(check.checks)


# -- what does not --------------------------------------------------------------------------


def wrapped(module: Any, change: Callable[..., Any]) -> None:
    """Put ``change`` around a module's own forward, as code of its own would do."""
    own = module.forward
    module.forward = lambda *args, **kwargs: change(own, *args, **kwargs)


def wrapped_attention(module: Any, change: Callable[..., Any]) -> None:
    """As `wrapped`, with the arguments still named, as every attention has them."""
    own = module.forward

    def forward(
        hidden_states: Any, position_embeddings: Any, attention_mask: Any = None, **kwargs: Any
    ) -> Any:
        return change(own, hidden_states, position_embeddings, attention_mask, **kwargs)

    module.forward = forward


def renamed(module: Any, name: str, other: str) -> None:
    """Give a child another name; the code that calls it by the old one still runs."""
    child = module._modules.pop(name)
    setattr(module, other, child)
    object.__setattr__(module, name, lambda *args, **kwargs: child(*args, **kwargs))


def test_a_block_that_adds_a_term_of_its_own() -> None:
    engine = tiny.backend("llama")
    wrapped(engine.model.model.layers[1], lambda own, x, **kw: own(x, **kw) + 0.01 * x.flip(-1))
    off = checked(engine)
    assert set(off) == {"components"}
    assert off["components"].startswith("relative difference")
    assert (
        "'resid_pre + attn_out + mlp_out = resid_post' does not hold"
        in (engine.cannot["components"])
    )


def test_a_norm_after_the_sum() -> None:
    engine = tiny.backend("opt", do_layer_norm_before=False)  # as OPT-350M
    assert set(checked(engine)) == {"components"}
    assert "taken to be none" in engine.anatomy.missing["final_norm"]  # and the lens holds


def test_a_projection_before_the_head() -> None:
    # A suffix goes from the last state to the logits by itself, as a lens does.
    off = checked(tiny.backend("opt", word_embed_proj_dim=32))
    assert set(off) == {"lens", "replay"}


def test_a_final_norm_of_an_unknown_name() -> None:
    model = tiny.model("llama", 384)
    renamed(model.model, "norm", "the_last_norm")
    engine = HooksBackend(model, tiny.byte_bpe())
    assert set(checked(engine)) == {"lens", "replay"}
    assert "no norm or ln_f or" in engine.anatomy.missing["final_norm"]


def test_a_norm_whose_scale_is_no_scale() -> None:
    engine = tiny.backend("llama")
    wrapped(engine.model.model.norm, lambda own, x: own(x) + 0.1 * x.sin())
    off = checked(engine)
    assert set(off) == {"lens"}


def test_an_mlp_of_an_unknown_name() -> None:
    model = tiny.model("llama", 384)
    for block in model.model.layers:
        renamed(block, "mlp", "network")
    off = checked(HooksBackend(model, tiny.byte_bpe()))
    assert set(off) == {"components", "edits"}
    assert "no MLP of a known name in LlamaDecoderLayer" in off["components"]


@pytest.mark.parametrize("family", ["gpt_neox", "phi3", "falcon_new"])
def test_queries_keys_and_values_taken_for_each_other(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(*sizes: int) -> dict[str, torch.Tensor]:
        index = true(*sizes)
        return {"q": index["q"], "k": index["v"], "v": index["k"]}

    name = {"gpt_neox": "_per_head", "phi3": "_blocks_of", "falcon_new": "_per_group"}[family]
    true = getattr(families, name)
    monkeypatch.setattr(families, name, shifted)
    assert set(checked(tiny.backend(family))) == {"patterns"}


@pytest.mark.parametrize(("family", "name"), [("gpt_neox", "_per_head"), ("phi3", "_blocks_of")])
def test_queries_taken_for_keys(family: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true = getattr(families, name)

    def turned(*sizes: int) -> dict[str, torch.Tensor]:
        return dict(zip("kqv", true(*sizes).values(), strict=True))

    monkeypatch.setattr(families, name, turned)
    assert set(checked(tiny.backend(family, num_key_value_heads=4))) == {"heads"}


def test_heads_taken_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    # GPT-NeoX's queries, keys and values read as [all q | all k | all v].
    monkeypatch.setattr(families, "_per_head", lambda n, d: families._blocks_of(n, n, d))
    assert {"heads", "patterns"} <= set(checked(tiny.backend("gpt_neox")))


def test_a_model_that_mixes_the_rows_of_a_batch() -> None:
    engine = tiny.backend("llama")
    wrapped(engine.model.model.layers[0], lambda own, x, **kw: own(x, **kw) + x.mean(0) - x[:1])
    assert {"batch"} <= set(checked(engine))


def test_attention_that_minds_no_mask() -> None:
    engine = tiny.backend("llama")
    for block in engine.model.model.layers:
        wrapped_attention(
            block.self_attn, lambda own, x, places, mask, **kw: own(x, places, None, **kw)
        )
    off = checked(engine)
    # (Eager attention without its mask is not even causal, which the patterns show.)
    assert "cuts" in off


def test_attention_that_hides_its_pattern() -> None:
    engine = tiny.backend("llama")
    for block in engine.model.model.layers:
        wrapped_attention(
            block.self_attn,
            lambda own, x, places, mask, **kw: (own(x, places, mask, **kw)[0], None),
        )
    off = checked(engine)
    assert set(off) == {"patterns"}
    assert "LlamaAttention does not return its attention pattern" in off["patterns"]


def test_a_window_of_two_tokens_is_too_short_for_a_cut() -> None:
    off = checked(tiny.backend("llama", max_position_embeddings=2))
    assert off == {"cuts": "the window is too short to check a cut"}


# -- what is refused ------------------------------------------------------------------------


def test_other_logits_than_the_models_own_are_refused() -> None:
    engine = tiny.backend("llama")
    wrapped(engine.model, lambda own, **kw: type(own(**kw))(logits=2 * own(**kw).logits))
    sentence = "fails the check 'logits equal a plain forward pass' .*; expected a decoder-only"
    with pytest.raises(ModelError, match=sentence):
        check_model(engine).apply(engine)


def test_a_model_that_looks_ahead_is_refused() -> None:
    engine = tiny.backend("llama")
    embed = engine.model.model.embed_tokens
    wrapped(embed, lambda own, ids: own(ids) + own(ids).mean(1, keepdim=True))
    with pytest.raises(ModelError, match="fails the check 'no output depends on a later token'"):
        check_model(engine).apply(engine)


def test_an_encoder_is_refused() -> None:
    sizes = tiny._SIZES | {"vocab_size": 99, "intermediate_size": 80}
    model = transformers.BertLMHeadModel(transformers.BertConfig(**sizes)).eval()
    with pytest.raises(ModelError, match=r"looks ahead.*; expected a decoder-only language model"):
        HooksBackend(model, tiny.byte_bpe())


def test_an_encoder_with_a_decoder_is_refused() -> None:
    config = transformers.T5Config(vocab_size=99, d_model=64, d_kv=16, num_layers=2, num_heads=4)
    model = transformers.T5ForConditionalGeneration(config).eval()
    with pytest.raises(ModelError, match=r"not a decoder-only language model \(an encoder and a"):
        HooksBackend(model, tiny.byte_bpe())


def test_a_model_without_an_unembedding_is_refused() -> None:
    model = transformers.LlamaModel(tiny.config("llama", 99)).eval()
    with pytest.raises(ModelError, match=r"not a decoder-only language model \(no unembedding\)"):
        HooksBackend(model, tiny.byte_bpe())


def test_a_model_without_attention_is_refused() -> None:
    config = transformers.MambaConfig(vocab_size=99, hidden_size=64, num_hidden_layers=2)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(ModelError, match="no list of 2 blocks with attention"):
        HooksBackend(model, tiny.byte_bpe())


def test_weights_that_are_not_finite_are_refused() -> None:
    engine = tiny.backend("llama")
    with torch.no_grad():
        engine.model.model.layers[0].self_attn.v_proj.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="NaN or infinite logits"):
        check_model(engine)


def test_a_verdict_adds_to_what_an_engine_cannot_do_already() -> None:
    engine = tiny.backend("llama")
    engine.can = engine.can - {"generate"}
    engine.cannot = {"generate": "not here", "lens": "known before"}
    bad = Check("it holds", False, 0.5, ("lens", "cuts"), "it does not")
    ModelCheck("m", (bad,), 1e-5).apply(engine)
    assert engine.cannot == {
        "generate": "not here",
        "lens": "known before",
        "cuts": "'it holds' does not hold (it does not)",
    }
    assert engine.can == set(CAPABILITIES) - {"generate", "lens", "cuts"}
