"""Boxes as PDB and DCD have them: three lengths and three angles, which fix the shape of a box and not how it lies."""

import numpy as np

_STANDARD = "the first vector along x and the second in the xy plane; extxyz and HDF5 hold any box"


def lengths_and_angles(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths (nm) and angles (degrees, between the second and third, first and third, first and second vector).

    Refused unless the box lies as `vectors_of` would lay it: the positions would not fit the box anymore.
    """
    vectors = np.asarray(vectors, float)
    lengths = np.linalg.norm(vectors, axis=-1)
    above = np.abs(vectors[..., (0, 0, 1), (1, 2, 2)])
    if np.any(above > 1e-6 * np.max(lengths)) or np.any(vectors[..., range(3), range(3)] <= 0):
        raise ValueError(
            f"A box\n{vectors.reshape(-1, 3, 3)[0]}\ncannot be written in this format; wanted {_STANDARD}."
        )
    cosines = [
        np.sum(vectors[..., i, :] * vectors[..., j, :], axis=-1) / (lengths[..., i] * lengths[..., j])
        for i, j in ((1, 2), (0, 2), (0, 1))
    ]
    return lengths, np.degrees(np.arccos(np.stack(cosines, axis=-1)))


def vectors_of(lengths: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """The lattice vectors (nm) as rows, the first along x and the second in the xy plane."""
    lengths, angles = np.asarray(lengths, float), np.asarray(angles, float)
    # cos 90° is 6e-17, which would be a triclinic box
    alpha, beta, gamma = np.moveaxis(np.where(angles == 90, 0, np.cos(np.radians(angles))), -1, 0)
    sine = np.sqrt(1 - gamma**2)
    with np.errstate(all="ignore"):  # what comes out is judged below
        y = (alpha - beta * gamma) / sine
        unit = np.zeros((*lengths.shape, 3))
        unit[..., 0, 0] = 1
        unit[..., 1, :2] = np.stack([gamma, sine], -1)
        unit[..., 2, :] = np.stack([beta, y, np.sqrt(1 - beta**2 - y**2)], -1)
    inside = (lengths > 0) & np.isfinite(lengths) & (angles > 0) & (angles < 180)
    if not (np.all(inside) and np.all(np.isfinite(unit))):
        bad = np.flatnonzero(~(np.all(inside, -1) & np.all(np.isfinite(unit), (-2, -1))).reshape(-1))[0]
        raise ValueError(
            f"Edges {lengths.reshape(-1, 3)[bad]} nm with angles {angles.reshape(-1, 3)[bad]} degrees make no box."
        )
    return lengths[..., None] * unit
