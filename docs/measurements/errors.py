"""Stated errors against the scatter of repetitions: `python docs/measurements/errors.py [repetitions]`.

Two liquids, run again and again from other random numbers: argon at constant pressure (density, the first peak of
g(r)) and a fluid of harmonic dipoles in a box (dielectric constant, whose value is known), and the derivatives of each
by reweighting. Prints the root mean square of the errors that `expectation` and `expectation_gradients` state, over
the standard deviation of the values: 1 is right. The ratio of 32 repetitions is itself known to 13 %.
"""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import reverlet as rv

CHAINS, SAMPLES, EVERY = 8, 40, 100  # samples of a chain, time steps between two


def argon() -> tuple[rv.System, rv.State, rv.AbstractSampler, dict[str, rv.AbstractObservable]]:
    """64 atoms at 120 K and 200 bar."""
    topology, state = rv.lattices.simple_cubic("Ar", 4, spacing=0.39)
    system = rv.System(topology, rv.LennardJones(0.338, 0.894, cutoff=0.65, truncation=rv.SmoothSwitch(0.55)))
    thermostat = rv.LangevinBAOAB(120.0, 2.0, dt=0.005, num_steps=EVERY)
    observables = {"density": rv.Density(), "g(r) at its peak": Peak()}
    return system, state, rv.StochasticCellRescaling(thermostat, 200 * rv.units.BAR, period=0.3), observables


class Peak(rv.AbstractObservable):
    """One bin of g(r)."""

    rdf: rv.RDF = rv.RDF(0.6, 24)

    def record(self, system, state, initial):
        return self.rdf.record(system, state, initial)[15]

    def reduce(self, times, records, weights, ensemble=None):
        return jnp.sum(weights * jnp.mean(records, axis=1))


def dipoles() -> tuple[rv.System, rv.State, rv.AbstractSampler, dict[str, rv.AbstractObservable]]:
    """27 pairs of charges on springs without length, which see nothing of each other."""
    topology = rv.Topology.from_elements(["Ar", "Ar"] * 27, bonds=[(2 * k, 2 * k + 1) for k in range(27)])
    charges = rv.PointCharges(jnp.tile(jnp.array([0.4, -0.4]), 27))
    springs = rv.HarmonicBond(topology.bonds, 500.0, 0.05)
    _, lattice = rv.lattices.simple_cubic("Ar", 3, spacing=0.5)
    positions = (lattice.positions[:, None] + jnp.array([[0.0, 0.0, 0.0], [0.05, 0.0, 0.0]])).reshape(-1, 3)
    state = rv.State(positions, jnp.zeros((54, 3)), lattice.box)
    thermostat = rv.LangevinBAOAB(300.0, 2.0, dt=0.005, num_steps=EVERY)
    return rv.System(topology, springs), state, thermostat, {"ε": rv.DielectricConstant(charges)}


def once(system: rv.System, state: rv.State, sampler: rv.AbstractSampler, observables, key) -> dict[str, np.ndarray]:
    """For every observable, value and derivatives, and below them the errors that are stated."""
    keys = jax.random.split(key, 3)
    draw = jax.vmap(lambda k: rv.maxwell_boltzmann(system.topology, 120.0, key=k))
    begun = state.repeat(CHAINS).with_velocities(draw(jax.random.split(keys[0], CHAINS)))
    _, ready = sampler.sample(system, begun, CHAINS * SAMPLES // 2, key=keys[1])
    samples, _ = sampler.sample(system, ready, CHAINS * SAMPLES, key=keys[2])
    found = {}
    for what, observable in observables.items():
        estimate, parts = measure(observable, system, samples)
        numbers = lambda tree: [float(jnp.ravel(x)[0]) for x in jax.tree.leaves(tree) if eqx.is_inexact_array(x)]
        values = [float(estimate.value), *numbers(parts.thermodynamic)]
        found[what] = np.array([values, [float(estimate.error), *numbers(parts.thermodynamic_error)]])
    return found


@eqx.filter_jit
def measure(observable, system, samples):
    return rv.expectation_gradients(observable, system, samples)


def main(repetitions: int = 32) -> None:
    for name, make in (("argon", argon), ("dipoles", dipoles)):
        runs = [once(*make(), jax.random.key(k)) for k in range(repetitions)]
        for what in runs[0]:
            values, errors = np.moveaxis([run[what] for run in runs], 1, 0)
            ratios = np.sqrt(np.mean(errors**2, axis=0)) / np.std(values, axis=0, ddof=1)
            told = ", ".join(f"{r:.2f}" for r in ratios)
            sys.stdout.write(f"{name}, {what}: {told} (value, then its derivatives)\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
