"""What `--help` says, read from the source: an import of JAX would take longer than reading it.

An experiment has a docstring, a `Command` with a `config`, and `PRESETS`; fields of both are documented below them.
"""

import ast
import contextlib
import functools
import shutil
import textwrap
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
DEFAULT = "quick"
"""The preset of a command line that names none."""


class Flag(NamedTuple):
    """Of a command line."""

    name: str
    """Of the field."""
    kind: str
    """Its type, as a user would write it; empty for a switch."""
    text: str
    default: str | None
    """As it is declared, where it is."""


class Described(NamedTuple):
    """What the source of an experiment says of its command line."""

    text: str
    config: list[Flag]
    command: list[Flag]
    presets: dict[str, dict[str, str]]
    """Of every preset, values of fields as they are written."""


def described(name: str) -> Described:
    """Of the experiment `name`."""
    texts = [ast.get_docstring(_source(name)), ast.get_docstring(_found(name, "Command")[1])]  # pyright: ignore
    paragraphs = [p for t in texts if t for p in t.split("\n\n")]
    text = "\n\n".join(dict.fromkeys(paragraphs))  # both may begin with the same sentence
    command = _fields(name, "Command")
    config = command.pop("config")[1]
    assert isinstance(config.annotation, ast.Subscript)
    assert isinstance(config.annotation.slice, ast.Tuple)
    of_config = _fields(name, ast.unparse(config.annotation.slice.elts[0]))
    where, presets = _assigned(name, "PRESETS")
    assert isinstance(presets, ast.Dict)
    values = {ast.literal_eval(k): _values(where, v) for k, v in zip(presets.keys, presets.values, strict=True) if k}
    flags = lambda fields: [_flag(field, *found) for field, found in fields.items()]
    return Described(text, flags(of_config), flags(command), {DEFAULT: values.pop(DEFAULT), **values})


def help_of(name: str, width: int | None = None) -> str:
    """The help of an experiment, for a terminal so wide."""
    width = min(width or shutil.get_terminal_size().columns, 120)
    found = described(name)
    lines = [
        f"usage: python -m experiments {name} [--preset {{{','.join(found.presets)}}}] [--FLAG VALUE ...]",
        "",
        *_wrapped(found.text, width),
        "",
        f"the run (in brackets the values of --preset {DEFAULT}, and of others where they differ):",
    ]
    for flag in found.config:
        of = {p: values.get(flag.name, flag.default) for p, values in found.presets.items()}
        lines += _entry(flag, of if flag.name != "preset" else {DEFAULT: DEFAULT}, width)
    lines += ["", "where it goes and what it runs on:"]
    for flag in found.command:
        lines += _entry(flag, {DEFAULT: flag.default}, width)
    return "\n".join([*lines, *_entry(Flag("help", "", "This text, with -h as well.", None), {}, width)])


def _entry(flag: Flag, defaults: dict[str, str | None], width: int) -> list[str]:
    values = list(defaults.values())
    told = [] if not flag.kind or not values or values[0] is None else [values[0]]
    told += [f"{value} with {preset}" for preset, value in defaults.items() if told and value not in (None, values[0])]
    text = " ".join([*flag.text.split(), *([f"[{'; '.join(told)}]"] if told else [])])
    head = f"  --{flag.name.replace('_', '-')} {flag.kind}".rstrip()
    return [head, *textwrap.wrap(text, width - 6, initial_indent=" " * 6, subsequent_indent=" " * 6)]


def _wrapped(text: str, width: int) -> list[str]:
    """Paragraphs, but those that are indented as they are."""
    out = []
    for paragraph in text.split("\n\n"):
        out += ["", *(paragraph.splitlines() if paragraph.startswith(" ") else textwrap.wrap(paragraph, width))]
    return out[1:]


# ---- reading


@functools.cache
def _source(module: str) -> ast.Module:
    return ast.parse((HERE / f"{module}.py").read_text("utf-8"))


def _found(module: str, name: str) -> tuple[str, ast.ClassDef | ast.Assign]:
    """Where a name, perhaps of an imported module (`_refine.AbstractConfig`), is made, and how."""
    parts = name.split(".")
    if len(parts) == 2:
        return _found(*parts)  # pyright: ignore[reportArgumentType]
    for node in _source(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.Assign) and any(ast.unparse(t) == name for t in node.targets):
            return module, node
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _found(node.module, alias.name)
    raise LookupError(f"{module} has no {name}")


def _assigned(module: str, name: str) -> tuple[str, ast.expr]:
    where, node = _found(module, name)
    assert isinstance(node, ast.Assign)
    return where, node.value


def _fields(module: str, name: str) -> dict[str, tuple[str, ast.AnnAssign, str]]:
    """The fields of a dataclass, each with the module it is declared in and its text; those of its bases come first."""
    where, node = _found(module, name)
    assert isinstance(node, ast.ClassDef)
    fields: dict[str, tuple[str, ast.AnnAssign, str]] = {}
    for base in node.bases:
        fields |= _fields(where, ast.unparse(base))
    for statement, after in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
        if isinstance(statement, ast.AnnAssign):
            field = ast.unparse(statement.target)
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            fields[field] = (where, statement, str(after.value.value) if is_text else "")  # pyright: ignore
    return fields


def _flag(name: str, module: str, node: ast.AnnAssign, text: str) -> Flag:
    kind, switch = node.annotation, False
    if isinstance(kind, ast.Subscript) and ast.unparse(kind.value) == "Annotated":
        assert isinstance(kind.slice, ast.Tuple)
        switch = "FlagCreatePairsOff" in ast.unparse(kind)
        kind = kind.slice.elts[0]
    told = _kind(module, kind)
    default = None if node.value is None else _written(module, node.value)
    return Flag(name, "" if switch else told, text, default)


def _kind(module: str, node: ast.expr) -> str:
    """A type as a user would write its values: choices in braces, and dots after what may come several times."""
    if isinstance(node, ast.BinOp):  # a type or None, which a default tells
        return _kind(module, node.left)
    told = ast.unparse(node)
    with contextlib.suppress(LookupError):  # the name of a choice
        node = _assigned(module, told)[1]
    if not isinstance(node, ast.Subscript):
        return told
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if ast.unparse(node.value) == "Literal":
        choices = [str(ast.literal_eval(choice)) for choice in inner]
        return "{" + ("|" if any("," in c for c in choices) else ",").join(choices) + "}"
    if ast.unparse(node.value) == "tuple":
        return " ".join("..." if ast.unparse(k) in ("...", "Ellipsis") else _kind(module, k) for k in inner)
    return told


def _values(module: str, node: ast.expr) -> dict[str, str]:
    """What a preset says: `Config(...)`, `dataclasses.replace(PRESET, ...)`, or the name of another."""
    if isinstance(node, ast.Name):
        return _values(*_assigned(module, node.id))
    assert isinstance(node, ast.Call)
    values = _values(module, node.args[0]) if ast.unparse(node.func) == "dataclasses.replace" else {}
    return values | {k.arg: _written(module, k.value) for k in node.keywords if k.arg}


def _written(module: str, node: ast.expr) -> str:
    """A value, or how it is made where that is no constant."""
    if isinstance(node, ast.Name):
        with contextlib.suppress(LookupError):
            return _written(*_assigned(module, node.id))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):  # of a folder by the name of a file
        node = node.right
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return str(value)
