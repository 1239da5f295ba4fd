"""Typesets the formulas of a built site: what browsers know how to draw takes the place of TeX, and no page needs a
script or the internet for it."""

import html
import re
import sys
from pathlib import Path

from latex2mathml.converter import convert

MARKED = re.compile(
    r'<(?:span|div) class="arithmatex">\\(?P<opening>[(\[])(?P<tex>.*?)\\[)\]]</(?:span|div)>', re.DOTALL
)


def typeset(page: str) -> str:
    """A page of HTML with MathML in place of what the extension `arithmatex` marked."""

    def formula(found: re.Match) -> str:
        tex = html.unescape(found["tex"])
        if found["opening"] == "(":
            return convert(tex, display="inline")
        # on a narrow page a long formula scrolls by itself
        return f'<div style="overflow-x: auto">{convert(tex, display="block")}</div>'

    return MARKED.sub(formula, page)


if __name__ == "__main__":
    for path in Path(sys.argv[1]).rglob("*.html"):
        path.write_text(typeset(path.read_text("utf-8")), "utf-8")
