"""Writes `docs/api/names.md`, the index of all that the reference describes, from the pages of the reference."""

import re
from pathlib import Path

import griffe

DOCS = Path(__file__).parents[1]
HEAD = "# All names\n\nEverything public, in the order of the alphabet.\n\n| name | what it is |\n|---|---|\n"


def index() -> str:
    """The page."""
    package = griffe.load("reverlet", search_paths=[DOCS.parent / "src"])
    pages = [page for page in sorted((DOCS / "api").glob("*.md")) if page.name != "names.md"]
    found = {name: page for page in pages for name in re.findall(r"^::: (\S+)", page.read_text("utf-8"), re.MULTILINE)}
    by_last = sorted(found, key=lambda name: (name.split(".")[-1].lower(), name))
    rows = [(name, found[name].name, first_sentence(package[name.removeprefix("reverlet.")])) for name in by_last]
    return HEAD + "".join(f"| [{as_written(name)}]({page}#{name}) | {text} |\n" for name, page, text in rows)


def as_written(name: str) -> str:
    """By users, who import the package as `rv`; on a phone, on a line for each part."""
    return f"<code>{name.replace('reverlet.', 'rv.', 1).replace('.', '.<wbr>')}</code>"


def first_sentence(what: griffe.Object | griffe.Alias) -> str:
    """Of the docstring, as one cell of a table."""
    text = what.docstring.value if what.docstring else ""
    sentence = re.split(r"(?<=\.)\s", " ".join(text.split("\n\n")[0].split()))[0].replace("|", "\\|")
    return sentence.rstrip(",:;.") + "."


if __name__ == "__main__":
    (DOCS / "api" / "names.md").write_text(index(), "utf-8")
