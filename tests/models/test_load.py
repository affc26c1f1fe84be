"""`load`: from folders and objects to a checked engine; one sentence for everything else."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import dst
from dst.core.errors import DSTError, InputError, ModelError
from dst.models.hooks import HooksBackend
from dst.models.pretrained import embedded_path
from tests import tiny
from tests.models.test_hooks_sites import ROWS, close


def saved(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """A small model of a family with its tokenizer, saved as transformers saves it."""
    tokenizer = tiny.byte_bpe()
    progress = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    tiny.model(family, len(tokenizer) + 3, **changes).save_pretrained(folder)
    if progress:
        transformers.utils.logging.enable_progress_bar()
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("whole") / "llama")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(whole, tmp_path / "llama"))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


# -- what is loaded -------------------------------------------------------------------------


@tiny.families()
def test_a_folder_is_the_model_that_was_saved(family: str, tmp_path: Path) -> None:
    engine = dst.load(saved(tmp_path / family, family))
    assert engine.can == tiny.backend(family).can
    close(engine.run(ROWS).logits, tiny.backend(family).run(ROWS).logits)
    assert engine.spec.weights_hash == tiny.backend(family).spec.weights_hash
    assert engine.spec.name == str(tmp_path / family)


def test_a_shared_embedding_is_no_missing_weight(tmp_path: Path) -> None:
    path = saved(tmp_path / "tied", "llama", tie_word_embeddings=True)
    assert "lm_head.weight" not in weights_of(path)
    assert dst.load(path).can == tiny.backend("llama").can


def test_a_path_may_be_text_or_path_and_relative(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(whole.parent)
    assert [dst.load(name).spec.n_layers for name in (str(whole), "llama", "./llama")] == [3, 3, 3]


def test_a_model_in_memory_is_used_as_it_is(whole: Path) -> None:
    model = tiny.model("gpt2", 384)
    engine = dst.load(model, tokenizer=tiny.byte_bpe())
    assert isinstance(engine, HooksBackend)
    assert engine.model is model
    assert engine.tokenizer is tiny.byte_bpe()
    assert engine.spec.name == "GPT2LMHeadModel"
    assert len(dst.load(model, tokenizer=whole).tokenizer) == 381


def test_a_tokenizer_may_be_given_beside_a_folder(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    assert dst.load(folder, tokenizer=tiny.word_level()).tokenizer is tiny.word_level()


def test_the_plain_tokenizer_is_the_one_that_transformers_chooses(whole: Path) -> None:
    chosen = transformers.AutoTokenizer.from_pretrained(whole)
    ours = dst.load(whole).tokenizer
    assert ours.backend_tokenizer.to_str() == chosen.backend_tokenizer.to_str()
    assert (ours.chat_template, ours.bos_token) == (chosen.chat_template, chosen.bos_token)


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16", "float16", "float64"])
def test_the_number_type_is_float32_unless_said(whole: Path, dtype: str | None) -> None:
    engine = dst.load(whole, dtype=dtype)
    assert engine.spec.dtype == dtype or (engine.spec.dtype == "float32" and dtype is None)


def test_a_saved_half_precision_model_runs_in_float32(tmp_path: Path) -> None:
    model = tiny.model("llama", 384).bfloat16()
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(tmp_path)
    transformers.utils.logging.enable_progress_bar()
    tiny.byte_bpe().save_pretrained(tmp_path)
    assert dst.load(tmp_path).spec.dtype == "float32"


def test_a_device_map_spreads_the_model(whole: Path) -> None:
    close(dst.load(whole, device_map="auto").run(ROWS).logits, dst.load(whole).run(ROWS).logits)


def test_checking_can_be_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(model: object) -> None:
        raise AssertionError("it was checked")

    monkeypatch.setattr("dst.models.check.check_model", never)
    assert dst.load(folder, check=False).spec.n_layers == 3
    with pytest.raises(AssertionError, match="it was checked"):
        dst.load(folder)


def test_what_fails_a_check_is_switched_off(tmp_path: Path) -> None:
    engine = dst.load(saved(tmp_path / "opt", "opt", do_layer_norm_before=False))
    assert "components" not in engine.can
    assert "resid_pre + attn_out + mlp_out = resid_post" in engine.cannot["components"]


def test_pickles_are_opened_only_when_they_are_allowed(folder: Path) -> None:
    weights = weights_of(folder)
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")  # noqa: TID251 - what is refused here
    with pytest.raises(ModelError) as caught:
        dst.load(folder)
    for part in ("pytorch_model.bin", "can run code", "save_pretrained(folder)", "--allow-pickle"):
        assert part in str(caught.value)
    close(
        dst.load(folder, allow_pickle=True).run(ROWS).logits, tiny.backend("llama").run(ROWS).logits
    )
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert dst.load(folder).spec.n_layers == 3  # the pickle beside it is left alone


@pytest.mark.skipif(not (embedded_path() / "config.json").is_file(), reason="not built yet")
def test_the_embedded_model_is_the_default() -> None:
    engine = dst.load()
    assert engine.spec.name == "embedded"
    assert engine.cannot == {}
    assert engine.spec.d_vocab != engine.spec.d_model


# -- what is not ----------------------------------------------------------------------------


def rewritten(name: str, content: bytes | str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)

    return change


def cut_short(n: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:n])

    return change


def other_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        weights = weights_of(folder)
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return rewrite


def gone(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def sharded(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def own_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    code = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    config |= {"model_type": "mine", "auto_map": code}
    (folder / "config.json").write_text(json.dumps(config))


UP = "model.layers.1.mlp.up_proj.weight"
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (gone("config.json"), "has no config.json; expected a transformers checkpoint"),
    "half a config": (rewritten("config.json", "{"), r"config.json cannot be read \(Expecting pr"),
    "a config of bytes": (rewritten("config.json", b"\xff\xfe"), "config.json cannot be read"),
    "a config of a list": (rewritten("config.json", "[]"), "config.json holds no JSON object"),
    "an empty config": (rewritten("config.json", "{}"), "cannot be loaded .Unrecognized model in"),
    "an unknown family": (
        rewritten("config.json", '{"model_type": "xyzzy"}'),
        "model type `xyzzy` but Transformers does not recognize this architecture",
    ),
    "a config of wrong types": (
        rewritten("config.json", '{"model_type": "llama", "hidden_size": "64"}'),
        "cannot be loaded .Validation error for field 'hidden_size': TypeError: Field 'hidden_siz",
    ),
    "its own code": (own_code, r"runs code of its own. Say trust_remote_code"),
    "no weights": (gone("model.safetensors"), "holds no weights; expected model.safetensors"),
    "empty weights": (cut_short(0), "cannot be loaded .*header too small"),
    "weights cut in their header": (cut_short(1000), "cannot be loaded .*invalid header length"),
    "weights cut short": (cut_short(200_000), "cannot be loaded .*file not fully covered"),
    "a shard that is not there": (sharded, "cannot be loaded .*model-00001.safetensors"),
    "a weight that is not there": (
        other_weights(lambda weights: weights.pop(UP)),
        f"lack 1 tensor.s., first '{UP}'; expected every weight",
    ),
    "a weight of another shape": (
        other_weights(lambda weights: weights.update({UP: torch.zeros(3, 3)})),
        rf"shape than its config.json says, first '{UP}' with \(3, 3\); expected \(80, 64\)",
    ),
    "weights that are not finite": (
        other_weights(lambda weights: weights[UP].fill_(float("nan"))),
        "puts out NaN or infinite logits",
    ),
    "no tokenizer": (
        gone("tokenizer.json", "tokenizer_config.json"),
        r"The tokenizer of .* is missing or broken .*; expected tokenizer.json beside the weights",
    ),
    "half a tokenizer": (rewritten("tokenizer.json", "{"), "is missing or broken .Expecting prop"),
    "a tokenizer of nothing": (rewritten("tokenizer.json", "{}"), "is missing or broken"),
    "half a tokenizer's settings": (
        rewritten("tokenizer_config.json", "{"),
        "is missing or broken",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_one_sentence(name: str, folder: Path) -> None:
    change, sentence = BROKEN[name]
    change(folder)
    with pytest.raises(ModelError, match=sentence) as caught:
        dst.load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("family", ["gpt2", "opt", "qwen3", "gemma2", "gpt_neox", "llama", "phi3"])
def test_an_empty_tokenizer_is_never_made_up(family: str, tmp_path: Path) -> None:
    # For some of these families transformers makes a tokenizer without a word.
    path = saved(tmp_path / family, family)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (path / file).unlink()
    with pytest.raises(ModelError, match=r"tokenizer of .* is missing or broken"):
        dst.load(path)


def test_what_is_no_folder_of_a_model_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name, sentence in {
        str(tmp_path / "file"): "file is a file; expected the folder of a transformers checkpoint",
        str(tmp_path / "empty"): "empty has no config.json",
        str(tmp_path / "none"): r"none does not exist\. Check the path",
        "./none": r"The model folder \./none does not exist",
        "~/no/such/folder": r"The model folder ~/no/such/folder does not exist",
        "a/b/c": "The model folder a/b/c does not exist",
        "C:\\models": "does not exist",
    }.items():
        with pytest.raises(ModelError, match=sentence):
            dst.load(name)


@pytest.mark.parametrize("name", ["gpt2", "no-such/model", "a name", "a\0b"])
def test_an_id_that_cannot_be_fetched_is_one_sentence(name: str) -> None:
    sentence = "is neither a folder here nor a model that could be fetched .*Check the name and the"
    with pytest.raises(ModelError, match=sentence) as caught:
        dst.load(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_models_that_are_no_decoders_are_refused(tmp_path: Path) -> None:
    sizes: dict[str, Any] = tiny._SIZES | {"vocab_size": 399, "intermediate_size": 80}
    special = {"cls_token_id": 1, "sep_token_id": 2}
    t5 = transformers.T5Config(vocab_size=399, d_model=64, d_kv=16, num_layers=2, num_heads=4)
    transformers.utils.logging.disable_progress_bar()
    for model, sentence in {
        transformers.T5ForConditionalGeneration(t5): "is an encoder-decoder model",
        transformers.BertForMaskedLM(transformers.BertConfig(**sizes)): "looks ahead",
        transformers.ModernBertForMaskedLM(
            transformers.ModernBertConfig(**sizes | special)
        ): "is not a decoder-only language model",
        transformers.LlamaForSequenceClassification(
            tiny.config("llama", 399)
        ): "lack 1 tensor.*'lm_head.weight'",
    }.items():
        path = tmp_path / type(model).__name__
        model.save_pretrained(path)
        tiny.byte_bpe().save_pretrained(path)
        with pytest.raises(ModelError, match=sentence):
            dst.load(path)
    transformers.utils.logging.enable_progress_bar()


ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "dtype": ({"dtype": "int8"}, "'int8' cannot be used; expected one of float32, bfloat16, fl"),
    "no dtype": ({"dtype": "half a float"}, "'half a float' cannot be used"),
    "device": ({"device": "abacus"}, r"The device 'abacus' cannot be used \(.*\); expected such"),
    "a device that is not here": ({"device": "cuda:99"}, "The device 'cuda:99' cannot be used"),
    "device_map": ({"device_map": "nowhere"}, "cannot be loaded .*found nowhere"),
    "backend": ({"backend": "jax"}, "The backend 'jax' does not exist; expected one of hooks"),
    "remote": ({"remote": True}, "remote=True was given with backend='hooks'; expected backend="),
    "tokenizer": ({"tokenizer": "/no/such"}, "The tokenizer folder /no/such does not exist"),
    "tokenizer id": ({"tokenizer": "no-such"}, "The tokenizer of no-such is missing or broken"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_argument_that_is_wrong_is_one_sentence(name: str, whole: Path) -> None:
    options, sentence = ARGUMENTS[name]
    with pytest.raises(InputError, match=sentence) as caught:
        dst.load(whole, **options)
    assert "\n" not in str(caught.value)


def test_a_model_in_memory_is_not_moved_and_needs_its_tokenizer() -> None:
    model = tiny.model("llama", 384)
    with pytest.raises(ModelError, match=r"without its tokenizer\. Call dst\.load\(model, token"):
        dst.load(model)
    for name, value in (("device", "cpu"), ("dtype", "bfloat16"), ("device_map", "auto")):
        changes: dict[str, Any] = {name: value}
        with pytest.raises(InputError, match="which would change it"):
            dst.load(model, tokenizer=tiny.byte_bpe(), **changes)
    with pytest.raises(ModelError, match="int is no transformers model"):
        dst.load(3, tokenizer=tiny.byte_bpe())


def test_a_tokenizer_of_another_model_is_refused() -> None:
    with pytest.raises(ModelError, match="tokenizer has 381 tokens and the model 50; expected a t"):
        dst.load(tiny.model("llama", 50), tokenizer=tiny.byte_bpe())


def test_loading_says_nothing_and_leaves_no_setting_behind(
    whole: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
    for logger in loggers:
        monkeypatch.setattr(logger, "level", logging.INFO)
    bars = transformers.utils.logging.is_progress_bar_enabled()
    dst.load(whole)
    with pytest.raises(DSTError):
        dst.load("no-such/model")
    assert [logger.level for logger in loggers] == [logging.INFO, logging.INFO]
    assert transformers.utils.logging.is_progress_bar_enabled() == bars
    assert capfd.readouterr() == ("", "")
