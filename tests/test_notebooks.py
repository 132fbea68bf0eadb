"""Every notebook runs from top to bottom without a complaint, and is stored without outputs."""

import ast
import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
PUBLIC = ("puppet_jax.plots", "puppet_jax.extras", "puppet_jax.extras.generators")

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def run(path, home):
    """Executes a notebook in its own folder, in a kernel of this interpreter, and returns it with its outputs."""
    try:
        import nbformat
        from jupyter_client.kernelspec import KernelSpecManager
        from jupyter_client.manager import AsyncKernelManager
        from nbclient import NotebookClient
    except ImportError as error:
        pytest.fail(f'Executing notebooks needs nbclient and ipykernel ({error}): pip install -e ".[test]"')
    notebook = nbformat.read(path, as_version=4)
    # Without folders of kernels the manager knows one, that of this interpreter: never a "python3" of another one.
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    client = NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(path.parent)}})
    client.km = manager  # not an argument: the client would leave a manager that it was given, and the kernel, open
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    client.execute(env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "IPYTHONDIR": str(home)})
    return notebook


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def code_of(path):
    """The code of a notebook, magics left out."""
    cells = json.loads(path.read_text())["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "code" for line in [*cell["source"], "\n"]]
    return "".join(line for line in lines if not line.startswith(("%", "!")))


def write_notebook(path, *sources):
    import nbformat.v4 as v4

    notebook = v4.new_notebook(cells=[v4.new_code_cell(source) for source in sources], metadata=METADATA)
    path.write_text(json.dumps(notebook))
    return path


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 3


@pytest.mark.parametrize("name", [pytest.param(path.stem, marks=pytest.mark.slow) for path in NOTEBOOKS])
def test_notebook_runs(name, tmp_path):
    notebook = run(ROOT / "notebooks" / f"{name}.ipynb", tmp_path)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    complaints = [output.text for output in outputs(notebook) if output.get("name") == "stderr"]
    assert complaints == []
    # Figures are shown, not named.
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook))
    assert not any("<Figure" in output.get("data", {}).get("text/html", "") for output in outputs(notebook))


@every_notebook
def test_notebook_is_stored_without_outputs(path):
    notebook = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"] == METADATA, "only the kernel's name belongs into the metadata; run nbstripout"
    for number, cell in enumerate(notebook["cells"]):
        assert cell["metadata"] == {}, f"cell {number} has metadata; run nbstripout"
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None, f"cell {number}: run nbstripout"
    assert notebook["cells"][0]["cell_type"] == "markdown" and notebook["cells"][0]["source"][0].startswith("# ")


@every_notebook
def test_notebook_uses_only_what_is_public(path):
    for node in ast.walk(ast.parse(code_of(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_") or node.attr.endswith("__"), node.attr
            continue
        else:
            continue
        for name in names:
            assert name.split(".")[0] not in ("experiments", "tests"), name
            module = name.rpartition(".")[0] if name.rpartition(".")[2][0].isupper() else name
            assert module in PUBLIC or not name.startswith("puppet_jax."), name


def test_a_broken_notebook_fails(tmp_path):
    from nbclient.exceptions import CellExecutionError

    path = write_notebook(tmp_path / "broken.ipynb", "x = 0", "1 / x", "print('after')")
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        run(path, tmp_path)


def test_the_kernel_is_this_interpreter_in_the_notebooks_folder(tmp_path):
    source = "import os, sys, puppet_jax\nprint(sys.prefix)\nprint(os.getcwd())\nprint(puppet_jax.__file__)"
    (output,) = outputs(run(write_notebook(tmp_path / "where.ipynb", source), tmp_path))
    import sys

    import puppet_jax

    assert output.text.split("\n")[:3] == [sys.prefix, str(tmp_path), puppet_jax.__file__]
