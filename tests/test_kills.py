"""Fits in processes of their own that are killed, that write the same checkpoint, and whose disk is full."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import pytest
from killed_program import UPDATES, fit

from reverlet import _checkpoint as checkpoint

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def whole():
    return fit(None)


def start(path, *flags):
    """A process that fits; returns as soon as it begins to."""
    program = [sys.executable, str(ROOT / "tests/killed_program.py"), str(path), *map(str, flags)]
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": str(jax.config.jax_enable_x64)}
    process = subprocess.Popen(program, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill_after(process, seconds):
    time.sleep(seconds)
    process.kill()
    process.communicate()


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_killed_twice_in_a_row(tmp_path, whole):
    """While checkpoints are written: what goes on from there ends in the same bits."""
    path = tmp_path / "c"
    changed = lambda: path.stat().st_mtime_ns if path.exists() else 0
    for seconds in (0.01, 0.05):
        process, before = start(path), changed()
        while changed() == before:
            assert process.poll() is None, process.communicate()
            time.sleep(0.001)
        kill_after(process, seconds)
    assert checkpoint.read(path)[0]["step"] < UPDATES
    assert eqx.tree_equal(fit(path), whole)
    assert files(tmp_path) == ["c", "c.previous"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_random_moments(tmp_path, whole):
    """At 30, twice in a row at 5 of them."""
    process, begun = start(tmp_path / "c"), time.perf_counter()
    assert process.communicate()[0] == "done\n"
    duration, rng, steps = time.perf_counter() - begun, random.Random(0), []
    for k in range(30):
        path = tmp_path / str(k) / "c"
        path.parent.mkdir()
        for _ in range(2 if k % 6 == 0 else 1):
            kill_after(start(path), duration * rng.random())
        steps.append(checkpoint.read(path)[0]["step"] if path.exists() else 0)
        assert eqx.tree_equal(fit(path), whole), k
        assert files(path.parent) == ["c", "c.previous"]
    assert 0 < sorted(steps)[15] < UPDATES, f"most kills came before or after all updates: {steps}"


@pytest.mark.slow
def test_two_writers_of_one_checkpoint(tmp_path, whole):
    """The second is told; when the first is killed, another goes on."""
    first = start(tmp_path / "c")
    while not (tmp_path / "c.lock").exists():
        time.sleep(0.001)
    first.send_signal(signal.SIGSTOP)  # it holds the lock as long as it lives
    second = start(tmp_path / "c")
    _, err = second.communicate()
    assert second.returncode == 1
    assert f"CheckpointError: The checkpoint {tmp_path / 'c'} is being written by another fit (process" in err
    first.kill()
    first.communicate()
    assert eqx.tree_equal(fit(tmp_path / "c"), whole)


@pytest.mark.slow
@pytest.mark.parametrize("part", [0.001, 0.5])
def test_a_full_disk(tmp_path, whole, part):
    """Before the first update or in the middle: the checkpoint grows with its history."""
    fit(tmp_path / "whole")
    process = start(tmp_path / "c", int(part * (tmp_path / "whole").stat().st_size))
    _, err = process.communicate()
    assert process.returncode == 1
    assert "CheckpointError: " in err
    assert "cannot be written" in err
    assert "Traceback" not in err
    assert (tmp_path / "c").exists() == (part == 0.5)
    assert eqx.tree_equal(fit(tmp_path / "c"), whole)
    assert whole.step == UPDATES
