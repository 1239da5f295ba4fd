"""Many devices and many processes: the same numbers, shares of the work, and the end of a process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "tests" / "devices_program.py"


def start(*command, devices=1):
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    return json.loads(next(line for line in out.splitlines() if line.startswith("RESULT ")).removeprefix("RESULT "))


def free_address():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{s.getsockname()[1]}"


def assert_same(got, wanted):
    assert len(got) == len(wanted) > 10
    for g, w in zip(got, wanted, strict=True):
        g, w = np.asarray(g), np.asarray(w)
        # float64, and potentials in float32 constants: sums in another order, grown along 30 steps of dynamics
        assert np.max(np.abs(g - w), initial=0) <= 1e-9 * np.max(np.abs(w), initial=0), (g, w)


@pytest.fixture(scope="module")
def four():
    return result(start(PROGRAM, devices=4))


def test_four_devices_give_the_numbers_of_one(four):
    assert four["devices"] == 4
    assert_same(four["mesh"], four["one"])


def test_work_is_split_evenly(four):
    # of operations in the compiled program of a device; what all devices do alike is small beside forces
    assert 0.25 <= four["share of a gradient"] < 0.27
    assert 0.25 <= four["share of sampling"] < 0.27


def test_what_devices_refuse(four):
    assert "3 samples for 4 devices" in four["too few"]
    assert "at most 3 per process" in four["too few"]
    assert "6 chains for 4 devices" in four["no multiple"]
    assert "4 or 8 chains" in four["no multiple"]
    assert "`num_devices` is 5, and there are 4" in four["too many devices"]
    assert "device_count=5" in four["too many devices"]


def test_an_explosion_on_one_device_is_an_error_of_all(four):
    assert "Of 8 trajectories, number 3: The trajectory exploded by step" in four["explosion"]


def test_two_processes_give_the_numbers_of_one(four):
    address = free_address()
    processes = [start(PROGRAM, f"{address},{k},2") for k in range(2)]
    for k, process in enumerate(processes):
        found = result(process)
        assert (found["devices"], found["process"]) == (2, k)
        assert_same(found["mesh"], four["one"])
