"""Who may import whom. The rooms of the house stay apart, so that the science needs no model.

Every import statement under `dst/` is read with `ast`, those inside functions and under
`TYPE_CHECKING` too, and `import_module("...")` with a literal name. The second half of this file
shows that the reader finds offenders.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "dst"

# ------------------------------------------------------------------------------- the rules

# A room may import itself and the rooms named here.
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "analysis": {"core"},
    "models": {"core"},
    "tracing": {"core", "analysis", "models"},
    "studies": {"core", "analysis", "models", "tracing"},
    "plot": {"core"},
    "report": {"core", "plot"},
    "testbed": {"core", "analysis", "models"},
    "testbed.score": {
        *("core", "analysis", "models", "tracing", "studies", "plot", "report", "testbed"),
    },
    "cli": {
        *("core", "analysis", "models", "tracing", "studies", "plot", "report"),
        *("testbed", "testbed.score"),
    },
    "__main__": {"cli"},
    # dst/__init__.py: the public list. The testbed is not on it.
    "__init__": {"core", "analysis", "models", "tracing", "studies", "plot", "report"},
}

# Who may import a package that knows models. Nobody else does, not even inside a function.
ENGINES: dict[str, set[str]] = {
    "torch": {"models", "tracing", "studies", "testbed", "testbed.score", "cli"},
    "transformers": {"models", "testbed"},
    "transformer_lens": {"dst.models.bridge"},
    "nnsight": {"dst.models.nnsight"},
}

# These load an engine that not everybody asked for, so they are imported inside functions only.
ONLY_WHEN_ASKED = {"dst.models.bridge", "dst.models.nnsight"}

# (who, whom): why. Such an import stands inside a function.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("dst.core.results", "dst.report.page"): "Report.to_html is promised to users",
    ("dst.core.comparison_results", "dst.report.comparison_page"): "Comparison.to_html as well",
}

# ------------------------------------------------------------------------------ the reader


@dataclass(frozen=True)
class Import:
    """One import: the module named, and whether it waits for a function to be called."""

    target: str
    line: int
    lazy: bool


def imports(source: str, module: str, *, is_package: bool = False) -> Iterator[Import]:
    """Every import in ``source``; `from a import b` counts as a.b, relative ones are resolved."""
    here = module.split(".") if is_package else module.split(".")[:-1]

    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(name.name, node.lineno, lazy)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            path = [*base, *([node.module] if node.module else [])]
            for name in node.names:
                yield Import(".".join([*path, name.name]), node.lineno, lazy)
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).split(".")[-1]
            first = node.args[0]
            if (
                called in {"import_module", "__import__"}
                and isinstance(first, ast.Constant)
                and isinstance(first.value, str)
            ):
                target = first.value.lstrip(".")
                if up := len(first.value) - len(target):
                    target = ".".join([*here[: len(here) - up + 1], target])
                yield Import(target, node.lineno, lazy)
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(ast.parse(source), False)


def room_of(module: str) -> str:
    """`dst.core.sites` -> core; `dst.testbed.score` is a room of its own; `dst` -> __init__."""
    parts = module.split(".")
    if len(parts) == 1:
        return "__init__"
    if parts[1].startswith("cli_"):  # its commands, a file each
        return "cli"
    graders = (["testbed", "score"], ["testbed", "score_zoo"])
    return "testbed.score" if parts[1:3] in graders else parts[1]


def within(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What ``module`` imports against the rules, as sentences."""
    room = room_of(module)
    if room not in MAY_IMPORT:
        return [f"{module} is in no room: say in MAY_IMPORT what it may import"]
    found = []
    for item in imports(source, module, is_package=is_package):
        where = f"{module}:{item.line}"
        engine = item.target.split(".")[0]
        if engine in ENGINES:
            if not {room, module} & ENGINES[engine]:
                found.append(f"{where} imports {engine}; only {sorted(ENGINES[engine])} may")
            continue
        if engine != "dst":
            continue
        excepted = [whom for who, whom in EXCEPTIONS if who == module and within(item.target, whom)]
        if excepted:
            if not item.lazy:
                found.append(f"{where} imports {excepted[0]} outside a function")
            continue
        for asked in sorted(ONLY_WHEN_ASKED - {module}):
            if within(item.target, asked) and not item.lazy:
                found.append(f"{where} imports {asked} outside a function")
        if item.target in {"dst", "dst.*"} or room_of(item.target) not in MAY_IMPORT:
            # `import dst`, or a public name of it, would go round the rooms.
            if item.target != "dst.__version__" and room not in {"cli", "testbed.score"}:
                found.append(f"{where} imports {item.target}; name the module that defines it")
            continue
        target = room_of(item.target)
        if target != room and target not in MAY_IMPORT[room]:
            allowed = ", ".join(sorted(MAY_IMPORT[room])) or "nothing of dst"
            found.append(f"{where} imports {item.target}; {room} may import {allowed}")
    return found


def modules(package: Path) -> Iterator[tuple[str, Path, bool]]:
    """(name, file, is a package) of every Python file of ``package``."""
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        yield ".".join(parts[:-1] if is_package else parts), path, is_package


def scan(package: Path) -> list[str]:
    return [
        sentence
        for module, path, is_package in modules(package)
        for sentence in violations(path.read_text("utf-8"), module, is_package=is_package)
    ]


# ------------------------------------------------------------------------------ the house


def test_every_import_in_the_package_keeps_the_rules() -> None:
    assert "\n".join(scan(PACKAGE)) == ""


def test_every_exception_is_still_needed() -> None:
    sources = {module: (path, package) for module, path, package in modules(PACKAGE)}
    for who, whom in EXCEPTIONS:
        path, is_package = sources[who]
        found = imports(path.read_text("utf-8"), who, is_package=is_package)
        assert any(within(item.target, whom) for item in found), (who, whom)


def test_results_are_scored_drawn_and_reported_without_torch() -> None:
    rooms = {"core", "analysis", "plot", "report"}
    names = [module for module, _, _ in modules(PACKAGE) if room_of(module) in rooms]
    assert names
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"print(sorted(set({sorted(ENGINES)!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_import_dst_loads_nothing_heavy() -> None:
    heavy = {*ENGINES, "scipy", "plotly", "pyarrow", "networkx", "pandas"}
    code = f"import sys, dst; print(sorted(set({sorted(heavy)!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------------- the reader, tested

OFFENDERS = [
    ("dst.core.case", "from dst.analysis import coherence", "core may import nothing of dst"),
    ("dst.core.case", "import torch", "imports torch"),
    ("dst.core.case", "def f():\n    import torch.nn as nn", "dst.core.case:2 imports torch"),
    ("dst.core.case", "async def f():\n    from ..models import hooks", "imports dst.models.hooks"),
    ("dst.core.case", "from .. import models", "imports dst.models;"),
    ("dst.core.case", "from dst import report", "imports dst.report;"),
    ("dst.core.results", "from dst.report.page import write_page", "outside a function"),
    ("dst.core.results", "def f():\n    from dst.report import style", "imports dst.report.style"),
    ("dst.analysis.markers", "import dst.tracing.lens", "analysis may import core"),
    ("dst.analysis.markers", "from transformers import LlamaConfig", "imports transformers"),
    ("dst.analysis.markers", "from dst import trace", "name the module that defines it"),
    ("dst.analysis.markers", "import dst", "name the module that defines it"),
    ("dst.analysis.markers", "from dst import *", "name the module that defines it"),
    ("dst.plot.figures", "from dst.analysis.markers import onset", "plot may import core"),
    ("dst.plot.figures", "from dst.report import page", "plot may import core"),
    ("dst.plot.figures", "import torch", "imports torch"),
    ("dst.report.page", "from dst.studies import explain", "report may import core, plot"),
    ("dst.report.page", "if TYPE_CHECKING:\n    import torch", "dst.report.page:2 imports torch"),
    ("dst.models.hooks", "from dst.tracing import trace", "models may import core"),
    ("dst.models.hooks", "from dst.analysis import markers", "models may import core"),
    ("dst.models.hooks", "import transformer_lens", "only ['dst.models.bridge'] may"),
    ("dst.models.hooks", "def f():\n    import nnsight", "only ['dst.models.nnsight'] may"),
    ("dst.models.backend", "from dst.models import nnsight", "outside a function"),
    ("dst.models.backend", "class A:\n    from .bridge import Bridge", "outside a function"),
    ("dst.tracing.lens", "from dst.studies.explain import explain", "tracing may import"),
    ("dst.tracing.lens", "from transformers import cache_utils", "imports transformers"),
    ("dst.tracing.lens", "from transformer_lens import TransformerBridge", "transformer_lens"),
    ("dst.studies.study", "from dst.plot import figures", "studies may import"),
    ("dst.studies.study", "from dst.testbed import world", "imports dst.testbed.world"),
    ("dst.studies.study", "def f():\n    import dst.cli", "imports dst.cli"),
    (
        "dst.testbed.world",
        "from dst.tracing import trace",
        "testbed may import analysis, core, models",
    ),
    (
        "dst.testbed.train",
        "from dst.testbed import score",
        "testbed may import analysis, core, models",
    ),
    ("dst.__main__", "from dst.core import case", "__main__ may import cli"),
    ("dst.core.case", "import importlib\nimportlib.import_module('dst.models')", "core.case:2"),
    ("dst.core.case", "g = lambda: __import__('torch')", "imports torch"),
    ("dst.core.case", "import_module('..models', __package__)", "imports dst.models"),
    ("dst.attic.old", "import os", "is in no room"),
]

FINE = [
    ("dst.core.results", "import numpy as np\nfrom dst.core.case import Case\nfrom . import sites"),
    ("dst.core.results", "def f():\n    from dst.report.page import write_page"),
    ("dst.core.results", "from dst import __version__"),
    ("dst.analysis.markers", "from dst.core.results import Coherence\nimport scipy.stats"),
    ("dst.models.hooks", "import torch\nfrom transformers import AutoModelForCausalLM"),
    ("dst.models.bridge", "import transformer_lens"),
    ("dst.models.nnsight", "import nnsight\nfrom dst.models.families import family"),
    ("dst.models.backend", "def load():\n    from dst.models import bridge, hooks, nnsight"),
    ("dst.tracing.lens", "import torch\nfrom dst.models.backend import Backend"),
    ("dst.tracing.lens", "from dst.analysis.markers import commitment"),
    ("dst.studies.explain", "from dst.tracing.lens import logit_lens\nfrom dst.core import case"),
    ("dst.report.page", "from dst.plot import figures"),
    ("dst.testbed.train", "import torch, transformers\nfrom dst.testbed import world"),
    ("dst.testbed.score", "from dst.studies import explain\nfrom dst.testbed import planted"),
    ("dst.cli", "def main():\n    import dst\n    from dst.testbed import score, world"),
    ("dst.__main__", "from dst.cli import main"),
]


@pytest.mark.parametrize(("module", "source", "sentence"), OFFENDERS)
def test_an_offender_is_found(module: str, source: str, sentence: str) -> None:
    found = violations(source, module)
    assert len(found) == 1, found
    assert sentence in found[0]


@pytest.mark.parametrize(("module", "source"), FINE)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert violations(source, module) == []


def test_a_package_resolves_its_relative_imports_from_itself() -> None:
    assert violations("from . import sites", "dst.core", is_package=True) == []
    assert violations("from .. import plot", "dst.core", is_package=True) != []
    assert violations("from . import testbed", "dst", is_package=True) != []


def test_the_scan_reads_every_folder(tmp_path: Path) -> None:
    room = tmp_path / "dst" / "analysis" / "deep"
    room.mkdir(parents=True)
    (room / "module.py").write_text("def f():\n    from dst.models.hooks import HooksBackend\n")
    (room / "__init__.py").write_text("from ...plot import figures\n")
    assert scan(tmp_path / "dst") == [
        "dst.analysis.deep:1 imports dst.plot.figures; analysis may import core",
        "dst.analysis.deep.module:2 imports dst.models.hooks.HooksBackend; "
        "analysis may import core",
    ]
