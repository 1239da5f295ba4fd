"""Pieces of a web page that needs nothing but itself: numbers with errors, tables, curves."""

import base64
import html
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

STYLE = """
body{margin:0 auto;max-width:66rem;padding:1rem;font:16px/1.5 system-ui,sans-serif;color:#1a1a1a;background:#fff}
h1{font-size:1.6rem;margin:.2em 0}h2{font-size:1.2rem;margin:2em 0 .5em;border-bottom:1px solid #ddd}
h3{font-size:1rem;margin:1.2em 0 .3em}.scroll{overflow-x:auto;margin:.6em 0}
table{border-collapse:collapse;font-size:.9rem}th,td{text-align:left;vertical-align:top;padding:.25em .9em .25em 0;
border-bottom:1px solid #eee}th{font-weight:600}td.n{white-space:nowrap;font-variant-numeric:tabular-nums}
img{max-width:100%;height:auto}figure{margin:1em 0}figcaption,.small{color:#555;font-size:.85rem}
pre{background:#f5f5f5;padding:.7em;overflow-x:auto;font-size:.85rem}.yes{color:#00684a}.no{color:#b03a00}
.said{white-space:pre-wrap}.banner{background:#fff3cd;border-left:4px solid #d9a400;padding:.6em 1em;margin:1em 0}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:1rem}svg{width:100%;height:auto}
summary{cursor:pointer;font-weight:600}.side{display:grid;grid-template-columns:repeat(auto-fit,minmax(18rem,1fr));gap:1rem}
"""


def page(title: str, body: Iterable[str], *, seconds: int | None = None) -> str:
    """A whole page; with `seconds`, a browser loads it again so often."""
    again = f'<meta http-equiv="refresh" content="{seconds}">' if seconds else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1">{again}'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def text(value: Any) -> str:
    """Escaped."""
    return html.escape(str(value))


def number(value: Any, error: float | None = None) -> str:
    """A number to a sensible length, or `value ± error` to two digits of the error."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    if error is None or not (math.isfinite(error) and error > 0 and math.isfinite(value)):
        return f"{value:.5g}" if isinstance(value, float) else str(value)
    power = math.floor(math.log10(max(abs(value), error)))
    shift = power if not -3 <= power < 5 else 0
    scale = 10.0**shift
    digits = max(0, 1 - math.floor(math.log10(error / scale)))
    told = f"{value / scale:.{digits}f} ± {error / scale:.{digits}f}"
    return told if shift == 0 else f"({told})·10{str(shift).translate(_RAISED)}"


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Of cells that are HTML already; a cell that begins with a digit or a sign is not wrapped."""
    top = "".join(f"<th>{text(h)}</th>" for h in head)
    cell = lambda c: f'<td class="n">{c}</td>' if c[:1] in "-(0123456789" and len(c) < 40 else f"<td>{c}</td>"
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f'<div class="scroll"><table>{f"<thead><tr>{top}</tr></thead>" if any(head) else ""}{body}</table></div>'


def figure(path: Path) -> str:
    """A picture, inside the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    name = text(path.stem.replace("_", " "))
    return f'<figure><img alt="{name}" src="data:image/png;base64,{data}"><figcaption>{name}</figcaption></figure>'


def curve(name: str, values: Sequence[float], errors: Sequence[float] | None = None) -> str:
    """Values update by update, with a band of ± 2 errors, as a small picture."""
    width, height, left, edge = 300, 150, 66, 14
    band = [2 * e if e is not None and math.isfinite(e) else 0.0 for e in errors or [0.0] * len(values)]
    pairs = list(zip(values, band, strict=True))
    lower, upper = min(v - e for v, e in pairs), max(v + e for v, e in pairs)
    span = upper - lower or abs(upper) or 1.0
    x = lambda k: left + (width - left - edge) * (k / max(1, len(values) - 1))
    y = lambda v: height - 20 - (height - 34) * (v - lower) / span
    points = lambda signs: [(x(k), y(v + signs * e)) for k, (v, e) in enumerate(pairs)]
    told = lambda p: " ".join(f"{a:.1f},{b:.1f}" for a, b in p)
    area = f'<polygon points="{told(points(1) + points(-1)[::-1])}" fill="#0072b2" opacity=".2"/>' if errors else ""
    label = lambda v, at: f'<text x="{left - 4}" y="{at:.0f}" text-anchor="end" font-size="11">{v:.3g}</text>'
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{text(name)}">{area}'
        f'<polyline points="{told(points(0))}" fill="none" stroke="#0072b2" stroke-width="1.5"/>'
        f"{label(upper, y(upper) + 4)}{label(lower, y(lower) + 4)}"
        f'<text x="{width - edge}" y="{height - 4}" text-anchor="end" font-size="11">update {len(values)}</text></svg>'
        f"<figcaption>{text(name)}: {text(number(values[-1], errors[-1] if errors else None))}</figcaption></figure>"
    )


def rows_of(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values of a record, an error beside its value: `x` and `x_error`, `value` (or `fitted`) and `error`."""
    out = []
    for name, value in record.items():
        base = name.removesuffix("_error")
        if (name.endswith("_error") and base in record) or (name == "error" and {"value", "fitted"} & set(record)):
            continue
        error = record.get(f"{name}_error", record.get("error") if name in ("value", "fitted") else None)
        out.append((name, number(value, error if isinstance(error, int | float) else None)))
    return out


def tables_of(value: Any, name: str = "") -> list[str]:
    """Anything that JSON holds, as tables under headings: records, lists of records, and records of these."""
    head = [f"<h3>{text(name.replace('_', ' '))}</h3>"] if name else []
    if isinstance(value, list):
        if value and all(isinstance(v, dict) for v in value):
            records = [dict(rows_of(_flat(v))) for v in value]
            columns = list(dict.fromkeys(c for r in records for c in r))
            rows = [[text(r.get(c, "–")) for c in columns] for r in records]
            return [*head, table([c.replace("_", " ") for c in columns], rows)]
        return [*head, f"<p>{text(', '.join(number(v) for v in value[:12]))}{' …' if len(value) > 12 else ''}</p>"]
    if not isinstance(value, dict):
        return [*head, f"<p>{text(number(value))}</p>"]
    plain = {k: v for k, v in value.items() if not isinstance(v, dict | list)}
    out = [*head]
    if plain:
        out.append(table(("", ""), [(text(k.replace("_", " ")), text(v)) for k, v in rows_of(plain)]))
    done = set()
    for group in _alike(value):  # one table, a row for each
        of = {k: dict(rows_of(value[k])) for k in group}
        columns = list(dict.fromkeys(c for r in of.values() for c in r))
        rows = [[text(k.replace("_", " ")), *(text(r.get(c, "–")) for c in columns)] for k, r in of.items()]
        out.append(table(["", *(c.replace("_", " ") for c in columns)], rows))
        done |= {*group}
    for group in _columns(value):
        rows = [dict(rows_of({k: value[k][n] for k in group})) for n in range(len(value[group[0]]))]
        more = [["…"] * len(rows[0])] if len(rows) > 12 else []
        cells = [[text(cell) for cell in row.values()] for row in rows[:12]]
        out.append(table([c.replace("_", " ") for c in rows[0]], cells + more))
        done |= {*group}
    for k, v in value.items():
        if isinstance(v, dict | list) and k not in done and v:
            inner = tables_of(v, f"{name}: {k}" if name else k)
            if not name and len(inner) > 12:
                inner = [f"<details><summary>{text(k.replace('_', ' '))}, in detail</summary>", *inner, "</details>"]
            out += inner
    return out


def _columns(record: dict[str, Any]) -> list[list[str]]:
    """Names of the lists of numbers in it that are as long as another, such as values at the same temperatures."""
    groups: dict[int, list[str]] = {}
    for name, value in record.items():
        if isinstance(value, list) and len(value) > 1 and not any(isinstance(v, dict | list) for v in value):
            groups.setdefault(len(value), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _alike(record: dict[str, Any]) -> list[list[str]]:
    """Names of the records in it that have three entries in common, or all that one has; in groups of two or more."""
    groups: list[list[str]] = []
    keys = {k: {n for n, _ in rows_of(v)} for k, v in record.items() if isinstance(v, dict) and not _nested(v)}
    for name, own in keys.items():
        near = [g for g in groups if len(own & keys[g[0]]) >= min(3, len(own), len(keys[g[0]]))]
        near[0].append(name) if near else groups.append([name])
    return [g for g in groups if len(g) > 1]


def _nested(record: dict[str, Any]) -> bool:
    return any(isinstance(v, dict | list) for v in record.values())


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """Without lists, and records in it by names with dots."""
    out = {}
    for k, v in record.items():
        if isinstance(v, dict):
            out |= {f"{k}.{inner}": x for inner, x in _flat(v).items()}
        elif not isinstance(v, list):
            out[k] = v
    return out
