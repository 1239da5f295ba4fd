"""A driver for i-PI: it asks by a socket, and this answers."""

import json
import socket
import time
from pathlib import Path

import numpy as np

from .. import units
from .._misc import require_constant, require_flag, require_instance, require_positive
from .._system import System
from ._card import ModelCard
from ._hosted import Hosted

_HEADER = 12
"""Bytes of a message's name."""
_MOST_TEXT = 2**20
"""Bytes of the text that i-PI begins with."""


def ipi_driver(
    system: System,
    address: str | Path | tuple[str, int],
    *,
    periodic: bool = True,
    patience: float = 60.0,
    card: ModelCard = ModelCard(),
    card_beside: str | Path | None = None,
) -> int:
    """Serves energies, forces and virials to i-PI until i-PI ends; returns how many it served.

    Where the system has a dipole, its moment comes with them, as `{"dipole": [x, y, z]}` in atomic units (e a₀) in the
    text of the extras, which `<trajectory extra_type="dipole">` of i-PI writes; `<ffsocket pbc="false">`, since atoms
    that are wrapped into the box one by one have another dipole. i-PI sends no elements: the order of the atoms in its
    file must be that of the topology. Several drivers may serve one i-PI.

    **Arguments:** `address`: the path of a Unix socket (for `<address>water</address>` of i-PI `/tmp/ipi_water`), or
    the host and port of another; `periodic`, whether the box that i-PI has is meant; `patience`, how long to wait for
    i-PI to open its socket, s; `card`, which is written as `<card_beside>.card.json` if that is given.

    **Errors:** `ConnectionError` where nobody answers or the connection ends in the middle of a message or before it is
    told to; `ValueError` for messages that are not i-PI's, another number of atoms, and boxes too small or too skewed;
    `SimulationError` where the energy is not finite.

    **Reference:** M. Ceriotti, J. More and D. E. Manolopoulos, Comput. Phys. Commun. 185, 1019 (2014).
    """
    require_flag("periodic", periodic)
    require_constant("patience", patience)
    require_positive("patience", patience, "s", zero=True)
    require_instance("card", card, ModelCard)
    hosted = Hosted(system)
    if card_beside is not None:
        card.write(card_beside, system, export="served to i-PI")
    with _connected(address, patience) as connection:
        return _Conversation(connection, hosted, periodic).run()


def _connected(address, patience) -> socket.socket:
    if isinstance(address, tuple):
        family, where = socket.AF_INET, address
    elif isinstance(address, str | Path):
        family, where = socket.AF_UNIX, str(address)
    else:
        raise TypeError(f"`address` is {address!r}; wanted the path of a Unix socket, or a host and a port.")
    end = time.monotonic() + patience
    while True:
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.connect(where)
            return connection
        except OSError as error:
            connection.close()
            if time.monotonic() >= end:
                raise ConnectionError(
                    f"Nobody answers at {address} ({error}); wanted an i-PI with an `<ffsocket>` of this address:"
                    " `/tmp/ipi_NAME` for a Unix socket, or a host and its port."
                ) from error
            time.sleep(0.05)


class _Conversation:
    def __init__(self, connection: socket.socket, hosted: Hosted, periodic: bool):
        self._connection, self._hosted, self._periodic = connection, hosted, periodic
        self._num_atoms = hosted.system.topology.num_atoms
        self._answer: bytes | None = None
        self._count = 0

    def run(self) -> int:
        while True:
            header = self._receive(_HEADER, "a message").strip()
            if header == b"STATUS":
                self._send("READY" if self._answer is None else "HAVEDATA")
            elif header == b"INIT":
                self._number("the number of a bead")
                size = self._number("the size of a text")
                if not 0 <= size <= _MOST_TEXT:
                    raise ValueError(f"i-PI's INIT announces {size} bytes; wanted at most {_MOST_TEXT}.")
                if b"batch_size" in self._receive(size, "a text"):
                    raise ValueError("i-PI asks for batches; wanted an `<ffsocket>` with `batch_size` 1.")
            elif header == b"POSDATA":
                self._answer = self._evaluate()
            elif header == b"GETFORCE":
                if self._answer is None:
                    raise ValueError("i-PI asks for forces before it has sent positions; wanted POSDATA first.")
                self._send("FORCEREADY", self._answer)
                self._answer, self._count = None, self._count + 1
            elif header == b"EXIT":
                return self._count
            else:
                raise ValueError(
                    f"The server sent the header {header!r}; wanted STATUS, INIT, POSDATA, GETFORCE or EXIT, as i-PI"
                    " does. Something else may listen at this address."
                )

    def _evaluate(self) -> bytes:
        cell = self._floats(9, "a cell").reshape(3, 3)
        self._floats(9, "an inverse cell")
        num = self._number("a number of atoms")
        if num != self._num_atoms:
            raise ValueError(f"i-PI has {num} atoms; wanted the {self._num_atoms} of the system's topology.")
        positions = self._floats(3 * num, "positions").reshape(-1, 3) * units.BOHR
        vectors = cell.T * units.BOHR if self._periodic else None  # i-PI has them as columns
        has_dipole = self._hosted.system.dipole is not None
        out = self._hosted(positions, vectors, stress=self._periodic, dipole=has_dipole)
        virial = np.zeros((3, 3))
        if out.stress is not None and vectors is not None:
            virial = -np.asarray(out.stress, float) * abs(np.linalg.det(vectors)) / units.HARTREE
        forces = np.asarray(out.forces, float) * (units.BOHR / units.HARTREE)
        extras = b""
        if out.dipole is not None:
            extras = json.dumps({"dipole": (np.asarray(out.dipole, float) / units.BOHR).tolist()}).encode()
        return b"".join(
            (
                np.float64(float(out.energy) / units.HARTREE).tobytes(),
                np.int32(num).tobytes(),
                forces.tobytes(),
                virial.T.tobytes(),
                np.int32(len(extras)).tobytes(),
                extras,
            )
        )

    def _send(self, header: str, data: bytes = b"") -> None:
        try:
            self._connection.sendall(header.ljust(_HEADER).encode() + data)
        except OSError as error:
            raise self._lost(f"{header} was sent") from error

    def _receive(self, size: int, what: str) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                part = self._connection.recv(min(size - len(data), 2**20))
            except OSError as error:
                raise self._lost(f"{what} was due") from error
            if not part:
                raise self._lost(f"{what} was due, of whose {size} bytes {len(data)} came")
            data += part
        return bytes(data)

    def _floats(self, count: int, what: str) -> np.ndarray:
        return np.frombuffer(self._receive(8 * count, what), np.float64)

    def _number(self, what: str) -> int:
        return int(np.frombuffer(self._receive(4, what), np.int32)[0])

    def _lost(self, when: str) -> ConnectionError:
        return ConnectionError(
            f"The connection to i-PI ended after {self._count} evaluations, when {when}; wanted an EXIT first. What"
            " i-PI has written last says why it stopped."
        )
