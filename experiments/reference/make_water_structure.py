"""Makes the structure of liquid water in this folder: the O-O radial and the O-O-O angular distribution of q-SPC/Fw.

    pip install "openmm==8.6.1"  # an extra of the project
    python -m experiments.reference.make_water_structure

125 molecules at 298.15 K and the density of water at 1 bar, 0.997 g/cm³: two chains of 16 + 64 ps by OpenMM, ten
minutes on two cores shared with others. Writes `water_structure.json`: both functions with their errors, and what they
were measured with.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
WATERS, DENSITY, TEMPERATURE = 125, 0.997, 298.15
"""Molecules, g/cm³, K."""
CHAINS, EQUILIBRATION, ROUNDS, PER_ROUND = 2, 80, 16, 20
"""Samples of each chain, 0.2 ps apart; kept are those of all rounds."""


def main() -> int:
    """Writes the file, over what is there."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import reverlet as rv
    from reverlet.openmm import OpenMMSampler

    from .._water import packed

    keys = jax.random.split(jax.random.key(7), 3)
    state = packed(WATERS, DENSITY, keys[0])
    system = rv.WaterModel.qspcfw().system(WATERS, state.box)
    velocities = rv.maxwell_boltzmann(system.topology, TEMPERATURE, key=keys[1]).astype(state.positions.dtype)
    sampler = OpenMMSampler(TEMPERATURE, 2.0, dt=8e-4, num_steps=250, platform="CPU")
    chains, kept = rv.Chains(state.with_velocities(velocities).repeat(CHAINS)), []
    for k in range(EQUILIBRATION // PER_ROUND + ROUNDS):
        samples, chains = sampler.sample(system, chains, CHAINS * PER_ROUND, key=jax.random.fold_in(keys[2], k))
        if k >= EQUILIBRATION // PER_ROUND:
            kept.append((np.asarray(samples.states.positions)[:, ::3], np.asarray(samples.chain)))
    oxygens, chain = map(np.concatenate, zip(*kept, strict=True))
    rdf = rv.RDF(0.75, 150, 0.005)
    # as in Thaler & Zavadlav: neighbors nearer than 0.318 nm, all alike
    adf = rv.ADF(0.318, 90, np.pi / 90, max_neighbors=12)
    alone = rv.System(rv.Topology.from_elements(["O"] * WATERS), rv.LennardJones(0.3, 1e-9, cutoff=0.7))
    states = jax.vmap(lambda x: rv.State(x, None, state.box))(jnp.asarray(oxygens))
    free = rv.Samples(states, jnp.zeros(len(oxygens)), jnp.asarray(chain), rv.NVT(TEMPERATURE))
    found = rv.expectation(rv.Joint((rdf, adf)), alone, free, batch=8)
    (g, angles), (g_error, angles_error) = found.value, found.error
    short = lambda x: [float(f"{v:.5g}") for v in np.asarray(x)]
    content = {
        "model": "q-SPC/Fw, F. Paesani et al., J. Chem. Phys. 125, 184507 (2006)",
        "made_by": "python -m experiments.reference.make_water_structure",
        "temperature_K": TEMPERATURE,
        "molecules": WATERS,
        "box_nm": float(np.min(state.box.heights)),
        "ps": CHAINS * ROUNDS * PER_ROUND * 0.2,
        "rdf": {"r_max_nm": 0.75, "width_nm": 0.005, "value": short(g), "error": short(g_error)},
        "adf": {"r_max_nm": 0.318, "width_rad": np.pi / 90, "value": short(angles), "error": short(angles_error)},
    }
    text = json.dumps(content, indent=1).replace(",\n   ", ", ")  # numbers beside each other
    (HERE / "water_structure.json").write_text(text + "\n", "utf-8")
    mean = lambda e: float(np.mean(np.asarray(e) ** 2))
    print(f"Mean squared errors {mean(g_error):.2g} of g(r) and {mean(angles_error):.2g} of angles")
    return 0


if __name__ == "__main__":
    sys.exit(main())
