"""`report.html` in the folder of a run: one page that can be sent, rewritten while the run goes on.

Made of what the folder holds (config.json, history*.jsonl, summary.json, *.png), so that it can be made again from it:
`python -m experiments report DIR`.
"""

import contextlib
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from . import _help
from ._html import curve, figure, number, page, table, tables_of, text

NAME = "report.html"
REFRESH = 10
"""Seconds between two pages while a run goes on, and between two looks of a browser."""

_written: dict[Path, float] = {}
"""When this process last wrote the report of a folder, by `time.monotonic`."""


def note(written: Path) -> None:
    """That a file of a run was written: writes the report beside it anew, at most every `REFRESH` seconds.

    A report that cannot be written stops no run.
    """
    folder = written.parent
    seldom = written.suffix in (".png",) or written.name in ("config.json", "summary.json")
    if not (folder / "config.json").exists():
        return
    if seldom or time.monotonic() - _written.get(folder, -REFRESH) >= REFRESH:
        _written[folder] = time.monotonic()
        _try_to_write(folder, None)


def end(outcome: str) -> list[Path]:
    """Writes the last reports of this process: of a run that has `ended`, or why it stopped. Returns their folders."""
    folders = list(_written)
    for folder in folders:
        _try_to_write(folder, outcome)
    _written.clear()
    return folders


def _try_to_write(folder: Path, outcome: str | None) -> None:
    try:
        write(folder, outcome)
    except Exception as error:
        print(f"{folder / NAME} cannot be written: {error!r}", file=sys.stderr)


def write(folder: Path, outcome: str | None = "ended") -> Path:
    """Writes the report of a folder in one piece; `None` for a run that goes on."""
    part = folder / f"{NAME}.{os.getpid()}.part"
    try:
        part.write_text(report(folder, outcome), "utf-8")
        os.replace(part, folder / NAME)
    finally:
        part.unlink(missing_ok=True)
    return folder / NAME


def read(path: Path) -> Any:
    """A JSON file of a run, or nothing where it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        return json.loads(path.read_text("utf-8"))
    return None


def config_of(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration of a run, with all changes, and its environment."""
    known = read(folder / "config.json")
    known = known if isinstance(known, dict) else {}
    config = dict(known.get("config") or {})
    for change in known.get("changes") or []:
        config |= change
    return config, known.get("environment") or {}


def summary_of(folder: Path) -> dict[str, Any]:
    """What a run found, so far as it has."""
    found = read(folder / "summary.json")
    return found if isinstance(found, dict) else {}


def report(folder: Path, outcome: str | None) -> str:
    """The page of one run."""
    config, environment = config_of(folder)
    name, summary = str(config.get("experiment", folder.name)), summary_of(folder)
    histories = {p.stem: _lines(p) for p in sorted(folder.glob("history*.jsonl"))}
    figures = sorted(folder.glob("*.png"))
    asked = _asked(name)
    body = [f"<p class=small>reverlet · {text(name)} · preset {text(config.get('preset', '–'))}</p>"]
    body += [f"<h1>{text(asked[0])}</h1>", *(f"<p>{text(p)}</p>" for p in asked[1:])]
    if config.get("preset") == "smoke":
        body.append(
            "<p class=banner>A smoke run has no physics: it shows that the program runs; its numbers mean nothing.</p>"
        )
    body += _state(outcome, environment, histories, config, summary)
    body += _goals(summary)
    body += ["<h2>Figures</h2>", *map(figure, figures)] if figures else []
    for stem, lines in histories.items():
        body += _progress(stem, lines)
    found = {k: v for k, v in summary.items() if k not in ("goals", "units")}
    if found:
        units = summary.get("units")
        body += ["<h2>Parameters, targets and what was measured</h2>", *(tables_of(found))]
        body += tables_of(units, "units") if units else []
    body += _configuration(name, config)
    body += _repeat(folder, name, environment)
    return page(f"{name}: {asked[0]}", body, seconds=REFRESH if outcome is None else None)


def _asked(name: str) -> list[str]:
    """The first paragraphs of what the experiment says of itself."""
    try:
        paragraphs = _help.described(name).text.split("\n\n")
    except (OSError, LookupError, AssertionError, StopIteration, KeyError):
        return [name]
    return [" ".join(p.replace("`", "").split()) for p in paragraphs[:2]]


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text("utf-8").splitlines():
            lines.append(json.loads(line))
    return lines


def _state(outcome, environment, histories, config, summary) -> list[str]:
    if outcome is None:
        longest = max(histories.values(), key=len, default=[])
        told, total = "The run goes on.", config.get("updates")
        if longest:
            told += f" {len(longest)} updates" + (f" of {total}" if isinstance(total, int) else "") + "."
            seconds = [line["wall_time"] for line in longest[1:] if isinstance(line.get("wall_time"), int | float)]
            if seconds and isinstance(total, int) and len(longest) < total:
                left = (total - len(longest)) * sum(seconds) / len(seconds)
                told += f" About {left / 60:.1f} minutes of updates are left."
        told += f" Written {time.strftime('%Y-%m-%d %H:%M:%S %Z')}; this page loads itself again."
    else:
        told = "The run has ended." if outcome == "ended" else "The run has stopped."
        if outcome == "ended" and not summary:
            told = "The run has not ended: there is no summary.json yet."
    started = environment.get("started")
    why = [f"<p class=said>{text(outcome)}</p>"] if outcome not in (None, "ended") else []
    return [f"<p><strong>{text(told)}</strong>{f' Begun {text(started)}.' if started else ''}</p>", *why]


def _goals(summary: dict[str, Any]) -> list[str]:
    goals = summary.get("goals") or []
    if not goals:
        return []
    rows = [[goal_of(g["name"], g["wanted"]), figure_of(g)] for g in goals]
    met = sum(g["met"] is True for g in goals)
    judged = sum(g["met"] is not None for g in goals)
    told = f"{met} of {judged} met; ± are standard errors." if judged else "Not judged."
    return ["<h2>Goals</h2>", f"<p>{told}</p>", table(("goal", "found"), rows)]


MET = {True: "<span class=yes>✓ met</span>", False: "<span class=no>✗ missed</span>", None: "not judged"}


def goal_of(name: str, wanted: str) -> str:
    """The cell that names a goal."""
    return f"{text(name)}<br><span class=small>wanted: {text(wanted)}</span>"


def figure_of(goal: dict[str, Any]) -> str:
    """The cell that says what was reached of it."""
    return f"{text(number(goal['value'], goal['error']))}<br>{MET[goal['met']]}"


def _progress(stem: str, lines: list[Any]) -> list[str]:
    """Curves of all plain numbers of a history, and its last line."""
    if len(lines) < 2:
        return []
    pick = lambda name: [line.get(name) for line in lines]
    plain = lambda column: all(isinstance(v, int | float) and not isinstance(v, bool) for v in column)
    names = [n for n in lines[0] if n not in ("update", "wall_time") and not n.endswith("_error") and plain(pick(n))]
    curves = []
    for name in names[:12]:
        errors = pick(f"{name}_error")
        curves.append(curve(name.replace("_", " "), pick(name), errors if plain(errors) else None))
    which = stem.removeprefix("history").strip("-_") or "the fit"
    note = "<p class=small>Bands are ± 2 standard errors.</p>"
    return [f"<h2>Updates of {text(which)}</h2>", note, f"<div class=curves>{''.join(curves)}</div>"] if curves else []


def _configuration(name: str, config: dict[str, Any]) -> list[str]:
    with contextlib.suppress(Exception):  # of an experiment that there is no more
        meaning = {f.name: " ".join(f.text.split()) for f in _help.described(name).config}
        rows = [
            (text(k), text(number(v)), text(meaning.get(k, "")))
            for k, v in config.items()
            if k != "experiment" and not k.endswith("_sha256")
        ]
        rows += [(text(k), text(v), "of the file") for k, v in config.items() if k.endswith("_sha256") and v]
        inside = table(("flag", "value", "what it is"), rows)
        return ["<h2>Configuration</h2>", f"<details><summary>{len(rows)} flags</summary>{inside}</details>"]
    return ["<h2>Configuration</h2>", *tables_of(config)]


def command_of(name: str, environment: dict[str, Any]) -> str:
    """The command line of a run, as it can be given again."""
    arguments = environment.get("command") or []
    return shlex.join(["python", "-m", "experiments", *(arguments[1:] if len(arguments) > 1 else [name])])


def _repeat(folder: Path, name: str, environment: dict[str, Any]) -> list[str]:
    git = environment.get("git")
    lines = [f"git checkout {git.split()[0]}"] if git else []
    lines += ["pip install -e .[experiments]", command_of(name, environment)]
    changed = "<p>The files had changes that were not committed.</p>" if git and " " in git else ""
    machine = {k: v for k, v in environment.items() if k not in ("versions", "command", "devices")}
    machine |= {**(environment.get("versions") or {}), "devices": ", ".join(environment.get("devices") or [])}
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix != ".part" and p.name != NAME)
    return [
        f"<h2>How to repeat it</h2><pre>{text(chr(10).join(lines))}</pre>{changed}",
        "<details><summary>Versions and machine</summary>",
        table(("", ""), [(text(k), text(v)) for k, v in machine.items()]),
        "</details><details><summary>Files of the run</summary>",
        table(("", ""), [(text(p.name), f"{p.stat().st_size / 1000:.1f} kB") for p in files]),
        "</details>",
    ]
