"""Which parameters of an OpenMM force field are to be trained, as ForceBalance has it."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._misc import require_callable
from .._system import System
from ._expressions import evaluated
from ._units import nearest

_OWN = ("parameterize", "parameter_repeat", "parameter_eval")


class ParameterizedForceField(eqx.Module):
    """An OpenMM force field whose file says which of its numbers are to be trained.

    A model for `fit` and `fit_targets`: its arrays are `values`. Each is named as ForceBalance does, by the force, the
    attribute and the types of its atoms, such as `NonbondedForce.Atom/sigma/Ar`; `lambda field: field.values[name]`
    picks one. `bind` makes systems of it, and `xml` a file, with all else as it was.
    """

    # by name, since the names are those of the file, and are what tables of parameters say
    values: dict[str, Float[Array, ""]]
    """In the units of the file, which are reverlet's: nm, kJ/mol, e, rad."""
    text: str = eqx.field(static=True, repr=False)
    """The file as it was read."""

    def xml(self) -> str:
        """The file with these values, and those that repeat or follow from them."""
        return _written(self.text, {name: float(value) for name, value in self.values.items()})

    def bind(self, system: Callable[[str], System]) -> "BoundForceField":
        """For some molecules, a function from a force field with any values to the `System` of them.

            def argon(xml):
                made = openmm.app.ForceField(io.StringIO(xml)).createSystem(topology, nonbondedMethod=...)
                return rv.openmm.from_system(made, topology)

            system = field.bind(argon)  # a function, such as `StatePoint` wants
            system(field)               # differentiable by `field.values`

        The function is called once for every parameter and a few times more, with values slightly off, which tells
        where each of them is in the potential.

        **Errors:** `ValueError` where numbers of the potential do not follow values in proportion, such as those of an
        expression with a product of two, and where different numbers in the file are equal to one in a thousand and so
        change their order; those of `system`.
        """
        require_callable("system", system, "`lambda xml: rv.openmm.from_system(...)`")
        names = tuple(sorted(self.values))  # as JAX has them
        start = np.array([float(self.values[name]) for name in names])
        for scale in _SCALES:
            found = _located(self.text, names, start, system, scale)
            if found is not None:
                return found
        raise ValueError(
            f"The potential does not follow the parameters {', '.join(names)} in proportion; wanted numbers of the"
            " potential that are sums of them with constant factors."
        )


class BoundForceField(eqx.Module):
    """A function from a `ParameterizedForceField` to a `System`: numbers of the potential are constant + slopes ·
    values."""

    names: tuple[str, ...] = eqx.field(static=True)
    constants: list[np.ndarray]
    """Of every array of the system."""
    slopes: list[np.ndarray]
    """By all values."""
    structure: Any = eqx.field(static=True)
    rest: Any

    def __call__(self, field: ParameterizedForceField) -> System:
        """The system with the values of a force field, which has the same names."""
        if tuple(sorted(field.values)) != self.names:
            raise ValueError(f"The force field has the values {sorted(field.values)}; wanted {list(self.names)}.")
        values = jnp.stack([field.values[name] for name in self.names])
        numbers = [
            jnp.asarray(c, values.dtype) + jnp.sum(jnp.asarray(s, values.dtype) * values, axis=-1)
            for c, s in zip(self.constants, self.slopes, strict=True)
        ]
        return eqx.combine(jax.tree.unflatten(self.structure, numbers), jax.tree.map(jnp.asarray, self.rest))


_SCALES = (1e-3, 3e-4)
"""How far off values are, relatively: less than this changes the order of numbers in a file."""
_SMALLEST = 0.05
"""Of smaller values it is so much of this: charges that do not add up must not look rounded."""


def _located(text, names, start, system, scale) -> BoundForceField | None:
    """Where each value is in the arrays of a system; `None` where they do not follow in proportion."""
    # different for all, so that numbers that happen to be equal are told apart
    sizes = 0.5 + (np.arange(1, len(names) + 1) * 0.6180339887498949) % 1
    off = scale * sizes * np.maximum(np.abs(start), _SMALLEST)

    def arrays(values):
        with jax.enable_x64(True):  # whatever the precision of the fit, this is bookkeeping
            made = system(_written(text, dict(zip(names, values.tolist(), strict=True))))
            dynamic, rest = eqx.partition(made, eqx.is_inexact_array)
            leaves, structure = jax.tree.flatten(dynamic)
            leaves = [np.asarray(x) for x in leaves]
            return leaves, structure, jax.tree.map(lambda x: np.asarray(x) if eqx.is_array(x) else x, rest)

    at = start + off
    base, structure, rest = arrays(at)

    def alike(other):
        return (
            other[1] == structure
            and [x.shape for x in other[0]] == [x.shape for x in base]
            and bool(eqx.tree_equal(other[2], rest))
        )

    columns = []
    for k in range(len(names)):
        shifted = at + np.where(np.arange(len(names)) == k, 0.01 * off, 0)
        moved = arrays(shifted)
        if not alike(moved):
            return None
        columns.append([(b - a) / (shifted[k] - at[k]) for a, b in zip(base, moved[0], strict=True)])
    slopes = [np.stack(parts, axis=-1) for parts in zip(*columns, strict=True)]
    # where a number does not change, the difference is rounding
    slopes = [
        np.where(np.abs(s) * np.abs(at) < 1e-9 * np.abs(b)[..., None], 0, s) for b, s in zip(base, slopes, strict=True)
    ]
    constants = [np.asarray(b - s @ at) for b, s in zip(base, slopes, strict=True)]
    further = arrays(start + 2 * off)
    if not alike(further):
        return None
    for c, s, b in zip(constants, slopes, further[0], strict=True):
        if not np.allclose(c + s @ (start + 2 * off), b, rtol=1e-3 * scale**2, atol=1e-14):
            return None
    return BoundForceField(names, constants, slopes, structure, rest)


def read_parameterized(path: str | os.PathLike) -> ParameterizedForceField:
    """An OpenMM force field in XML with ForceBalance's marks of what is to be trained.

    - `parameterize="sigma, epsilon"`: these attributes of the element;
    - `parameter_repeat="sigma=NonbondedForce.Atom/sigma/Ar"`: the attribute is equal to another one, by its name;
    - `parameter_eval="charge=-2*PARM['NonbondedForce.Atom/charge/H']"`: it follows from others, by arithmetic of
      numbers, + - * / and parentheses. ForceBalance runs such texts as Python; here they are read.

    **Errors:** `FileNotFoundError`; `ValueError` for what is no XML, without anything to train, or marked twice; and
    where marks name attributes or parameters that do not exist, numbers that are none, or more than arithmetic.
    """
    text = Path(path).read_text("utf-8")
    try:
        values = _values(_parsed(text))
        _written(text, values)  # what follows from them can be computed
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    return ParameterizedForceField({name: jnp.asarray(value, float) for name, value in values.items()}, text)


def _parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text, ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True)))


def _marked(root: ElementTree.Element):
    """The name of its force and element, for every element with a mark."""
    for force in root.iter():
        for element in force:
            if any(mark in element.attrib for mark in _OWN):
                yield f"{force.tag}.{element.tag}", element


def _name(where: str, element: ElementTree.Element, attribute: str) -> str:
    """As ForceBalance has it: force, attribute, and types or classes of atoms."""
    atoms = [value for key, value in element.attrib.items() if re.fullmatch(r"(type|class)\d*", key)]
    return f"{where}/{attribute}/{'.'.join(atoms) or element.get('name', '')}"


def _number(where: str, element: ElementTree.Element, mark: str, attribute: str) -> float:
    known = [key for key in element.attrib if key not in _OWN]
    place = f"an element `{element.tag}` of {where.split('.')[0]}"
    if attribute not in known:
        raise ValueError(
            f"`{mark}` of {place} names {attribute!r}, which it does not have; {nearest(attribute, known)}"
        )
    try:
        value = float(element.attrib[attribute])
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise ValueError(
            f"`{mark}` of {place} names {attribute!r}, which is {element.attrib[attribute]!r}; wanted a finite number."
        )
    return value


def _values(root: ElementTree.Element) -> dict[str, float]:
    values = {}
    for where, element in _marked(root):
        for attribute in filter(None, (word.strip() for word in element.get("parameterize", "").split(","))):
            name = _name(where, element, attribute)
            if name in values:
                raise ValueError(f"{name} is marked by `parameterize` twice; wanted once, else `parameter_repeat`.")
            values[name] = _number(where, element, "parameterize", attribute)
    if not values:
        raise ValueError('nothing is marked to be trained; wanted elements with such as parameterize="sigma, epsilon".')
    return values


def _written(text: str, values: dict[str, float]) -> str:
    """The file with these values."""
    root = _parsed(text)
    known = dict(values)
    followers = []
    for where, element in _marked(root):
        for attribute in filter(None, (word.strip() for word in element.get("parameterize", "").split(","))):
            element.set(attribute, repr(values[_name(where, element, attribute)]))
        for mark in _OWN[1:]:
            for part in filter(None, (word.strip() for word in element.get(mark, "").split(","))):
                attribute, equals, source = (word.strip() for word in part.partition("="))
                if not equals:
                    raise ValueError(f"`{mark}` is {part!r}; wanted an attribute, =, and what it is.")
                _number(where, element, mark, attribute)
                expression = f"PARM[{source!r}]" if mark == "parameter_repeat" else source
                followers.append((element, attribute, _name(where, element, attribute), expression))
    # each may follow from others that follow: as many rounds as there are
    for _ in range(len(followers)):
        left = []
        for element, attribute, name, expression in followers:
            try:
                known[name] = evaluated(expression, known)
            except KeyError as error:
                left.append((element, attribute, name, expression, error.args[0]))
            else:
                element.set(attribute, repr(float(known[name])))
        if left and len(left) == len(followers):
            raise ValueError(
                f"{left[0][2]} follows from {left[0][4]!r}, which is no parameter; {nearest(left[0][4], known)}"
            )
        followers = [row[:4] for row in left]
    return ElementTree.tostring(root, encoding="unicode") + "\n"
