"""How much memory there is, and how much a batch of suffixes takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from dst.models.hooks import HooksBackend

MOST_BYTES = 1 << 30
"""Largest batch on a processor; a batch takes a quarter of what is free where that is less."""

UNKNOWN = 1 << 30
"""Free memory of a system that does not tell."""


_ALLOWED: list[int] = []


def free_bytes(device: torch.device) -> int:
    """Memory that could still be taken on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + kept
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
        free = 1024 * next(int(line.split()[1]) for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration):
        return UNKNOWN
    return min(free, _left_to_group())


def _left_to_group() -> int:
    """What this process's control group may still take; a container has less than its host."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("utf-8").strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text("utf-8")
        return max(0, int(limit) - int(used))
    except (OSError, ValueError):  # no such group, or no limit ("max")
        return 1 << 62


def budget(device: torch.device) -> int:
    """Bytes that one batch may take: half of a GPU's free memory, else a quarter up to 1 GiB."""
    if _ALLOWED:
        return _ALLOWED[-1]
    free = free_bytes(device)
    return free // 2 if device.type == "cuda" else min(free // 4, MOST_BYTES)


@contextlib.contextmanager
def fixed_budget(n_bytes: int | None) -> Iterator[None]:
    """Give every batch so many bytes, whatever is free: batches are then cut alike each time.

    Batches of other sizes round otherwise in the last digit. None changes nothing.
    """
    if n_bytes is None:
        yield
        return
    _ALLOWED.append(n_bytes)
    try:
        yield
    finally:
        _ALLOWED.pop()


def device_of(engine: HooksBackend) -> torch.device:
    """Where the model's first weights are."""
    return next(engine.model.parameters()).device


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a batch did not fit."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def prefix_bytes(engine: HooksBackend, n_pos: int) -> int:
    """Keys and values of one row."""
    spec = engine.spec
    return 2 * spec.n_layers * spec.n_kv_heads * spec.d_head * n_pos * _item(engine)


def suffix_bytes(engine: HooksBackend, n_pos: int, n_keys: int, n_logits: int) -> int:
    """What one run takes while a block works on it, by its widest tensors.

    Residual stream, norms and projections, the MLP's inner layer, keys and values with a copy
    of each (repeated per query head), scores where attention computes them as a whole, logits.
    """
    spec = engine.spec
    inner = 4 * widest(engine) + 10 * spec.d_model
    heads = spec.n_heads * spec.d_head
    scores = 3 * spec.n_heads * n_pos * n_keys * (not _is_fused(engine))
    return (n_pos * inner + 4 * n_keys * heads + scores) * _item(engine) + 12 * n_logits


def widest(engine: HooksBackend) -> int:
    """Width of the widest linear map of a block."""
    block = engine.anatomy.blocks[0].block
    return max(
        (max(weight.shape[-2:]) for weight in block.parameters() if weight.ndim > 1),
        default=4 * engine.spec.d_model,
    )


def _is_fused(engine: HooksBackend) -> bool:
    """Whether attention never holds all its scores at once."""
    return getattr(engine.model.config, "_attn_implementation", None) == "sdpa"


def _item(engine: HooksBackend) -> int:
    return next(engine.model.parameters()).element_size()
