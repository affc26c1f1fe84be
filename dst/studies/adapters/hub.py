"""Rows of a data set by its Hugging Face id, through the `datasets` library."""

from __future__ import annotations

import importlib
from typing import Any

from dst.core.errors import InputError
from dst.studies.adapters.reading import Row

PARQUET = "refs/convert/parquet"
"""Where the hub keeps a Parquet copy of data sets that were written as scripts."""


def hub_rows(name: str, config: str | None, split: str | None) -> list[Row]:
    """Every row of one split; a data set that is a script is read from its Parquet copy.

    Raises:
        InputError: The id, configuration or split does not exist, or the hub cannot be reached.
    """
    hub: Any = importlib.import_module("datasets")
    known: dict[str, Any] = {} if config is None else {"name": config}
    try:
        try:
            found = hub.load_dataset(name, split=split, **known)
        except RuntimeError as error:
            if "script" not in str(error):
                raise
            found = hub.load_dataset(name, split=split, revision=PARQUET, **known)
    except Exception as error:  # noqa: BLE001 - the hub's client has many kinds of its own
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"The data set {name} cannot be read from the hub ({first})",
            do="Check the id, configuration and split, or fetch its file and give path=...",
        ) from None
    if hasattr(found, "keys"):  # splits, where none was named
        names = list(found)
        if len(names) > 1:
            raise InputError(
                f"{name} has the splits {', '.join(map(str, names))}",
                expected="one of them",
                do="Give split=...",
            )
        found = found[names[0]]
    rows = [Row(i, dict(values), name) for i, values in enumerate(found, start=1)]
    if not rows:
        raise InputError(f"{name} has no rows", expected="at least one")
    return rows
