"""Free energies, and properties of two phases, each sampled by itself."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .._ensemble import NPT, AbstractEnsemble, require_ensemble
from .._fields import Parameter, checked, finite
from .._misc import is_concrete
from .._statistics import weighted_mean
from .._system import System
from ._base import AbstractObservable
from ._fluctuations import reduced_energies
from ._phases import AbstractPhaseDifference
from ._thermodynamics import num_molecules


class _MolarEnergy(AbstractObservable):
    """The potential energy per molecule, kJ/mol; with pV of the ensemble where it has constant pressure."""

    volume: bool = eqx.field(static=True)

    def record(self, system, state, initial):
        del initial
        energy = system.potential_energy(state.positions, state.box)
        return energy, state.box, num_molecules(system.topology, energy.dtype)

    def reduce(self, times, records, weights, ensemble=None):
        del times
        energies, box, molecules = records
        if self.volume and isinstance(ensemble, NPT):
            energies = ensemble.thermal_energy(energies) * reduced_energies(ensemble, energies, box)
        return weighted_mean(weights, jnp.mean(energies / molecules, axis=1))


class HeatOfVaporization(AbstractPhaseDifference):
    """What it takes to make an ideal gas of a liquid, kJ per mole of molecules.

        ΔH = U_gas/N_gas + kT - (U_liquid + pV)/N_liquid + correction

    with potential energies: the kinetic ones are the same in both. The gas is one molecule alone, or several that do
    not see one another: samples of it in an open box (`rv.NVT`) have all that is needed. At constant volume pV of the
    liquid is left out, which for water at 1 bar is 0.002 kJ/mol.

    **Arguments:** `gas`, the name of the state point of the gas, at the same temperature; `correction`, kJ/mol, what
    is added for what the model does not have: polarization, vibrations of quantum mechanics, a gas that is not ideal.

    **Errors:** `ValueError`, of `combine`, for two temperatures that differ.
    """

    gas: str = eqx.field(static=True, kw_only=True)
    correction: Parameter = checked(finite("kJ/mol"), default=0.0, kw_only=True)

    @property
    def other(self) -> str:
        return self.gas

    @property
    def observables(self):
        return _MolarEnergy(True), _MolarEnergy(False)

    def combine(self, here, there, ensemble_here, ensemble_there):
        _require_one_temperature("HeatOfVaporization", ensemble_here, ensemble_there)
        return there - here + ensemble_here.thermal_energy(here) + self.correction.astype(here.dtype)


class FreeEnergyDifference(AbstractObservable):
    """F_B - F_A of an end B and of what is measured, A: -kT ln⟨exp(-(u_B - u_A))⟩, kJ/mol, of the whole system.

    B differs in the potential, its parameters, the temperature or the pressure, and has the same atoms; u is the
    reduced energy, so that at constant pressure it is the Gibbs energy. For two temperatures it is kT of A times the
    difference of F/kT, configurations only: velocities add -3/2 N ln(T_B/T_A) to that.

    Samples of A alone must have what matters to B: give those of many states between, as one pool of `rv.mbar`. The
    formula is MBAR's own estimate then, and its error contains that of all free energies. Its derivative is
    ⟨∂U/∂θ⟩_B of the parameters of B, and minus ⟨∂U/∂θ⟩_A of those of A.

    Between phases without overlap, such as a crystal and a liquid, no weights lead. Go from each to something that is
    known, through states between, λ U_known + (1-λ) U: from a crystal to an Einstein crystal, from a liquid to a gas.
    Once that is known for one set of parameters, `PhaseFreeEnergyDifference` has it for others.

    **Arguments:** `system`, that of B, by default the one measured; `ensemble`, that of B, by default the one asked
    for.

    **Errors:** `ValueError` where B is what is measured, and, of `reduce`, without an ensemble or for ensembles over
    other variables.

    **Reference:** as for `expectation`.
    """

    unit = "kJ/mol"

    system: System | None = None
    ensemble: AbstractEnsemble | None = None

    def __check_init__(self):
        if self.system is None and self.ensemble is None:
            raise ValueError("`FreeEnergyDifference` got neither `system` nor `ensemble`; wanted what is to differ.")

    def record(self, system, state, initial):
        del initial
        here = system.potential_energy(state.positions, state.box)
        there = here if self.system is None else self.system.potential_energy(state.positions, state.box)
        return here, there, state.box

    def reduce(self, times, records, weights, ensemble=None):
        del times
        ensemble = require_ensemble(ensemble, "FreeEnergyDifference")
        other = ensemble if self.ensemble is None else self.ensemble
        if type(other) is not type(ensemble):
            raise ValueError(
                f"`FreeEnergyDifference` is from {type(ensemble).__name__} to {type(other).__name__}, whose densities"
                " are over other variables; wanted one kind of ensemble."
            )
        here, there, box = records
        away = reduced_energies(other, there, box) - reduced_energies(ensemble, here, box)
        shares = jnp.broadcast_to((weights / jnp.sum(weights))[:, None] / away.shape[1], away.shape)
        return -ensemble.thermal_energy(away) * jax.scipy.special.logsumexp(-away, b=shares)


class PhaseFreeEnergyDifference(AbstractPhaseDifference):
    """μ_there - μ_here of two phases, kJ per mole of molecules, as it changes with parameters and ensembles.

        Δμ(θ) = Δμ(θ₀) + [F(θ) - F(θ₀)]_there/N_there - [F(θ) - F(θ₀)]_here/N_here

    Each phase is reweighted from its own samples, none to the other one, and the derivative is
    ⟨∂U/∂θ⟩_there/N_there - ⟨∂U/∂θ⟩_here/N_here. Where Δμ is zero, the phases are in equilibrium: with that as a target,
    a model is fitted to a melting point. Δμ(θ₀) takes a path to what is known: see `FreeEnergyDifference`.

    **Arguments:** `other`, the name of the state point there; `here` and `there`, the systems with θ₀; `reference`,
    Δμ(θ₀) at the same temperature and pressure; by default zero, which leaves the value without meaning and the
    derivative what it is.
    """

    other: str = eqx.field(static=True)
    here: System
    there: System
    reference: Parameter = checked(finite("kJ/mol"), default=0.0)

    @property
    def observables(self):
        return _MolarFreeEnergy(self.here), _MolarFreeEnergy(self.there)

    def combine(self, here, there, ensemble_here, ensemble_there):
        _require_one_temperature("PhaseFreeEnergyDifference", ensemble_here, ensemble_there)
        return self.reference.astype(here.dtype) + there - here


class _MolarFreeEnergy(AbstractObservable):
    """F(θ) - F(θ₀) per molecule, kJ/mol, of θ as measured."""

    reference: System

    @property
    def difference(self) -> FreeEnergyDifference:
        return FreeEnergyDifference(self.reference)

    def record(self, system, state, initial):
        records = self.difference.record(system, state, initial)
        return records, num_molecules(system.topology, records[0].dtype)

    def reduce(self, times, records, weights, ensemble=None):
        return -self.difference.reduce(times, records[0], weights, ensemble) / records[1][0, 0]


def _require_one_temperature(name: str, here: AbstractEnsemble, there: AbstractEnsemble) -> None:
    a, b = here.temperature, there.temperature
    if is_concrete((a, b)) and abs(float(a) - float(b)) > 1e-5 * float(a):
        raise ValueError(f"`{name}` got phases at {float(a):g} K and {float(b):g} K; wanted one temperature.")
