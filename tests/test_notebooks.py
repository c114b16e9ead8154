"""The notebooks: paired, without outputs, and executed at a size of seconds."""

import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "experiments" / "notebooks"
NAMES = ("colab", "own_data")

jupytext = pytest.importorskip("jupytext", reason="the notebooks' tests need jupytext")
nbformat = pytest.importorskip("nbformat", reason="the notebooks' tests need nbformat")


def cells(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_these_are_all():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)
    assert sorted(path.stem for path in FOLDER.glob("*.py")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_script_and_notebook_are_in_step_and_hold_no_outputs(name):
    """After a change: `jupytext --to ipynb experiments/notebooks/*.py`."""
    script = jupytext.read(FOLDER / f"{name}.py")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert cells(notebook) == cells(script)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_cell_runs(name, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("D4A_SMOKE", "1")
    monkeypatch.setenv("D4A_STORE", str(tmp_path))
    monkeypatch.setenv("D4A_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XLA_FLAGS", "")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=900, resources={"metadata": {"path": str(FOLDER)}}
    )
    client.execute()
    shown = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "display_data"
    ]
    assert len(shown) == 2 and all("image/png" in output.data for output in shown)
    assert os.listdir(tmp_path)
