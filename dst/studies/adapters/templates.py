"""MIB's IOI templates as rows: each template with the lists of names, places and objects."""

from __future__ import annotations

import json
from pathlib import Path

from dst.core.errors import InputError
from dst.studies.adapters.reading import Row

LISTS = ("names", "places", "objects")


def template_rows(folder: Path, pattern: str = "*") -> list[Row]:
    """One row a template of ``templates.json``; the other three files lie beside it.

    Raises:
        InputError: A file is missing or is no list of texts.
    """
    folder = folder.parent if folder.suffix == ".json" else folder
    lists = {name: _list(folder / f"{name}.json") for name in (*LISTS, "templates")}
    words = {name: lists[name] for name in LISTS}
    return [
        Row(i, {"template": stem, **words}, "templates.json")
        for i, stem in enumerate(lists["templates"], start=1)
    ]


def _list(path: Path) -> list[str]:
    try:
        found = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist", expected="the folder IOI_task of MIB") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error})", expected="a list of texts") from None
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise InputError(f"{path} is no list of texts", expected="the files of MIB's IOI_task")
    return [word.strip() for word in found]
