import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import BOXES, SEEDS, SKEWED, few
from hypothesis import given, strategies as st

import reverlet as rv

PERIODIC = [name for name in BOXES if name != "open"]
CELLS = np.array(list(itertools.product(range(-2, 3), repeat=3)))  # 125: more than the library looks at
# Positions are a few nm, so 1e-12 nm is some thousand roundings in float64.
TIGHT = 1e-12

displacement = jax.jit(jax.vmap(lambda box, a, b: box.displacement(a, b), (None, 0, 0)))
wrap = jax.jit(jax.vmap(lambda box, x: box.wrap(x), (None, 0)))
images = jax.jit(lambda box, d: jnp.stack(box.minimum_image(*d.T), axis=1))


def points(seed, scale=1.0, n=64):
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=(n, 3)))


@pytest.mark.parametrize("name", BOXES)
@given(seed=SEEDS, scale=st.sampled_from([0.3, 1.0, 10.0]))
@few
def test_wrap_is_idempotent_and_an_image(name, seed, scale):
    box, x = BOXES[name], points(seed, scale)
    wrapped = wrap(box, x)
    np.testing.assert_allclose(wrap(box, wrapped), wrapped, atol=TIGHT)
    assert np.max(np.abs(displacement(box, x, wrapped))) < (TIGHT if name != "open" else 1e-300)
    if name != "open":
        fractional = np.asarray(wrapped) @ np.linalg.inv(box.vectors)
        assert fractional.min() >= -1e-14  # rounding of the fractional coordinates
        assert fractional.max() < 1


@pytest.mark.parametrize("name", PERIODIC)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_wrap_at_the_edges(name, dtype):
    box = BOXES[name].astype(dtype)
    tiny = np.finfo(dtype).tiny
    fractional = np.array([[0, 0, 0], [1, 1, 1], [-1, 2, 0], [1e-3, 0, 1]])
    edges = jnp.asarray(fractional @ np.asarray(box.vectors, float), dtype)
    x = jnp.concatenate([edges, jnp.array([[-tiny, 0, 0], [0, -1e-12, -1e-30]], dtype)])
    wrapped = wrap(box, x)
    assert wrapped.dtype == dtype
    back = np.asarray(wrapped, float) @ np.linalg.inv(np.asarray(box.vectors, float))
    eps = np.finfo(dtype).eps
    assert back.max() < 1
    assert back.min() >= -8 * eps  # rounding of the matrix product
    np.testing.assert_allclose(wrap(box, wrapped), wrapped, atol=16 * eps)


@pytest.mark.parametrize("name", BOXES)
@given(seed=SEEDS, scale=st.sampled_from([0.3, 1.0, 5.0]))
@few
def test_displacement_is_the_shortest(name, seed, scale):
    box = BOXES[name]
    a, b = points(seed, scale), points(seed + 1, scale)
    d = np.asarray(displacement(box, a, b))
    np.testing.assert_allclose(d, -displacement(box, b, a), atol=1e-11)
    difference = np.asarray(b - a)
    if name == "open":
        np.testing.assert_array_equal(d, difference)
        return
    vectors = np.asarray(box.vectors)
    steps = (d - difference) @ np.linalg.inv(vectors)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-11)
    candidates = d[:, None] + CELLS @ vectors
    shortest = np.min(np.linalg.norm(candidates, axis=-1), axis=1)
    np.testing.assert_allclose(np.linalg.norm(d, axis=1), shortest, atol=1e-11)


@pytest.mark.parametrize("name", PERIODIC)
@given(seed=SEEDS)
@few
def test_minimum_image_is_exact_within_half_the_smallest_height(name, seed):
    box = BOXES[name]
    d = np.asarray(displacement(box, points(seed, n=200), points(seed + 1, n=200)))
    near = np.linalg.norm(d, axis=1) < 0.5 * float(jnp.min(box.heights))
    assert near.any()
    shifted = d + np.random.default_rng(seed).integers(-3, 4, size=d.shape) @ np.asarray(box.vectors)
    np.testing.assert_allclose(np.asarray(images(box, jnp.asarray(shifted)))[near], d[near], atol=1e-11)


@pytest.mark.parametrize("name", BOXES)
def test_geometry(name):
    box = BOXES[name]
    if name == "open":
        assert jnp.isinf(box.volume)
        assert jnp.all(jnp.isinf(box.heights))
        return
    vectors = np.asarray(box.vectors)
    np.testing.assert_allclose(box.volume, abs(np.linalg.det(vectors)), rtol=1e-14)
    faces = np.linalg.norm(np.cross(np.roll(vectors, -1, 0), np.roll(vectors, -2, 0)), axis=1)
    np.testing.assert_allclose(box.heights, abs(np.linalg.det(vectors)) / faces, rtol=1e-14)


@pytest.mark.parametrize("name", PERIODIC)
@given(seed=SEEDS)
@few
def test_deform(name, seed):
    box = BOXES[name]
    deformation = jnp.eye(3) + 0.05 * jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (3, 3)))
    deformed = box.deform(deformation)
    each = np.stack([deformation @ v for v in box.vectors])
    np.testing.assert_allclose(deformed.vectors, each, atol=1e-14)
    np.testing.assert_allclose(deformed.volume, box.volume * np.linalg.det(deformation), rtol=1e-12)
    assert rv.OpenBox().deform(deformation) == rv.OpenBox()


@pytest.mark.parametrize("name", BOXES)
def test_precision_follows_the_inputs(name):
    box = BOXES[name].astype(jnp.float32)
    x = points(0).astype(jnp.float32)
    for out in (wrap(box, x), displacement(box, x, x), images(box, x)):
        assert out.dtype == jnp.float32


def test_derivatives_of_a_box():
    lengths = jnp.array([1.0, 1.4, 2.3])
    slope = jax.grad(lambda l: rv.OrthorhombicBox(l).volume)(lengths)
    np.testing.assert_allclose(slope, jnp.prod(lengths) / lengths, rtol=1e-14)
    slope = jax.grad(lambda v: rv.TriclinicBox(v).volume)(jnp.asarray(SKEWED))
    np.testing.assert_allclose(slope, np.linalg.det(SKEWED) * np.linalg.inv(SKEWED).T, atol=1e-13)
    slope = jax.grad(lambda v: jnp.sum(rv.TriclinicBox(v).heights))(jnp.asarray(SKEWED))
    assert jnp.all(jnp.isfinite(slope))


def test_volume_of_many():
    """As of samples at constant pressure; never that of all together."""
    for make in (
        lambda s: rv.OrthorhombicBox(s * jnp.array([1.0, 2.0, 3.0])),
        lambda s: rv.TriclinicBox(s * jnp.eye(3)),
    ):
        scales = jnp.array([[1.0, 2.0], [3.0, 4.0]])
        many = jax.vmap(jax.vmap(make))(scales)
        np.testing.assert_allclose(many.volume, make(1.0).volume * scales**3, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: rv.OrthorhombicBox(1.0), r"`lengths` has shape \(\); wanted \(3\)"),
        (lambda: rv.OrthorhombicBox(jnp.ones(2)), r"`lengths` has shape \(2,\)"),
        (lambda: rv.OrthorhombicBox(jnp.eye(3)), r"`lengths` has shape \(3, 3\)"),
        (lambda: rv.OrthorhombicBox(jnp.array([1.0, 0.0, 1.0])), "longer than zero"),
        (lambda: rv.OrthorhombicBox(jnp.array([1.0, -1.0, 1.0])), "longer than zero"),
        (lambda: rv.OrthorhombicBox(jnp.array([1.0, jnp.nan, 1.0])), r"not finite, the first at index \(1,\)"),
        (lambda: rv.OrthorhombicBox(jnp.array([1.0, jnp.inf, 1.0])), "not finite"),
        (lambda: rv.TriclinicBox(jnp.ones(3)), r"`vectors` has shape \(3,\)"),
        (lambda: rv.TriclinicBox(jnp.ones((3, 3))), "do not lie in a plane"),
        (lambda: rv.TriclinicBox(jnp.zeros((3, 3))), "do not lie in a plane"),
        (lambda: rv.TriclinicBox(jnp.eye(3).at[0, 0].set(jnp.nan)), "not finite"),
        (lambda: rv.TriclinicBox(jnp.eye(3).at[1, 0].set(0.9)), "too skewed"),
    ],
)
def test_refusals(make, match, without_type_checks):
    with pytest.raises(ValueError, match=match):
        make()


def test_the_reduced_vectors_of_the_message_are_of_the_same_lattice():
    skewed = np.array([[1.0, 0, 0], [2.9, 1.1, 0], [0.3, -3.4, 1.2]])
    with pytest.raises(ValueError, match="a reduced basis") as caught:
        rv.TriclinicBox(jnp.asarray(skewed))
    numbers = str(caught.value).split("such as\n")[1].replace("[", " ").replace("]", " ").split()
    reduced = np.array(numbers, float).reshape(3, 3)
    steps = reduced @ np.linalg.inv(skewed)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)  # the message has eight digits
    assert abs(round(np.linalg.det(steps))) == 1
    rv.TriclinicBox(reduced)
