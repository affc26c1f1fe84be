"""The plan of a study: which cases run together, and what makes it this study and no other.

A plan is a pure function of the cases, their lengths in tokens and the settings. It is written
before the first batch runs, so a study that goes on after a stop, or on more workers, runs the
very same batches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dst.core.case import Case
from dst.core.errors import InputError
from dst.core.lens_results import ReferenceRuns
from dst.studies.rows import MEASURES

FORMAT = 1
"""Version of the manifest and of a part; raised when a study begun before cannot go on."""

BATCH_CASES = 32
"""Cases of a batch: what a kill can cost, and what one worker takes at a time."""

BATCH_TOKENS = 8192
"""Tokens of a batch's prompts, all counted as long as the longest."""


@dataclass(frozen=True)
class Settings:
    """Everything that can change a number of a study, besides the model and the cases.

    Attributes:
        draws: Variants to draw where a case gives none.
        seed: Seed of the draws and of the bootstrap.
        measures: Some of `MEASURES`, in that order.
        suggest: Infer a cue and a subject that a case does not name.
        batch_cases: Most cases of a batch.
        batch_tokens: Most tokens of a batch; a case that has more is a batch of its own.
        labels: Who gives further columns, as text; "" for nobody.
    """

    draws: int = 8
    seed: int = 0
    measures: tuple[str, ...] = ("coherence", "markers")
    suggest: bool = False
    batch_cases: int = BATCH_CASES
    batch_tokens: int = BATCH_TOKENS
    labels: str = ""

    def __post_init__(self) -> None:
        for name, least in (("draws", 1), ("batch_cases", 1), ("batch_tokens", 1), ("seed", 0)):
            if (value := getattr(self, name)) < least:
                raise InputError(f"{name} is {value}", expected=f"{least} or more")
        if odd := [name for name in self.measures if name not in MEASURES]:
            raise InputError(
                f"There is no measure {odd[0]!r}", expected="some of " + ", ".join(MEASURES)
            )
        ordered = tuple(name for name in MEASURES if name in self.measures)
        object.__setattr__(self, "measures", ordered)


@dataclass(frozen=True)
class Manifest:
    """What a study is.

    Attributes:
        model: Name, revision, weights hash, engine, number type; digests of its lens and
            reference.
        settings: `Settings` as a dictionary.
        versions: Of dst and of the libraries that compute.
        cases: Pairs of a case's id and the hash of its content, in the order of the table.
        batches: Places of the cases that run together.
        room: Bytes that a batch of runs may take, as it was when the study began; None where
            the engine does not say. Not part of what the study is.
    """

    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    cases: tuple[tuple[str, str], ...]
    batches: tuple[tuple[int, ...], ...]
    room: int | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of what the study is."""
        return digest({name: value for name, value in asdict(self).items() if name != "room"})

    def key(self, place: int) -> str:
        """What a row is kept under: the case's content, the model and the settings."""
        return digest([self.cases[place][1], dict(self.model), dict(self.settings)])

    def to_json(self) -> str:
        """As text; `read_manifest` reads it back."""
        return json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False, indent=1) + "\n"


def read_manifest(text: str) -> Manifest:
    """A manifest that was written.

    Raises:
        ValueError: It is none, or of another format.
    """
    stored = json.loads(text)
    if not isinstance(stored, dict) or stored.pop("format", None) != FORMAT:
        raise ValueError("another format")
    try:
        return Manifest(
            **stored
            | {
                "cases": tuple((name, content) for name, content in stored["cases"]),
                "batches": tuple(tuple(batch) for batch in stored["batches"]),
            }
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{error}") from None


def batches(
    lengths: Sequence[int], batch_cases: int = BATCH_CASES, batch_tokens: int = BATCH_TOKENS
) -> tuple[tuple[int, ...], ...]:
    """Cases of like length together: sorted by length and place, cut where a batch is full.

    Args:
        lengths: Tokens of each case's prompt (0 for a case that cannot be tokenised).
        batch_cases: Most cases of a batch.
        batch_tokens: Most tokens of a batch, every case counted as long as its longest.
    """
    made: list[tuple[int, ...]] = []
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: (lengths[place], place)):
        # In this order the last one is the longest.
        if batch and (
            len(batch) == batch_cases or (len(batch) + 1) * lengths[place] > batch_tokens
        ):
            made.append(tuple(batch))
            batch = []
        batch.append(place)
    return (*made, tuple(batch)) if batch else tuple(made)


def identify(cases: Sequence[Case]) -> tuple[tuple[str, str], ...]:
    """Each case's id and the hash of its content.

    Raises:
        InputError: There is no case, or two of one id.
    """
    if not cases:
        raise InputError("There are no cases", expected="one or more")
    seen: dict[str, int] = {}
    for place, case in enumerate(cases):
        if not isinstance(case, Case):
            raise InputError(f"Case {place} is a {type(case).__name__}", expected="a dst.Case")
        if case.case_id in seen:
            raise InputError(
                f"Cases {seen[case.case_id]} and {place} are both called {case.case_id!r}",
                expected="a case_id of its own for each row",
            )
        seen[case.case_id] = place
    return tuple((case.case_id, case.content_hash()) for case in cases)


def differences(
    before: Manifest,
    *,
    settings: Mapping[str, Any] | None = None,
    cases: Sequence[tuple[str, str]] | None = None,
    model: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
) -> list[str]:
    """What is not as it was when the study began, in a few words each; of what is given."""
    found = list(_cases_changed(before.cases, cases)) if cases is not None else []
    for what, old, new in (
        ("", before.settings, settings),
        ("the model's ", before.model, model),
        ("the version of ", before.versions, versions),
    ):
        if new is None:
            continue
        for name in sorted({*old, *new}):
            one, other = old.get(name), new.get(name)
            if _plain(one) != _plain(other):
                found.append(f"{what}{name.replace('_', ' ')} was {_say(one)} and is {_say(other)}")
    return found


def _cases_changed(old: Sequence[tuple[str, str]], new: Sequence[tuple[str, str]]) -> Iterator[str]:
    if tuple(old) == tuple(new):
        return
    if len(old) != len(new):
        yield f"there were {len(old)} cases and are {len(new)}"
        return
    place = next(i for i, pair in enumerate(old) if pair != new[i])
    if set(old) == set(new):
        yield f"the cases come in another order (first at {new[place][0]!r})"
    elif old[place][0] == new[place][0]:
        yield f"the content of case {new[place][0]!r} has changed"
    else:
        yield f"case {place + 1} was {old[place][0]!r} and is {new[place][0]!r}"


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _say(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64 and not value.strip("0123456789abcdef"):
        return f"{value[:12]}..."
    if isinstance(value, (list, tuple)):
        return "+".join(map(str, value)) or "nothing"
    return "not there" if value is None else "nothing" if value == "" else str(value)


def digest(value: Any) -> str:
    """SHA-256 of what JSON can hold, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def digest_of_reference(reference: ReferenceRuns) -> str:
    """16 digits that tell a reference of correct runs from another."""
    data = hashlib.sha256()
    for array in (reference.margin, reference.dose):
        data.update(f"{array.shape}".encode())
        data.update(array.tobytes())
    data.update(digest([reference.lenses, reference.sentences, reference.tuned_lens]).encode())
    return data.hexdigest()[:16]
