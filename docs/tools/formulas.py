"""Typesets the formulas of a built site: what browsers know how to draw takes the place of TeX, and no page needs a
script or the internet for it."""

import html
import re
import sys
from pathlib import Path

from latex2mathml.converter import convert

SIZED_ANGLE = re.compile(r"\\(?:big|Big|bigg|Bigg)[lr]?\\(?=[lr]angle)")
"""The converter knows sizes of parentheses, and not of angles."""
MARKED = re.compile(
    r'<(?:span|div) class="arithmatex">\\(?P<opening>[(\[])(?P<tex>.*?)\\[)\]]</(?:span|div)>', re.DOTALL
)


def typeset(page: str) -> str:
    """A page of HTML with MathML in place of what the extension `arithmatex` marked."""

    def formula(found: re.Match) -> str:
        inline, tex = found["opening"] == "(", SIZED_ANGLE.sub(r"\\", html.unescape(found["tex"]))
        made = convert(tex, display="inline" if inline else "block")
        unknown = re.search(r">[^<]*(\\[a-zA-Z]+)", made)
        if unknown:
            raise ValueError(f"The converter does not know {unknown[1]}, in {tex}")
        # on a narrow page a long formula scrolls by itself
        return made if inline else f'<div style="overflow-x: auto">{made}</div>'

    return MARKED.sub(formula, page)


if __name__ == "__main__":
    for path in Path(sys.argv[1]).rglob("*.html"):
        path.write_text(typeset(path.read_text("utf-8")), "utf-8")
