"""Every Python block of the README, of the documentation and of its notebooks runs as it is printed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "gallery").glob("*.ipynb"))
WRITTEN = [page for page in sorted((ROOT / "docs").rglob("*.md")) if page.parent.name != "gallery"]
PAGES = [*NOTEBOOKS, ROOT / "README.md", *WRITTEN]  # the longest first
BLOCK = re.compile(r"(?P<skipped><!-- not run -->\s*)?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def runnable(page: Path) -> str:
    """The blocks of a page, in order, each on the lines it has in the page so that a traceback names them."""
    text = page.read_text("utf-8")
    if page in NOTEBOOKS:
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        return "\n\n".join("".join(cell["source"]) for cell in cells)
    lines = [""] * text.count("\n")
    for block in BLOCK.finditer(text):
        if block["skipped"] is None:
            first = text.count("\n", 0, block.start("code"))
            code = block["code"].splitlines()
            lines[first : first + len(code)] = code
    return "\n".join(lines).rstrip()


WITH_CODE = [page for page in PAGES if runnable(page)]


COMPILED_WELL = {"README.md", "getting-started.md", "argon.md", "reversible-adjoint.md"}
"""Pages that compute for long, or look at the last bits: not compiled as quickly as the suite, see noxfile.py."""


def test_pages_with_code_are_found():
    assert {"README.md", "getting-started.md", "reversible-adjoint.md"} <= {page.name for page in WITH_CODE}


def test_tasks_take_at_most_twenty_lines():
    """Of every block of the pages that say how to."""
    pages = sorted((ROOT / "docs" / "how-to").glob("*.md"))
    blocks = [(page.name, block["code"]) for page in pages for block in BLOCK.finditer(page.read_text("utf-8"))]
    assert len({name for name, _ in blocks}) == 8
    for name, code in blocks:
        lines = [line for line in code.splitlines() if line.strip()]
        assert len(lines) <= 20, f"{name} has a block of {len(lines)} lines"


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_code_need_not_be_scrolled(page):
    """Beside both menus of a page there is room for 92 columns."""
    assert [line for line in runnable(page).splitlines() if len(line) > 92] == []


@pytest.fixture(scope="module")
def pages_program():
    """Forks a process for each page: half of the time of most of them would be imports."""
    # not this process, which has threads: pages choose their precision, and the suite's settings must not help them
    command = [sys.executable, ROOT / "tests/pages_program.py"]
    environment = {"JAX_PLATFORMS": "cpu", "MPLBACKEND": "agg", **os.environ}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        yield process
        process.stdin.close()


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_blocks_run(page, tmp_path, pages_program):
    program, folder, printed = tmp_path / "program.py", tmp_path / "folder", tmp_path / "printed"
    folder.mkdir()
    program.write_text(runnable(page), "utf-8")
    compiled = "well" if page.name in COMPILED_WELL or page in NOTEBOOKS else "quickly"
    print(program, page, folder, printed, compiled, sep="\t", file=pages_program.stdin, flush=True)
    status = int(pages_program.stdout.readline())
    assert status == 0, printed.read_text("utf-8")[-4000:]
