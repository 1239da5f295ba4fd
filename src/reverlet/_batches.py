"""One function over many independent samples: in micro-batches, over many devices."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ._fields import AbstractChecked, Rule, checked, count
from ._misc import as_count


class MemoryBudget(AbstractChecked):
    """A size of micro-batches chosen such that a gradient of all samples fits in so many bytes on each device.

    XLA is asked what the compiled gradient would take with two and with four samples at a time; other sizes lie on a
    line, and the one chosen is asked for once more. Counted are inputs, records, and everything needed to compute and
    differentiate them, not what else the program holds. It costs three compilations, once for every shape. On a GPU
    leave room for JAX's own reserves: some 20 % of what the device has.

    **Errors:** `ValueError` for less than one byte, when made; where not even one sample at a time fits, when used.
    """

    bytes: int = checked(count(), static=True)


Batch = int | MemoryBudget | None


def device_mesh(num_devices: int | None = None) -> Mesh:
    """All devices in a row, to spread samples over: those of this process and, after `jax.distributed.initialize`, of
    all others.

    **Arguments:** `num_devices`, the first so many of every process; by default all.

    **Errors:** `ValueError` where a process has fewer.
    """
    devices = jax.devices()
    if num_devices is not None:
        least = min(sum(d.process_index == p for d in devices) for p in range(jax.process_count()))
        if (
            isinstance(num_devices, bool)
            or not isinstance(num_devices, int | np.integer)
            or not 1 <= num_devices <= least
        ):
            raise ValueError(
                f"`num_devices` is {num_devices!r}, and there are {least} on each process ({devices[0].platform});"
                f" wanted a whole number from 1 to {least}. For more on a CPU, start Python with"
                f" XLA_FLAGS=--xla_force_host_platform_device_count={num_devices}."
            )
        by_process = [[d for d in devices if d.process_index == p] for p in range(jax.process_count())]
        devices = [d for own in by_process for d in own[:num_devices]]
    return Mesh(np.asarray(devices), ("samples",))


def batch_rule() -> Any:
    """A field with a size of micro-batches."""
    return Rule(as_count, lambda name, x: require_batch(x))


def require_batch(batch: Any) -> None:
    """Refuses what is no size of micro-batches."""
    if batch is None or isinstance(batch, MemoryBudget):
        return
    if isinstance(batch, bool) or not isinstance(batch, int | np.integer) or batch < 1:
        raise ValueError(
            f"`batch` is {batch!r}; wanted a whole number of trajectories at a time, at least 1, or a memory budget"
            " such as `rv.MemoryBudget(2 * 2**30)`."
        )


def require_samples(samples: PyTree, mesh: Mesh | None) -> int:
    """How many samples there are; refuses fewer than devices."""
    n = jax.tree.leaves(eqx.filter(samples, eqx.is_array))[0].shape[0]
    if mesh is not None and n < mesh.size:
        processes = len({d.process_index for d in mesh.devices.flat})
        raise ValueError(
            f"There are {n} samples for {mesh.size} devices of {processes} processes; wanted at least one sample for"
            f" each device. Take {mesh.size} samples or more, or fewer devices: `rv.device_mesh(...)` of at most"
            f" {n // processes} per process{'' if processes <= n else f', in at most {n} processes'}."
        )
    return n


def shard(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """The tree with the leading axis of every array spread over the devices; its length must be a multiple of them."""
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, _spread(mesh)))


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """The tree with all of every array on every device."""
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


def map_samples(
    function: Callable[[Any, Any], PyTree],
    shared: PyTree,
    samples: PyTree,
    *,
    batch: Batch = None,
    mesh: Mesh | None = None,
    progress_meter: diffrax.AbstractProgressMeter = diffrax.NoProgressMeter(),
    reverse: bool = True,
) -> PyTree:
    """`function(shared, sample)` for every sample, stacked: `jax.vmap` in parts, one part after another.

    Differentiable with respect to all arrays of `shared` and `samples`.

    **Arguments:**

    - `function`: one of a module, not a new closure, so that nothing is compiled twice.
    - `samples`: leaves lead with `samples`.
    - `batch`: how many at a time, on each device; `None` for all at once. They are made a little fewer where that makes
      parts equal; the last part is filled with copies of the last sample, which are dropped.
    - `mesh`: devices to spread the samples over, each an equal part, filled up in the same way. The result is spread
      too, if no filling was needed.
    - `reverse`: whether `function` can be differentiated in reverse, for a memory budget.
    """
    require_samples(samples, mesh)
    return _map(function, shared, samples, batch, mesh, progress_meter, reverse)


@eqx.filter_jit
def _map(function, shared, samples, batch, mesh, progress_meter, reverse):
    arrays, static = eqx.partition((shared, samples), _is_array)
    n = jax.tree.leaves(arrays[1])[0].shape[0]
    share = -(-n // (1 if mesh is None else mesh.size))
    size = _choose(function, arrays, static, batch, share, reverse)

    def local(shared, samples):
        meter = _FirstDevice(progress_meter, mesh)
        return _in_parts(function, (shared, samples), static, size, meter)

    if mesh is None:
        return local(*arrays)
    # Never a reduction over devices inside, hence nothing for `check_vma` to check, which loops of Diffrax would not
    # pass. All arrays are arguments: what is closed over would be differentiated outside the map.
    spread = _spread(mesh)
    spread_local = jax.shard_map(
        local, mesh=mesh, in_specs=(PartitionSpec(), spread), out_specs=spread, check_vma=False
    )
    out = spread_local(arrays[0], _fill(arrays[1], share * mesh.size))
    return out if share * mesh.size == n else jax.tree.map(lambda x: x[:n], replicate(out, mesh))


def _is_array(x):
    return eqx.is_array(x) or isinstance(x, np.ndarray)


def _spread(mesh):
    return PartitionSpec(mesh.axis_names)


def _fill(samples, n):
    """`n` samples, those missing being copies of the last; its cotangents are zero, and it is as finite as a sample."""

    def fill(x):
        missing = n - x.shape[0]
        return jnp.concatenate([x, jnp.broadcast_to(x[-1:], (missing, *x.shape[1:]))]) if missing else x

    return jax.tree.map(fill, samples)


def _in_parts(function, arrays, static, size, progress_meter):
    shared, samples = arrays
    n = jax.tree.leaves(samples)[0].shape[0]

    def call(shared, sample):
        return function(*eqx.combine((shared, sample), static))

    lifted = jax.vmap(call, in_axes=(None, 0))
    if size >= n:
        return lifted(shared, samples)
    parts = -(-n // size)
    size = -(-n // parts)
    stacked = jax.tree.map(lambda x: x.reshape(parts, size, *x.shape[1:]), _fill(samples, parts * size))

    def body(meter, part):
        i, samples = part
        out = lifted(shared, samples)
        # the meter must not run ahead of what it measures
        done, _ = jax.lax.optimization_barrier(((i + 1) / parts, jax.lax.stop_gradient(jax.tree.leaves(out))))
        return progress_meter.step(meter, done), out

    meter, out = jax.lax.scan(body, progress_meter.init(), (jnp.arange(parts), stacked))
    progress_meter.close(meter)
    return jax.tree.map(lambda x: x.reshape(parts * size, *x.shape[2:])[:n], out)


def _choose(function, arrays, static, batch, n, reverse):
    """How many of `n` samples at a time."""
    if batch is None:
        return n
    if not isinstance(batch, MemoryBudget):
        return int(batch)
    shape = lambda x, lead: jax.ShapeDtypeStruct((*lead, *x.shape[len(lead) :]), x.dtype)
    shared, samples = arrays
    shapes = jax.tree.map(lambda x: shape(x, ()), shared), jax.tree.map(lambda x: shape(x, (n,)), samples)
    needed = lambda size: _needed(function, shapes, static, size, reverse)
    # from two and four: of parts of one, the compiler makes another kind of program, which may even take more
    two, four = needed(2), needed(4)
    size = min(n, 2 + 2 * (batch.bytes - two) // max(four - two, 1)) if two <= batch.bytes else 1
    while (bytes_needed := needed(size)) > batch.bytes and size > 1:
        size //= 2
    if bytes_needed > batch.bytes:
        raise ValueError(
            f"The memory budget is {batch.bytes} bytes, and {n} samples take {bytes_needed} on each device even one at"
            f" a time, inputs and records included; wanted at least that. Save less often or record less, take fewer"
            f" samples or more devices, or give a larger budget."
        )
    return size


def _needed(function, shapes, static, size, reverse):
    """Bytes that samples take with their gradient, in parts of `size`; without a gradient if it is not to be had."""

    def run(arrays):
        return _in_parts(function, arrays, static, size, diffrax.NoProgressMeter())

    def gradient(arrays):
        moving, fixed = eqx.partition(arrays, eqx.is_inexact_array)
        out, pull = jax.vjp(lambda moving: run(eqx.combine(moving, fixed)), moving)
        return out, pull(out)

    compiled = jax.jit(gradient if reverse else run).lower(shapes).compile()
    memory = compiled.memory_analysis()
    if memory is None:
        raise ValueError("This device cannot say what a program takes; wanted a number for `batch`.")
    return memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes


class _FirstDevice(eqx.Module):
    """A progress meter that only the first of the devices shows."""

    meter: diffrax.AbstractProgressMeter
    mesh: Mesh | None = eqx.field(static=True)

    def init(self):
        return self._if_first(self.meter.init, lambda: jax.eval_shape(self.meter.init))

    def step(self, state, progress):
        return self._if_first(lambda: self.meter.step(state, progress), lambda: state)

    def close(self, state):
        self._if_first(lambda: self.meter.close(state), lambda: None)

    def _if_first(self, then, otherwise):
        if self.mesh is None or isinstance(self.meter, diffrax.NoProgressMeter):
            return then()
        zeros = lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype) if not eqx.is_array(x) else x, otherwise())
        return jax.lax.cond(jax.lax.axis_index(self.mesh.axis_names) == 0, then, zeros)
