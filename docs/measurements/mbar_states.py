"""How long MBAR's equations take for many states: `python docs/measurements/mbar_states.py [states] [samples]`.

Harmonic wells along a line, whose free energies are known. Prints the time, the processor time, the largest error and
the memory of the whole process.
"""

import resource
import sys
import time

import numpy as np

from reverlet._mbar import solve


def main(states=100, samples=1000):
    rng = np.random.default_rng(0)
    centers, stiffness = np.linspace(0, 0.3 * states, states), np.linspace(1, 2, states)
    x = np.repeat(centers, samples) + rng.normal(size=states * samples) / np.sqrt(np.repeat(stiffness, samples))
    u = 0.5 * stiffness * (x[:, None] - centers) ** 2
    wall, processor = time.perf_counter(), time.process_time()
    f = solve(u, np.full(states, samples))
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    worst = np.max(np.abs(f - 0.5 * np.log(stiffness / stiffness[0])))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told = f"{states} states of {samples} samples: {wall:.1f} s, {processor:.1f} s of processor time, {memory:.0f} MB;"
    sys.stdout.write(f"{told} largest error of a free energy {worst:.3f}\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
