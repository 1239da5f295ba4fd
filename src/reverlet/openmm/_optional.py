"""The optional package, and what its numbers are in our units."""

from typing import Any

NO_CUTOFF = 1e6
"""A cutoff (nm) that no cluster reaches, and whose square is a number in float32."""


def require_openmm() -> Any:
    """The module `openmm`.

    **Errors:** `ImportError` where it is not installed.
    """
    try:
        import openmm
        import openmm.app
    except ImportError as error:
        raise ImportError(
            "This needs the package `openmm`, which is not installed; wanted `pip install openmm`."
        ) from error
    return openmm


def number(quantity: Any) -> Any:
    """A number of OpenMM in nm, ps, u, kJ/mol, e and K, which are its own units too."""
    return quantity.value_in_unit_system(require_openmm().unit.md_unit_system)
