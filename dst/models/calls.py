"""What a model's blocks are given besides their input, and the same for some positions only."""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dst.core.errors import CapabilityError
from dst.models.families import text_config
from dst.models.hooks import HooksBackend
from dst.models.meter import count, kept_for_later

QUERY_AXIS = {
    "attention_mask": -2,
    "position_ids": -1,
    "cache_position": -1,
    "position_embeddings": -2,
}
"""Arguments of a block that hold one entry per query, and the axis of the queries."""

PER_HEAD = {"alibi", "position_bias"}
"""Arguments with one entry per head and key, and none per query: kept whole."""


MOST_LENGTHS, LONGEST = 64, 512
"""Lengths of a row that are remembered per model, the first forgotten first; and the longest of
them: an eager mask grows as the square of it."""


@dataclass(frozen=True)
class Call:
    """What one block was given besides its input.

    Attributes:
        given: Its arguments by name.
        cache: The name of the argument that holds keys and values.
        kind: Attention implementation.
    """

    given: Mapping[str, Any]
    cache: str
    kind: str

    def at(self, positions: slice | torch.Tensor, length: int, n_rows: int) -> dict[str, Any]:
        """The arguments for queries at some positions, in a batch of ``n_rows``."""
        out = {}
        for name, value in self.given.items():
            if name in PER_HEAD and isinstance(value, torch.Tensor) and value.shape[-1] == length:
                # Bloom's is [row x head, 1, key], Falcon's [row, head, 1, key].
                value = value.repeat(n_rows, *[1] * (value.ndim - 1))
            elif name in QUERY_AXIS:
                value = _taken(value, QUERY_AXIS[name], positions)
            out[name] = value
        return out

    def mask(self, positions: slice | torch.Tensor, like: torch.Tensor, length: int) -> Any:
        """The attention mask for queries at some positions, [row head query key].

        Where the base run had none (a causal kernel), one is needed as soon as there are
        several queries with keys before them: kernels would align it with the first key.
        """
        mask = self.given.get("attention_mask")
        if mask is not None:
            return _taken(mask, QUERY_AXIS["attention_mask"], positions)
        places = torch.arange(length, device=like.device)
        queries = places[positions]
        if len(queries) == length or queries.tolist() == [length - 1]:
            return None
        if self.kind != "sdpa":
            raise CapabilityError(f"This model's attention ({self.kind}) is given no mask")
        return (places <= queries.unsqueeze(1))[None, None]


def calls_of(engine: HooksBackend, row: Sequence[int], device: torch.device) -> tuple[Call, ...]:
    """What every block is given for a row by itself, besides its input; asked once per length.

    It depends on positions alone, or is refused (`call_of`), so that any row will do.

    Raises:
        CapabilityError: This model's attention takes no mask, or its blocks are given what
            does not depend on positions alone.
    """
    kind = str(getattr(text_config(engine.model), "_attn_implementation", None))
    if kind not in ("eager", "sdpa"):
        raise CapabilityError(
            f"This model's attention ({kind}) takes no mask per query and key",
            do="Load it with attn_implementation='sdpa' or 'eager'",
        )
    known = _KNOWN.setdefault(engine.model, {})
    key = (len(row), kind, str(device), str(next(engine.model.parameters()).dtype))
    if key in known:
        return known[key]
    made = _seen(engine, row, device, kind)
    if len(row) <= LONGEST:
        while len(known) >= MOST_LENGTHS:
            known.pop(next(iter(known)))
        known[key] = made
    return made


_Key = tuple[int, str, str, str]
_KNOWN: weakref.WeakKeyDictionary[nn.Module, dict[_Key, tuple[Call, ...]]] = (
    weakref.WeakKeyDictionary()
)


def _seen(
    engine: HooksBackend, row: Sequence[int], device: torch.device, kind: str
) -> tuple[Call, ...]:
    """What the blocks are given, seen in a run of the row."""
    from transformers import DynamicCache

    cache, thread = DynamicCache(), threading.get_ident()
    seen: dict[int, Call] = {}

    def keep(layer: int) -> Callable[..., None]:
        names = list(inspect.signature(engine.anatomy.blocks[layer].block.forward).parameters)

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if threading.get_ident() == thread:
                given = {**dict(zip(names, args, strict=False)), **kwargs}
                given.pop(names[0])
                seen[layer] = call_of(given, cache, kind, len(row))

        return hook

    handles = [
        parts.block.register_forward_pre_hook(keep(layer), with_kwargs=True)
        for layer, parts in enumerate(engine.anatomy.blocks)
    ]
    try:
        ids = torch.tensor([list(row)], device=device)
        engine.anatomy.body(input_ids=ids, use_cache=True, past_key_values=cache)
        with kept_for_later():
            count(len(row) * len(handles), len(handles))
    finally:
        for handle in handles:
            handle.remove()
    if len(seen) != len(handles):
        raise CapabilityError("This model's forward pass does not go through every block")
    return tuple(seen[layer] for layer in range(len(handles)))


def call_of(given: dict[str, Any], cache: Any, kind: str, length: int) -> Call:
    """Arguments of a block, if all of them depend on positions alone.

    Raises:
        CapabilityError: One does not, or there is none for keys and values.
    """
    holders = [name for name, value in given.items() if value is cache]
    if len(holders) != 1:
        raise CapabilityError("This model's blocks are given no place for keys and values")
    for name, value in given.items():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if not isinstance(part, torch.Tensor) or name in PER_HEAD:
                continue
            axis = QUERY_AXIS.get(name)
            square = name != "attention_mask" or (part.ndim == 4 and part.shape[-1] == length)
            if axis is None or part.ndim < -axis or part.shape[axis] != length or not square:
                raise CapabilityError(
                    f"This model's blocks are given {name} of shape {tuple(part.shape)}, which "
                    "is not one entry per position"
                )
    return Call(
        {name: value for name, value in given.items() if value is not cache}, holders[0], kind
    )


def _taken(value: Any, axis: int, positions: slice | torch.Tensor) -> Any:
    """Some positions of a tensor, or of a tuple of tensors, along an axis counted from the end."""
    if isinstance(value, (tuple, list)):
        return type(value)(_taken(part, axis, positions) for part in value)
    if not isinstance(value, torch.Tensor):
        return value
    if isinstance(positions, slice):
        return value.narrow(axis, positions.start, positions.stop - positions.start)
    return value.index_select(axis, positions.to(value.device))
