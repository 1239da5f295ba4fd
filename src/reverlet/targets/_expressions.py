"""Arithmetic of parameters in files: read as a tree, and never run as a program."""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def evaluated(text: str, values: Mapping[str, Any]) -> Any:
    """An expression such as `-2*PARM['NonbondedForce.Atom/charge/H']`: numbers, + - * /, parentheses and parameters.

    **Errors:** `ValueError` for anything else, and `KeyError` for parameters that are not there.
    """
    try:
        return _evaluated(ast.parse(text.strip(), mode="eval").body, values)
    except (SyntaxError, RecursionError):
        raise _refusal(text) from None
    except TypeError:
        raise _refusal(text) from None


def _evaluated(node: ast.AST, values: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluated(node.operand, values)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        operation: Callable = _OPERATIONS[type(node.op)]
        return operation(_evaluated(node.left, values), _evaluated(node.right, values))
    if (
        isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("PARM", "PRM")
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
    ):
        return values[node.slice.value]
    raise TypeError


def _refusal(text: str) -> ValueError:
    return ValueError(
        f"{text!r} is no arithmetic of parameters; wanted numbers, + - * /, parentheses and `PARM['name']`, and nothing"
        " else: what files contain is not run."
    )
