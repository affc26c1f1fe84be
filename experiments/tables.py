"""What the experiments share: tables, figures and JSON with provenance, written atomically."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

import dst
from dst.analysis.proportion import wilson
from dst.core.errors import DSTError
from dst.core.files import write_text_atomic
from dst.models.identity import versions

from .zoo_study import OUT, rows


def rows_asked(description: str) -> tuple[Path, list[dict[str, Any]]]:
    """The folder to write to, and the rows that the command line names; else exit 2, saying why."""
    parser = argparse.ArgumentParser(description=description.split("\n", 1)[0])
    parser.add_argument("--zoo", type=Path, default=OUT, help="where the zoo's studies are")
    parser.add_argument("--out", type=Path, default=Path("experiments/out"))
    given = parser.parse_args()
    try:
        return given.out, rows(given.zoo)
    except DSTError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def finite(value: Any) -> Any:
    """Plain data with None for NaN: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def share(count: int, n: int) -> str:
    """A share with Wilson's 95 % interval, as text; "" for none."""
    if not n:
        return ""
    low, high = wilson(count, n)
    return f"{count / n:.2f} ({low:.2f} to {high:.2f})"


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def plain(value: float, digits: int = 2) -> str:
    """A number as text, "" for NaN."""
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def write(
    out: Path,
    name: str,
    *,
    text: str,
    figure: go.Figure,
    values: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    command: str,
) -> None:
    """`name`.md, `name`.html and `name`.json in a folder, the text printed as well."""
    provenance = {
        "command": command,
        "versions": versions(),
        "dst": dst.__version__,
        "n_rows": len(rows),
        "models": sorted({(row["checkpoint"], row["weights_hash"]) for row in rows}),
        "seeds": sorted({row["seed"] for row in rows}),
    }
    write_text_atomic(out / f"{name}.md", text)
    write_text_atomic(
        out / f"{name}.json",
        json.dumps({"values": finite(values), "provenance": provenance}, indent=1, allow_nan=False)
        + "\n",
    )
    page = figure.to_html(include_plotlyjs=True, full_html=True)
    write_text_atomic(out / f"{name}.html", page)
    print(text)
