"""Liquid water: its force field and what of it is fitted, where a simulation starts, and how spectra are measured."""

import dataclasses
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import reverlet as rv

from ._chains import Chains
from ._errors import BadInput

FIELDS = {"charge": "charge", "sigma": "sigma", "bond": "stiffness", "angle": "angle_stiffness"}
"""What is fitted, and which field of a `rv.WaterModel` it is."""
NAMES = tuple(FIELDS)


def by_name(model: rv.WaterModel) -> dict[str, Array]:
    """What is fitted, of a model or its gradient."""
    return {name: getattr(model, field) for name, field in FIELDS.items()}


def with_values(model: rv.WaterModel, values: dict[str, Any]) -> rv.WaterModel:
    """The model with other numbers for what is named."""
    return dataclasses.replace(model, **{FIELDS[name]: value for name, value in values.items()})


def cutoff_in(box: rv.AbstractBox) -> float:
    """0.9 nm, or what fits the box."""
    return min(0.9, 0.4999 * float(jnp.min(box.heights)))


def packed(num: int, density: float, key: PRNGKeyArray) -> rv.State:
    """So many molecules packed into a cube at the density (g/cm³), and relaxed."""
    molecule = rv.Topology.from_elements(["O", "H", "H"], bonds=[(0, 1), (0, 2)])
    half = np.radians(112 / 2)
    shape = 0.1 * jnp.array([[0, 0, 0], [np.sin(half), np.cos(half), 0], [-np.sin(half), np.cos(half), 0]], float)
    _, state = rv.pack(molecule, shape, num, density=density * rv.units.GRAM_PER_CUBIC_CENTIMETER, key=key)
    system = rv.qspcfw(num, state.box, cutoff=cutoff_in(state.box))
    return rv.minimize(system, state, max_steps=1000).state


def read_structure(path: Path) -> rv.State:
    """The first configuration of a file, which has to be of water."""
    topology, state = rv.io.read_structure(path)
    if topology.elements != ("O", "H", "H") * (len(topology.elements) // 3):
        raise BadInput(
            f"The structure file {path} has atoms {', '.join(topology.elements[:6])}, ...; wanted molecules of water,"
            " each as O, H, H."
        )
    return state


def spectral_loss(spectrum: rv.InfraredSpectrum, target: np.ndarray) -> rv.SquaredDistance:
    """How far a spectrum is from a target: Σ (I - I*)² / Σ I*², over the wavenumbers, without the bias of noise.

    The noise of a mean over trajectories grows with the intensity: its square would draw charges to zero.
    """
    scale = np.sqrt(np.sum(np.asarray(target, float) ** 2))
    dtype = spectrum.wavenumbers.dtype
    return rv.SquaredDistance(spectrum, jnp.asarray(target, dtype), jnp.asarray(scale, dtype))


def spectra_of(
    spectrum: rv.AbstractObservable,
    times: Float[Array, " frames"],
    records: Float[Array, "samples frames ..."],
    ensemble: rv.AbstractEnsemble | None,
) -> Float[Array, "samples ..."]:
    """The spectrum, or another observable, of each trajectory alone."""
    return jax.vmap(lambda r: spectrum.reduce(times, r[None], jnp.ones(1, r.dtype), ensemble))(records)


@dataclasses.dataclass(frozen=True)
class Grids:
    """What is recorded and at which points.

    **Arguments:** time steps between two frames; where spectra end and the `spacing` of their points (1/cm); the
    lengths of correlation functions (ps): in the loss `correlation`, in evaluations `validation`, and of the `check`.
    """

    save_every: int
    highest: float
    spacing: float
    correlation: float
    validation: float
    check: tuple[float, ...]


class Water:
    """How a run samples its liquid in a `box` and measures spectra.

    **Arguments:** `accuracy` of the forces of the charges.
    """

    def __init__(self, sampling: Chains, box: rv.AbstractBox, grids: Grids, accuracy: float = 1e-4):
        self.sampling = sampling
        self.box, self.cutoff, self.accuracy = box, cutoff_in(box), accuracy
        self.target = rv.WaterModel.qspcfw()
        self.grids = grids
        self.low = self.spectrum(rv.spectra.CutoffWindow(grids.correlation), grids.correlation)
        gaussian = rv.spectra.GaussianWindow(grids.validation / 3)  # pyright: ignore[reportCallIssue]
        self.full = self.spectrum(gaussian, grids.validation)
        self.cut = [self.spectrum(rv.spectra.CutoffWindow(t), t) for t in grids.check]
        self.dynamics = self.trajectories(grids.correlation, sampling.mesh)
        self.long = self._dynamics(2 * grids.validation, sampling.mesh)

    def system(self, model: rv.WaterModel) -> rv.System:
        """The liquid of this model."""
        return model.bind(self.sampling.topology, self.box, cutoff=self.cutoff, accuracy=self.accuracy)

    def frames(self, duration: float) -> int:
        """How many frames are so many ps."""
        return round(duration / self.sampling.dt / self.grids.save_every)

    def trajectories(self, length: float, mesh: jax.sharding.Mesh | None = None) -> rv.Dynamics:
        """As long as `length` (ps) into each direction of time."""
        return dataclasses.replace(self._dynamics(length, mesh), both_directions=True)

    def _dynamics(self, length: float, mesh: jax.sharding.Mesh | None) -> rv.Dynamics:
        steps = self.frames(length) * self.grids.save_every
        return rv.Dynamics(self.sampling.dt, steps, self.grids.save_every, mesh=mesh)

    def spectrum(self, window: rv.spectra.AbstractWindow, length: float) -> rv.InfraredSpectrum:
        """With correlation functions that end at `length` (ps)."""
        g = self.grids
        wavenumbers = np.arange(0, g.highest * (1 + 1e-9), g.spacing)
        lags = self.frames(length) + 1
        return rv.InfraredSpectrum(wavenumbers, window, dipole=rv.PointCharges.of, num_lags=lags)

    def evaluate(
        self, model: rv.WaterModel, chains: rv.State, samples: int, key: PRNGKeyArray, label: str
    ) -> dict[str, np.ndarray]:
        """Spectra of at least `samples` trajectories, without derivatives of theirs.

        **Returns:** arrays that lead with rounds and chains: `low` and `full` spectra (1/cm) and `temperature` (K), and
        `check`, the spectra cut at the times of the check; and `wavenumbers` (1/cm).
        """
        measure = lambda system, drawn: _measure([self.low, self.full, *self.cut], system, drawn, self.long)
        measured = self.sampling.measure(self.system(model).potential, chains, samples, key, label, measure)
        (low, full, *check), temperature = measured
        wavenumbers = np.asarray(self.low.wavenumbers)
        cut = {"check": np.stack([s.mean((0, 1)) for s in check])} if check else {}
        return {"low": low, "full": full, "temperature": temperature, "wavenumbers": wavenumbers, **cut}


@eqx.filter_jit
def _measure(spectra, system, samples, dynamics):
    estimate = rv.expectation(rv.Joint((spectra[0], rv.Temperature())), system, samples, dynamics=dynamics)
    records, temperature = estimate.records
    return [spectra_of(s, estimate.times, records, samples.ensemble) for s in spectra], jnp.mean(temperature, axis=1)
