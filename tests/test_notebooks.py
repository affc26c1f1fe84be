"""Notebooks run from top to bottom in a fresh folder, offline, and are kept without outputs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
PLOTLY = "application/vnd.plotly.v1+json"


def opened(path: Path) -> Any:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def executed(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The code cells of a notebook after a run in ``folder``; an exception in a cell is raised."""
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("IPYTHONDIR", str(folder / ".ipython"))
    work = folder / "work"
    work.mkdir()
    notebook = opened(path)
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(work)}}
    )
    client.execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cells: list[Any], stream: str) -> str:
    return "".join(
        output.text
        for cell in cells
        for output in cell.outputs
        if output.output_type == "stream" and output.name == stream
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_without_outputs(path: Path) -> None:
    for cell in opened(path).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert path.stat().st_size < 200_000


def test_trace_a_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = executed(REPOSITORY / "notebooks/01_trace_a_prompt.ipynb", tmp_path, monkeypatch)
    ours = [line for line in printed(cells, "stderr").splitlines() if "tqdm" not in line.lower()]
    assert ours == []  # without ipywidgets, tqdm advises the kernel to have them
    said = printed(cells, "stdout")
    assert "the model says 'fish'; LD -" in said
    assert "The model hallucinates: it answers 'fish'" in said
    figures = [
        output.data[PLOTLY]
        for cell in cells
        for output in cell.outputs
        if PLOTLY in output.get("data", {})
    ]
    assert len(figures) == sum(
        cell.source.startswith("plot.") or "\nplot." in cell.source for cell in cells
    ) - 1  # the prompt is shown as text  # fmt: skip
    assert all(figure["data"] for figure in figures)
    assert {path.name for path in (tmp_path / "work").iterdir()} == {"bass.html", "bass.npz"}
    assert cells[-1].outputs[-1].data["text/plain"] == "'hallucination'"


@pytest.mark.full
@pytest.mark.parametrize(
    "path", [path for path in NOTEBOOKS if not path.name.startswith("01_")], ids=lambda p: p.stem
)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executed(path, tmp_path, monkeypatch)
