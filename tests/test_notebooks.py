"""The notebooks: both forms of each hold the same cells, and they run from the first cell to the last."""

import ast
import json
import os
import re
import sys

import pytest

from tests.support.paths import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


def cells_of_script(path):
    """(kind, source) of the cells of a script in jupytext's percent format."""
    _, *parts = re.split(r"^# %%(.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for kind, text in zip(parts[::2], parts[1::2], strict=True):
        if "[markdown]" in kind:
            yield "markdown", re.sub(r"^# ?", "", text.strip("\n"), flags=re.MULTILINE)
        else:
            yield "code", text.strip("\n")


def cells_of_notebook(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    for cell in content["cells"]:
        yield cell["cell_type"], "".join(cell["source"])


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["framer_from_scratch", "quickstart"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_both_forms_hold_the_same_cells(path):
    assert list(cells_of_notebook(path.with_suffix(".ipynb"))) == list(cells_of_script(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_are_stored_without_results_and_download_nothing(path):
    content = json.loads(path.with_suffix(".ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    text = path.read_text(encoding="utf-8")
    ast.parse(text)
    for word in ("http://", "https://", "\n!", "\n%pip"):
        assert word not in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter's packages
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_run_end_to_end(path, tmp_path):
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    kernels = pytest.importorskip("jupyter_client.kernelspec")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    # the kernel of this interpreter, whether or not one is registered with Jupyter
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    specification = {"argv": command, "display_name": "Python 3", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(specification))
    manager = kernels.KernelSpecManager(kernel_dirs=[str(tmp_path / "kernels")])
    paths = os.pathsep.join([str(ROOT), *sys.path])
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("JAX_", "XLA_"))]:
            patch.delenv(name)  # the tests' eight devices and strict settings
        patch.setenv("PYTHONPATH", paths)
        patch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
        runner = client.NotebookClient(notebook, timeout=1200, kernel_name="python3")
        runner.km = runner.kernel_manager_class(kernel_name="python3", kernel_spec_manager=manager)
        runner.execute(cwd=str(tmp_path))
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert outputs
    assert not any(output.output_type == "error" for output in outputs)
    if path.stem == "quickstart":
        images = [output for output in outputs if "image/png" in output.get("data", {})]
        assert len(images) == 3
