"""The error table of the zoo, computed again and compared with the cards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from dst.core.errors import InputError
from dst.models.pretrained import quiet, zoo_path
from dst.testbed import world, zoo
from dst.testbed.card import WEIGHTS, error_tables, kind_name, rows_of, table_cases

TIES = 1
"""The same weights: a count of a row may differ by one, where two answers tie to rounding."""

TOLERANCE = 0.15
"""Other weights: the mean difference of the shares, over the rows that ask what it is.

Another processor rounds otherwise, and training magnifies that. Measured on one run of 4 layers x
96, trained with AVX-512 and with AVX2: mean .003 at step 160, .05 at 240, .09 at 320 (single rows
.02, .18, .31); yes/no questions, which are answered alike whatever they ask, part by more.
"""


_LOADING = threading.Lock()
"""transformers loads one model at a time: meanwhile it replaces methods of all of its models, and
two loads that overlap can leave them replaced."""


@dataclass(frozen=True)
class Compared:
    """A checkpoint's error table, beside that of a card."""

    name: str
    tables: dict[str, Any]  # computed now
    same_weights: bool  # as the card's, byte for byte
    mean: float  # difference of the shares right and hallucinated, over rows that ask what it is
    difference: float  # the largest of a row, whatever it asks
    where: str  # in which row that is
    agrees: bool

    def sentence(self) -> str:
        """One line that says whether they agree."""
        weights = "same weights" if self.same_weights else "other weights"
        if not self.where:
            return f"agrees ({weights}, no difference)"
        verdict = "agrees" if self.agrees else "DIFFERS"
        most = f"{self.difference:.3f} in {self.where}"
        return f"{verdict} ({weights}, mean difference {self.mean:.3f}, at most {most})"


def compare_zoo(
    folder: Path | None = None,
    names: Sequence[str] = (),
    *,
    against: Path | None = None,
    workers: int = 2,
    report: Callable[[Compared], object] = lambda one: None,
) -> list[Compared]:
    """Compute the error tables of a zoo and compare each with the card of the same name.

    Args:
        folder: Of the zoo; by default that of the repository, or what DST_ZOO names.
        names: Of checkpoints; all by default.
        against: The zoo whose cards are compared with; by default the same one, which tells
            whether its cards say what its weights do. With the shipped one it tells whether a
            training of one's own reproduced it.
        workers: How many checkpoints run side by side.
        report: Called with each as it is done, in order.

    Raises:
        InputError: There is no zoo, a name is in only one of the two, or a file was altered.
    """
    place, other = folder or zoo_path(), against or folder or zoo_path()
    known, theirs = (zoo.manifest(at)["checkpoints"] for at in (place, other))
    for name in names or known:
        for listed, where in ((known, place), (theirs, other)):
            if name not in listed:
                raise InputError(f"{where} has no checkpoint {name!r}", expected=", ".join(listed))
    for sense in world.SENSES:
        table_cases(sense)  # once, before they are shared

    def computed(name: str) -> Compared:
        mine, card = zoo.folder(name, place), zoo.card(name, other)
        same = known[name]["sha256"][WEIGHTS] == card["sha256"][WEIGHTS]
        return compare(name, tables_of(mine), card["error_table"], same_weights=same)

    done = []
    # Loading is hushed here, once: how loud the libraries are is a setting of the whole process.
    with quiet(), ThreadPoolExecutor(max_workers=workers) as pool:
        for one in pool.map(computed, names or list(known)):
            report(one)
            done.append(one)
    return done


def compare(
    name: str, tables: Mapping[str, Any], card: Mapping[str, Any], *, same_weights: bool
) -> Compared:
    """Two error tables side by side, those computed now and those of a card.

    Raises:
        InputError: They count different cases.
    """
    mine, theirs = rows_of(tables), rows_of(card)
    sizes = [{row: counted["n"] for row, counted in rows.items()} for rows in (mine, theirs)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"The card of {name} counts other cases than the world of today draws",
            do="Train and export it again",
        )
    off = {
        (row, outcome): abs(counted[outcome] - theirs[row][outcome])
        for row, counted in mine.items()
        for outcome in ("contextual", "associative")
    }
    shares = {key: count / mine[key[0]]["n"] for key, count in off.items()}
    asked = [kind_name(row) for row in tables["minority"] if not row.get("gold")]
    what = [f"{kind}, {sense} sense" for kind in asked for sense in world.SENSES]
    mean = sum(share for (row, _), share in shares.items() if row in what) / (2 * len(what))
    most = max(shares, key=lambda key: shares[key])
    agrees = max(off.values()) <= TIES if same_weights else mean <= TOLERANCE
    where = most[0] if shares[most] else ""
    return Compared(name, dict(tables), same_weights, mean, shares[most], where, agrees)


def tables_of(folder: Path) -> dict[str, Any]:
    """The error tables of the model in a folder."""
    with _LOADING:
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return error_tables(model, tokenizer)
