"""From a name or a folder to a transformers model and its tokenizer.

A path is looked at first; the hub is asked only for a name that is none. Weights come from
safetensors. Pickled weights can run code when they are opened and are refused unless
``allow_pickle`` is said. Whatever goes wrong becomes one sentence.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from dst.core.errors import InputError, ModelError
from dst.models.verify import verify_files

EMBEDDED = "embedded"
"""The name of the default model, which ships with dst."""

ZOO = "zoo"
"""`dst.load("zoo/NAME")` is a checkpoint of the zoo: `dst.testbed.zoo`."""

DTYPES = ("float32", "bfloat16", "float16", "float64")
PLAIN_TOKENIZERS = ("PreTrainedTokenizerFast", "TokenizersBackend")
DECODER = "a decoder-only language model such as Llama or GPT-2"


def embedded_path() -> Path:
    """The folder of the model that ships with dst."""
    return Path(str(resources.files("dst.models").joinpath("embedded")))


def zoo_path() -> Path:
    """The folder of the zoo: what DST_ZOO names, else `zoo` beside the package's own folder."""
    named = os.environ.get("DST_ZOO")
    return Path(named).expanduser() if named else Path(__file__).resolve().parents[2] / ZOO


def folder_of(name: str) -> Path:
    """Where the files of a model are, if they are here: embedded, ``zoo/NAME``, or a path."""
    if name == EMBEDDED:
        return embedded_path()
    path = Path(name).expanduser()
    in_zoo = path.parts[:-1] == (ZOO,) and not path.exists()
    return zoo_path() / path.name if in_zoo else path


def find_source(name: str) -> str:
    """The folder that a name stands for, or the name itself if it can be a hub id.

    Raises:
        ModelError: It is a file, a folder without a model, or a path that is not there, or
            it names no checkpoint of the zoo.
    """
    path = folder_of(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"The folder {path} has no config.json",
                expected="a transformers checkpoint (config.json, *.safetensors, tokenizer.json)",
            )
        return str(path)
    if path.exists():
        raise ModelError(f"{path} is a file", expected="the folder of a transformers checkpoint")
    if path.parent == zoo_path():
        raise _not_in_zoo(path)
    if _is_path(name):
        raise ModelError(f"The model folder {name} does not exist", do="Check the path")
    return name


def _not_in_zoo(path: Path) -> ModelError:
    known = sorted(config.parent.name for config in path.parent.glob("*/config.json"))
    if not known:
        return ModelError(
            f"There is no zoo in {path.parent} (it is part of the repository, not of the package)",
            do="Train one with dst testbed train --out DIR, and set DST_ZOO to DIR/zoo",
        )
    near = difflib.get_close_matches(path.name, known, n=3, cutoff=0.0)
    return ModelError(
        f"The zoo has no checkpoint {path.name!r}", expected=f"such as {', '.join(near)}"
    )


def _is_path(name: str) -> bool:
    """Whether a name that is not there can only have been meant as a path."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name


# -- the model ---------------------------------------------------------------------------


def load_model(
    source: str,
    name: str,
    *,
    dtype: str | None,
    device: str | None,
    device_map: Any,
    revision: str | None,
    allow_pickle: bool,
    trust_remote_code: bool,
) -> Any:
    """A transformers causal language model, in evaluation mode.

    Raises:
        InputError: The number type or the device does not exist.
        ModelError: It cannot be fetched, is broken or incomplete, is not what its card says,
            is not decoder-only, or its weights are pickles.
    """
    import torch

    if (dtype or "float32") not in DTYPES:
        raise InputError(
            f"The dtype {dtype!r} cannot be used", expected="one of " + ", ".join(DTYPES)
        )
    if Path(source).is_dir():
        verify_files(Path(source), needs_card=name == EMBEDDED)
    kind = _model_type(source)
    if not allow_pickle:
        _refuse_pickles(source)
    options: dict[str, Any] = {
        "dtype": getattr(torch, dtype or "float32"),
        "trust_remote_code": trust_remote_code,
        "ignore_mismatched_sizes": True,  # they are named below
    }
    options |= {} if revision is None else {"revision": revision}
    options |= {} if device_map is None else {"device_map": device_map}
    options |= {} if allow_pickle else {"use_safetensors": True}
    with quiet():
        try:
            model, info = _class_of(kind).from_pretrained(
                source, output_loading_info=True, **options
            )
        except Exception as error:  # noqa: BLE001 - transformers raises every kind
            raise loading_error(source, name, error) from None
    _refuse_incomplete(model, name, info)
    return _moved(model.eval(), device)


def _model_type(source: str) -> str:
    """``model_type`` of a local folder, "" for a hub id."""
    path = Path(source) / "config.json"
    if not path.is_file():
        return ""
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error})", expected="JSON") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds no JSON object", expected="a transformers configuration")
    if config.get("is_encoder_decoder"):
        raise ModelError(f"{source} is an encoder-decoder model", expected=DECODER)
    return str(config.get("model_type", ""))


def _class_of(kind: str) -> Any:
    """The class by its own module, where known: AutoModel scans every family, for a second."""
    import transformers

    direct = {"llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel"}
    return getattr(transformers, direct.get(kind, "AutoModelForCausalLM"))


def _refuse_pickles(source: str) -> None:
    folder = Path(source)
    pickles = sorted(
        path for kind in ("pytorch_model*.bin", "*.pt", "*.pth") for path in folder.glob(kind)
    )
    if pickles and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"The weights in {source} are pickles ({pickles[0].name}), which can run code when "
            "they are opened",
            expected="*.safetensors",
            do="Convert them where you trust them: load with transformers and call "
            "save_pretrained(folder), which writes safetensors; or say allow_pickle "
            "(--allow-pickle)",
        )


def _refuse_incomplete(model: Any, name: str, info: dict[str, Any]) -> None:
    """Refuse weights that are missing or of another shape: transformers makes them random."""
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    missing = sorted(set(info.get("missing_keys", ())) - tied)
    if missing:
        raise ModelError(
            f"The weights of {name} lack {len(missing)} tensor(s), first {missing[0]!r}",
            expected="every weight of the model (a missing one would be random)",
            do="Use a complete causal language model checkpoint",
        )
    if mismatched := sorted(info.get("mismatched_keys", ())):
        key, found, wanted = mismatched[0]
        raise ModelError(
            f"{len(mismatched)} weight(s) of {name} have another shape than its config.json "
            f"says, first {key!r} with {tuple(found)}",
            expected=f"{tuple(wanted)}",
        )


def _moved(model: Any, device: str | None) -> Any:
    try:
        return model if device is None else model.to(device)
    except (RuntimeError, AssertionError, ValueError) as error:  # torch's words for "not here"
        raise InputError(
            f"The device {device!r} cannot be used ({_first_line(error)})",
            expected="such as cpu or cuda",
        ) from None


def loading_error(source: str, name: str, error: Exception) -> ModelError:
    """What transformers raised, as one sentence."""
    reason, text = _first_line(error), str(error)
    if isinstance(error, MemoryError):
        return ModelError(f"{name} does not fit into memory", do="Give --dtype bfloat16")
    if "Unrecognized configuration class" in text:
        return ModelError(f"{name} is not a decoder-only language model", expected=DECODER)
    if "custom code" in text:
        return ModelError(
            f"The model {name} runs code of its own",
            do="Say trust_remote_code (--trust-remote-code) if you trust its author",
        )
    if Path(source).is_dir():
        if isinstance(error, OSError) and "no file named" in text:
            return ModelError(
                f"The folder {name} holds no weights", expected="model.safetensors (or its shards)"
            )
        return ModelError(
            f"The model in {name} cannot be loaded ({reason})",
            expected="a complete transformers checkpoint",
        )
    if "safetensors" in text:
        return ModelError(
            f"{name} has no safetensors weights",
            do="Use a revision that has them, or allow_pickle=True if you trust its author",
        )
    return ModelError(
        f"The model {name!r} is neither a folder here nor a model that could be fetched ({reason})",
        do="Check the name and the network, log in for a gated model, or give a folder; "
        "without --model the embedded model is used",
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if lines and lines[0].endswith(":"):
        lines[0] = " ".join(lines[:2])
    return lines[0].rstrip(".:, ") if lines else type(error).__name__


# -- the tokenizer -----------------------------------------------------------------------


def load_tokenizer(source: str, revision: str | None, trust_remote_code: bool) -> Any:
    """A transformers tokenizer.

    Raises:
        ModelError: It is missing, broken, or has no words: transformers makes an empty one
            for some families where the files are missing.
    """
    if _is_path(source) and not Path(source).expanduser().is_dir():
        raise ModelError(f"The tokenizer folder {source} does not exist", do="Check the path")
    with quiet():
        try:
            tokenizer = _open_tokenizer(source, revision, trust_remote_code)
            empty = len(tokenizer) <= len(tokenizer.all_special_tokens)
            reason = "it has no words" if empty else ""
        except Exception as error:  # noqa: BLE001 - tokenizers raises every kind
            reason = _first_line(error)
    if reason:
        raise ModelError(
            f"The tokenizer of {source} is missing or broken ({reason})",
            expected="tokenizer.json beside the weights",
            do="Copy the model's tokenizer files there, or give tokenizer=",
        )
    return tokenizer


def _open_tokenizer(source: str, revision: str | None, trust_remote_code: bool) -> Any:
    """By the plain class where the folder asks for no other: AutoTokenizer scans every family."""
    import transformers

    folder = Path(source).expanduser()
    if (folder / "tokenizer.json").is_file() and not trust_remote_code:
        settings = folder / "tokenizer_config.json"
        asked = json.loads(settings.read_text("utf-8")) if settings.is_file() else {}
        if asked.get("tokenizer_class", "PreTrainedTokenizerFast") in PLAIN_TOKENIZERS:
            return transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    options = {} if revision is None else {"revision": revision}
    return transformers.AutoTokenizer.from_pretrained(
        str(folder) if folder.is_dir() else source, trust_remote_code=trust_remote_code, **options
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' progress bars, advice and retries off the user's screen."""
    import transformers

    loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    bars = transformers.utils.logging.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
