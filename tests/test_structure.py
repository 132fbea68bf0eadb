"""Imports go one way, and the public names are few and in use."""

import ast
import re
import types
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import puppet_jax as pj

ROOT = Path(__file__).parents[1]
WINGS = ("puppet_jax", "puppet_jax.extras", "experiments")
MAY_IMPORT = {
    "puppet_jax": {"puppet_jax"},
    "puppet_jax.extras": {"puppet_jax", "puppet_jax.extras"},
    "experiments": {"puppet_jax", "puppet_jax.extras", "experiments"},
}
PUBLIC = sorted(
    name for name, value in vars(pj).items() if not name.startswith("_") and not isinstance(value, types.ModuleType)
)
FILES = sorted(path for folder in ("puppet_jax", "experiments") for path in (ROOT / folder).rglob("*.py"))


def wing_of(module):
    """The wing that a module belongs to, None for modules of others."""
    return max((wing for wing in WINGS if f"{module}.".startswith(f"{wing}.")), key=len, default=None)


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path):
    """(module, name or None) of every import of ours in a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: say the whole name of the module"
            yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_one_way(path):
    own = wing_of(module_of(path))
    for module, name in imports(path):
        for imported in {module, f"{module}.{name}"}:
            assert wing_of(imported) in MAY_IMPORT[own] | {None}, f"{own} imports {imported}"


@pytest.mark.parametrize("wing", ["puppet_jax", "experiments"])
def test_no_import_runs_in_a_circle(wing):
    """Between the files and folders of a wing, imports inside functions and for types among them."""
    parts = {module_of(path).split(".")[1] for path in FILES if module_of(path).startswith(f"{wing}.")}
    graph = {part: set() for part in parts}
    for path in FILES:
        if module_of(path).startswith(f"{wing}."):
            own = module_of(path).split(".")[1]
            found = [f"{module}.{name}".split(".") for module, name in imports(path)]
            graph[own] |= {names[1] for names in found if names[0] == wing and names[1] in parts - {own}}
    assert len(list(TopologicalSorter(graph).static_order())) == len(parts)  # raises a CycleError


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_private_names_stay_in_their_module(path):
    own = module_of(path)
    for module, name in imports(path):
        if wing_of(module) and module != own:
            private = [part for part in f"{module}.{name}".split(".") if part.startswith("_") and part != "__version__"]
            assert not private, f"{own} imports {module}.{name}"


def test_public_names_are_few():
    assert len(PUBLIC) <= 40


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_in_use(name):
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "notebooks").iterdir(), *FILES]
    texts = [path.read_text() for path in pages if path.is_file() and "puppet_jax" not in path.parts[-2:-1]]
    assert any(re.search(rf"\bpj\.{name}\b", text) for text in texts)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_no_file_is_long(path):
    limit = 250 if module_of(path) == "puppet_jax.puppet" else 400
    assert len(path.read_text().splitlines()) <= limit


def test_every_guarantee_has_its_test():
    """Each link of the page is to a file that has a test, or a class of tests, of that name."""
    page = ROOT / "docs" / "guarantees.md"
    links = re.findall(r"\[(test_\w+|Test\w+)\]\(([^)]+)\)", page.read_text())
    assert len(links) > 25
    for name, path in links:
        source = (page.parent / path).read_text()
        assert re.search(rf"^ *(def|class) {name}\b", source, re.MULTILINE), f"{path} has no {name}"
    rows = [line for line in page.read_text().splitlines() if line.startswith("| ") and "guarantee | test" not in line]
    assert all("](../tests/" in row for row in rows)
