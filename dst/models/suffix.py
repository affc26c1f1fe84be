"""Suffixes: a model's blocks run from any block and position on, after a base run.

A change at block l and position t leaves every state below l and before t as it was. So the
base is run once with its keys and values kept (`record`), and a changed run is the blocks
from l on, called on positions from t on, with the base's keys and values before them
(`replay`). Runs that start at other blocks join the batch on the way, with the base's states.

The blocks are transformers' own, called with the arguments that they were given in the base
run, cut to the positions at hand: nothing here knows a family. What a block is given besides
its input has to depend on positions alone; what does not is refused, and `dst.models.check`
proves the rest against full runs when a model is loaded.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn import functional

from dst.core.errors import CapabilityError
from dst.core.sites import Site
from dst.models.backend import Positions, Run
from dst.models.batch import Batch
from dst.models.calls import Call, calls_of
from dst.models.hooks import HooksBackend, _evaluating, _Hooks
from dst.models.interventions import Resolved, cut_mask, edited, keep_a_key
from dst.models.meter import count
from dst.models.request import Request, work_out

if TYPE_CHECKING:
    from dst.models.dry import DryEngine

KEYS_AND_VALUES = 0.25
"""Share of a block's work that keys and values are, at the most: a projection of three."""


@dataclass(frozen=True)
class Prefix:
    """What a base run leaves to its suffixes.

    Attributes:
        rows: Token ids per row.
        keys: Per block, [row kv_head pos d_head] after rotary embedding, padded on the right.
        values: Likewise.
        calls: Per length of a row, what each block was given besides its input.
    """

    rows: tuple[tuple[int, ...], ...]
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    calls: Mapping[int, tuple[Call, ...]]

    @classmethod
    def joined(cls, prefixes: Sequence[Prefix]) -> Prefix:
        """The rows of several, one after the other."""
        width = max(prefix.keys[0].shape[2] for prefix in prefixes)

        def together(layers: Iterable[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
            return tuple(torch.cat([padded(part, width) for part in layer]) for layer in layers)

        return cls(
            tuple(row for prefix in prefixes for row in prefix.rows),
            together(zip(*(prefix.keys for prefix in prefixes), strict=True)),
            together(zip(*(prefix.values for prefix in prefixes), strict=True)),
            {length: call for prefix in prefixes for length, call in prefix.calls.items()},
        )


def padded(tensor: torch.Tensor, width: int) -> torch.Tensor:
    """[a b pos c] with positions of zeros added on the right."""
    return functional.pad(tensor, (0, 0, 0, width - tensor.shape[2]))


@dataclass
class Placed(Resolved):
    """An edit of a batch of suffixes; it keeps account of every row by itself.

    Attributes:
        squared: Squared L2 norm of the change, per row of the edit.
    """

    squared: torch.Tensor = field(default_factory=lambda: torch.zeros(0))

    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor [row pos ...] with this edit made; the tensor given is not changed."""
        edit, rows = self.edit, self.row_index.to(tensor.device)
        positions = self.position_index.to(tensor.device)
        out, _ = edited(tensor, rows, positions, edit.value, edit.op, edit.heads)
        change = out[rows, positions].float() - tensor[rows, positions].float()
        self.fired += rows.numel()
        self.squared = change.pow(2).flatten(1).sum(1)
        return out

    def apply_in_place(self, tensor: torch.Tensor) -> None:
        """This edit made in a tensor [row pos ...] of our own."""
        rows, positions = self.row_index.to(tensor.device), self.position_index.to(tensor.device)
        here = replace(
            self,
            row_index=torch.arange(len(rows)).unsqueeze(1),
            position_index=torch.zeros(len(rows), 1, dtype=torch.long),
        )
        tensor[rows, positions] = here.apply(tensor[rows, positions])
        self.fired, self.squared = here.fired, here.squared

    def shifted(self, by: int) -> Placed:
        """This edit among the positions from ``by`` on."""
        self.position_index = self.position_index - by
        return self


@dataclass(frozen=True)
class Suffixes:
    """Changed runs that share their length and first position.

    Attributes:
        rows: Row of the base per run.
        starts: State at which each run leaves the base, 0..n_layers, never falling.
        first: First position that is computed.
        length: Tokens of every row.
        edits: Changes, positions counted from the row's first token.
        blocked: Per cut block, [run head query key], True where reading is cut.
        capture: Sites that are kept, after any edit there.
        read: Positions at which logits are read, ``first`` or later.
        tokens: Ids whose logits are read; all by default.
    """

    rows: Sequence[int]
    starts: Sequence[int]
    first: int
    length: int
    edits: Sequence[Placed]
    blocked: Mapping[int, torch.Tensor] = field(default_factory=dict)
    capture: tuple[Site, ...] = ()
    read: tuple[int, ...] = ()
    tokens: Sequence[int] | None = None


@dataclass(frozen=True)
class Replayed:
    """What suffixes gave.

    Attributes:
        logits: [run k token] at the positions read.
        states: Per captured site, [run pos ...] from ``first`` on, of the runs that had started
            by then: the first ones.
        closed: Per cut block, [run head query key] from query ``first`` on, True where a query
            could read a key and no longer does; of the runs that had started by then.
    """

    logits: torch.Tensor
    states: Mapping[Site, torch.Tensor]
    closed: Mapping[int, torch.Tensor]


def record(
    engine: HooksBackend,
    rows: Sequence[Sequence[int]],
    capture: Iterable[Site] = (),
    logits_at: Positions | None = (-1,),
) -> tuple[Run, Prefix]:
    """Run rows and keep their keys and values beside what `Backend.run` gives.

    Raises:
        CapabilityError: This model keeps no keys and values, or its blocks are given what
            does not depend on positions alone.
    """
    from transformers import DynamicCache

    if not engine.computes:
        return _counted(engine, rows, capture, logits_at)
    request = work_out(engine.spec, engine.anatomy.missing, rows, None, capture, (), (), logits_at)
    hooks, n_layers = _Hooks(engine.anatomy, request), engine.spec.n_layers
    # Without a configuration every layer keeps all of its keys, also those with a window.
    cache = DynamicCache()
    with engine._lock, torch.no_grad(), _evaluating(engine.model):
        device = next(engine.model.parameters()).device
        with hooks.placed():
            output = engine.anatomy.body(
                input_ids=request.batch.ids.to(device), use_cache=True, past_key_values=cache
            )
        hidden = output[0]
        index = torch.arange(len(request.places), device=hidden.device).unsqueeze(1)
        logits = engine._head(hidden[index, request.places.to(hidden.device)])
        lengths = sorted(set(request.batch.lengths.tolist()))
        shortest = {len(row): row for row in rows}
        calls = {length: calls_of(engine, shortest[length], device) for length in lengths}
    if len(cache.layers) != n_layers or any(
        layer.keys is None or layer.keys.shape[-2] != request.batch.ids.shape[1]
        for layer in cache.layers
    ):
        raise CapabilityError("This model does not keep one key and value per position and block")
    prefix = Prefix(
        tuple(tuple(row) for row in rows),
        tuple(layer.keys for layer in cache.layers),
        tuple(layer.values for layer in cache.layers),
        calls,
    )
    return request.answer(engine.spec, logits, hooks.states, hooks.readable), prefix


def replay(
    engine: HooksBackend,
    prefix: Prefix,
    base_state: Callable[[int, torch.Tensor], torch.Tensor],
    runs: Suffixes,
) -> Replayed:
    """Carry out a batch of suffixes.

    Args:
        engine: The model.
        prefix: Of the base.
        base_state: State l of some rows of the base, [row pos d_model] from ``first`` on.
        runs: What is changed.

    Raises:
        CapabilityError: This model's attention cannot be called on a suffix.
        InterventionError: Cuts leave a query without keys.
        ModelError: Logits are not finite.
    """
    with at_work(engine):
        todo = _Replay(engine, prefix, base_state, runs)
        count(*todo.work())
        return todo.run() if engine.computes else todo.stand_in()


def _counted(
    engine: HooksBackend,
    rows: Sequence[Sequence[int]],
    capture: Iterable[Site],
    logits_at: Positions | None,
) -> tuple[Run, Prefix]:
    """What an engine that computes nothing records: its run, keys and values without numbers."""
    run = engine.run(rows, capture=capture, logits_at=logits_at)
    nothing = (torch.zeros(*run.ids.shape, 0).unsqueeze(1),) * engine.spec.n_layers
    lengths = set(run.lengths.tolist())
    return run, Prefix(tuple(map(tuple, rows)), nothing, nothing, dict.fromkeys(lengths, ()))


@contextlib.contextmanager
def at_work(engine: HooksBackend) -> Iterator[None]:
    """The model is ours, without gradients or dropout; once inside, entering it again is free."""
    if engine.model in _OURS.models:
        yield
        return
    with engine._lock, torch.no_grad(), _evaluating(engine.model):
        _OURS.models.append(engine.model)
        try:
            yield
        finally:
            _OURS.models.pop()


class _Ours(threading.local):
    """Models that this thread is at work with."""

    def __init__(self) -> None:
        self.models: list[nn.Module] = []


_OURS = _Ours()


class _Replay:
    """One batch of suffixes on its way through the blocks."""

    def __init__(
        self,
        engine: HooksBackend,
        prefix: Prefix,
        base_state: Callable[[int, torch.Tensor], torch.Tensor],
        runs: Suffixes,
    ) -> None:
        self.engine, self.prefix, self.base_state, self.runs = engine, prefix, base_state, runs
        self.rows = torch.as_tensor(runs.rows)
        self.n_layers = engine.spec.n_layers
        self.calls = prefix.calls[runs.length]
        self.states: dict[Site, torch.Tensor] = {}
        self.closed: dict[int, torch.Tensor] = {}
        self.edits: dict[Site, list[Placed]] = {}
        for item in runs.edits:
            self.edits.setdefault(item.edit.site, []).append(item.shifted(runs.first))

    def run(self) -> Replayed:
        """All blocks, from the first start to the logits."""
        runs, hidden = self.runs, None
        for state in range(min(runs.starts), self.n_layers + 1):
            hidden = self._joined(hidden, state)
            hidden = self._visit(Site(state - 1, "resid_post"), hidden) if state else hidden
            if state == self.n_layers:
                break
            hidden = self._visit(Site(state, "resid_pre"), hidden)
            if state == self.n_layers - 1 and self._may_be_short():
                return self._answer(self._last_block(hidden))
            hidden = self._block(state, hidden, self.rows[: len(hidden)])
        assert hidden is not None
        return self._answer(hidden[:, [place - runs.first for place in runs.read]])

    def work(self) -> tuple[float, int]:
        """Positions times blocks, and calls of blocks."""
        runs, total, calls = self.runs, 0.0, 0
        n_pos, read = runs.length - runs.first, len(runs.read)
        for layer in range(min(runs.starts), self.n_layers):
            here = sum(start <= layer for start in runs.starts)
            short = layer == self.n_layers - 1 and self._may_be_short()
            total += here * (read + KEYS_AND_VALUES * (n_pos - read) if short else n_pos)
            calls += 2 if short else 1
        return total, calls

    def stand_in(self) -> Replayed:
        """What an engine that computes nothing answers: every change made, nothing known."""
        runs, engine = self.runs, cast("DryEngine", self.engine)
        n = len(runs.rows)
        pushed = [False] * n
        for item in runs.edits:
            item.fired, item.squared = item.row_index.numel(), torch.zeros(len(item.row_index))
            for row in item.row_index.flatten().tolist():
                pushed[row] |= item.edit.op == "add"
        tokens = slice(None) if runs.tokens is None else list(runs.tokens)
        where = torch.zeros(n, runs.length - runs.first, dtype=torch.long)
        return Replayed(
            engine.replayed(pushed, len(runs.read))[..., tokens],
            {site: engine.state(site, where) for site in runs.capture},
            {layer: blocked[:, :, runs.first :] for layer, blocked in runs.blocked.items()},
        )

    def _joined(self, hidden: torch.Tensor | None, state: int) -> torch.Tensor:
        """The batch with the runs that start at this state, as the base left them."""
        n_here = 0 if hidden is None else len(hidden)
        n_then = sum(start <= state for start in self.runs.starts)
        if n_then == n_here:
            assert hidden is not None
            return hidden
        new = self.base_state(state, self.rows[n_here:n_then])
        return new if hidden is None else torch.cat([hidden, new.to(hidden.device)])

    def _visit(self, site: Site, hidden: torch.Tensor) -> torch.Tensor:
        """Edits and capture between blocks."""
        for item in self.edits.get(site, ()):
            item.apply_in_place(hidden)
        if site in self.runs.capture:
            self.states[site] = hidden.clone()
        return hidden

    def _block(self, layer: int, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """One block on all positions of the suffix, with its edits, cuts and captures."""
        runs, call = self.runs, self.calls[layer]
        positions = slice(runs.first, runs.length)
        mask = call.mask(positions, hidden, runs.length)
        if layer in runs.blocked:
            mask = self._cut(layer, mask, hidden)
        cache = _Extended(self.prefix.keys[layer], self.prefix.values[layer], rows, runs.first)
        here = sorted({site for site in (*self.edits, *runs.capture) if site.layer == layer})
        inside = [site for site in here if site.kind not in ("resid_pre", "resid_post")]
        if not inside:
            return self._called(layer, hidden, positions, mask, cache)
        request = Request(
            batch=Batch(torch.empty(len(hidden), 0), torch.empty(0)),
            capture=tuple(site for site in runs.capture if site in inside),
            edits=tuple(item for site in inside for item in self.edits.get(site, ())),
            cuts=(),
            blocked={},
            places=torch.empty(0),
        )
        hooks = _Hooks(self.engine.anatomy, request)
        with hooks.placed():
            hidden = self._called(layer, hidden, positions, mask, cache)
        self.states |= hooks.states
        return hidden

    def _cut(self, layer: int, mask: torch.Tensor | None, hidden: torch.Tensor) -> torch.Tensor:
        """The mask of one block with the cuts made in it."""
        blocked = self.runs.blocked[layer][: len(hidden), :, self.runs.first :].to(hidden.device)
        if mask is None:
            whole = torch.ones(self.runs.length, self.runs.length, dtype=torch.bool).tril()
            mask = whole[None, None, self.runs.first :].to(hidden.device)
        closed, readable = cut_mask(mask, blocked)
        keep_a_key(readable, blocked, layer)
        self.closed[layer] = readable & blocked
        return closed

    def _called(
        self,
        layer: int,
        hidden: torch.Tensor,
        positions: slice | torch.Tensor,
        mask: torch.Tensor | None,
        cache: Any,
    ) -> torch.Tensor:
        call = self.calls[layer]
        given = call.at(positions, self.runs.length, len(hidden))
        given |= {"attention_mask": mask, call.cache: cache}
        output = self.engine.anatomy.blocks[layer].block(hidden, **given)
        return output if isinstance(output, torch.Tensor) else output[0]

    def _may_be_short(self) -> bool:
        """Whether the last block is needed at the positions read only: nothing is done in it."""
        runs, last = self.runs, self.n_layers - 1
        if not runs.read or len(runs.read) == runs.length - runs.first:
            return False
        if runs.starts[-1] > last or last in runs.blocked:
            return False
        touched = [site for site in (*self.edits, *runs.capture) if site.layer == last]
        if any(site.kind != "resid_pre" for site in touched):
            return False
        # accelerate would not see the end of a call that is left early.
        block = self.engine.anatomy.blocks[last].block
        return not any(hasattr(module, "_hf_hook") for module in block.modules())

    def _last_block(self, hidden: torch.Tensor) -> torch.Tensor:
        """The last block's output at the positions read, [run k d_model].

        Keys and values are needed of every position, queries and MLP only of those read: so
        the block is called until its keys and values are known, then on the positions read,
        with those keys and values.
        """
        runs, layer = self.runs, self.n_layers - 1
        read = torch.as_tensor(runs.read, device=hidden.device)
        keep = _Kept(self.prefix.keys[layer], self.prefix.values[layer], self.rows, runs.first)
        try:
            self._called(layer, hidden, slice(runs.first, runs.length), None, keep)
        except _EnoughError:
            pass
        else:
            raise CapabilityError("The last block does not store its keys and values")
        keep.known = True
        mask = self.calls[layer].mask(read, hidden, runs.length)
        return self._called(layer, hidden[:, read - runs.first], read, mask, keep)

    def _answer(self, hidden: torch.Tensor) -> Replayed:
        normed = self.engine.final_norm(hidden)
        raw = _unembedded(self.engine.anatomy.head, normed, self.runs.tokens)
        return Replayed(self.engine._scaled(raw), self.states, self.closed)


class _Extended:
    """Keys and values of one block: the base's before a position, the batch's own from it on."""

    def __init__(
        self, keys: torch.Tensor, values: torch.Tensor, rows: torch.Tensor, first: int
    ) -> None:
        self.before = [_of_rows(keys, rows, first), _of_rows(values, rows, first)]
        self.first = first

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> Any:
        """All keys and values, [run kv_head key d_head]."""
        if not self.first:
            return keys, values
        before = self.before
        return torch.cat([before[0], keys], dim=-2), torch.cat([before[1], values], dim=-2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions before the batch's own."""
        return self.first


class _Kept(_Extended):
    """Keeps what the first call stores and ends it; gives that back in the second."""

    known = False

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> Any:
        """All keys and values, once they are known.

        Raises:
            _EnoughError: They were not, and are now.
        """
        if not self.known:
            self.all = super().update(keys, values)
            raise _EnoughError
        return self.all


class _EnoughError(Exception):
    """Ends a call of a block whose keys and values are all that is wanted."""


def _of_rows(tensor: torch.Tensor, rows: torch.Tensor, first: int) -> torch.Tensor:
    """[run kv_head pos d_head] before a position."""
    before = tensor[:, :, :first]
    if bool((rows == rows[0]).all()):
        row = int(rows[0])
        return before[row : row + 1].expand(len(rows), -1, -1, -1)
    return before[rows.to(tensor.device)]


def _unembedded(head: Any, normed: torch.Tensor, tokens: Sequence[int] | None) -> torch.Tensor:
    """The unembedding, of some tokens only if it is a plain map whose rows can be taken."""
    normed = normed.to(head.weight.device, head.weight.dtype)
    if tokens is None:
        return head(normed)
    index = torch.as_tensor(list(tokens), device=normed.device)
    if type(head) is not nn.Linear or head._forward_hooks or hasattr(head, "_hf_hook"):
        return head(normed)[..., index]
    return functional.linear(
        normed, head.weight[index], None if head.bias is None else head.bias[index]
    )
