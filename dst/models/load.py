"""`load`: from a name, a folder or a model in memory to a checked `Backend`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dst.core.errors import InputError, ModelError
from dst.models.backend import Backend
from dst.models.pretrained import (
    EMBEDDED,
    embedded_path,
    find_source,
    load_model,
    load_tokenizer,
    loading_error,
    quiet,
)

__all__ = ["BACKENDS", "EMBEDDED", "embedded_path", "load"]

BACKENDS = ("hooks", "bridge", "nnsight")


def load(
    model: Any = EMBEDDED,
    *,
    tokenizer: Any = None,
    backend: str = "hooks",
    remote: bool | str = False,
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
        model: Nothing for the embedded model, a folder, ``"zoo/NAME"`` for a checkpoint of the
            testbed's zoo, a Hugging Face id, a transformers model in memory (then
            ``tokenizer`` is needed too), or a model that transformer_lens
            (``TransformerBridge``) or nnsight (``TransformersModel``) has already wrapped,
            which fixes the engine.
        tokenizer: A tokenizer, or the folder or id of one; by default the model's own.
        backend: The engine: ``"hooks"`` (transformers with forward hooks, the reference),
            ``"bridge"`` (transformer_lens) or ``"nnsight"``.
        remote: With nnsight: True runs a model that NDIF serves, a URL one that another
            server serves, ``"local"`` the remote path in this process.
        device: Such as ``"cuda"``; by default where transformers puts the model.
        dtype: Such as ``"bfloat16"``; by default float32 (float16 results are not exact).
        device_map: Passed to transformers, to spread a model over devices.
        revision: Commit or branch on the hub.
        allow_pickle: Open weights that are pickles. They can run code: only for files
            that you trust.
        trust_remote_code: Let transformers run the model repository's own code.
        check: Run `check_model`; what fails is switched off and named.

    Raises:
        ModelError: The model or tokenizer is missing, broken, not decoder-only, its weights
            are pickles, or its files are not those of its card (SHA-256); says which, and what
            to do.
    """
    backend = _backend_of(model, backend, remote)
    elsewhere = bool(remote) and remote != "local"
    named = isinstance(model, (str, Path))
    name = source = ""
    if named:
        name = str(model)
        source = name if elsewhere else find_source(name)
        tokenizer = source if tokenizer is None else tokenizer
    elif tokenizer is None and getattr(model, "tokenizer", None) is None:
        raise ModelError(
            "A model in memory was given without its tokenizer",
            do="Call dst.load(model, tokenizer=tokenizer)",
        )
    if tokenizer is None:
        tokenizer = model.tokenizer
    if named and not elsewhere:  # before its tokenizer, so that an unknown name is called that
        model = load_model(
            source,
            name,
            dtype=dtype,
            device=device,
            device_map=device_map,
            revision=revision,
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
        )
    if isinstance(tokenizer, (str, Path)):
        tokenizer = load_tokenizer(str(tokenizer), revision, trust_remote_code)
    if named and elsewhere:
        model = _skeleton(source, tokenizer, dtype, device, device_map, revision, trust_remote_code)
    if not named and (device, dtype, device_map) != (None, None, None):
        raise InputError(
            "A model in memory was given with dtype, device or device_map, which would change it",
            do="Load it that way, or move it yourself before",
        )
    engine = _engine(model, tokenizer, backend, remote, name, revision or "", owned=named)
    _check_vocabulary(engine)
    if check:
        from dst.models.check import check_model

        check_model(engine).apply(engine)
    return engine


def _backend_of(model: Any, backend: str, remote: bool | str) -> str:
    """The engine to use: the one asked for, or the one that has already wrapped the model."""
    if backend not in BACKENDS:
        raise InputError(
            f"The backend {backend!r} does not exist", expected="one of " + ", ".join(BACKENDS)
        )
    from dst.models.identity import made_by

    for package, engine in (("transformer_lens", "bridge"), ("nnsight", "nnsight")):
        if made_by(model, package):
            if backend not in ("hooks", engine):
                raise InputError(
                    f"A model wrapped by {package} was given with backend={backend!r}",
                    do=f"Use backend={engine!r}, or give the transformers model itself",
                )
            backend = engine
    if remote and backend != "nnsight":
        raise InputError(
            f"remote={remote!r} was given with backend={backend!r}",
            expected="backend='nnsight', the engine that runs a model elsewhere",
        )
    return backend


def _engine(
    model: Any,
    tokenizer: Any,
    backend: str,
    remote: bool | str,
    name: str,
    revision: str,
    *,
    owned: bool,
) -> Any:
    """The engine around a model; ``owned`` models were loaded here, and may be rewired."""
    if backend == "bridge":
        from dst.models.bridge import BridgeBackend

        return BridgeBackend(model, tokenizer, name=name, revision=revision, owned=owned)
    if backend == "nnsight":
        from dst.models.nnsight import NNsightBackend

        return NNsightBackend(
            model, tokenizer, name=name, revision=revision, remote=remote, owned=owned
        )
    from dst.models.hooks import HooksBackend

    return HooksBackend(model, tokenizer, name=name, revision=revision)


def _skeleton(
    name: str,
    tokenizer: Any,
    dtype: str | None,
    device: str | None,
    device_map: Any,
    revision: str | None,
    trust_remote_code: bool,
) -> Any:
    """A model without weights, whose runs are sent to where it is served.

    Raises:
        InputError: A number type or device was asked for; both are the server's choice.
        ModelError: The configuration cannot be fetched.
    """
    if dtype is not None or device is not None or device_map is not None:
        raise InputError(
            "A remote model was given with dtype, device or device_map",
            expected="none of them: they are chosen where the model is served",
        )
    from dst.models.nnsight import skeleton

    with quiet():
        try:
            return skeleton(name, tokenizer, revision, trust_remote_code)
        except Exception as error:  # noqa: BLE001 - transformers raises every kind
            raise loading_error(name, name, error) from None


def _check_vocabulary(engine: Any) -> None:
    size = len(engine.tokenizer)
    if size > engine.spec.d_vocab:
        raise ModelError(
            f"The tokenizer has {size} tokens and the model {engine.spec.d_vocab}",
            expected="a tokenizer that belongs to the model",
        )
