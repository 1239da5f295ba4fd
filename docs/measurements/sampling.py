"""How much sampling an observable needs: `python docs/measurements/sampling.py [--duration PS]`.

64 q-SPC/Fw waters at 298.15 K and 1 bar, by OpenMM's Langevin dynamics and barostat, in two chains. For every
observable: its value, the error after so much time as the run took, and the time after which it would be known to one
percent (errors fall with the root of it).
"""

import argparse
import sys

import jax
import jax.numpy as jnp
import numpy as np

import reverlet as rv
from reverlet.units import BAR, GRAM_PER_CUBIC_CENTIMETER

WATERS, CUTOFF, TEMPERATURE, DT, EVERY, CHAINS = 64, 0.55, 298.15, 0.001, 100, 2


def liquid() -> tuple[rv.System, rv.State]:
    """Packed and relaxed, with velocities, twice."""
    length = (WATERS * 18.015 / GRAM_PER_CUBIC_CENTIMETER) ** (1 / 3)
    box = rv.OrthorhombicBox(jnp.full(3, length))
    system = rv.WaterModel.qspcfw().system(WATERS, box, cutoff=CUTOFF, tail=True)
    molecule = rv.Topology.from_elements(["O", "H", "H"], molecules=[0, 0, 0], bonds=[(0, 1), (0, 2)])
    shape = jnp.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [-0.0375, 0.0927, 0.0]])
    _, packed = rv.pack(molecule, shape, WATERS, box=box, key=jax.random.key(0))
    relaxed = rv.minimize(system, packed, max_steps=500).state
    draw = lambda k: rv.maxwell_boltzmann(system.topology, TEMPERATURE, key=k)
    return system, relaxed.repeat(CHAINS).with_velocities(jax.vmap(draw)(jax.random.split(jax.random.key(1), CHAINS)))


def observables() -> dict[str, tuple[rv.AbstractObservable, float, str]]:
    """With the size of their unit, and its name."""
    dipole = rv.PointCharges.of
    pair = ("O", "O")
    return {
        "`Density`": (rv.Density(), GRAM_PER_CUBIC_CENTIMETER, "g/cm³"),
        "`Enthalpy`, per molecule": (rv.Enthalpy(per_molecule=True), 1.0, "kJ/mol"),
        "`RDF` (O-O), its first peak": (Bin(), 1.0, ""),
        "`CoordinationNumber` (O-O, 0.34 nm)": (rv.CoordinationNumber(0.34, pair=pair), 1.0, ""),
        "`TetrahedralOrder`": (rv.TetrahedralOrder("O"), 1.0, ""),
        "`Pressure`, of atoms (time for 10 bar)": (rv.Pressure(), BAR, "bar"),
        "`HeatCapacity`, per molecule": (rv.HeatCapacity(per_molecule=True), 1e-3, "J/mol/K"),
        "`IsothermalCompressibility`": (rv.IsothermalCompressibility(), 1e-5 / BAR, "1e-5/bar"),
        "`ThermalExpansion`": (rv.ThermalExpansion(), 1e-4, "1e-4/K"),
        "`DielectricConstant`": (rv.DielectricConstant(dipole), 1.0, ""),
    }


class Bin(rv.AbstractObservable):
    """The bin of g(r) around 0.275 nm, 0.01 nm wide."""

    rdf: rv.RDF = rv.RDF(0.5, 50, pair=("O", "O"))

    def record(self, system, state, initial):
        return self.rdf.record(system, state, initial)[27]

    def reduce(self, times, records, weights, ensemble=None):
        return jnp.sum(weights * jnp.mean(records, axis=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duration", type=float, default=100.0, help="ps of each of the two chains")
    asked = parser.parse_args()
    system, states = liquid()
    sampler = rv.openmm.OpenMMSampler(
        TEMPERATURE, 5.0, dt=DT, num_steps=EVERY, pressure=1 * BAR, platform="CPU"
    )  # fmt: skip
    per_chain = round(asked.duration / DT / EVERY)
    _, chains = sampler.sample(system, states, CHAINS * per_chain // 5, key=jax.random.key(2))
    samples, _ = sampler.sample(system, chains, CHAINS * per_chain, key=jax.random.key(3))
    total = CHAINS * asked.duration
    rows = ["| observable | value | error | time for 1 % |", "|---|---|---|---|"]
    for name, (observable, unit, called) in observables().items():
        estimate = rv.expectation(observable, system, samples)
        value, error = float(estimate.value) / unit, float(estimate.error) / unit
        size = 1000.0 if isinstance(observable, rv.Pressure) else abs(value)  # a pressure may be zero
        needed = total * (error / size / 0.01) ** 2 / 1e3
        rows.append(f"| {name} | {value:.4g} {called} | {error:.2g} | {needed:.2g} ns |")
    volume = samples.states.box.volume
    inefficiency = rv.reweighting.statistical_inefficiency(np.asarray(volume).reshape(-1, CHAINS).T)
    rows.append(
        f"\n{total:g} ps in all, a sample each {DT * EVERY:g} ps; of the volume {inefficiency:.3g} count as one."
    )
    sys.stdout.write("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
