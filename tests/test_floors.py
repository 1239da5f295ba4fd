"""Imports point down only."""

import ast
import sys
from pathlib import Path

import pytest

import reverlet

PACKAGE = Path(reverlet.__file__).parent
NAMES = ("ground", "space", "matter", "surfaces", "motion", "measurement", "inference", "edges")


def drawn():
    """The files on every floor of the house as CONTRIBUTING.md draws it."""
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    house, floors, floor = text.split("```text\n")[1].split("```")[0], {}, None
    for line in filter(str.strip, house.splitlines()):
        words = line.split()
        floor = words.pop(0) if words[0] in NAMES else floor
        # what a floor is for stands behind the names, in words of which none is a file's
        files = [w for w in words if (PACKAGE / w).is_dir() or (PACKAGE / f"{w}.py").exists()]
        floors.setdefault(floor, []).extend(files)
    return floors


HOUSE = drawn()
FLOORS = {name: NAMES.index(floor) for floor, names in HOUSE.items() for name in names}
EDGES = set(HOUSE["edges"])
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


def test_the_picture_of_the_house_is_true():
    """Every file stands on one floor of the drawing, and the floors are in order."""
    standing = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in FILES}
    assert standing == set(FLOORS)
    assert len(FLOORS) == sum(map(len, HOUSE.values()))
    assert tuple(HOUSE) == tuple(reversed(NAMES))


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
    if path.parent.name != "_adjoint":
        private = [
            node.module
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diffrax._")
        ]
        assert not private


def at_import(path):
    """A file's statements without the bodies of its functions: what runs when it is imported."""

    class NoBodies(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return ast.Pass()

    return NoBodies().visit(ast.parse(path.read_text()))


def roots(tree):
    """Of all packages that absolute imports name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_optional_packages_are_not_imported(path):
    allowed = {"jax", "jaxtyping", "equinox", "diffrax", "optax", "numpy"} | set(sys.stdlib_module_names)
    assert set(roots(at_import(path))) <= allowed
    name = path.relative_to(PACKAGE).with_suffix("").parts
    if name[0] not in EDGES and name != ("_potential", "_p3m"):  # these may, inside functions
        assert imports(path)[1] <= allowed


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_imports_the_edges(path):
    if path.relative_to(PACKAGE).with_suffix("").parts[0] not in EDGES:
        assert not {other[0] for other in imports(path)[0]} & EDGES
