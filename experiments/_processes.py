"""The devices and processes that a run is spread over."""

import contextlib
import os
from typing import Any

import equinox as eqx
import jax
from jax.experimental import multihost_utils

import reverlet as rv

from ._errors import BadInput, refusing

HEARTBEAT = 30
"""Seconds without a sign of life after which JAX's runtime takes a process for lost, and ends the others."""


def join(devices: str | None, distributed: str | None) -> jax.sharding.Mesh | None:
    """The devices of the flags `--devices` and `--distributed`; `None` for neither. To be called before any array is
    made.

    **Arguments:** `devices`, how many of every process, or "all"; `distributed`, "auto" for what SLURM or Open MPI says
    of the processes, or "HOST:PORT,ID,COUNT": where process 0 listens, which process this is, of how many.
    """
    if distributed is not None:
        where: tuple[Any, ...] = ()
        if distributed != "auto":
            address, *numbers = distributed.split(",")
            if ":" not in address or len(numbers) != 2 or not all(n.isdigit() for n in numbers):
                raise BadInput(
                    f"--distributed is {distributed!r}; wanted auto, or HOST:PORT,ID,COUNT such as 10.0.0.1:1234,0,2"
                    " for the first of two processes."
                )
            where = (address, int(numbers[1]), int(numbers[0]))
        try:
            jax.distributed.initialize(*where, heartbeat_timeout_seconds=HEARTBEAT)  # pyright: ignore
        except (ValueError, RuntimeError) as error:
            raise BadInput(f"--distributed {distributed} found no other processes to join: {error}") from error
    if devices is None and distributed is None:
        return None
    if devices is not None and devices != "all" and not devices.isdigit():
        raise BadInput(f"--devices is {devices!r}; wanted all, or how many, such as 2.")
    with refusing():
        return rv.device_mesh(None if devices in (None, "all") else int(devices))


def mesh_for(command: Any, trajectories: int, *, cores: bool = False) -> jax.sharding.Mesh | None:
    """The devices of a command with `out`, `resume`, `devices` and `distributed`, for so many trajectories.

    **Arguments:** `cores`, whether without `devices` every core of a CPU is one: a small system keeps one core busy,
    and no more, however many of it there are.
    """
    if command.resume and command.out is None:
        raise BadInput("--resume came without --out; wanted the folder of the run to go on with.")
    if cores and command.devices is None and command.distributed is None:
        return _cores(trajectories)
    mesh = join(command.devices, command.distributed)
    if mesh is not None and trajectories % mesh.size != 0:
        raise BadInput(
            f"--trajectories is {trajectories} for {mesh.size} devices; wanted a multiple of the devices, such"
            f" as {-(-trajectories // mesh.size) * mesh.size}."
        )
    return mesh


def _cores(trajectories: int) -> jax.sharding.Mesh | None:
    """As many cores as divide the trajectories, each a device."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = max(n for n in range(1, available + 1) if trajectories % n == 0)
    with contextlib.suppress(RuntimeError):  # JAX has counted its devices already
        jax.config.update("jax_num_cpu_devices", count)
    if jax.default_backend() != "cpu" or jax.device_count() != count or count == 1:
        return None
    return rv.device_mesh()


def on_all(tree: Any, mesh: jax.sharding.Mesh | None) -> Any:
    """Arrays on every device, as updates return them: what was compiled for others would be compiled again."""
    if mesh is None:
        return tree
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.tree.map(lambda x: jax.device_put(x, everywhere) if eqx.is_array(x) else x, tree)


def leads() -> bool:
    """Whether this is the process that writes and talks: the first, or the only one."""
    return jax.process_index() == 0


def meet(name: str) -> None:
    """Waits for all processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agreed(fact: bool) -> bool:
    """What the first process says: another may look at a file a moment later."""
    return bool(multihost_utils.broadcast_one_to_all(fact)) if jax.process_count() > 1 else fact
