"""Writes each notebook of `docs/gallery` as a page, with the pictures that it was saved with."""

import base64
import json
from pathlib import Path

GALLERY = Path(__file__).parents[1] / "gallery"


def page(notebook: Path) -> str:
    """Text, code, and what the code printed and drew; the pictures are written beside it."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    parts = []
    for k, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            image = output.get("data", {}).get("image/png")
            if image is not None:
                picture = notebook.with_name(f"{notebook.stem}-{k}.png")
                picture.write_bytes(base64.b64decode(image))
                parts.append(f"![What the block above draws]({picture.name})")
            elif output["output_type"] == "stream" and output["name"] == "stdout":
                parts.append(f"```text\n{''.join(output['text'])}```")
    parts.insert(1, f"[This page as a notebook]({notebook.name}).")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    for path in GALLERY.glob("*.ipynb"):
        path.with_suffix(".md").write_text(page(path), "utf-8")
