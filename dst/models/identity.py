"""What a model is: its sizes, the hash of its weights, the versions that ran it."""

from __future__ import annotations

import hashlib
import importlib.metadata
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import nn

from dst.models.backend import ModelSpec

if TYPE_CHECKING:
    from dst.models.families import Anatomy

LIBRARIES = ("torch", "transformers", "numpy")
_NO_WINDOW = 1_000_000
"""Window of a model whose configuration names none (ALiBi has no longest prompt)."""


def spec_of(anatomy: Anatomy, name: str = "", revision: str = "") -> ModelSpec:
    """Sizes of a model, by its modules where they tell, else by its configuration."""
    from dst.models.families import text_config

    model = anatomy.model
    config = text_config(model)
    return ModelSpec(
        name=name or getattr(model.config, "_name_or_path", "") or type(model).__name__,
        revision=revision or getattr(model.config, "_commit_hash", None) or "",
        family=str(getattr(model.config, "model_type", "")),
        n_layers=len(anatomy.blocks),
        d_model=int(config.hidden_size),
        n_heads=anatomy.n_heads,
        n_kv_heads=anatomy.n_kv_heads,
        d_head=anatomy.d_head,
        d_vocab=int(anatomy.head.weight.shape[0]),
        window=int(getattr(config, "max_position_embeddings", None) or _NO_WINDOW),
        dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
        weights_hash=weights_hash(model),
    )


def made_by(model: object, package: str) -> bool:
    """Whether an object's class comes from a package, told without importing the package."""
    return any(cls.__module__.partition(".")[0] == package for cls in type(model).__mro__)


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over every parameter and buffer that is saved: name, type, shape, bytes.

    Two models have one hash exactly when their checkpoints hold the same tensors.
    """
    state = {k: v for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}

    def digest(name: str) -> str:
        tensor = state[name].detach()
        if tensor.device.type == "meta":  # weights that are on disk, or nowhere
            return "meta"
        data = tensor.to("cpu").contiguous().view(-1).view(torch.uint8).numpy()
        return hashlib.sha256(data.data).hexdigest()

    names = sorted(state)
    with ThreadPoolExecutor(max_workers=4) as pool:
        digests = list(pool.map(digest, names))
    whole = hashlib.sha256()
    for name, part in zip(names, digests, strict=True):
        whole.update(f"{name} {state[name].dtype} {tuple(state[name].shape)} {part}\n".encode())
    return whole.hexdigest()


def versions() -> dict[str, str]:
    """Versions of dst and of the libraries that compute."""
    from dst import __version__

    return {"dst": __version__, **{name: _version(name) for name in LIBRARIES}}


_version = cache(importlib.metadata.version)
