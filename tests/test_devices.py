"""Many devices and many processes: the same numbers, shares of the work, and the end of a process."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "tests" / "devices_program.py"


@contextlib.contextmanager
def running(*command, devices=1):
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    # compiled quickly rather than well: most of the time of so small a run is compiling
    quick = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    environment = {**os.environ, **quick, "PYTHONPATH": path, "XLA_FLAGS": flags}
    # a file and not a pipe: who waits for one process must not keep another from writing
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=ROOT, env=environment, stdout=output, stderr=output, text=True
        )
        yield process, output


def ended(process, output):
    """The exit status and what was printed."""
    status = process.wait(timeout=300)
    output.seek(0)
    return status, output.read()


def result(process, output):
    status, text = ended(process, output)
    assert status == 0, text[-3000:]
    return json.loads(next(line for line in text.splitlines() if line.startswith("RESULT ")).removeprefix("RESULT "))


def free_address():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{s.getsockname()[1]}"


def assert_same(got, wanted):
    assert len(got) == len(wanted) > 10
    for g, w in zip(got, wanted, strict=True):
        g, w = np.asarray(g), np.asarray(w)
        # float64, and potentials in float32 constants: sums in another order, grown along 30 steps
        assert np.max(np.abs(g - w), initial=0) <= 1e-9 * np.max(np.abs(w), initial=0), (g, w)


@pytest.fixture(scope="module")
def four():
    with running(PROGRAM, devices=4) as run:
        return result(*run)


def test_four_devices_give_the_numbers_of_one(four):
    assert four["devices"] == 4
    assert_same(four["mesh"], four["one"])


@pytest.mark.slow
def test_both_directions_of_time_on_four_devices():
    """Beside what a trajectory in one direction has already shown."""
    with running(PROGRAM, "both directions", devices=4) as run:
        assert_same(*result(*run)["both directions"])


def test_work_is_split_evenly(four):
    # Of operations in the compiled program of a device, a quarter: and what all do alike, small beside the forces.
    # Less than a quarter where the compiler finds something to save in smaller arrays.
    assert 0.2 <= four["share of sampling"] < 0.27
    assert 0.2 <= four["share of a gradient"] < 0.27


def test_devices_do_not_talk_along_trajectories(four):
    assert four["talk in sampling"] == 0
    assert four["talk in a gradient"] == 0


def test_what_devices_refuse(four):
    assert "3 samples for 4 devices" in four["too few"]
    assert "at most 3 per process" in four["too few"]
    assert "6 chains for 4 devices" in four["no multiple"]
    assert "4 or 8 chains" in four["no multiple"]
    assert "`num_devices` is 5, and there are 4" in four["too many devices"]
    assert "device_count=5" in four["too many devices"]


def test_an_explosion_on_one_device_is_an_error_of_all(four):
    assert "Of 8 trajectories, number 3: The trajectory exploded by step" in four["explosion"]


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(four):
    address = free_address()
    with running(PROGRAM, f"{address},0,2") as first, running(PROGRAM, f"{address},1,2") as second:
        for k, run in enumerate((first, second)):
            found = result(*run)
            assert (found["devices"], found["process"]) == (2, k)
            assert_same(found["mesh"], four["one"])


LJ = ("-m", "experiments", "lj_diffusion", "--preset", "smoke")


def history(folder):
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in ("update", "sigma", "epsilon", "diffusion")} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_lost_process_ends_the_run_which_resumes(tmp_path, killed):
    """One of two processes is killed between two updates; the other says so, and together they go on."""
    pytest.importorskip("tyro")
    pytest.importorskip("matplotlib")
    with running(*LJ, "--out", tmp_path / "whole", "--devices", "all", devices=2) as run:
        assert ended(*run)[0] == 0
    folder = tmp_path / "run"
    both = lambda address, *flags: [(*LJ, "--out", folder, "--distributed", f"{address},{k},2", *flags) for k in (0, 1)]
    first, second = both(free_address())
    with running(*first) as one, running(*second) as two:
        while not (folder / "checkpoint.eqx").exists():
            assert one[0].poll() is two[0].poll() is None
            time.sleep(0.01)
        (one, two)[killed][0].send_signal(signal.SIGKILL)
        clock = time.monotonic()
        status, text = ended(*(two, one)[killed])
        assert time.monotonic() - clock < 60
        assert status != 0
        # either of them, whichever notices first: a collective without its peer, or the missing heartbeat
        assert "failed or lost another one" in text or "another task died" in text, text[-3000:]
    assert not (folder / "summary.json").exists()
    first, second = both(free_address(), "--resume")
    with running(*first) as one, running(*second) as two:
        assert [ended(*run)[0] for run in (one, two)] == [0, 0]
    assert not list(folder.glob("*.part"))
    for got, wanted in zip(history(folder), history(tmp_path / "whole"), strict=True):
        # float32 sums in another order, and 4 updates of some hundred chaotic steps
        assert got == pytest.approx(wanted, rel=1e-3)
