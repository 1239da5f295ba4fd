"""Smoke runs of three experiments in one process of their own: single precision, no type checks, little imported twice.

    python tests/smoke_program.py FOLDER

What is left in FOLDER: the folders of the runs, and `NAME.json` with `status`, `out` and `err` of each.
"""

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path

import jax

from experiments.__main__ import main


def run(folder, name, *arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([*arguments, "--out", str(folder / name)])
    done = {"status": status, "out": out.getvalue(), "err": err.getvalue()}
    (folder / f"{name}.json").write_text(json.dumps(done))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    fit = ("lj_diffusion", "--preset", "smoke")
    run(folder, "lj_diffusion", *fit)

    again = Path(shutil.copytree(folder / "lj_diffusion", folder / "resumed"))
    (again / "summary.json").unlink()
    lines = (again / "history.jsonl").read_text().splitlines()
    # as if killed before the last lines were written
    (again / "history.jsonl").write_text("\n".join(lines[:2]) + "\n")
    run(folder, "resumed", *fit, "--resume")

    broken = Path(shutil.copytree(folder / "lj_diffusion", folder / "broken"))
    for path in broken.glob("checkpoint.eqx*"):  # also the one of the update before
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    shutil.copytree(broken, folder / "broken_before")
    run(folder, "broken", *fit, "--resume")

    run(folder, "gradient_horizon", "gradient_horizon", "--preset", "smoke")
    # bits are the same on the way back where the force is compiled as it was on the way there
    jax.config.update("jax_disable_most_optimizations", False)
    run(folder, "reversal_error", "reversal_error", "--preset", "smoke")
