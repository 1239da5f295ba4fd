"""Reports of runs: `python -m experiments report DIR` writes DIR/report.html again, as the run wrote it.

    python -m experiments report DIR DIR ... [--out comparison.html]

compares several runs on one page: their goals, what they found, where their configurations differ, their figures.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from ._html import figure, number, page, rows_of, table, text
from ._report import command_of, config_of, figure_of, goal_of, summary_of, write


def main(arguments: list[str]) -> int:
    """Writes what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser("python -m experiments report", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="the folder of a run")
    parser.add_argument("--out", type=Path, default=Path("comparison.html"), help="the page of several runs")
    flags = parser.parse_args(arguments)
    for folder in flags.folders:
        if not (folder / "config.json").is_file():
            print(
                f"Error: there is no run in {folder}; wanted a folder with the config.json of a run.", file=sys.stderr
            )
            return 2
    try:
        if len(flags.folders) == 1:
            written = write(flags.folders[0])
        else:
            written = flags.out
            written.write_text(comparison(flags.folders), "utf-8")
    except OSError as error:
        print(f"Error: the report cannot be written ({error}); wanted a folder that can.", file=sys.stderr)
        return 2
    print(f"Written to {written}.")
    return 0


def comparison(folders: list[Path]) -> str:
    """The page of several runs, a column for each."""
    names = [str(folder) for folder in folders]
    configs, environments = zip(*(config_of(folder) for folder in folders), strict=True)
    summaries = [summary_of(folder) for folder in folders]
    head = ["", *names]
    body = [f"<h1>{len(folders)} runs</h1>", table(head, [_row("experiment", configs), _row("preset", configs)])]
    if any(c.get("preset") == "smoke" for c in configs):
        body.append("<p class=banner>Smoke runs have no physics: their numbers mean nothing.</p>")

    goals = [{g["name"]: g for g in s.get("goals") or []} for s in summaries]
    told = lambda g: "–" if g is None else figure_of(g)
    wanted = lambda name: next(g[name]["wanted"] for g in goals if name in g)
    rows = [
        [goal_of(name, wanted(name)), *(told(g.get(name)) for g in goals)]
        for name in dict.fromkeys(n for g in goals for n in g)
    ]
    body += ["<h2>Goals</h2>", table(head, rows)] if rows else []

    differing = [k for k in dict.fromkeys(k for c in configs for k in c) if len({str(c.get(k)) for c in configs}) > 1]
    body.append("<h2>Where the configurations differ</h2>")
    body.append(table(head, [_row(k, configs) for k in differing]) if differing else "<p>Nowhere.</p>")

    found = [dict(_numbers(s)) for s in summaries]
    rows = [[text(k), *(text(f.get(k, "–")) for f in found)] for k in dict.fromkeys(k for f in found for k in f)]
    body += ["<h2>What was found</h2>", table(head, rows)] if rows else []

    body.append("<h2>Figures</h2>")
    for name in dict.fromkeys(p.name for folder in folders for p in sorted(folder.glob("*.png"))):
        side = [
            f"<div><p class=small>{text(folder)}</p>{figure(folder / name)}</div>"
            for folder in folders
            if (folder / name).is_file()
        ]
        body.append(f"<div class=side>{''.join(side)}</div>")
    commands = [command_of(c.get("experiment", ""), e) for c, e in zip(configs, environments, strict=True)]
    body += ["<h2>How to repeat them</h2>", f"<pre>{text(chr(10).join(commands))}</pre>"]
    return page("Comparison of runs", body)


def _row(name: str, records: tuple[dict[str, Any], ...]) -> list[str]:
    return [text(name), *(text(number(r.get(name))) for r in records)]


def _numbers(value: Any, name: str = "") -> list[tuple[str, str]]:
    """All numbers of a summary, with their errors, by names with dots."""
    if isinstance(value, list):
        named = [v for v in value if isinstance(v, dict) and "name" in v]
        return [x for v in named for x in _numbers({k: y for k, y in v.items() if k != "name"}, f"{name}.{v['name']}")]
    out = []
    plain = {k: v for k, v in value.items() if not isinstance(v, dict | list) and k not in ("units", "goals")}
    out += [(f"{name}.{k}".strip("."), told) for k, told in rows_of(plain)]
    for k, v in value.items():
        if isinstance(v, dict | list) and k not in ("units", "goals"):
            out += _numbers(v, f"{name}.{k}".strip("."))
    return out
