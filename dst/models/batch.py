"""A batch of prompts as every engine runs it: rows moved to the left, positions of real tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dst.core.errors import InputError, InterventionError, ModelError
from dst.models.backend import ModelSpec, Positions, Run


@dataclass(frozen=True)
class Batch:
    """Rows moved to the left: ids [row pos], lengths [row]."""

    ids: torch.Tensor
    lengths: torch.Tensor

    def resolve(self, rows: Sequence[int], positions: Positions, what: str) -> torch.Tensor:
        """Absolute positions, [row k]; negative ones count from each row's end.

        Raises:
            InterventionError: A row or position does not exist, or none was given.
        """
        n_rows = len(self.lengths)
        if len(rows) == 0 or len(positions) == 0:
            raise InterventionError(f"{what} names no row or no position", expected="at least one")
        if bad := [row for row in rows if not 0 <= row < n_rows]:
            raise InterventionError(
                f"{what} names row {bad[0]}", expected=f"a row from 0 to {n_rows - 1}"
            )
        try:
            per_row = torch.as_tensor(positions, dtype=torch.long)
        except ValueError:
            raise InterventionError(
                f"{what} has lists of positions of unequal length",
                expected="as many positions in every row",
                do="Give one intervention for each number of positions",
            ) from None
        if per_row.ndim == 1:
            per_row = per_row.expand(len(rows), -1)
        if per_row.shape[0] != len(rows) or per_row.shape[1] == 0:
            raise InterventionError(
                f"{what} has {per_row.shape[0]} lists of positions for {len(rows)} rows",
                expected="one list for all rows, or one for each, none of them empty",
            )
        length = self.lengths[torch.as_tensor(rows, dtype=torch.long)].unsqueeze(1)
        absolute = torch.where(per_row < 0, per_row + length, per_row)
        outside = (absolute < 0) | (absolute >= length)
        if outside.any():
            row, column = outside.nonzero()[0].tolist()
            raise InterventionError(
                f"{what} names position {int(per_row[row, column])} of a prompt with "
                f"{int(length[row, 0])} tokens",
                expected="a position inside the prompt",
            )
        return absolute


def make_batch(
    ids: torch.Tensor | Sequence[Sequence[int]], mask: torch.Tensor | None, spec: ModelSpec
) -> Batch:
    """Move every row's real tokens to the left, whatever side they were padded on.

    Raises:
        InputError: No rows, an empty row, ids outside the vocabulary, a mask with holes,
            or a row longer than the model's window.
    """
    if isinstance(ids, torch.Tensor) or mask is not None:
        table = torch.as_tensor(ids).detach().to("cpu", torch.long)
        table = table.unsqueeze(0) if table.ndim == 1 else table
        rows = list(table) if mask is None else _real_tokens(table, mask)
    else:
        rows = [torch.as_tensor(row, dtype=torch.long) for row in ids]
        if any(row.ndim != 1 for row in rows):
            raise InputError(
                "The token ids are not a list of prompts", expected="one list of ids per prompt"
            )
    if not rows or any(len(row) == 0 for row in rows):
        raise InputError("A prompt has no tokens", expected="at least one token in every row")
    lengths = torch.tensor([len(row) for row in rows])
    if int(lengths.max()) > spec.window:
        raise InputError(
            f"A prompt has {int(lengths.max())} tokens",
            expected=f"at most {spec.window}, the window of {spec.name}",
            do="Shorten the prompt",
        )
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    low, high = int(padded.min()), int(padded.max())
    if low < 0 or high >= spec.d_vocab:
        raise InputError(
            f"A prompt has the token id {low if low < 0 else high}",
            expected=f"ids from 0 to {spec.d_vocab - 1}",
            do="Use the tokenizer that belongs to this model",
        )
    return Batch(padded, lengths)


def _real_tokens(table: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    keep = torch.as_tensor(mask).detach().to("cpu").bool()
    keep = keep.unsqueeze(0) if keep.ndim == 1 else keep
    if keep.shape != table.shape:
        raise InputError(
            f"The mask has shape {tuple(keep.shape)}", expected=f"{tuple(table.shape)}, as the ids"
        )
    changes = (keep[:, 1:] != keep[:, :-1]).sum(1)
    if bool((changes > 1).any()):
        raise InputError("The mask has holes", expected="padding on one side only")
    return [row[kept] for row, kept in zip(table, keep, strict=True)]


def logit_places(logits_at: Positions | None, batch: Batch) -> torch.Tensor:
    """Absolute positions [row k] at which logits are wanted; all by default."""
    n_rows, n_pos = batch.ids.shape
    if logits_at is None:
        return torch.arange(n_pos).expand(n_rows, -1)
    return batch.resolve(range(n_rows), logits_at, "logits_at")


def check_finite(run: Run, name: str) -> None:
    """Refuse a run with NaN or infinity at a real token, naming where it first is.

    Raises:
        ModelError: Names the site or the logits.
    """
    real = torch.arange(run.ids.shape[1]).unsqueeze(0) < run.lengths.unsqueeze(1)
    for site in sorted(run.states, key=lambda site: site.layer):
        state = run.states[site]
        # One sum tells that all is finite; only if it is not is there something to look for.
        if site.kind == "pattern" or bool(torch.isfinite(state.sum(dtype=torch.float32))):
            continue
        finite = torch.isfinite(state).flatten(2).all(-1).cpu()
        if not bool((finite | ~real).all()):
            raise _not_finite(f"{name} has NaN or infinity in {site}", "finite activations")
    if not bool(torch.isfinite(run.logits).all()):
        raise _not_finite(f"{name} puts out NaN or infinite logits", "finite logits")


def _not_finite(found: str, expected: str) -> ModelError:
    return ModelError(found, expected=expected, do="Load it in float32, or check its weights")
