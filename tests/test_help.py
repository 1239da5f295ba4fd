"""What command lines say of themselves: at once, and what is true."""

import dataclasses
import importlib
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from experiments import _help, _run
from experiments.__main__ import EXPERIMENTS
from experiments._errors import BadInput

NAMES = [name for name in EXPERIMENTS if name not in ("slurm", "report")]


@pytest.mark.parametrize("name", NAMES)
def test_help_says_what_the_experiment_takes(name):
    """What is read from the source is what the program has."""
    module, found = importlib.import_module(f"experiments.{name}"), _help.described(name)
    config = typing.get_type_hints(module.Command)["config"]
    assert [f.name for f in found.config] == [f.name for f in dataclasses.fields(config)]
    of_command = [f.name for f in dataclasses.fields(module.Command) if f.name != "config"]
    assert [f.name for f in found.command] == of_command
    assert set(found.presets) == set(module.PRESETS)
    assert all(flag.text for flag in found.config)
    for preset, values in found.presets.items():
        for flag in found.config:
            value, told = getattr(module.PRESETS[preset], flag.name), values.get(flag.name, flag.default)
            if not isinstance(value, Path | tuple):
                assert told == str(value), (preset, flag.name)
    text = _help.help_of(name, 100)
    assert all(f"--{f.name.replace('_', '-')}" in text for f in found.config)
    assert max(map(len, text.splitlines())) <= 120


def test_choices_with_a_comma_are_told_apart():
    assert "--targets {density,ir|density|ir|ir,diffusion}" in _help.help_of("water_refine")


def test_help_does_not_wait_for_jax():
    program = (
        "import sys; from experiments.__main__ import main; from benchmarks.__main__ import main as benchmarks;"
        "ended = [main(['--help']), main(['lj_diffusion', '--preset', 'paper', '--help']), main(['slurm', '-h']),"
        " benchmarks(['--help'])];"
        "assert ended == [0] * 4 and 'jax' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())  # however it is wrapped
    for words in ("lj_diffusion: refine a", "--sigma float", "[108; 346 with paper; 32 with smoke]", "solvers: How"):
        assert words in told


def parsed(*arguments):
    from experiments.lj_diffusion import PRESETS, Command

    return _run.command_line("lj_diffusion", PRESETS, Command, list(arguments)).config


def test_more_atoms_at_the_same_density(capsys):
    quick, more = parsed(), parsed("--atoms", "864")
    assert (more.atoms, more.box_length) == (864, 2 * quick.box_length)
    assert parsed("--atoms", "864", "--box-length", "3").box_length == 3
    assert capsys.readouterr().err == ""
    parsed("--preset", "smoke")
    assert "no physics" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "meant"),
    [("sigma", "3.4", "0.34"), ("cutoff", "8.5", "0.85"), ("box-length", "17.3405", "1.73405"),
     ("time-step", "0.005", "5"), ("horizon", "1500", "1.5")],
)  # fmt: skip
def test_other_units_are_told(flag, value, meant):
    with pytest.raises(BadInput, match=rf"--{flag} is {float(value):g} (nm|fs|ps); did you mean {float(meant):g}\?"):
        parsed(f"--{flag}", value)
