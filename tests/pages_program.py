"""Run by `test_docs.py`: programs in processes of their own, which find all that they import imported already.

Each line of the input names a file with a program, its page, the folder it runs in, a file for what it prints, and how
it is compiled; each line of the output is an exit status.
"""

import gc
import os
import sys
import traceback

import jax
import matplotlib.pyplot  # noqa: F401
import optax  # noqa: F401

import reverlet  # noqa: F401

gc.freeze()
gc.set_threshold(200_000, 20, 20)  # as in conftest.py


def run(program, name, folder, printed, compiled):
    if compiled == "well":
        jax.config.update("jax_disable_most_optimizations", False)
    output = os.open(printed, os.O_WRONLY | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.chdir(folder)
    try:
        with open(program, encoding="utf-8") as file:
            exec(compile(file.read(), name, "exec"), {"__name__": "__main__"})
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


for line in sys.stdin:
    child = os.fork()  # before JAX has devices and threads, which a fork would not survive
    if child == 0:
        status = run(*line.rstrip("\n").split("\t"))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
    sys.stdout.flush()
