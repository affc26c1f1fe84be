"""Figures as JSON, and docs/benchmarks.md made from every JSON there is.

With DST_BENCH_SMOKE=1 a benchmark runs once, to show that it runs; nothing is recorded then.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dst.core.files import write_text_atomic

SMOKE = os.environ.get("DST_BENCH_SMOKE", "") not in ("", "0")
FOLDER = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
PACKAGES = ("torch", "transformers", "transformer_lens", "nnsight", "numpy")

Row = Sequence[str | float | int | None]


def record(
    name: str,
    *,
    title: str,
    about: str,
    columns: Sequence[str],
    rows: Sequence[Row],
    targets: Sequence[tuple[str, float, float]] = (),
    details: Mapping[str, Any] | None = None,
) -> None:
    """Print a table, and keep it unless this is a smoke run.

    Args:
        name: Name of the JSON file.
        title: Heading of the table.
        about: What was run, in sentences.
        columns: Its columns.
        rows: Its rows; None is shown as a dash.
        targets: What was aimed at: (what, measured, limit); met if measured <= limit.
        details: Single measurements and settings, kept in the JSON only.
    """
    figures = {
        "title": title,
        "about": about,
        "columns": list(columns),
        "rows": [list(row) for row in rows],
        "targets": [
            {"what": what, "measured": measured, "limit": limit, "met": measured <= limit}
            for what, measured, limit in targets
        ],
        "machine": machine(),
        "details": dict(details or {}),
    }
    print(section(figures))
    if SMOKE:
        return
    write_text_atomic(FOLDER / f"{name}.json", json.dumps(figures, indent=1) + "\n")
    write_text_atomic(PAGE, page())


def machine() -> dict[str, Any]:
    """What ran it: processor, cores, system, versions, and how busy it was."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(_memory() / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 1),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def page() -> str:
    """docs/benchmarks.md: every recorded table, each with what ran it."""
    head = (
        "# Benchmarks\n\n"
        "Speed and memory beside other tools, measured side by side in one run. `make bench` "
        "measures again\nand writes this page; the single measurements are in "
        "`benchmarks/results/`.\n"
    )
    found = [json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.json"))]
    return "\n".join([head, *map(section, found)])


def section(figures: Mapping[str, Any]) -> str:
    """One table in Markdown, its targets under it."""
    lines = [f"## {figures['title']}", "", figures["about"], ""]
    lines += ["| " + " | ".join(figures["columns"]) + " |", "|---" * len(figures["columns"]) + "|"]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in figures["rows"]]
    if figures["targets"]:
        lines += ["", "| aim | measured | at most | met |", "|---|---|---|---|"]
        lines += [
            f"| {t['what']} | {_cell(t['measured'])} | {_cell(t['limit'])} | "
            f"{'yes' if t['met'] else 'no'} |"
            for t in figures["targets"]
        ]
    ran = figures["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in ran["versions"].items())
    lines += [
        "",
        f"{ran['processor']}, {ran['cores']} cores, {ran['memory_gb']} GB, {ran['system']}, "
        f"Python {ran['python']}; {versions}; load average {ran['load_average']}.",
        "",
    ]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 100 else _whole(value)


def _whole(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, float) else str(value)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
