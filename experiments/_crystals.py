"""Small crystals on a foundation potential: their cells, their neighbors in all images, and what is measured of them.

A cell of two atoms is far smaller than the cutoff of such a potential, so that an atom has many images of another, and
of itself, for neighbors. Atoms of a crystal stay where they are, and their neighbors with them: these are listed once.
"""

import abc
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

import reverlet as rv

from ._errors import BadInput

SKIN = 0.03
"""nm, by which neighbors may come nearer than they are at the sites."""

# ---- potentials


class AbstractFoundation(rv.AbstractGraphPotential):
    """A potential of many elements, bound to the atoms of a topology."""

    @abc.abstractmethod
    def of(self, elements: Sequence[str]) -> "AbstractFoundation":
        """The same for other atoms."""

    @abc.abstractmethod
    def write(self, path: Path) -> None:
        """Into a file of the kind that it was read from."""


class Nequix(AbstractFoundation):
    """A model of the package `nequix`, which has Å and eV (docs/a-foundation-potential.md)."""

    model: Any
    species: Int[Array, " atoms"]
    description: str = eqx.field(static=True)
    """What the file says of the model, JSON."""
    cutoff: float = eqx.field(static=True)

    @staticmethod
    def load(path: Path, elements: Sequence[str]) -> "Nequix":
        """From the package's file; refuses one that is absent or of something else, and a missing package."""
        if not path.is_file():
            raise BadInput(
                f"--weights is {path}, which is no file; wanted the weights of a Nequix model, such as"
                " nequix-oam-1-pft.nqx from the repository of the package `nequix`."
            )
        try:
            import nequix.model  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise BadInput(
                f"The package `nequix` cannot be imported ({error}); wanted it to read --weights:"
                " docs/a-foundation-potential.md says how to install it without CUDA."
            ) from error
        try:
            with jax.enable_x64(False):  # the file has single precision
                model, config = nequix.model.load_model(str(path))
        except Exception as error:  # whatever the package makes of other files
            raise BadInput(f"--weights is {path}, which `nequix` cannot read ({error}); wanted its file.") from error
        unbound = Nequix(model, jnp.zeros(0, int), json.dumps(config), model.cutoff * rv.units.ANGSTROM)
        return unbound.of(elements)

    def of(self, elements):
        known = sorted(json.loads(self.description)["atomic_numbers"])
        numbers = rv.Topology.from_elements(list(elements)).atomic_numbers.tolist()
        missing = sorted({e for e, z in zip(elements, numbers, strict=True) if z not in known})
        if missing:
            raise BadInput(f"The model of --weights knows no {', '.join(missing)}; wanted one that does.")
        return dataclasses.replace(self, species=jnp.array([known.index(z) for z in numbers]))

    def write(self, path):
        import nequix.model  # pyright: ignore[reportMissingImports]

        nequix.model.save_model(str(path), self.model, json.loads(self.description))

    def atom_energies(self, edges):
        i = jnp.broadcast_to(jnp.arange(len(edges.j))[:, None], edges.j.shape)
        # where there is no neighbor, beyond the cutoff for certain
        d = jnp.where(edges.mask[..., None], edges.d, 2 * self.cutoff) / rv.units.ANGSTROM
        energies = self.model.node_energies(d.reshape(-1, 3), self.species, edges.j.ravel(), i.ravel())
        return energies[:, 0] * rv.units.ELECTRONVOLT


class StandIn(AbstractFoundation):
    """What smoke runs take for a foundation potential: Stillinger and Weber's, with a little network of who is near."""

    prior: rv.StillingerWeber
    embedding: Float[Array, "kinds channels"]
    hidden: Float[Array, "channels channels"]
    species: Int[Array, " atoms"]
    cutoff: float = eqx.field(static=True)

    @staticmethod
    def fresh(elements: Sequence[str], key: PRNGKeyArray) -> "StandIn":
        """A random one."""
        keys = jax.random.split(key)
        prior = rv.StillingerWeber(200.0, 0.14, cutoff=1.8 * 0.14)
        arrays = jax.random.normal(keys[0], (119, 12)), 0.1 * jax.random.normal(keys[1], (12, 12))
        unbound = StandIn(prior, *arrays, jnp.zeros(0, int), 0.32)  # pyright: ignore[reportCallIssue]
        return unbound.of(elements)

    def of(self, elements):
        return dataclasses.replace(self, species=rv.Topology.from_elements(list(elements)).atomic_numbers)

    def write(self, path):
        np.savez(path, embedding=np.asarray(self.embedding), hidden=np.asarray(self.hidden))

    def atom_energies(self, edges):
        square = jnp.sum(edges.d**2, axis=-1)
        near = jnp.where(edges.mask, (1 - square / self.cutoff**2) ** 3, 0)
        around = jnp.einsum("in,inc->ic", near, self.embedding[self.species[edges.j]])
        bonds = edges.mask & (square < self.prior.cutoff**2)
        bonded = rv.Edges(jnp.where(bonds[..., None], edges.d, self.prior.cutoff), edges.j, bonds, True)  # pyright: ignore
        return self.prior.atom_energies(bonded) + jnp.sum(jnp.tanh(around @ self.hidden), axis=1)


class Crystal(rv.AbstractPotential):
    """A foundation potential of a crystal whose neighbors, in all images of the cell, are known."""

    model: AbstractFoundation
    j: Int[Array, "atoms near"]
    shift: Int[Array, "atoms near 3"]
    """In which image of the cell they are."""

    @property
    def cutoff(self) -> float | None:
        return None  # the images are taken here: the cell may be smaller than the cutoff

    def energy(self, positions, box, *, neighbors=None):
        cells = self.shift.astype(positions.dtype)
        away = jnp.matmul(cells, box.vectors.astype(positions.dtype), precision=jax.lax.Precision.HIGHEST)
        d = positions[self.j] + away - positions[:, None]
        reach = self.model.cutoff
        mask = jnp.sum(d * d, axis=-1) < reach**2
        d = jnp.where(mask[..., None], d, jnp.array([reach, 0, 0], d.dtype))
        return jnp.sum(self.model.atom_energies(rv.Edges(d, self.j, mask, True)))  # pyright: ignore[reportCallIssue]


# ---- cells


@dataclasses.dataclass(frozen=True)
class Cell:
    """A crystal's cell: `vectors` as rows, and the sites of its atoms, nm."""

    elements: tuple[str, ...]
    vectors: np.ndarray
    sites: np.ndarray

    @property
    def topology(self) -> rv.Topology:
        return rv.Topology.from_elements(list(self.elements))

    @property
    def box(self) -> rv.TriclinicBox:
        return rv.TriclinicBox(jnp.asarray(self.vectors, jnp.float32))

    @property
    def state(self) -> rv.State:
        """At rest at its sites."""
        x = jnp.asarray(self.sites, jnp.float32)
        return rv.State(x, jnp.zeros_like(x), self.box)

    def scaled(self, factor: float) -> "Cell":
        return Cell(self.elements, factor * self.vectors, factor * self.sites)

    def crystal(self, model: AbstractFoundation, room: int | None = None) -> Crystal:
        """The potential of its atoms; with `room` for so many neighbors of each, by default as many as there are."""
        j, shift = neighbors(self, model.cutoff + SKIN)
        near = max(map(len, j)) if room is None else room
        # what is not there is in an image far away
        j = np.stack([np.pad(row, (0, near - len(row))) for row in j])
        shift = np.stack([np.pad(row, ((0, near - len(row)), (0, 0)), constant_values=99) for row in shift])
        return Crystal(model.of(self.elements), jnp.asarray(j), jnp.asarray(shift))  # pyright: ignore[reportCallIssue]


def neighbors(cell: Cell, reach: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Who is within `reach` (nm) of every site, and in which image of the cell."""
    cells = int(np.ceil(reach / np.min(1 / np.linalg.norm(np.linalg.inv(cell.vectors), axis=0)))) + 1
    n = np.stack(np.meshgrid(*[np.arange(-cells, cells + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    who, where = [], []
    for x in cell.sites:
        r = np.linalg.norm(cell.sites[:, None] + n @ cell.vectors - x, axis=-1)
        j, k = np.nonzero((r < reach) & (r > 1e-6))
        who.append(j)
        where.append(n[k])
    return who, where


def zincblende(a: float, *elements: str) -> Cell:
    """Diamond, or a compound of its structure; `a` (nm) of the cubic cell."""
    return _faces(a, 0.25, elements)


def rocksalt(a: float, *elements: str) -> Cell:
    """The structure of NaCl."""
    return _faces(a, 0.5, elements)


def _faces(a: float, off: float, elements: Sequence[str]) -> Cell:
    vectors = 0.5 * a * np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return Cell((elements[0], elements[-1]), vectors, a * off * np.array([[0.0, 0, 0], [1, 1, 1]]))


def face_centered(a: float, element: str) -> Cell:
    """A metal of the structure of copper, in its tetragonal cell of two atoms."""
    edges = a * np.array([0.5**0.5, 0.5**0.5, 1])
    return Cell((element, element), np.diag(edges), np.array([[0, 0, 0], 0.5 * edges]))


def graphene(a: float) -> Cell:
    """One layer of graphite, far from its images."""
    vectors = np.array([[a, 0, 0], [-0.5 * a, 0.75**0.5 * a, 0], [0, 0, 1.5]])
    return Cell(("C", "C"), vectors, np.array([[0, 0, 0], [0, a / 3**0.5, 0]]))


def doubled_diamond(a: float) -> Cell:
    """Diamond in a tetragonal cell of four atoms, which has the vibrations of Γ and of one X."""
    edges = a * np.array([0.5**0.5, 0.5**0.5, 1])
    sites = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0, 0.25], [0, 0.5, 0.75]])
    return Cell(("C",) * 4, np.diag(edges), sites * edges)


# ---- what is measured


class Line(rv.AbstractObservable):
    """The wavenumber (1/cm) at which the two atoms of a cell vibrate against each other.

    For a vibration u of one frequency u(t+τ) + u(t-τ) = 2 cos(ωτ) u(t), whatever its phase: cos(ωτ) is what fits the
    frames best, by least squares of all directions and samples. So the time needed is less than two periods. Velocity
    Verlet makes sin(ω'h/2) of ωh/2, which is undone; every time step is to be a frame. NaN where there is no vibration.

    **Reference:** linear prediction (G. U. Yule, Philos. Trans. R. Soc. A 226, 267 (1927)).
    """

    lag: int = eqx.field(static=True)
    """τ, in frames; about a quarter of a period."""

    def record(self, system, state, initial):
        return state.velocities[1] - state.velocities[0]

    def reduce(self, times, records, weights, ensemble=None):
        k = self.lag
        now, beside = records[:, k:-k], records[:, 2 * k :] + records[:, : -2 * k]
        of_samples = lambda x: weights @ jnp.sum(x, axis=(1, 2))
        angle = jnp.arccos(0.5 * of_samples(beside * now) / of_samples(now * now)) / k
        return 2 * jnp.sin(0.5 * angle) / (times[1] - times[0]) / rv.units.WAVENUMBER


@eqx.filter_jit
def labels(potential: rv.AbstractPotential, state: rv.State) -> tuple[Array, Array, Array]:
    """Energy (kJ/mol), forces (kJ/mol/nm) and stress (kJ/mol/nm³) of a configuration."""
    x, box = state.positions, state.box
    return potential.energy(x, box), potential.forces(x, box), potential.stress(x, box)


@eqx.filter_jit
def _forces(potential, x, box):
    return potential.forces(x, box)


def hessian(potential: Crystal, cell: Cell, step: float = 5e-4) -> np.ndarray:
    """Second derivatives of the energy by all coordinates over the roots of their masses, 1/ps², by differences of
    forces over `step` (nm) either way."""
    x, rows = np.asarray(cell.sites, np.float32), []
    for k in range(x.size):
        moved = np.zeros(x.size, np.float32)
        moved[k] = step
        either = [np.asarray(_forces(potential, jnp.asarray(x + s * moved.reshape(-1, 3)), cell.box)) for s in (1, -1)]
        rows.append((either[1] - either[0]).astype(float).ravel() / (2 * step))
    m = np.repeat(np.asarray(cell.topology.masses, float), 3)
    return 0.5 * (np.array(rows) + np.array(rows).T) / np.sqrt(np.outer(m, m))


def wavenumbers(matrix: np.ndarray) -> np.ndarray:
    """Those of the vibrations of a matrix as `hessian` makes it, 1/cm, in increasing order; negative for what grows."""
    squares = np.linalg.eigvalsh(matrix)
    return np.sign(squares) * np.sqrt(np.abs(squares)) / rv.units.WAVENUMBER


def vibrations_of_diamond(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """The wavenumbers (1/cm) of the vibrations of `doubled_diamond`: three translations and the line at Γ; at X, where
    images of the cell of two atoms move against each other, along the axis those of L, across it TA and TO."""
    # the first two atoms are images of each other, and so are the last two
    alike, against = (np.kron(np.array([[1, s, 0, 0], [0, 0, 1, s]]) / 2**0.5, np.eye(3)) for s in (1, -1))
    along = np.arange(6) % 3 == 2
    part = lambda basis: wavenumbers(basis @ matrix @ basis.T)
    across = part(against[~along])
    return {"gamma": part(alike)[3:], "TA(X)": across[:2], "TO(X)": across[2:], "L(X)": part(against[along])}
