"""The pages of the site: every block runs, every public name has its place. `make docs` builds them."""

import contextlib
import inspect
import io
import re
import sys
import types
from pathlib import Path

import matplotlib as mpl
import pytest
from helpers import quick

import puppet_jax as pj
from puppet_jax import extras, plots
from puppet_jax.extras import generators

ROOT = Path(__file__).parents[1]
OWN_TEST = {"composing.md"}  # whose blocks run one by one, in test_composing.py
PAGES = {
    str(path.relative_to(ROOT / "docs")): path
    for path in sorted((ROOT / "docs").rglob("*.md"))
    if not {"records", "templates", "_build"} & set(path.relative_to(ROOT / "docs").parts)
}
BLOCK = re.compile(r"^```(?:python|\{code-cell\} ipython3)\n(.*?)^```", re.DOTALL | re.MULTILINE)
WITH_CODE = [name for name, path in PAGES.items() if BLOCK.search(path.read_text()) and name not in OWN_TEST]
NAMES = {
    f"{module.__name__}.{name}": value
    for module in (pj, extras, generators, plots)
    for name, value in vars(module).items()
    if not name.startswith("_") and not isinstance(value, types.ModuleType)
}


def run(text, name):
    """Executes the blocks of a page, one after the other, in one namespace."""
    names = {}
    for block in BLOCK.findall(text):
        code = "\n".join(line for line in block.split("\n") if not line.startswith("%"))
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(code, name, "exec"), names)
    return names


@pytest.mark.parametrize(
    "name", quick(WITH_CODE, "index.md", "mathematics.md", "guides/complexity.md", "guides/size.md")
)
@pytest.mark.filterwarnings("ignore:.*holds more floats", "ignore:FigureCanvasAgg is non-interactive")
def test_the_blocks_of_a_page_run(name, monkeypatch, tmp_path):
    text = PAGES[name].read_text()
    for package in re.findall(r"^import (onnx\w*)$", text, re.MULTILINE):
        pytest.importorskip(package)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    mpl.use("agg")
    assert run(text, name)


def test_a_wrong_block_fails():
    with pytest.raises(AttributeError, match="no attribute 'complexty'"):
        run("```python\nimport puppet_jax as pj\npj.complexty\n```", "page")


def reference():
    return "\n".join(path.read_text() for name, path in PAGES.items() if name.startswith("reference"))


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_has_a_page_and_an_example(name):
    module, _, last = name.rpartition(".")
    listed = re.search(rf"\.\. auto\w+:: (\w+\.)*{last}\n", reference())
    assert listed or (module == "puppet_jax.plots" and "automodule:: puppet_jax.plots" in reference()) or last.isupper()
    blocks = "\n".join(block for path in PAGES.values() for block in BLOCK.findall(path.read_text()))
    example = re.search(rf"\b{last}\b", blocks) or ">>>" in (inspect.getdoc(NAMES[name]) or "")
    pictures = module == "puppet_jax.plots"  # are in the notebooks
    needs_a_run = last == "load_early_exit"  # reads its model
    assert example or pictures or needs_a_run


def test_every_page_is_in_the_contents():
    contents = (ROOT / "docs" / "index.md").read_text()
    for name in PAGES:
        assert name == "index.md" or re.search(rf"^{name.removesuffix('.md')}$", contents, re.MULTILINE), name


def broken_links(path, text):
    """Relative links of a page that lead to no file; anchors and addresses are left out."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    return [
        t for t in targets if t and "://" not in t and not t.startswith("mailto:") and not (path.parent / t).exists()
    ]


@pytest.mark.parametrize("path", [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    if {"templates", "_build"} & set(path.parts):
        pytest.skip("a template, whose links are those of the page made of it")
    assert broken_links(path, path.read_text()) == []


def test_a_broken_link_is_found():
    assert broken_links(ROOT / "README.md", "[a](docs/nowhere.md) [b](README.md#results) [c](https://jax.dev)") == [
        "docs/nowhere.md"
    ]


OTHERS = {"--ntasks-per-node", "--nodes", "--gpus-per-node", "--directory", "--bind", "--file_format", "--head"}
"""Flags of SLURM, of Python's web server, of TensorFlow Datasets and of Ray."""


def test_flags_exist():
    """Every flag that a page, the README or a message names is an option of a command here."""
    sources = {str(path.relative_to(ROOT)): path for path in sorted((ROOT / "experiments").rglob("*.py"))}
    texts = [path.read_text() for path in sources.values()]
    options = {name for text in texts for name in re.findall(r"^    (\w+): |arg\(name=\"(\w+)\"", text, re.MULTILINE)}
    options = {"help"}.union(*options)
    pages = {**PAGES, **sources, "README.md": ROOT / "README.md"}
    found = {name: set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]+", path.read_text())) for name, path in pages.items()}
    assert {"--preset", "--teachers", "--rule"} <= set().union(*found.values())
    for name, flags in found.items():
        unknown = {flag for flag in flags - OTHERS if flag[2:].replace("-", "_") not in options}
        assert not unknown, name
