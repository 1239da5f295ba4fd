"""Submit an experiment to SLURM, as one run of many processes: a process per GPU, or one per node without GPUs.

    python -m experiments slurm lj_diffusion --nodes 2 --gpus-per-node 4 -- --preset paper --out results/paper

What comes after `--` goes to the experiment, with `--distributed auto` added. A job that runs out of time, is preempted
or loses a process goes on from its checkpoint when it runs again: SLURM does that by itself for the first two.
"""

import argparse
import importlib
import importlib.util
from pathlib import Path

from ._errors import BadInput


class Job:
    """What every process of the job runs; pickled by submitit."""

    def __init__(self, name: str, arguments: list[str], out: Path):
        self.name = name
        self.arguments = arguments
        self.out = out

    def __call__(self) -> int:
        # before any process has written, since they meet before the first one does
        resume = ["--resume"] if (self.out / "config.json").exists() else []
        return importlib.import_module(f"experiments.{self.name}").main(
            [*self.arguments, *resume, "--distributed", "auto"]
        )

    def checkpoint(self):
        """What submitit is to submit when SLURM ends the job early."""
        import submitit  # pyright: ignore[reportMissingImports]

        return submitit.helpers.DelayedSubmission(self)


def main(arguments: list[str]) -> int:
    """Submits a job; returns the exit status."""
    if {"-h", "--help"} & set(arguments):
        _parser().print_help()
        return 0
    from . import _run  # here, so that `--help` does not wait for JAX

    return _run.exit_status(lambda: submit(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m experiments slurm", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", help="of the experiment")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus-per-node", type=int, default=0, help="and as many processes; 0: one process, on CPUs")
    parser.add_argument("--cpus-per-task", type=int, default=4)
    parser.add_argument("--minutes", type=int, default=240)
    parser.add_argument("--partition", help="of the cluster; by default its own choice")
    return parser


def submit(arguments: list[str]) -> None:
    """Submits what the command line says, and prints the number of the job and where its logs are."""
    ours, theirs = arguments, []
    if "--" in arguments:
        ours, theirs = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    flags = _parser().parse_args(ours)
    if flags.name == "slurm" or importlib.util.find_spec(f"experiments.{flags.name}") is None:
        raise BadInput(f"There is no experiment {flags.name!r} to submit; wanted one such as lj_diffusion.")
    if flags.nodes < 1 or flags.gpus_per_node < 0:
        raise BadInput(
            f"--nodes is {flags.nodes} and --gpus-per-node {flags.gpus_per_node}; wanted at least 1 and at least 0."
        )
    if "--out" not in theirs[:-1]:
        raise BadInput(
            "There is no --out among the experiment's arguments; wanted the folder of the run after `--`, so that a job"
            " that is stopped can go on with it: -- --preset paper --out results/paper."
        )
    out = Path(theirs[theirs.index("--out") + 1])
    try:
        import submitit  # pyright: ignore[reportMissingImports]

        executor = submitit.SlurmExecutor(folder=f"{out}-slurm")
    except ImportError as error:
        raise BadInput("`submitit` is not installed; wanted it: pip install submitit.") from error
    except RuntimeError as error:
        raise BadInput(f"SLURM was not found ({error}); wanted its commands srun and sbatch.") from error
    tasks = max(1, flags.gpus_per_node)
    parameters = {"gpus_per_node": flags.gpus_per_node or None, "partition": flags.partition}
    executor.update_parameters(
        job_name=flags.name,
        nodes=flags.nodes,
        ntasks_per_node=tasks,
        cpus_per_task=flags.cpus_per_task,
        time=flags.minutes,
        **{name: value for name, value in parameters.items() if value is not None},
    )
    job = executor.submit(Job(flags.name, theirs, out))
    print(f"Submitted job {job.job_id}: {flags.name} in {flags.nodes * tasks} processes; logs in {out}-slurm/.")
