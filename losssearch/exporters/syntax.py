"""How are expressions of Python put together, and what is the line that a function computes?"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from functools import cache
from typing import Any, cast


@cache
def _source(function: Callable[..., Any]) -> ast.FunctionDef:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return cast(ast.FunctionDef, tree.body[0])


def anatomy(
    function: Callable[..., Any], count: int, dims: tuple[int, ...] | None
) -> tuple[list[str], set[str], ast.expr | None]:
    """Parameters, those that must be tensors, and the whole function if it is one expression."""
    definition = _source(function)
    parameters = [a.arg for a in definition.args.args]
    names = [p for p in parameters if p != "dims"]
    missing = set(names[count:])
    statements = [s for s in definition.body if not _is_docstring(s)]
    first = statements[0]
    if isinstance(first, ast.If) and _fold(first.test, missing, dims) is True:
        statements = first.body
    line: ast.expr | None = None
    if len(statements) == 1 and isinstance(statements[0], ast.Return) and statements[0].value:
        line = _Folder(missing, dims).visit(ast.parse(ast.unparse(statements[0].value), mode="eval").body)
    bare: set[str] = set()
    for node in ast.walk(definition if line is None else line):
        if isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.value, ast.Name):
            bare.add(node.value.id)
        if isinstance(node, ast.Call):
            bare |= {a.id for a in node.args if isinstance(a, ast.Name)}
    return parameters, bare, line


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _fold(test: ast.expr, missing: set[str], dims: tuple[int, ...] | None) -> bool | None:
    """The value of `weight is None` and `len(dims) > 1`, if it is one of these."""
    text = ast.unparse(test)
    if text == "len(dims) > 1":
        return dims is not None and len(dims) > 1
    if text.endswith(" is None") and text[:-8].isidentifier():
        return text[:-8] in missing
    return None


class _Folder(ast.NodeTransformer):
    def __init__(self, missing: set[str], dims: tuple[int, ...] | None) -> None:
        self.missing, self.dims = missing, dims

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        known = _fold(node.test, self.missing, self.dims)
        if known is None:
            return self.generic_visit(node)
        return cast(ast.AST, self.visit(node.body if known else node.orelse))


def substituted(line: ast.expr, ready: dict[str, ast.expr], dims: tuple[int, ...] | None) -> ast.expr:
    class Substitute(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            if node.id == "dims" and dims is not None:
                return place(dims)
            return ready.get(node.id, node)

        def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
            if ast.unparse(node) == "dims[0]" and dims is not None:
                return number(dims[0])
            return self.generic_visit(node)

    return cast(ast.expr, Substitute().visit(ast.parse(ast.unparse(line), mode="eval").body))


def number(value: float) -> ast.expr:
    whole = value == int(value) and abs(value) < 1e15
    size = ast.Constant(abs(int(value)) if whole else abs(value))
    return ast.UnaryOp(ast.USub(), size) if value < 0 else size


def tuple_of(dims: tuple[int, ...] | None) -> ast.expr:
    return ast.Tuple([number(d) for d in dims or ()], ast.Load())


def place(dims: tuple[int, ...]) -> ast.expr:
    return number(dims[0]) if len(dims) == 1 else tuple_of(dims)


def times(x: ast.expr, y: ast.expr) -> ast.expr:
    return ast.BinOp(x, ast.Mult(), y)


def call(value: ast.expr, method: str, *args: ast.expr, **keywords: ast.expr) -> ast.expr:
    named = [ast.keyword(name, e) for name, e in keywords.items()]
    return ast.Call(ast.Attribute(value, method), list(args), named)


class _Plainer(ast.NodeTransformer):
    """x + -y is x - y, and a comparison has its number on the right."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Add):
            for left, right in ((node.left, node.right), (node.right, node.left)):
                if isinstance(right, ast.UnaryOp) and isinstance(right.op, ast.USub):
                    return _one_minus_exp(ast.BinOp(left, ast.Sub(), right.operand))
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        flipped = {ast.Gt: ast.Lt, ast.GtE: ast.LtE, ast.Lt: ast.Gt, ast.LtE: ast.GtE}
        kind = type(node.ops[0])
        if _is_number(node.left) and kind in flipped:
            return ast.Compare(node.comparators[0], [flipped[kind]()], [node.left])
        return node


def _one_minus_exp(difference: ast.BinOp) -> ast.expr:
    """1 - e**x in one operation, and exact where x is small."""
    match difference:
        case ast.BinOp(left=ast.Constant(1), right=ast.Call(func=ast.Attribute(value=x, attr="exp"))):
            return ast.UnaryOp(ast.USub(), call(x, "expm1"))
    return difference


def _is_number(expression: ast.expr) -> bool:
    if isinstance(expression, ast.UnaryOp):
        expression = expression.operand
    return isinstance(expression, ast.Constant)


def is_simple(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Name) or _is_number(expression)


def text_of(expression: ast.expr) -> str:
    copied = ast.parse(ast.unparse(ast.fix_missing_locations(expression)), mode="eval").body
    return ast.unparse(ast.fix_missing_locations(_Plainer().visit(copied)))
