"""`load`: from a name, a folder or a model in memory to a checked `Backend`.

A path or an object is looked at first; the hub is asked only for a name that is neither.
Weights come from safetensors. Pickled weights can run code when they are opened and are
refused unless ``allow_pickle`` is said.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from dst.core.errors import DSTError, InputError, ModelError
from dst.models.backend import Backend

BACKENDS = ("hooks",)
EMBEDDED = "embedded"
"""The name of the default model, which ships with dst."""


def embedded_path() -> Path:
    """The folder of the model that ships with dst."""
    return Path(str(resources.files("dst.models").joinpath("embedded")))


def load(
    model: Any = EMBEDDED,
    *,
    tokenizer: Any = None,
    backend: str = "hooks",
    device: str | None = None,
    dtype: str | None = None,
    device_map: Any = None,
    revision: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    check: bool = True,
) -> Backend:
    """Load a decoder-only language model and check what holds for it.

    Args:
        model: Nothing for the embedded model, a folder, a Hugging Face id, or a
            transformers model in memory (then ``tokenizer`` is needed too).
        tokenizer: A tokenizer, or the folder or id of one; by default the model's own.
        backend: The engine; ``"hooks"`` is the reference.
        device: Such as ``"cuda"``; by default where transformers puts the model.
        dtype: Such as ``"bfloat16"``; by default float32 (float16 results are not exact).
        device_map: Passed to transformers, to spread a model over devices.
        revision: Commit or branch on the hub.
        allow_pickle: Open weights that are pickles. They can run code: only for files
            that you trust.
        trust_remote_code: Let transformers run the model repository's own code.
        check: Run `check_model`; what fails is switched off and named.

    Raises:
        ModelError: The model or tokenizer is missing, broken, not decoder-only, or its
            weights are pickles; says which, and what to do.
    """
    if backend not in BACKENDS:
        raise InputError(
            f"The backend {backend!r} does not exist", expected="one of " + ", ".join(BACKENDS)
        )
    if isinstance(model, (str, Path)):
        name, source = str(model), _resolve(str(model))
        loaded = _pretrained(
            source, name, dtype, device_map, revision, allow_pickle, trust_remote_code
        )
        own = tokenizer is None
        tokenizer = source if own else tokenizer
    else:
        loaded, name = model, ""
        if tokenizer is None:
            raise ModelError(
                "A model in memory was given without its tokenizer",
                do="Call dst.load(model, tokenizer=tokenizer)",
            )
    if isinstance(tokenizer, (str, Path)):
        tokenizer = _tokenizer(str(tokenizer), revision, trust_remote_code)
    if device is not None:
        loaded = loaded.to(device)

    from dst.models.hooks import HooksBackend

    engine = HooksBackend(loaded, tokenizer, name=name, revision=revision or "")
    _check_vocabulary(engine)
    if check:
        from dst.models.check import check_model

        check_model(engine).apply(engine)
    return engine


def _resolve(name: str) -> str:
    """The folder that a name stands for, or the name itself if it can be a hub id."""
    if name == EMBEDDED:
        return str(embedded_path())
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"The folder {path} has no config.json",
                expected="a transformers checkpoint (config.json, *.safetensors, tokenizer.json)",
            )
        return str(path)
    if path.exists():
        raise ModelError(f"{path} is a file", expected="the folder of a transformers checkpoint")
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name
    if looks_like_path:
        raise ModelError(f"The model folder {name} does not exist", do="Check the path")
    return name


def _pretrained(
    source: str,
    name: str,
    dtype: str | None,
    device_map: Any,
    revision: str | None,
    allow_pickle: bool,
    trust_remote_code: bool,
) -> Any:
    import torch

    number = getattr(torch, dtype or "float32", None)
    if not isinstance(number, torch.dtype) or not number.is_floating_point:
        raise InputError(
            f"The dtype {dtype!r} does not exist", expected="float32, bfloat16 or float16"
        )
    _refuse_pickles(source, allow_pickle)
    options: dict[str, Any] = {"dtype": number, "trust_remote_code": trust_remote_code}
    if revision is not None:
        options["revision"] = revision
    if device_map is not None:
        options["device_map"] = device_map
    if not allow_pickle:
        options["use_safetensors"] = True
    with _quiet():
        model = _from_pretrained(source, name, options)
    return model.eval()


def _from_pretrained(source: str, name: str, options: dict[str, Any]) -> Any:
    """transformers' own loading, its many errors turned into one sentence each."""
    kind = _model_type(source)
    try:
        # The class by its own module: AutoModel scans every family, which costs a second.
        cls = _class_of(source, kind)
        model, info = cls.from_pretrained(source, output_loading_info=True, **options)
    except (DSTError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise _loading_error(source, name, error) from None
    broken = [*info.get("missing_keys", ()), *map(str, info.get("mismatched_keys", ()))]
    broken = [key for key in broken if not _is_tied(model, key)]
    if broken:
        raise ModelError(
            f"The weights of {name} lack {len(broken)} tensor(s), first {sorted(broken)[0]!r}",
            expected="every weight of the model (a missing one would be random)",
            do="Use a complete causal language model checkpoint",
        )
    return model


def _model_type(source: str) -> str:
    """``model_type`` of a local folder, "" for a hub id."""
    path = Path(source) / "config.json"
    if not path.is_file():
        return ""
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path} cannot be read ({error})", expected="JSON") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds no JSON object", expected="a transformers configuration")
    if config.get("is_encoder_decoder"):
        raise ModelError(
            f"{source} is an encoder-decoder model",
            expected="a decoder-only language model such as Llama or GPT-2",
        )
    return str(config.get("model_type", ""))


def _class_of(source: str, kind: str) -> Any:
    import transformers

    direct = {"llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel"}
    return getattr(transformers, direct.get(kind, "AutoModelForCausalLM"))


def _is_tied(model: Any, key: str) -> bool:
    """Whether a missing weight is the unembedding of a model that shares its embedding."""
    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    return bool(getattr(config, "tie_word_embeddings", False)) and any(
        key.endswith(name) and module is head for name, module in model.named_modules()
    )


def _loading_error(source: str, name: str, error: Exception) -> ModelError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    local = Path(source).is_dir()
    if isinstance(error, MemoryError):
        return ModelError(f"{name} does not fit into memory", do="Give --dtype bfloat16")
    if not local:
        if "Unrecognized configuration class" in str(error):
            return ModelError(f"{name} is not a decoder-only language model")
        if "safetensors" in str(error):
            return ModelError(
                f"{name} has no safetensors weights",
                do="Use a revision that has them, or allow_pickle=True if you trust its author",
            )
        return ModelError(
            f"The model {name!r} is neither a folder here nor a model that could be fetched "
            f"({reason})",
            do="Check the name and the network, log in for a gated model, or give a folder; "
            "without --model the embedded model is used",
        )
    if "Unrecognized configuration class" in str(error):
        return ModelError(
            f"{name} is not a decoder-only language model",
            expected="a causal language model such as Llama or GPT-2",
        )
    if isinstance(error, OSError) and "no file named" in str(error):
        return ModelError(
            f"The folder {name} holds no weights", expected="model.safetensors (or its shards)"
        )
    return ModelError(
        f"The model in {name} cannot be loaded ({reason})",
        expected="a complete transformers checkpoint",
    )


def _refuse_pickles(source: str, allow_pickle: bool) -> None:
    folder = Path(source)
    if allow_pickle or not folder.is_dir():
        return
    safe = any(folder.glob("*.safetensors"))
    pickles = sorted([*folder.glob("pytorch_model*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    if pickles and not safe:
        raise ModelError(
            f"The weights in {source} are pickles ({pickles[0].name}), which can run code when "
            "they are opened",
            expected="*.safetensors",
            do="Convert them where you trust them: load with transformers and call "
            "save_pretrained(folder), which writes safetensors; or say allow_pickle "
            "(--allow-pickle)",
        )


def _tokenizer(source: str, revision: str | None, trust_remote_code: bool) -> Any:
    with _quiet():
        try:
            path = Path(source) / "tokenizer.json"
            if path.is_file() and not trust_remote_code:
                from transformers import AutoTokenizer, PreTrainedTokenizerFast

                settings = Path(source) / "tokenizer_config.json"
                named = _tokenizer_class(settings)
                cls = (
                    PreTrainedTokenizerFast
                    if named in ("", "PreTrainedTokenizerFast", "TokenizersBackend")
                    else AutoTokenizer
                )
                return cls.from_pretrained(source)
            from transformers import AutoTokenizer

            options = {"revision": revision} if revision else {}
            return AutoTokenizer.from_pretrained(
                source, trust_remote_code=trust_remote_code, **options
            )
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else "unreadable"
            raise ModelError(
                f"The tokenizer of {source} is missing or broken ({reason})",
                expected="tokenizer.json beside the weights",
                do="Copy the model's tokenizer files there, or give tokenizer=",
            ) from None


def _tokenizer_class(settings: Path) -> str:
    """The class that a folder's tokenizer asks for, "" if it asks for none."""
    if not settings.is_file():
        return ""
    return str(json.loads(settings.read_text("utf-8")).get("tokenizer_class", ""))


def _check_vocabulary(engine: Any) -> None:
    size = len(engine.tokenizer)
    if size > engine.spec.d_vocab:
        raise ModelError(
            f"The tokenizer has {size} tokens and the model {engine.spec.d_vocab}",
            expected="a tokenizer that belongs to the model",
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' progress bars and advice off the user's screen while loading."""
    import transformers

    logger = logging.getLogger("transformers")
    level = logger.level
    bars = transformers.utils.logging.is_progress_bar_enabled()
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    logger.setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
        if before is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = before
