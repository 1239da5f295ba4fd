import atexit
import gc
import os
import tempfile

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # What one process compiled, the others load: workers, the programs that tests start, and the same worker after it
    # forgot its programs. Set before JAX is imported; only the first process comes here, and the folder ends with it.
    compiled = tempfile.TemporaryDirectory(prefix="compiled-", ignore_cleanup_errors=True)
    atexit.register(compiled.cleanup)
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": compiled.name, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    # else every program that is loaded says so, and a process whose standard error nobody reads stops when it is full
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import jax
import jaxtyping
import pytest

# before reverlet is imported: every annotation of the library is checked while the suite runs
jaxtyping.install_import_hook("reverlet", "beartype.beartype")
jax.config.update("jax_enable_x64", True)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: give --slow to run it"))


APART = ("tests/test_docs.py", "tests/test_adjoint.py", "tests/test_potentials.py")
"""Files whose tests share nothing."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests of one file go to one process, since they share compiled functions and runs of programs.

    Those of `APART` come last, one by one, so that all processes end together.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file, _, _ = nodeid.partition("::")
            return nodeid if file in APART else file

    return ByFile(config, log)


def pytest_collection_finish():
    """Tracing makes many objects that live, and Python's collector would look through them again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 20)


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs():
    """Each takes some memory maps, of which Linux gives a process 65,530: beyond that the compiler dies."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def compiled_well():
    """As users' programs are, whatever the session asks of the rest of the suite."""
    quickly = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", quickly)


@pytest.fixture
def without_type_checks():
    """What a user meets: the library's own errors, where the type checker of this suite would answer first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
