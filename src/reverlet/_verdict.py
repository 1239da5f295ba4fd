"""Verdicts on what was computed, at once or from a compiled program: one type of exception for all."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, ArrayLike, Bool

from ._misc import is_concrete

T = TypeVar("T")
_OF_JAX = (jax.errors.JaxRuntimeError, ValueError)
"""What a compiled program raises for an error on the host: the second where it has run before."""


class SimulationError(FloatingPointError):
    """A computation went wrong and its numbers mean nothing: overlapping atoms, an explosion, a worn neighbor list,
    weights all on one sample, a fit that is not finite.

    Where values are known it is raised at once. A program compiled by `jax.jit` or `eqx.filter_jit` finds out when it
    runs, and JAX then raises an error of its own, with this one in its text: a `jax.errors.JaxRuntimeError`, or a
    `ValueError` where the program has run before. To catch one type wherever it comes from:

        try:
            with rv.SimulationError.unwrapped():
                records = jax.block_until_ready(run(system, state))
        except rv.SimulationError as error:
            ...

    Every array of a result carries the verdict, integers and truth values too: a program in which none is used does
    not compute it.

    If a sampler stopped since a cell became too small, and not in a compiled program, `samples` are those up to then,
    and `chains` is where to go on from. Otherwise both are `None`.
    """

    def __init__(self, message: str, *, samples: Any = None, chains: Any = None):
        super().__init__(message)
        self.samples, self.chains = samples, chains

    @classmethod
    def within(cls, error: BaseException) -> "SimulationError | None":
        """What went wrong according to an error, if it is this one or one of JAX's that was caused by it."""
        if isinstance(error, cls):
            return error
        _, found, message = str(error).rpartition(f"{cls.__name__}: ")
        return cls(message.strip()) if found and isinstance(error, _OF_JAX) else None

    @classmethod
    @contextlib.contextmanager
    def unwrapped(cls) -> Iterator[None]:
        """A context in which JAX's errors that were caused by this one are raised as this one. The result must be
        waited for inside: `jax.block_until_ready`."""
        try:
            yield
        except _OF_JAX as error:
            found = cls.within(error)
            if found is None:
                raise
            raise found from None


def raise_if(
    bad: Bool[Array, "..."], describe: Callable[..., str], *values: ArrayLike, guard: T, mesh: Mesh | None = None
) -> T:
    """`guard`, unless anything is `bad`: then a `SimulationError` with the message `describe(*values)`.

    Raised at once where `bad` is known. Otherwise when the compiled program runs and something depends on any array of
    `guard` as returned; the host is called only if something is bad, and under `jax.vmap` for one element after the
    other. `describe` is a function of a module, not a new closure, so that nothing is compiled twice. In a program
    for the devices of a `mesh`, all of them raise: were it one, the others would wait for it.
    """
    # `stop_gradient`, because callbacks have no derivative; and what is differentiated but not compiled is known
    known = jax.lax.stop_gradient((bad, *values))
    if is_concrete(known):
        if np.any(np.asarray(known[0])):
            raise SimulationError(describe(*(np.asarray(v) for v in known[1:])))
        return guard
    known = (jnp.any(bad), *known[1:])
    fine = jax.ShapeDtypeStruct((), np.int32)

    def judge(*known):
        call = lambda: jax.pure_callback(_OnHost(describe), fine, *known, vmap_method="sequential")
        return jax.lax.cond(eqxi.unvmap_any(known[0]), call, lambda: jnp.zeros((), np.int32))

    if mesh is not None:
        everywhere = PartitionSpec()
        judge = jax.shard_map(judge, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False)
    verdict = judge(*known)
    return jax.tree.map(lambda x: _carrying(verdict, x), guard)


def _carrying(verdict, x):
    """A leaf that depends on the verdict, which is always zero: the compiler cannot know."""
    if not isinstance(x, jax.Array):
        return x
    inexact = jnp.issubdtype(x.dtype, jnp.inexact)
    return jnp.where(verdict == 0, x, jnp.nan if inexact else jnp.zeros_like(x))


@dataclasses.dataclass(frozen=True)
class _OnHost:
    describe: Callable[..., str]

    def __call__(self, bad, *values):
        if np.any(bad):  # in a batch, it may be another that is bad
            raise SimulationError(self.describe(*(np.asarray(v) for v in values)))
        return np.zeros((), np.int32)
