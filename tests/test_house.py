"""The house itself: what is packaged, pinned, promised in the documents, and kept out."""

from __future__ import annotations

import ast
import configparser
import email
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import dst

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
DOCUMENTS = sorted(REPOSITORY.glob("*.md")) + sorted((REPOSITORY / "docs").rglob("*.md"))


def files() -> list[Path]:
    """Every file of the project that git does not ignore, whether committed yet or not."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout, so which files belong to the project is unknown")
    paths = (REPOSITORY / name for name in listed.stdout.split("\0") if name)
    return [path for path in paths if path.is_file()]


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def pins() -> dict[str, str]:
    """Distribution -> version, from constraints.txt; anything but an exact pin fails here."""
    found: dict[str, str] = {}
    for line in (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines():
        if line.startswith("#") or not line.strip():
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.!]*)", line)
        assert match, f"constraints.txt: {line!r} is not an exact, public version"
        name = canonicalize_name(match[1])
        assert name not in found, f"constraints.txt names {name} twice"
        found[name] = match[2]
    return found


# -------------------------------------------------------------------------- dependencies


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_every_requirement_is_pinned_to_a_version_it_allows(extra: str) -> None:
    pinned = pins()
    for line in EXTRAS[extra] if extra else PROJECT["dependencies"]:
        requirement = Requirement(line)
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} has no exact version in constraints.txt"
        assert requirement.specifier.contains(version, prereleases=True), (line, version)


def test_everything_that_the_requirements_pull_in_is_pinned_too() -> None:
    pinned, seen = pins(), set()
    todo = [Requirement(line) for line in PROJECT["dependencies"] + EXTRAS["dev"]]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name in seen:
            continue
        seen.add(name)
        assert name in pinned, f"{name} is installed but has no version in constraints.txt"
        for line in importlib.metadata.requires(name) or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                todo.append(needed)
    assert {"numpy", "huggingface-hub", "pluggy"} <= seen  # the walk went somewhere


def test_the_core_is_installed_without_extras() -> None:
    assert {
        *("torch", "transformer-lens", "nnsight", "numpy", "scipy", "plotly", "einops"),
    } <= names(PROJECT["dependencies"])
    assert set(EXTRAS) == {"ray", "baselines", "docs", "dev"}


def third_party(path: Path) -> Iterator[tuple[str, bool]]:
    """(top-level package, is it imported as the module loads) for each import from elsewhere."""
    ours = {*sys.stdlib_module_names, "dst"}
    tree = ast.parse(path.read_text("utf-8"))
    lazy = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots = {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            roots = {str(node.module).split(".")[0]}
        else:
            continue
        yield from ((root, node not in lazy) for root in sorted(roots - ours))


def test_what_the_package_imports_is_declared() -> None:
    installed = importlib.metadata.packages_distributions()
    core = names(PROJECT["dependencies"])
    optional = names(EXTRAS["ray"] + EXTRAS["baselines"])
    seen = set()
    for path in sorted((REPOSITORY / "dst").rglob("*.py")):
        for root, at_once in third_party(path):
            fallback = {"sklearn": ["scikit-learn"]}.get(root, [root])
            providers = {canonicalize_name(name) for name in installed.get(root, fallback)}
            seen |= providers
            allowed = core if at_once else core | optional
            assert providers & allowed, f"{path.relative_to(REPOSITORY)} imports {root}"
    assert {"numpy", "torch"} <= seen


# ----------------------------------------------------------------------------- packaging


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("dst_tracing-*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    package = REPOSITORY / "dst"
    expected = {
        path.relative_to(REPOSITORY).as_posix()
        for path in files()
        if path.is_relative_to(package) and "zoo" not in path.relative_to(package).parts
    }
    packed = {name for name in wheel.namelist() if not name.split("/")[0].endswith(".dist-info")}
    assert packed == expected


def test_the_wheel_holds_types_and_a_model(wheel: zipfile.ZipFile) -> None:
    packed = wheel.namelist()
    assert "dst/py.typed" in packed
    embedded = {Path(name).name for name in packed if name.startswith("dst/models/embedded/")}
    assert any(name.endswith(".safetensors") for name in embedded)
    assert "tokenizer.json" in embedded


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    folder = f"dst_tracing-{PROJECT['version']}.dist-info"
    metadata = email.message_from_bytes(wheel.read(f"{folder}/METADATA"))
    assert metadata["Name"] == "dst-tracing"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert f"{folder}/licenses/LICENSE" in wheel.namelist()
    entry = configparser.ConfigParser()
    entry.read_string(wheel.read(f"{folder}/entry_points.txt").decode())
    assert dict(entry["console_scripts"]) == {"dst": "dst.cli:main"}
    assert (REPOSITORY / "dst" / "cli.py").is_file()


def test_version_and_changelog_agree() -> None:
    assert dst.__version__ == PROJECT["version"]
    changelog = (REPOSITORY / "CHANGELOG.md").read_text("utf-8")
    first, *released = re.findall(r"^## \[?([^\]\s]+)", changelog, re.MULTILINE)
    assert first == "Unreleased"
    assert not released or released[0] == PROJECT["version"]


def test_every_public_name_is_there() -> None:
    assert {name for name in dst.__all__ if getattr(dst, name, None) is None} == set()


# ------------------------------------------------------------------- commands, documents


def targets() -> set[str]:
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    return set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def test_make_help_lists_every_command() -> None:
    done = subprocess.run(
        ["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    listed = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("make ")}
    assert listed == targets()
    assert {"setup", "demo", "test", "check", "check-all", "bench", "docs"} <= listed
    assert subprocess.run(
        ["make"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.endswith(done.stdout), "make alone should print the help"


def test_documents_name_commands_that_exist() -> None:
    named = {
        command
        for path in DOCUMENTS
        for command in re.findall(r"(?:^|`)make ([a-z-]+)", path.read_text("utf-8"), re.MULTILINE)
    }
    assert {"demo", "test"} <= named
    assert named <= targets()


def test_documents_name_files_that_exist() -> None:
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        for name in re.findall(r"`((?:dst|tests|docs|benchmarks|notebooks)/[\w./-]*)`", text):
            assert (REPOSITORY / name).exists(), f"{document.name} names {name}"


def test_integration_runs_what_people_run() -> None:
    script = REPOSITORY / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text("utf-8")
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    assert re.search(r"^make check\b", text, re.MULTILINE)
    assert re.search(r"^make test\b", text, re.MULTILINE)
    subprocess.run(["bash", "-n", str(script)], check=True)


# -------------------------------------------------------------------- what is kept out

# Written apart, so that this file does not offend against itself.
KEPT_OUT = {
    "a path of one machine": r"(?<![\w.$}~-])/(?:work|farm|root|home|Users)" + r"/\w",
    "the host of a package index": r"py" + r"pi\.org|python" + r"hosted|down" + r"load\.pytorch",
    "unpickling": r"pick" + r"le\.loads?\b|weights_" + r"only\s*=\s*False",
    "running a model's own code": r"trust_" + r"remote_code\s*=\s*True",
}


def kept_out(text: str) -> list[str]:
    return [what for what, pattern in KEPT_OUT.items() if re.search(pattern, text)]


def test_no_file_holds_what_is_kept_out() -> None:
    found = []
    for path in files():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue  # weights and images
        found += [f"{path.relative_to(REPOSITORY)}: {what}" for what in kept_out(text)]
    assert found == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("open('/ro" + "ot/x')", "a path of one machine"),
        ("--extra-index https://py" + "pi.org/simple", "the host of a package index"),
        ("pick" + "le.load(f)", "unpickling"),
        ("torch.load(f, weights_" + "only=False)", "unpickling"),
        ("trust_" + "remote_code=True", "running a model's own code"),
    ],
)
def test_an_offending_text_is_found(text: str, what: str) -> None:
    assert kept_out(text) == [what]


def test_ordinary_text_is_not() -> None:
    assert kept_out("the homework / root words; pickles are refused; see docs/home/page") == []
