"""The experiments on argon end to end: what they write, that a kill costs nothing, and that bad input is refused."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
from experiments import _goals
from experiments.__main__ import main
from experiments._folder import Folder, write_json
from experiments._goals import TIME
from experiments._run import exit_status
from reverlet._pool_verdict import PoolVerdict, require_good

ROOT = Path(__file__).parent.parent
ARGON = ROOT.parent / "shared/data/argon/ar346.pdb"
FIGURES = ("path", "diffusion", "correlation", "gradients", "horizon")
SMOKE = ("lj_diffusion", "--preset", "smoke")


def command(*arguments):
    return [sys.executable, "-m", "experiments", *map(str, arguments)]


def environment():
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    # compiled quickly rather than well: most of the time of so small a run is compiling
    return {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def launch(*arguments):
    """Runs the command line in a process of its own: single precision, and no type checks at run time."""
    return subprocess.run(command(*arguments), cwd=ROOT, env=environment(), capture_output=True, text=True)


def numbers(folder):
    """What two equal runs agree on, bit for bit."""
    summary = json.loads((folder / "summary.json").read_text())
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    del summary["timing"]
    summary["goals"] = [goal for goal in summary["goals"] if goal["name"] != TIME]
    for line in lines:
        del line["wall_time"]
    return summary, lines


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of all smoke runs, made by one process: see `smoke_program.py`."""
    folder = tmp_path_factory.mktemp("smoke")
    program = [sys.executable, str(ROOT / "tests/smoke_program.py"), str(folder)]
    done = subprocess.run(program, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def ended(runs, name):
    """What a run printed."""
    done = json.loads((runs / f"{name}.json").read_text())
    assert done["status"] == 0, done["err"]
    return done["out"].splitlines()


@pytest.fixture(scope="module")
def smoke(runs):
    """The folder of the fit."""
    ended(runs, "lj_diffusion")
    return runs / "lj_diffusion"


def not_judged(summary):
    """Whether goals come last, with figures that nobody judges: a smoke run has no physics."""
    assert list(summary)[-1] == "goals"
    return all(set(g) == GOAL and g["value"] is not None and g["met"] is None for g in summary["goals"])


GOAL = {"name", "value", "error", "wanted", "met"}


def test_smoke_end_to_end(smoke, runs):
    folder = smoke
    lines = ended(runs, "lj_diffusion")
    assert [line.split(":")[0] for line in lines] == ["Fitted", "From, to", "How well", "How long", "Figures"]
    summary, history = numbers(folder)
    assert summary["updates"] == len(history) == 4
    assert [line["update"] for line in history] == [1, 2, 3, 4]
    assert history[0]["sigma"] == pytest.approx(0.338)
    assert history[1]["sigma"] != history[0]["sigma"]
    assert {"initial", "final", "target", "deviation"} <= set(summary)
    assert "has no physics" in lines[2]
    assert not_judged(json.loads((folder / "summary.json").read_text()))
    assert all(summary[k]["diffusion_error"] > 0 for k in ("initial", "final", "target"))
    parts = {f"{p}{e}" for p in ("sigma", "epsilon") for e in ("", "_error")}
    for line in history:
        assert set(line["dynamical"]) == set(line["thermodynamic"]) == parts
        assert line["effective_samples"] == pytest.approx(4)  # drawn with the parameters they are used with
    config = json.loads((folder / "config.json").read_text())
    assert config["config"]["seed"] == 0
    assert {"versions", "devices", "git"} <= set(config["environment"])
    for name in FIGURES:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not list(folder.glob("*.part"))


def test_finished_run_resumes_to_the_same_numbers(runs, smoke):
    ended(runs, "resumed")
    assert numbers(runs / "resumed") == numbers(smoke)


# Each point of the run that a kill may hit: after a stage's file has appeared, in the middle of the next.
@pytest.mark.slow
@pytest.mark.parametrize("after", ["config.json", "start.npz", "checkpoint.eqx", "final.npz"])
def test_killed_run_resumes_to_the_same_numbers(smoke, tmp_path, after):
    folder = tmp_path / "run"
    process = subprocess.Popen(command(*SMOKE, "--out", folder), cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL)
    while not (folder / after).exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "summary.json").exists()
    done = launch(*SMOKE, "--out", folder, "--resume")
    assert done.returncode == 0, done.stderr
    assert numbers(folder) == numbers(smoke)


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_run_killed_at_random_moments(smoke, tmp_path):
    """At 30, twice in a row at 5 of them: each goes on to the same numbers. All that is compiled is kept, for speed."""
    log, env = tmp_path / "log", {**environment(), "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}

    def begin(folder):
        flags = ("--resume",) if (folder / "config.json").exists() else ()
        with open(log, "w") as err:
            return subprocess.Popen(command(*SMOKE, "--out", folder, *flags), cwd=ROOT, env=env, stderr=err)

    for name in ("first", "whole"):  # the second compiles nothing
        begun = time.perf_counter()
        assert begin(tmp_path / name).wait() == 0
    rng, duration, stages = random.Random(0), time.perf_counter() - begun, []

    def kill(folder):
        while True:
            process = begin(folder)
            time.sleep(duration * rng.random())
            if process.poll() is None:
                process.kill()
                process.wait()
                return
            shutil.rmtree(folder)  # it had ended before

    for k in range(30):
        folder = tmp_path / str(k)
        for _ in range(2 if k % 6 == 0 else 1):
            kill(folder)
        stages.append(sum((folder / name).exists() for name in STAGES))
        assert begin(folder).wait() == 0, (k, log.read_text())
        assert numbers(folder) == numbers(smoke), (k, stages)
    assert len(set(stages)) > 3, f"kills came after almost the same stages: {stages}"


STAGES = (
    *("config.json", "start.npz", "reference.json", "history.jsonl", "final.npz", "gradient.npz", "path.png"),
    "summary.json",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["start.npz", "checkpoint.eqx", "path.png"])
def test_run_on_a_full_disk(smoke, tmp_path, name):
    """No file may be as large as that of this name: the run says so, and goes on to the same when there is room."""
    size, folder = (smoke / name).stat().st_size - 1, tmp_path / "run"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    arguments = {"cwd": ROOT, "env": environment(), "capture_output": True, "text": True}
    done = subprocess.run(command(*SMOKE, "--out", folder), preexec_fn=limit, **arguments)
    assert done.returncode in (1, 2)
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    done = launch(*SMOKE, "--out", folder, "--resume")
    assert done.returncode == 0, done.stderr
    assert numbers(folder) == numbers(smoke)


@pytest.mark.slow
def test_one_seed_one_result(smoke, tmp_path):
    for seed in ("0", "1"):
        assert launch(*SMOKE, "--out", tmp_path / seed, "--seed", seed).returncode == 0
    assert numbers(tmp_path / "0") == numbers(smoke)
    assert numbers(tmp_path / "1")[0]["final"] != numbers(smoke)[0]["final"]


@pytest.mark.slow
def test_own_structure_and_target(tmp_path):
    if not ARGON.exists():
        pytest.skip(f"needs {ARGON}, which is not part of the project")
    flags = ("--structure", ARGON, "--target", "2.36e-9", "--target-error", "5e-11", "--updates", "2")
    done = launch(*SMOKE, *flags, "--gradient", "dynamical", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    summary, _ = numbers(tmp_path / "run")
    assert (summary["atoms"], summary["element"], summary["cutoff"]) == (346, "Ar", 1.0)
    assert summary["target"]["diffusion"] == 2.36e-9
    assert summary["target"]["sigma"] is None  # nobody knows


@pytest.mark.slow
def test_exploding_run_keeps_its_files(tmp_path):
    done = launch(*SMOKE, "--sigma-rate", "0.2", "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "Update" in done.stderr
    assert "Traceback" not in done.stderr
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) >= 1
    assert "NaN" not in (tmp_path / "run" / "history.jsonl").read_text()
    slower = (*SMOKE, "--out", tmp_path / "run", "--resume")
    assert "--accept-changes" in launch(*slower).stderr
    done = launch(*slower, "--accept-changes")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "config.json").read_text())["changes"] == [{"sigma_rate": 0.0004}]
    assert launch(*slower).returncode == 0  # it has the new rate by now


def test_refused_samples_end_in_words(capsys, tmp_path):
    """What was got, what would help, and where the results lie; but a defect shows where it is."""
    verdict = PoolVerdict("at 298 K", (), 7.0, 24, 30.0, 32)

    def stopped():
        write_json(Folder(tmp_path / "run", {"experiment": "argon_isobar"}, resume=False) / "start.json", {})
        require_good([verdict])

    assert exit_status(stopped) == 1
    said = " ".join(capsys.readouterr().err.split())
    for words in (
        "at 298 K",
        "7 independent samples",
        "What would help: more samples",
        f"kept, in {tmp_path / 'run'}.",
    ):
        assert words in said
    assert "TOO FEW" in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(ValueError, match="broadcast"):
        exit_status(lambda: np.zeros(2) + np.zeros(3))
    with pytest.raises(ValueError, match="of ours"):
        exit_status(lambda: next(x for x in [1] if int("a defect of ours")))


def copy(source, target):
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def refused(capsys, *arguments):
    """The message of a command line that must be refused, in this process: it never gets to simulate."""
    assert main([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" or captured.out.startswith("Usage")
    return captured.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--target", "-1e-9"), ("--target is -1e-09", "above zero", "m²/s")),
        (("--target", "0"), ("--target is 0.0", "above zero")),
        (("--target", "2.36"), ("--target is 2.36", "m²/s", "2.36e-9")),
        (("--temperature", "-3"), ("--temperature is -3", "above zero")),
        (("--cutoff", "0.9"), ("cutoff is 0.9 nm", "half the smallest height", "0.578")),
        (("--horizon", "0.1601"), ("--horizon is 0.1601", "multiple of 0.008 ps", "0.16")),
        (("--sigma", "nan"), ("--sigma is nan", "above zero")),
        (("--trajectories", "1"), ("--trajectories is 1", "at least 2")),
        (("--preset", "huge"), ("--preset is 'huge'", "quick, paper, smoke")),
    ],
)
def test_bad_flags(capsys, tmp_path, flags, words):
    message = refused(capsys, *SMOKE, "--out", tmp_path / "run", *flags)
    assert all(word in message for word in words), message
    assert not (tmp_path / "run").exists()


def test_unknown_experiment(capsys):
    assert "wanted one of argon_isobar, cg_water, cg_water_pair, diamond, double_well, gradient_horizon" in refused(
        capsys, "nope"
    )


def test_gradient_horizon(capsys, runs, tmp_path):
    lines = ended(runs, "gradient_horizon")
    assert [line.split()[0] for line in lines] == ["Proposed", "At", "Figure:", "This"]
    folder = runs / "gradient_horizon"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["at_horizon"]["sigma"]["error"] > 0
    assert list(summary)[-1] == "goals"
    assert (folder / "gradient_horizon.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "report.html").read_text("utf-8")
    assert "The run has ended." in page
    assert "data:image/png;base64," in page
    arguments = ("gradient_horizon", "--preset", "smoke", "--out")
    assert "add --resume" in refused(capsys, *arguments, folder)
    assert "a divisor of 40" in refused(capsys, *arguments, tmp_path / "new", "--horizons", "7")
    assert not (tmp_path / "new").exists()


def test_reversal_error(capsys, runs):
    ended(runs, "reversal_error")
    folder = runs / "reversal_error"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["bitwise_equal"] == {"float32": False, "float64": False, "bit_reversible": True}
    assert [row["steps"] for row in summary["table"]] == [10, 40, 80]
    for row in summary["table"]:
        assert row["bit_reversible"] == 0
    assert summary["table"][1]["float32"] > 1e3 * summary["table"][1]["float64"] > 0
    assert all(cost > 0 for solver in summary["cost"].values() for cost in solver.values())
    assert not_judged(summary)
    assert (folder / "reversal_error.png").read_bytes().startswith(b"\x89PNG")
    assert "holds another run" in refused(capsys, "reversal_error", "--preset", "smoke", "--out", folder)


@pytest.mark.parametrize(
    ("flags", "words"), [(("--steps", "0"), "numbers above 0"), (("--preset", "big"), "wanted one of quick"),
                         (("--cells", "0"), "at least 1")],
)  # fmt: skip
def test_bad_flags_of_reversal_error(capsys, tmp_path, flags, words):
    assert words in refused(capsys, "reversal_error", *flags, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_goals():
    goals = [
        _goals.at_least("a", 4.0, 5), _goals.at_most("b", 4.0, 5, error=0.1), _goals.at_most("c", float("nan"), 5),
        _goals.agrees("d", 1.0, 1.5, error=0.2), _goals.agrees("e", 1.0, 1.5, error=0.3),
    ]  # fmt: skip
    judged = _goals.judged(goals, "quick")
    assert [goal["met"] for goal in judged] == [False, True, False, False, True]
    assert json.loads(json.dumps(judged, allow_nan=False))[2]["value"] is None
    told = _goals.told(judged, "quick")
    assert told.startswith("Goals met: 2 of 5. Missed: a: 4, wanted at least 5; c: no figure")
    assert {goal["met"] for goal in _goals.judged(goals, "smoke")} == {None}
    assert [_goals.in_time(s, 2, resumed=r).met for s, r in ((119, False), (121, False), (119, True))] == [
        True,
        False,
        None,
    ]


def test_flag_of_the_wrong_type_is_refused(tmp_path):
    with pytest.raises(SystemExit) as error:
        main([*SMOKE, "--out", str(tmp_path / "run"), "--updates", "many"])
    assert error.value.code == 2


EXTXYZ = '2\nLattice="20 0 0 0 20 0 0 0 20" Properties=species:S:1:pos:R:3\n{} 0 0 0\nAr 4 0 0\n'


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("missing.pdb", None, ("no structure file", "PDB or extxyz")),
        ("two.extxyz", EXTXYZ.format("Kr"), ("1 Ar, 1 Kr", "one element")),
        ("open.xyz", "2\n\nAr 0 0 0\nAr 4 0 0\n", ("no periodic box", "CRYST1")),
        ("broken.extxyz", "2\nArgon\n", ("cannot be read",)),
        ("nan.extxyz", EXTXYZ.format("Ar").replace("4 0 0", "nan 0 0"), ("Line 4", "finite number")),
        ("overlap.extxyz", EXTXYZ.format("Ar").replace("4 0 0", "0 0 0"), ("nearest two atoms", "overlap")),
        ("small.extxyz", EXTXYZ.format("Ar").replace("20", "10"), ("cutoff is 0.9", "0.5 nm")),
    ],
)
def test_bad_structures(capsys, tmp_path, name, text, words):
    pytest.importorskip("ase")
    if text is not None:
        (tmp_path / name).write_text(text)
    flags = ("--structure", tmp_path / name, "--target", "2.36e-9", "--cutoff", "0.9")
    message = refused(capsys, *SMOKE, *flags, "--out", tmp_path / "run")
    assert all(word in message for word in words), message
    assert not (tmp_path / "run").exists()


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_folder_of_another_run(capsys, smoke, tmp_path):
    folder = copy(smoke, tmp_path / "run")
    before = contents(folder)
    assert "add --resume" in refused(capsys, *SMOKE, "--out", folder)
    message = refused(capsys, *SMOKE, "--out", folder, "--resume", "--seed", "7", "--updates", "9")
    assert "seed is 7, there 0" in message
    assert "updates is 9, there 4" in message
    assert contents(folder) == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("mine")
    assert "notes.txt" in refused(capsys, *SMOKE, "--out", tmp_path / "notes")
    assert "is a file" in refused(capsys, *SMOKE, "--out", tmp_path / "notes" / "notes.txt")
    assert contents(tmp_path / "notes") == {"notes.txt": b"mine"}


def test_nothing_to_resume(capsys, tmp_path):
    assert "no run to resume" in refused(capsys, *SMOKE, "--out", tmp_path / "run", "--resume")
    assert "--out" in refused(capsys, *SMOKE, "--resume")


def test_missing_checkpoint(capsys, smoke, tmp_path):
    folder = copy(smoke, tmp_path / "run")
    (folder / "checkpoint.eqx").unlink()
    before = contents(folder)
    message = refused(capsys, *SMOKE, "--out", folder, "--resume")
    assert "checkpoint" in message
    assert "4 updates" in message
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["reference.json", "start.npz", "config.json"])
def test_corrupt_files(capsys, smoke, tmp_path, name):
    folder = halve(smoke, tmp_path, name)
    before = contents(folder)
    message = refused(capsys, *SMOKE, "--out", folder, "--resume")
    assert name in message
    assert "Restore a copy" in message
    assert contents(folder) == before


def test_corrupt_checkpoint(runs):
    done = json.loads((runs / "broken.json").read_text())
    assert done["status"] == 2
    assert "is damaged" in done["err"]
    assert "Traceback" not in done["err"]
    assert contents(runs / "broken") == contents(runs / "broken_before")


def halve(source, tmp_path, name):
    """A copy of a run, in which a file is cut in half."""
    folder = copy(source, tmp_path / "run")
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    return folder
