"""A study's folder: what is written there, in which order, so that no kill can spoil it.

    manifest.json     what the study is; written before the first batch
    cases.jsonl       the cases
    parts/000012.parquet   the rows of a batch, with how it ran; written when it is done
    results.parquet   the table; written when all parts are there
    lock              held by the process that works here

Each file is moved into place when it is whole. A part says of which study it is: one of another
study, or one that cannot be read, is no part.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dst.core.case import Case
from dst.core.errors import InputError, ResultError
from dst.core.files import write_atomic, write_text_atomic
from dst.core.study_results import MANIFEST, PARTS, RESULTS, STUDY_KEY, StudyTable
from dst.studies.plan import Manifest, differences, read_manifest
from dst.studies.rows import Row, as_arrow, joined

CASES, LOCK = "cases.jsonl", "lock"
BATCH_KEY = b"dst.batch"


class Store:
    """The folder of one study, held by this process alone (a context manager).

    Args:
        folder: The folder; it is made if it is not there.

    Raises:
        InputError: Another process works there, or it cannot be written to.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.made: list[Path] = []
        self._lock: IO[str] | None = None
        self._manifest: Manifest | None = None

    def __enter__(self) -> Self:
        self.made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        try:
            (self.folder / PARTS).mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / LOCK).open("a+", encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"The folder {self.folder} cannot be written to ({error.strerror or error})",
                do="Give a folder that you may write to",
            ) from None
        if not _locked(self._lock):
            self._lock.seek(0)
            holder = self._lock.read().strip() or "another process"
            self._lock.close()
            raise InputError(
                f"{holder} is working on the study in {self.folder}",
                do="Wait for it, or give another folder",
            )
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._lock.flush()
        for place in (self.folder, self.folder / PARTS):
            for left in place.glob(".*.part"):  # of a process that was killed while writing
                left.unlink(missing_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock is None:
            return
        if not (self.folder / MANIFEST).exists():  # nothing was begun: leave nothing behind
            (self.folder / LOCK).unlink(missing_ok=True)
            for place in (self.folder / PARTS, *self.made):
                with contextlib.suppress(OSError):  # one that holds a file stays
                    place.rmdir()
        self._lock.close()  # which gives the lock back; a process that dies gives it back too

    # -- what the study is -------------------------------------------------------------

    @property
    def manifest(self) -> Manifest | None:
        """What was begun here; None in a new folder.

        Raises:
            ResultError: The file is no manifest.
        """
        path = self.folder / MANIFEST
        if self._manifest is None and path.exists():
            try:
                self._manifest = read_manifest(path.read_text("utf-8"))
            except (ValueError, OSError) as error:
                raise ResultError(
                    f"{path} is no manifest of a study that this dst can go on with ({error})",
                    do="Give another folder, or start anew with --fresh (fresh=True)",
                ) from None
        return self._manifest

    def refuse_another(self, **given: Any) -> None:
        """Stop where what is asked for is not what was begun here (see `differences`).

        Raises:
            InputError: Says what has changed.
        """
        before = self.manifest
        if before is not None and (changed := differences(before, **given)):
            more = f", and {len(changed) - 4} more" if len(changed) > 4 else ""
            raise InputError(
                f"{self.folder} holds a study that was begun otherwise: "
                f"{'; '.join(changed[:4])}{more}",
                do="Give another folder, or start anew with --fresh (fresh=True)",
            )

    def begin(self, manifest: Manifest, cases: Sequence[Case]) -> Manifest:
        """Write down what the study is, unless it was begun already; that one is given back.

        Raises:
            InputError: Another study was begun here.
        """
        parts = (manifest.settings, manifest.cases, manifest.model, manifest.versions)
        names = ("settings", "cases", "model", "versions")
        self.refuse_another(**dict(zip(names, parts, strict=True)))
        if self.manifest is None:
            lines = [json.dumps(case.to_dict(), ensure_ascii=False) for case in cases]
            write_text_atomic(self.folder / CASES, "\n".join(lines) + "\n")
            write_text_atomic(self.folder / MANIFEST, manifest.to_json())
            self._manifest = manifest
        assert self.manifest is not None
        return self.manifest

    def clear(self) -> None:
        """Remove the study: its table first, so that none stands there without its parts."""
        self._manifest = None
        parts = sorted((self.folder / PARTS).glob("*.parquet"))
        names = (RESULTS, MANIFEST, CASES)
        for path in (*(self.folder / name for name in names), *parts):
            path.unlink(missing_ok=True)

    # -- its parts ---------------------------------------------------------------------

    def put(self, batch: int, rows: Sequence[Row], how: Mapping[str, Any]) -> None:
        """Write the rows of a batch, and how it ran.

        Raises:
            ResultError: The disk is full, or the like.
        """
        manifest = self._begun()
        told = {"study": manifest.digest, "batch": batch, **how}
        table = as_arrow(rows, manifest.settings["measures"])
        table = table.replace_schema_metadata({BATCH_KEY: json.dumps(told)})
        write_atomic(self._part(batch), lambda stream: pq.write_table(table, stream))

    def how(self, batch: int) -> dict[str, Any] | None:
        """How a batch ran; None where it is still to be done."""
        try:
            stored = pq.read_metadata(self._part(batch)).metadata or {}
            told = json.loads(stored[BATCH_KEY])
        except (OSError, KeyError, ValueError, pa.ArrowException):
            return None
        is_ours = told.get("study") == self._begun().digest and told.get("batch") == batch
        return told if is_ours else None

    def to_do(self) -> list[int]:
        """Batches that have no part yet."""
        return [i for i in range(len(self._begun().batches)) if self.how(i) is None]

    def finish(self) -> StudyTable:
        """The table of all parts, in the order of the cases; written where it is not yet.

        The same study gives the same bytes.

        Raises:
            InputError: Columns of somebody's own do not fit together.
        """
        manifest = self._begun()
        measures = manifest.settings["measures"]
        read = [
            pq.read_table(self._part(i), partitioning=None) for i in range(len(manifest.batches))
        ]
        places = [place for batch in manifest.batches for place in batch]
        table = joined(read, measures).take(pa.array(np.argsort(places)))
        about = {
            "digest": manifest.digest,
            "model": dict(manifest.model),
            "settings": dict(manifest.settings),
            "versions": dict(manifest.versions),
        }
        table = table.replace_schema_metadata({STUDY_KEY: json.dumps(about, sort_keys=True)})
        made = StudyTable(table.combine_chunks())
        made.save(self.folder / RESULTS)
        return made

    def _part(self, batch: int) -> Path:
        return self.folder / PARTS / f"{batch:06d}.parquet"

    def _begun(self) -> Manifest:
        assert self.manifest is not None, "begin() comes first"
        return self.manifest


def _locked(file: IO[str]) -> bool:
    """Take the file for this process alone; the system gives it back when the process ends."""
    if os.name == "nt":  # pragma: no cover
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
