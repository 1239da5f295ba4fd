"""Abstract or final; documented; nothing hidden."""

import abc
import importlib
import inspect
import pkgutil
import subprocess
import sys

import equinox as eqx
import pytest

import reverlet as rv

MODULES = [importlib.import_module(m.name) for m in pkgutil.walk_packages(rv.__path__, "reverlet.")]
CLASSES = sorted(
    {
        c
        for m in MODULES
        for c in vars(m).values()
        if inspect.isclass(c) and c.__module__.startswith("reverlet") and issubclass(c, eqx.Module)
    },
    key=lambda c: c.__name__,
)
PUBLIC = {name: value for name, value in vars(rv).items() if not name.startswith("_") and not inspect.ismodule(value)}


def test_a_name_and_its_abstract_are_related():
    """No `X` beside an unrelated `AbstractX`, in any namespace."""
    known = {c.__name__: c for c in CLASSES}
    for name, cls in known.items():
        abstract = known.get(f"Abstract{name}")
        assert abstract is None or issubclass(cls, abstract), f"{name} is no {abstract.__name__}"
    assert "AbstractWindow" in known


def test_the_flat_list_of_names_stays_short():
    assert len(PUBLIC) < 185


def is_abstract(cls):
    return cls.__name__.lstrip("_").startswith("Abstract")


def test_there_is_something_to_test():
    assert len(CLASSES) > 30
    assert len(PUBLIC) > 40


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_abstract_or_final(cls):
    for base in cls.__mro__[1:]:
        if base.__module__.startswith("reverlet"):
            assert is_abstract(base), f"{cls.__name__} is a subclass of {base.__name__}, which is final"
    if not is_abstract(cls):
        assert not inspect.isabstract(cls)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_no_concrete_method_is_overridden(cls):
    """Among the library's own classes: Diffrax's and Equinox's have defaults that are meant to be replaced."""
    own = [c for c in cls.__mro__ if c.__module__.startswith("reverlet")]
    for above, base in enumerate(own[1:], 1):
        for name, value in vars(base).items():
            if name.startswith("__") or not (callable(value) or isinstance(value, property)):
                continue
            function = value.fget if isinstance(value, property) else value
            if getattr(function, "__isabstractmethod__", False) or getattr(value, "__isabstractmethod__", False):
                continue
            overriding = [c.__name__ for c in own[:above] if name in vars(c)]
            assert not overriding, f"{overriding} override {base.__name__}.{name}"


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_have_docstrings(name):
    value = PUBLIC[name]
    doc = inspect.getdoc(value)
    assert doc
    assert doc != inspect.getdoc(eqx.Module)
    if not inspect.isclass(value):
        return
    for member, function in vars(value).items():
        if member.startswith("_") or not inspect.isfunction(inspect.unwrap(function)):
            continue
        # documented here, or once where it is abstract
        assert any(inspect.getdoc(vars(c).get(member)) for c in value.__mro__ if member in vars(c)), f"{name}.{member}"


@pytest.mark.parametrize("name", PUBLIC)
def test_no_open_ended_keywords(name):
    value = PUBLIC[name]
    if not value.__module__.startswith("reverlet"):
        pytest.skip("another package's own")
    functions = [value] if not inspect.isclass(value) else [
        f for key, f in vars(value).items() if inspect.isfunction(f) and (not key.startswith("_") or key == "__init__")
    ]  # fmt: skip
    for function in functions:
        if issubclass(value, rv.ConservativeTerm) if inspect.isclass(value) else False:
            continue  # `contr(t0, t1, **kwargs)` is Diffrax's signature
        kinds = {p.kind for p in inspect.signature(function).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds, f"{name}.{function.__name__}"


def test_exceptions_and_metaclasses():
    assert issubclass(rv.CheckpointError, ValueError)
    assert isinstance(rv.AbstractPotential, abc.ABCMeta)


def test_importing_changes_nothing():
    program = (
        "import sys, jax; before = set(jax.config.values.items()) if False else jax.config.jax_enable_x64;"
        "import reverlet; assert not jax.config.jax_enable_x64 and not before;"
        "found = {'openmm', 'ase', 'mdtraj', 'h5py', 'matplotlib', 'scipy.optimize', 'tqdm', 'tyro', 'beartype'};"
        "found &= set(sys.modules);"
        "print(','.join(sorted(found)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.strip().split(",")) <= {"", "scipy.optimize"}  # scipy is JAX's own
    assert "Warning" not in done.stderr
