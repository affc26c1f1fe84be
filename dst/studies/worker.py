"""What works off the batches of a study: one loaded model, wherever it is."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dst.core.case import Case
from dst.core.errors import DSTError, InputError, ModelError
from dst.core.lens_results import ReferenceRuns, TunedLens
from dst.models.backend import Backend
from dst.models.hooks import HooksBackend
from dst.models.memory import budget, device_of, fixed_budget, is_out_of_memory
from dst.models.tokens import tokenize_case
from dst.studies.batch import over_cases
from dst.studies.plan import Settings, digest_of_reference
from dst.studies.rows import Row, failed, measured_row
from dst.tracing.reference import aids


@dataclass(frozen=True)
class About:
    """What a worker says of itself.

    Attributes:
        model: What its model is, in the words of a manifest.
        versions: Of dst and of the libraries that compute.
        room: Bytes that a batch of runs may take here now; None where the engine does not say.
    """

    model: Mapping[str, Any]
    versions: Mapping[str, str]
    room: int | None


class Worker:
    """A loaded model that makes rows of cases.

    Args:
        model: The model.
        settings: The study's.
        lens: A tuned lens of the model; by default the one in its folder, if there is one.
        reference: Its correct runs; by default those in its folder, if there are some.

    Raises:
        InputError: The lens or the reference belongs to other weights, or the settings name a
            function for labels that cannot be imported.
    """

    def __init__(
        self,
        model: Backend,
        settings: Settings,
        lens: TunedLens | None = None,
        reference: ReferenceRuns | None = None,
    ) -> None:
        self.model, self.settings = model, settings
        self.lens, self.reference = lens, reference
        self.aids = aids(model, lens, reference)
        self.labels = labels_named(settings.labels)

    def about(self) -> About:
        """What the model is, and how much memory a batch may take."""
        spec, told = self.model.spec, self.model.provenance()
        lens, reference = self.aids.lens, self.aids.reference
        local = isinstance(self.model, HooksBackend)
        device = device_of(self.model) if isinstance(self.model, HooksBackend) else None
        return About(
            model={
                "name": spec.name,
                "revision": spec.revision,
                "weights_hash": spec.weights_hash,
                "backend": told.backend,
                "dtype": spec.dtype,
                "device": "" if device is None else device.type,
                "lens": "" if lens is None else lens.fingerprint,
                "reference": "" if reference is None else digest_of_reference(reference),
            },
            versions=dict(told.versions),
            room=budget(device) if local and device is not None else None,
        )

    def lengths(self, cases: Sequence[Case]) -> list[int]:
        """Tokens of each case's prompt; 0 for one that the tokenizer cannot represent."""
        found = []
        for case in cases:
            try:
                found.append(len(tokenize_case(self.model.tokenizer, case).ids))
            except DSTError:
                found.append(0)
        return found

    def rows(self, cases: Sequence[Case], room: int | None) -> tuple[list[Row], dict[str, Any]]:
        """The rows of a batch, and how it ran.

        A batch that does not fit into memory is halved, and its halves likewise; which parts
        were, as (first case, number of cases), is in what is said of it.

        Args:
            cases: The batch.
            room: Bytes that a batch of runs may take, whatever is free.
        """
        halved: list[tuple[int, int]] = []
        with fixed_budget(room):
            rows = self._rows(cases, 0, halved)
        return rows, {"halved": halved, "threads": torch.get_num_threads()}

    def _rows(self, cases: Sequence[Case], first: int, halved: list[tuple[int, int]]) -> list[Row]:
        try:
            made = over_cases(self.model, cases, self._row)
            return [failed(row) if isinstance(row, DSTError) else row for row in made]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(cases) == 1:
                return [failed(ModelError("The case does not fit into memory by itself"))]
        # Outside the handler, whose traceback would keep the batch alive.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        halved.append((first, len(cases)))
        half = len(cases) // 2
        return self._rows(cases[:half], first, halved) + self._rows(
            cases[half:], first + half, halved
        )

    def _row(self, model: Backend, case: Case) -> Row:
        settings = self.settings
        row = measured_row(
            model,
            case,
            measures=settings.measures,
            draws=settings.draws,
            seed=settings.seed,
            suggest=settings.suggest,
            lens=self.lens,
            reference=self.reference,
        )
        if self.labels is None:
            return row
        return with_labels(row, lambda: self.labels(model, case))  # type: ignore[misc]


def with_labels(row: Row, ask: Callable[[], Mapping[str, Any]]) -> Row:
    """A row with its labels; with the reason where they cannot be given.

    Raises:
        InputError: A label has the name of a column that is there.
    """
    try:
        labels = {name: _defined(value) for name, value in ask().items()}
    except DSTError as error:
        return row | {"labels_reason": str(error)}
    if taken := sorted(labels.keys() & row.keys()):
        raise InputError(
            f"The labels name the column {taken[0]!r}, which every row has",
            do="Give it another name",
        )
    return row | labels


def _defined(value: Any) -> Any:
    """A label as it is kept: None where it is NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


def labels_named(name: str) -> Callable[[Backend, Case], Mapping[str, Any]] | None:
    """The function ``module:function`` that gives labels; None for a name that is none.

    Raises:
        InputError: There is no such module or function.
    """
    module, colon, function = name.partition(":")
    if not colon:
        return None
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"The labels {name!r} cannot be imported ({error})",
            expected="module:function, a function of a model and a case",
        ) from None
    if not callable(found):
        raise InputError(f"The labels {name!r} are no function")
    return found
