"""Lattices, by their nearest neighbors and their density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reverlet as rv


@pytest.mark.parametrize(
    ("lattice", "in_cell", "neighbors", "distance"),
    [
        (rv.lattices.simple_cubic, 1, 6, 1),
        (rv.lattices.bcc, 2, 8, np.sqrt(3) / 2),
        (rv.fcc, 4, 12, np.sqrt(2) / 2),
        (rv.lattices.diamond, 8, 4, np.sqrt(3) / 4),
    ],
)
def test_nearest_neighbors_and_density(lattice, in_cell, neighbors, distance):
    topology, state = lattice("Ar", (3, 4, 3), density=800.0)
    assert topology.num_atoms == 36 * in_cell
    np.testing.assert_allclose(np.sum(topology.masses) / state.box.volume, 800.0, rtol=1e-6)
    x, lengths = np.asarray(state.positions), np.asarray(state.box.lengths)
    away = x[1:] - x[0]
    r = np.linalg.norm(away - lengths * np.round(away / lengths), axis=1)
    np.testing.assert_allclose(np.sort(r)[:neighbors], distance * lengths[0] / 3, rtol=1e-6)
    assert np.sum(r < 1.01 * np.min(r)) == neighbors
    again = lattice("Ar", (3, 4, 3), spacing=lengths[0] / 3)[1]
    np.testing.assert_allclose(again.positions, x, rtol=1e-6, atol=1e-6)


def test_density_is_differentiated():
    volume = lambda density: rv.fcc("Ar", 2, density=density)[1].box.volume
    np.testing.assert_allclose(jax.grad(volume)(1000.0), -volume(1000.0) / 1000.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "`density` is None and `spacing` is None; wanted exactly one"),
        ({"density": 800.0, "spacing": 0.5}, "wanted exactly one of them, in u/nm³ or in nm"),
        ({"cells": (2, 2), "spacing": 0.5}, r"`cells` is \(2, 2\); wanted one number, or three"),
        ({"element": "Xx", "spacing": 0.5}, "Xx"),
        ({"spacing": jnp.ones(3)}, "`spacing` is"),
    ],
)
def test_what_is_no_lattice(options, match):
    with pytest.raises((TypeError, ValueError), match=match):
        rv.fcc(**{"element": "Ar", "cells": 2, **options})
