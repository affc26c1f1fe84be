"""Whether the files of a model's folder are those that its card describes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dst.core.errors import ModelError

CARD = "card.json"
"""The card of a model; under "sha256" it names files of its folder and the SHA-256 of each."""


def file_hash(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify_files(folder: Path, *, needs_card: bool = False) -> int:
    """Compare a folder with its card; how many files were compared.

    A folder without a card, or whose card lists no SHA-256, is anybody's checkpoint: nothing
    is compared.

    Args:
        folder: Of a model.
        needs_card: It has to have a card with sums: it is one of ours.

    Raises:
        ModelError: A file that the card names is missing, truncated or altered, or the card
            cannot be read.
    """
    card = folder / CARD
    sums = _sums(card)
    if not sums:
        if needs_card:
            raise ModelError(
                f"{card} is missing or lists no SHA-256",
                expected="the card that the model was shipped with",
                do="Get the folder again",
            )
        return 0
    return compare_files(folder, sums, card)


def compare_files(folder: Path, sums: Mapping[str, str], told_by: Path) -> int:
    """Compare files with their SHA-256, as `told_by` lists them; how many were compared.

    Raises:
        ModelError: One is missing, truncated or altered.
    """
    # Hashing lets go of the interpreter, so a large file and the small ones go side by side.
    with ThreadPoolExecutor(max_workers=4) as pool:
        found = dict(zip(sums, pool.map(lambda name: _hash_of(folder / name), sums), strict=True))
    for name, expected in sums.items():
        if not found[name]:
            raise ModelError(
                f"{folder / name} is missing, which {told_by.name} names", do="Get the folder again"
            )
        if found[name] != expected:
            raise ModelError(
                f"{folder / name} was truncated or altered: its SHA-256 is {found[name][:12]}..., "
                f"in {told_by.name} it is {expected[:12]}...",
                do=f"Get it again; if you changed it on purpose, remove it from {told_by}",
            )
    return len(sums)


def _hash_of(path: Path) -> str:
    """The SHA-256 of a file, "" where there is none."""
    try:
        return file_hash(path)
    except OSError:
        return ""


def _sums(card: Path) -> dict[str, str]:
    if not card.is_file():
        return {}
    try:
        written = json.loads(card.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{card} cannot be read ({error})", expected="JSON", do="Get the folder again"
        ) from None
    sums = written.get("sha256") if isinstance(written, dict) else None
    if not isinstance(sums, dict):
        return {}
    plain = {str(name): str(value) for name, value in sums.items()}
    if outside := [name for name in plain if Path(name).name != name]:
        raise ModelError(f"{card} names {outside[0]!r}", expected="files of its own folder")
    return plain
