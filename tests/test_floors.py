"""Imports point down only."""

import ast
from pathlib import Path

import pytest

import reverlet

PACKAGE = Path(reverlet.__file__).parent
FLOORS = {
    name: floor
    for floor, names in enumerate(
        [
            "_custom_types _misc _batches _results _timeseries _spectra _statistics units _elements",
            "_box _neighbors",
            "_topology _state",
            "_potential _dipole _descriptors",
            "_system _water _solver _controls _adjoint _dynamics _sampler _minimize _pack",
            "_observable",
            "_reweighting _expectation _horizon _loss _fit",
            "io _openmm",
        ]
    )
    for name in names.split()
}
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def imports(path):
    """Modules of the package that a file imports, as paths of names below the package; and roots of other packages."""
    inside, outside = set(), set()
    here = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level > 0:
            base = here[: len(here) - (node.level - 1)]
            module = (*base, *(node.module.split(".") if node.module else ()))
            inside |= {(*module, alias.name) for alias in node.names} if not module else {module}
        elif isinstance(node, ast.ImportFrom):
            outside.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            outside |= {alias.name.split(".")[0] for alias in node.names}
    return inside, outside


def floor_of(names):
    return FLOORS[names[0]]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    name = path.relative_to(PACKAGE).with_suffix("").parts
    inside, outside = imports(path)
    assert "reverlet" not in outside  # relative imports only, which this test can follow
    for other in inside:
        assert floor_of(other) <= floor_of(name), f"{name} imports {other}, which is above it"


def test_no_cycles_between_files():
    names = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in FILES}
    graph = {name: set() for name in names}
    for path in FILES:
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        graph[name] |= {other[0] for other in imports(path)[0]} - {name}
    while graph:
        leaves = {name for name, others in graph.items() if not others}
        assert leaves, f"cycle among {sorted(graph)}"
        graph = {name: others - leaves for name, others in graph.items() if name not in leaves}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_solver_knows_diffrax_and_the_ground_only(path):
    if path.parent.name == "_solver":
        assert {floor_of(other) for other in imports(path)[0] if other[0] != "_solver"} <= {0}
    if path.name != "_adjoint.py":
        private = [
            node.module
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diffrax._")
        ]
        assert not private


def test_optional_packages_are_not_imported():
    allowed = {"jax", "jaxtyping", "equinox", "diffrax", "optax", "numpy"}
    import sys

    for path in FILES:
        if path.name == "_mesh.py" or path.parent.name in ("io", "_openmm"):  # where packages are optional
            continue
        assert imports(path)[1] <= allowed | set(sys.stdlib_module_names)
