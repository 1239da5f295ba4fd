"""Some releases of jaxlib compile small matrix products over large batches into wrong numbers, silently."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

CELL = np.array([[1.2, 0.0, 0.0], [0.45, 1.3, 0.0], [-0.35, 0.4, 1.25]], np.float32)


@pytest.mark.parametrize("n", [16383, 16384, 16385, 20000, 32768, 32769, 33000])
def test_batched_matrix_products(n):
    s = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    one = lambda s: jnp.sum((jnp.asarray(CELL) @ s) ** 2)
    compiled = jax.jit(jax.vmap(one))(s)
    assert compiled.dtype == jnp.float32
    wanted = np.sum((s.astype(float) @ CELL.T.astype(float)) ** 2, axis=1)
    # float32 has a relative rounding of 6e-8; cancellation within a product costs some digits
    np.testing.assert_allclose(compiled, wanted, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(one)(s), wanted, rtol=2e-4, atol=1e-5)
    slope = jax.jit(jax.vmap(jax.grad(one)))(s)
    np.testing.assert_allclose(
        slope, 2 * s.astype(float) @ CELL.T.astype(float) @ CELL.astype(float), rtol=1e-3, atol=1e-4
    )
