"""Run by the session `experiments` of nox: experiments in their smallest size, two at a time. Each has a process of its
own, which finds all that it imports imported already.

    python tests/smoke_runs.py FOLDER NAME ...

Prints what they print, and of those that fail what they say on the standard error.
"""

import gc
import os
import sys
import traceback
from pathlib import Path

import experiments.water_refine  # noqa: F401  imports what all others do
from experiments.__main__ import main

gc.freeze()
gc.set_threshold(200_000, 20, 20)  # as in conftest.py


def run(name, folder):
    for descriptor, ending in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{name}.{ending}", os.O_WRONLY | os.O_CREAT), descriptor)
    try:
        return main([name, "--preset", "smoke", "--out", str(folder / name)])
    except BaseException:
        traceback.print_exc()
        return 1


def start(name, folder):
    child = os.fork()  # before JAX has devices and threads, which a fork would not survive
    if child == 0:
        status = run(name, folder)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return child


def all_of(names, folder):
    """Their exit statuses, by name."""
    waiting, running, ended = list(names), {}, {}
    while waiting or running:
        while waiting and len(running) < 2:
            name = waiting.pop(0)
            running[start(name, folder)] = name
        child, status = os.wait()
        ended[running.pop(child)] = os.waitstatus_to_exitcode(status)
    return ended


if __name__ == "__main__":
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    ended = all_of(names, folder)
    for name in names:
        sys.stdout.write(f"{name} ended with {ended[name]}:\n{(folder / f'{name}.out').read_text('utf-8')}\n")
    failed = [name for name in names if ended[name] != 0]
    sys.exit("\n".join(f"{name}:\n{(folder / f'{name}.err').read_text('utf-8')}" for name in failed) or 0)
