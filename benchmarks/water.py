"""What a spectral gradient costs: 64 flexible waters with Ewald's sum, one trajectory, its current at every step.

`python -m benchmarks water` measures, in float32 and float64: milliseconds per step forward and of value-and-gradient
(with respect to charge, σ and the stiffness of bonds and angles) with the reversible adjoint, their ratio, gradient
steps per second, and how much longer Diffrax's recursive checkpointing takes. Medians of several runs in turns.
"""

import argparse
import statistics
from pathlib import Path

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp

import reverlet as rv

from . import _common

MOLECULES, LENGTH, DT = 64, 1.2385, 0.0005


def water(dtype: jnp.dtype) -> tuple[rv.System, rv.State]:
    """64 waters of q-SPC/Fw at 1.008 g/cm³, packed, relaxed and shortly melted."""
    box = rv.OrthorhombicBox(jnp.full(3, LENGTH, dtype))
    system = rv.qspcfw(MOLECULES, box, truncation=rv.SmoothSwitch(0.52)).astype(dtype)
    molecule = rv.Topology.from_elements(["O", "H", "H"], molecules=[0, 0, 0], bonds=[(0, 1), (0, 2)])
    shape = jnp.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [-0.0375, 0.0927, 0.0]], dtype)
    _, packed = rv.pack(molecule, shape, MOLECULES, box=box, key=jax.random.key(0))
    start = rv.minimize(system, packed).state
    sampler = rv.LangevinBAOAB(298.15, 5.0, dt=DT, num_steps=2000)
    return system, jax.tree.map(
        lambda x: x[0], sampler.sample(system, start.repeat(1), 1, key=jax.random.key(1))[1].states
    )


def fitted(potential: rv.Sum) -> tuple:
    """The parameters that the experiment `water_ir` fits."""
    return (
        potential.part(rv.Ewald).charges.charges,
        potential.part(rv.Among).potential.sigma,
        potential.part(rv.HarmonicBond).stiffness,
        potential.part(rv.HarmonicAngle).stiffness,
    )


def correlation(system: rv.System, state: rv.State, adjoint: diffrax.AbstractAdjoint, num_steps: int):
    """The sum over all lags of the autocorrelation of the current, as a function of the parameters."""
    spectrum = rv.InfraredSpectrum(jnp.array([0.0, 1.0]), rv.spectra.CutoffWindow(1e-3), dipole=rv.PointCharges.of)

    def function(parameters):
        changed = eqx.tree_at(lambda s: fitted(s.potential), system, parameters)
        trajectory = rv.nve(
            changed, state, dt=DT, num_steps=num_steps, record=spectrum.record, adjoint=adjoint, throw=False
        )
        return jnp.sum(rv.statistics.correlation_all_origins(trajectory.records, trajectory.records, num_steps // 2))

    return function


def measure(dtype: str, steps: int, repeats: int) -> dict:
    with jax.enable_x64(dtype == "float64"):
        system, state = water(jnp.dtype(dtype))
        parameters = fitted(system.potential)
        reversible = correlation(system, state, rv.ReversibleAdjoint(), steps)
        checkpointed = correlation(system, state, diffrax.RecursiveCheckpointAdjoint(), steps)
        programs = [
            jax.jit(f).lower(parameters).compile()
            for f in (reversible, jax.value_and_grad(reversible), jax.value_and_grad(checkpointed))
        ]
        for program in programs:
            program(parameters)
        times = [[_common.seconds(lambda p=p: p(parameters)) for p in programs] for _ in range(repeats)]
    forward, gradient, checkpoint = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "dtype": dtype,
        "waves": system.potential.part(rv.Ewald).waves,
        "forward_ms_per_step": forward / steps * 1e3,
        "gradient_ms_per_step": gradient / steps * 1e3,
        "ratio": statistics.median(b / a for a, b, _ in times),
        "gradient_steps_per_s": steps / gradient,
        "checkpointing_over_reversible": statistics.median(c / b for _, b, c in times),
        "temporary_MB": programs[1].memory_analysis().temp_size_in_bytes / 1e6,
        "checkpointing_temporary_MB": programs[2].memory_analysis().temp_size_in_bytes / 1e6,
        "checkpointing_ms_per_step": checkpoint / steps * 1e3,
    }


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks water", description=__doc__)
    parser.add_argument("--dtype", choices=["float32", "float64"], help="one precision instead of both")
    parser.add_argument("--steps", type=int, default=400, help="length of the trajectories")
    parser.add_argument("--repeats", type=int, default=7, help="how many runs the medians are of")
    parser.add_argument("--out", type=Path, default=Path("results/water.json"), help="JSON file to write")
    args = parser.parse_args(argv)
    rows = [measure(d, args.steps, args.repeats) for d in ([args.dtype] if args.dtype else ["float32", "float64"])]
    _common.write(args.out, {"repeats": args.repeats, "steps": args.steps, "rows": rows})
    print("| dtype | forward, ms/step | value and gradient, ms/step | ratio | gradient steps/s | checkpointing takes |")
    print("|---|---|---|---|---|---|")
    for r in rows:
        print(
            f"| {r['dtype']} | {r['forward_ms_per_step']:.3f} | {r['gradient_ms_per_step']:.3f} | {r['ratio']:.2f} |"
            f" {r['gradient_steps_per_s']:.0f} | {r['checkpointing_over_reversible']:.2f} times as long |"
        )
    print(f"Medians of {args.repeats} runs.")
