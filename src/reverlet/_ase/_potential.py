"""Any calculator of ASE as a potential."""

import functools
import threading
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import units
from .._box import OpenBox
from .._misc import require_instance
from .._potential import AbstractAtomIndexed, AbstractPotential
from .._verdict import SimulationError
from ._atoms import is_periodic, require_ase

_FORCE = units.ELECTRONVOLT / units.ANGSTROM
_STRESS = units.ELECTRONVOLT / units.ANGSTROM**3


class ASEPotential(AbstractPotential, AbstractAtomIndexed):
    """The calculator of an `ase.Atoms` as a potential, to sample with and to make labels by.

        topology, state = rv.from_ase(atoms)
        system = rv.System(topology, rv.ASEPotential(atoms))

    Energy, forces and stress are the calculator's, which is called on the host, once for every configuration, one after
    the other. Nothing else is known of it: it has no parameters to train, and second derivatives, which the gradient of
    a trajectory is made of, are refused. Where it has a free energy, that is the energy, since its forces belong to it.
    A calculator that itself computes in JAX may wait for ever for the program that waits for it.

    **Arguments:** `atoms`, with `atoms.calc`; what else the calculator reads, such as charges, spins and `info`, stays
    as it is there, and constraints are left out. Positions and box are those that the energy is asked for.

    **Errors:** `ImportError` without ASE; `ValueError` for atoms without a calculator or periodic in some directions
    only; an open box of atoms that are periodic, or the reverse; the stress of a calculator without one; and a second
    derivative. `SimulationError` where the calculator fails.
    """

    _calculator: "_Calculator" = eqx.field(static=True)
    cutoff: None = eqx.field(static=True)

    def __init__(self, atoms: Any):
        require_instance("atoms", atoms, require_ase().Atoms)
        if atoms.calc is None:
            raise ValueError("`atoms` has no calculator; wanted one: `atoms.calc = …`.")
        self._calculator, self.cutoff = _Calculator(atoms), None

    def require_atoms(self, num_atoms):
        known = len(self._calculator.atoms)
        if num_atoms != known:
            raise ValueError(f"`ASEPotential` is of {known} atoms; wanted {num_atoms}, as the topology has.")

    def energy(self, positions, box, *, neighbors=None):
        periodic = not isinstance(box, OpenBox)
        if periodic != self._calculator.periodic:
            known = "periodic" if self._calculator.periodic else "not periodic"
            raise ValueError(f"`box` is {type(box).__name__}, but the atoms of `ASEPotential` are {known}.")
        vectors = box.vectors.astype(positions.dtype) if periodic else None
        return _energy(self._calculator, positions, vectors)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _energy(calculator, positions, vectors):
    return _evaluate(calculator, False, positions, vectors)[0]


def _energy_jvp(calculator, primals, tangents):
    x, vectors = primals
    dx, dvectors = tangents
    moves = lambda t: t is not None and not isinstance(t, jax.custom_derivatives.SymbolicZero)
    energy, forces, stress = _evaluate(calculator, moves(dvectors), x, vectors)
    slope = jnp.zeros_like(energy)
    if moves(dx):
        slope = slope - jnp.sum(forces * dx)
    if moves(dvectors):
        # a strain moves atoms and vectors together: V stress = Σ x ∂U/∂x + Σ vectors ∂U/∂vectors, at fixed x
        volume = jnp.abs(jnp.linalg.det(vectors))
        exact = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        of_vectors = exact(jnp.linalg.inv(vectors).T, volume * stress + exact(x.T, forces))
        slope = slope + jnp.sum(of_vectors * dvectors)
    return energy, slope


_energy.defjvp(_energy_jvp, symbolic_zeros=True)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _evaluate(calculator, with_stress, positions, vectors):
    """Energy, forces, and the stress or zeros."""
    if with_stress and not calculator.has_stress:
        raise ValueError(f"{calculator} has no stress; wanted a calculator that has, or a constant box.")
    array = lambda *shape: jax.ShapeDtypeStruct(shape, positions.dtype)
    shapes = array(), array(len(positions), 3), array(3, 3)
    call = functools.partial(_on_host, calculator, with_stress)
    return jax.pure_callback(call, shapes, positions, vectors, vmap_method="broadcast_all")


@_evaluate.defjvp
def _evaluate_jvp(calculator, with_stress, primals, tangents):
    raise ValueError(
        "The forces of `ASEPotential` cannot be differentiated, as the gradient of a trajectory wants:"
        f" {calculator} gives energies and forces, and no more. Wanted it for samples and labels alone; for gradients,"
        " train a potential on its labels by `rv.force_matching`."
    )


def _on_host(calculator, with_stress, positions, vectors):
    """Of one configuration or many, with leading axes."""
    dtype, many = positions.dtype, positions.shape[:-2]
    exact = lambda x: np.asarray(x, np.float64)
    found = np.zeros(many), np.zeros(positions.shape), np.zeros((*many, 3, 3))
    for k in np.ndindex(*many):
        of_one = calculator(exact(positions[k]), None if vectors is None else exact(vectors[k]), with_stress)
        for all_of_it, value in zip(found, of_one, strict=True):
            all_of_it[k] = value
    return tuple(x.astype(dtype) for x in found)


class _Calculator:
    """A calculator with the atoms it was made for; equal to itself alone, as static fields want."""

    def __init__(self, atoms):
        self.periodic = is_periodic(atoms.pbc)
        self.atoms, self.calculator = atoms.copy(), atoms.calc
        del self.atoms.constraints
        self.atoms.calc = atoms.calc
        known = getattr(atoms.calc, "implemented_properties", ())
        self.has_stress, self.has_free_energy = "stress" in known, "free_energy" in known
        # a program may call from several threads, and calculators keep what they found last
        self.lock = threading.Lock()

    def __repr__(self):
        return f"ASE's calculator {type(self.calculator).__name__} of {self.atoms.get_chemical_formula()}"

    def __call__(self, positions, vectors, with_stress):
        """Energy (kJ/mol), forces (kJ/mol/nm), and the stress (kJ/mol/nm³) or zero, at positions and vectors in nm."""
        atoms = self.atoms
        with self.lock:
            try:
                atoms.positions = positions / units.ANGSTROM
                if vectors is not None:
                    atoms.cell = vectors / units.ANGSTROM
                energy = atoms.get_potential_energy(force_consistent=self.has_free_energy)
                forces = atoms.get_forces(apply_constraint=False)
                stress = atoms.get_stress(voigt=False, apply_constraint=False) if with_stress else 0.0
            except Exception as error:
                raise SimulationError(f"{self} failed: {type(error).__name__}: {error}") from error
        return energy * units.ELECTRONVOLT, forces * _FORCE, stress * _STRESS
