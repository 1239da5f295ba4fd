"""Every Python block of the README and of the documentation runs as it is printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(?P<skipped><!-- not run -->\s*)?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def runnable(page: Path) -> str:
    """The blocks of a page, in order, each on the lines it has in the page so that a traceback names them."""
    text = page.read_text("utf-8")
    lines = [""] * text.count("\n")
    for block in BLOCK.finditer(text):
        if block["skipped"] is None:
            first = text.count("\n", 0, block.start("code"))
            code = block["code"].splitlines()
            lines[first : first + len(code)] = code
    return "\n".join(lines).rstrip()


WITH_CODE = [page for page in PAGES if runnable(page)]


AS_USERS_DO = {"infrared.md", "reversible-adjoint.md"}
"""Pages that compute for long, or look at the last bits: not compiled as quickly as the suite, see noxfile.py."""


def test_pages_with_code_are_found():
    assert {"README.md", "getting-started.md", "reversible-adjoint.md"} <= {page.name for page in WITH_CODE}


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_blocks_run(page, tmp_path):
    # a process of its own: pages choose their precision, and the suite's settings must not help them
    left_out = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS") if page.name in AS_USERS_DO else ()
    environment = {"JAX_PLATFORMS": "cpu", **{k: v for k, v in os.environ.items() if k not in left_out}}
    program = (
        "import gc, sys; gc.set_threshold(200_000, 20, 20)\n"  # as in conftest.py
        "exec(compile(sys.stdin.read(), sys.argv[1], 'exec'), {'__name__': '__main__'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(page)],
        input=runnable(page),
        cwd=tmp_path,
        env=environment,
        text=True,
        encoding="utf-8",
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
