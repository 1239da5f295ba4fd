"""What GROMACS's XTC, TRR and GRO have in common: nm and ps, boxes whose first vector is along x, and no elements."""

from collections.abc import Iterable

import numpy as np

from .._topology import Topology
from ._cell import lengths_and_angles
from ._frames import Frames, Request

_HEADER = np.dtype([("at", "i8"), ("size", "i8"), ("cell", "i8"), ("step", "i8"), ("time", "f8"), ("boxed", "?")])


def require_topology(request: Request) -> Topology:
    """What the atoms are, which these files do not say: a CA is calcium, or a carbon."""
    if request.topology is None:
        raise ValueError("It does not say what its atoms are: give `topology`, such as `rv.io.read('start.pdb')[0]`.")
    return request.topology


def require_num_atoms(found: int, topology: Topology) -> None:
    """Refused where the file has other atoms."""
    if found != topology.num_atoms:
        raise ValueError(f"It has {found} atoms, `topology` has {topology.num_atoms}.")


def headers_of(found: Iterable[tuple[int, int, int, int, float, bool]]) -> np.ndarray:
    """Of every frame: where what is read begins, in how many bytes, where its box is, its step, its time, and whether
    there is a box. In few bytes, for trajectories of millions of frames."""
    headers = np.fromiter(found, _HEADER)
    if len(headers) == 0:
        raise ValueError("It has no frames.")
    boxed = headers["boxed"]
    if np.any(boxed != boxed[0]):  # programs without a box write zeros
        raise ValueError(
            f"Frame {np.argmax(boxed)} has a box and frame {np.argmin(boxed)} has not; wanted the same in all frames."
        )
    return headers


def vectors_at(data: np.ndarray, headers: np.ndarray, width: int) -> np.ndarray | None:
    """The boxes of some frames, of numbers of so many bytes."""
    if not headers["boxed"][0]:
        return None
    return np.array([block(data, at, width, 3, 3) for at in headers["cell"].tolist()], float)


def block(data: np.ndarray, at: int, width: int, *shape: int) -> np.ndarray:
    """Numbers in big-endian order among bytes."""
    return data[at : at + int(np.prod(shape)) * width].view(f">f{width}").reshape(shape)


def times_of(headers: np.ndarray, width: int) -> np.ndarray:
    """In double precision: single ones are rounded to 1 fs after 16 ns, but the numbers of steps beside them are exact.

    Where all times are those of equal steps, but for rounding, these are returned, and else what is in the file: also
    where steps are 0, 1, 2, …, which many programs write whatever frames they leave out.
    """
    times, steps = headers["time"], headers["step"].astype(float)
    if width == 8 or len(times) < 2 or steps[-1] == steps[0] or np.all(np.diff(steps) == 1):
        return times
    with np.errstate(all="ignore"):  # of damaged times, which are refused later
        exact = times[0] + (steps - steps[0]) * ((times[-1] - times[0]) / (steps[-1] - steps[0]))
        same = np.all(abs(exact - times) <= 2 * np.spacing(np.max(abs(times)).astype(np.float32)))
    return exact if same else times


def times_to_write(frames: Frames, count: int, width: int) -> np.ndarray:
    """Of frames, so many of which have been written before; refused where there are several without, or where numbers
    of so many bytes would not tell them apart."""
    if frames.times is None:
        if count + len(frames.positions) > 1:
            raise ValueError(
                "This format has times and these frames have none; wanted `rv.Trajectory(times, states, final)`, or"
                " `.dcd`, `.extxyz` or `.h5`."
            )
        return np.zeros(1)
    times = np.asarray(frames.times, float)
    rounding = np.max(abs(times.astype(f"f{width}") - times))
    if rounding > 0.01 * np.min(abs(np.diff(times)), initial=np.inf):
        raise ValueError(
            f"Single precision would round these times by {rounding:.1g} ps; wanted `.h5`, `.extxyz` or `.trr` of"
            " positions in double precision, or times from zero on."
        )
    return times


def boxes_to_write(frames: Frames) -> np.ndarray:
    """The vectors of every frame, zeros where there is no box. Refused unless they lie as GROMACS wants them."""
    if frames.vectors is None:
        return np.zeros((len(frames.positions), 3, 3))
    lengths_and_angles(frames.vectors)
    return frames.vectors
