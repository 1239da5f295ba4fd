"""What is handed to SLURM, by stand-ins for its commands."""

import pytest

pytest.importorskip("submitit")
from experiments.__main__ import main


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder with commands named as SLURM's; `sbatch` keeps the script it was given."""
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "sbatch").write_text(f'#!/bin/sh\ncp "$1" {tmp_path}/script\necho Submitted batch job 12\n')
    for name in ("srun", "sbatch"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


def test_script(cluster, capsys):
    out = cluster / "run"
    flags = ("--nodes", "2", "--gpus-per-node", "4", "--minutes", "90", "--partition", "long")
    assert main(["slurm", "lj_diffusion", *flags, "--", "--preset", "paper", "--out", str(out)]) == 0
    assert "Submitted job 12: lj_diffusion in 8 processes" in capsys.readouterr().out
    script = (cluster / "script").read_text().splitlines()
    wanted = {"nodes": 2, "ntasks-per-node": 4, "gpus-per-node": 4, "time": 90, "partition": "long"}
    assert {f"#SBATCH --{name}={value}" for name, value in wanted.items()} <= set(script)
    assert "#SBATCH --job-name=lj_diffusion" in script
    (command,) = (line for line in script if line.startswith("srun "))
    assert "-m submitit.core._submit" in command
    assert f"{out}-slurm" in command


def test_script_without_gpus(cluster):
    assert main(["slurm", "lj_diffusion", "--nodes", "3", "--", "--out", str(cluster / "run")]) == 0
    script = (cluster / "script").read_text()
    assert "#SBATCH --nodes=3\n" in script
    assert "#SBATCH --ntasks-per-node=1\n" in script
    assert "--gpus" not in script
    assert "--partition" not in script


def test_job_resumes_what_is_there(tmp_path, monkeypatch):
    from experiments import lj_diffusion
    from experiments.slurm import Job

    seen = []
    monkeypatch.setattr(lj_diffusion, "main", lambda arguments: seen.append(arguments) or 0)
    job = Job("lj_diffusion", ["--out", str(tmp_path)], tmp_path)
    assert job() == 0
    (tmp_path / "config.json").write_text("{}")
    assert job.checkpoint().function() == 0
    first = ["--out", str(tmp_path), "--distributed", "auto"]
    assert seen == [first, [*first[:2], "--resume", *first[2:]]]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("lj_diffusion",), "no --out among the experiment's arguments"),
        (("lj_diffusion", "--nodes", "0", "--", "--out", "x"), "--nodes is 0"),
        (("nope", "--", "--out", "x"), "no experiment 'nope'"),
    ],
)
def test_bad_flags(capsys, flags, words):
    assert main(["slurm", *flags]) == 2
    assert words in capsys.readouterr().err


def test_without_slurm(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["slurm", "lj_diffusion", "--", "--out", str(tmp_path / "run")]) == 2
    assert "wanted its commands srun and sbatch" in capsys.readouterr().err
