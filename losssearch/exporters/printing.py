"""How do the instructions of a loss read as straight-line torch code?

Each primitive is printed from its own torch function: a function of one line is written out in
place, a longer one becomes a helper whose source is copied. Expressions are syntax trees until
the end, so that no text of a user is ever pasted into code, and parentheses come out right.
Values keep the names of the definitions that they are. A loss of classes is printed twice, for
labels as rows and for class indices (`execution.labels`); one of named tensors is printed whole.
"""

from __future__ import annotations

import ast
import builtins
import keyword
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, cast

from torch import nn

from losssearch.errors import ExportError
from losssearch.execution import shortcuts
from losssearch.execution.labels import ByIndex, Word, by_index
from losssearch.execution.parts import Parts
from losssearch.exporters.syntax import (
    anatomy,
    call,
    is_simple,
    number,
    place,
    substituted,
    text_of,
    times,
    tuple_of,
)
from losssearch.language.bounds import bounds
from losssearch.language.primitives import PRIMITIVES, Form, Primitive
from losssearch.language.program import Instruction, Program
from losssearch.language.signature import Kind, Signature
from losssearch.language.simplify import Simplifier
from losssearch.language.term import CONSTANT, LITERAL, SIZE

#: An expression longer than this is cut by giving its longest part a name.
LONGEST = 72
#: A function whose one line is longer than this is called, not written out.
LONGEST_IN_PLACE = 60

_INFIX = ("add", "sub", "mul", "neg", "square")

#: What generated code speaks of by these names already.
_TAKEN = {
    *("self", "torch", "nn", "Tensor", "Any", "inf", "name", "value", "task", "main"),
    *("bounded", "unbounded", "shown", "formula", "key", "ranges", "inputs", "copies", "masks"),
    *("learnable", "not_applicable", "set_progress", "settings", "names", "values", "low", "high"),
    *shortcuts.__all__,
}
#: And the code of a loss that is called as loss(input, target).
_TAKEN_BY_CALLS = {
    *("input", "given", "coupled", "dense", "reduction", "weight", "ignore_index", "label_smoothing"),
    "sum_and_count",
}


@dataclass
class Printed:
    """The code of a loss.

    Args:
        lines: Statements, without indentation.
        outputs: Expressions of the value and, if there is one, of the weight.
        by_index: The same two for class indices; None where these must come as one-hot rows.
        helpers: Functions that the statements call, in order of need.
        names: Constant or input -> the identifier that it goes by.
    """

    lines: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    by_index: tuple[list[str], list[str]] | None = None
    helpers: list[Callable[..., Any]] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)


@dataclass
class _Value:
    expression: ast.expr
    number: bool = False  # a Python number, or a tensor without axes that stands for one


@dataclass(frozen=True)
class _Frame:
    """What the statements stand in.

    Args:
        program: What to print.
        signature: With the operating ranges under which the program was made canonical.
        arguments: Inputs that are whole tensors where the statements begin; the first lends its dtype.
        base: Axes that every tensor has.
        whole: Whether the value is one number.
        any_size: Whether an axis may be empty.
        target: The input that holds labels.
        by_index: What the program is on class indices.
    """

    program: Program
    signature: Signature
    arguments: tuple[str, ...]
    base: tuple[str, ...] = ()
    whole: bool = True
    any_size: bool = False
    target: str = ""
    by_index: ByIndex | None = None


def printed(parts: Parts, signature: Signature, multiclass: bool) -> Printed:
    """Code for the value and weight of a loss that is called as `loss(input, target)`.

    Args:
        parts: What to print.
        signature: With the operating ranges under which the program was made canonical.
        multiclass: Whether predictions stand over "n c", not "n".
    """
    frame = _Frame(
        parts.program,
        signature,
        (parts.prediction, parts.target),
        ("n", "c") if multiclass else ("n",),
        whole=bool(parts.coupled),
        target=parts.target,
    )
    code = _Printer(frame).print()
    if parts.by_index:
        indexed = _Printer(replace(frame, by_index=parts.by_index)).print()
        code.by_index = indexed.lines, indexed.outputs
        code.helpers += [h for h in indexed.helpers if h not in code.helpers]
    return code


def printed_whole(program: Program, arguments: Sequence[str]) -> Printed:
    """Code for the value of a loss of named tensors; any axis may be empty.

    Args:
        program: Canonical but for its constants' names.
        arguments: The inputs that are tensors over all their axes; the first lends its dtype.
    """
    return _Printer(_Frame(program, program.signature, tuple(arguments), any_size=True)).print()


class _Printer:
    def __init__(self, frame: _Frame) -> None:
        by_index = frame.by_index
        self.frame, self.by_index = frame, by_index
        self.program = by_index.program if by_index else frame.program
        self.words = by_index.words if by_index else {}
        self.steps = self.program.instructions
        self.signature = signature = frame.signature
        used = 0
        for step in self.steps:
            used |= step.axes
        self.axes = tuple(a for a in signature.axes if a in frame.base or signature.bits[a] & used)
        self.ranges = bounds(self.program, any_input=frame.any_size, any_size=frame.any_size)
        self.out = Printed()
        self.taken = _TAKEN | set(dir(nn.Module)) | (_TAKEN_BY_CALLS if frame.target else set())
        constants = [c.name for c in frame.program.constants]
        others = [i for i in signature.inputs if i in frame.program.inputs and i not in frame.arguments]
        for name in [*frame.arguments, *constants, *others]:
            self.out.names[name] = self.identifier(name)
        self.first = self.out.names[frame.arguments[0]]
        self.names = self._definitions()
        self.labels = self.out.names.get(frame.target, "")
        self.needed = self._needed()
        self.uses = [0] * len(self.steps)
        for i in self.needed:
            for j in self._args(i):
                self.uses[j] += 1
        for j in self.program.outputs:
            self.uses[j] += 1
        self.fused = {i for i in self.needed if self._is_softmax(i)}
        self.values: list[_Value] = []

    # Names.

    def identifier(self, name: str) -> str:
        """A name that is safe in Python and not taken; hostile text becomes `value`."""
        plain = name.isascii() and name.isidentifier() and len(name) <= 60
        result = name if plain and not name.startswith("_") else "value"
        while result in self.taken or keyword.iskeyword(result) or hasattr(builtins, result):
            result += "_"
        self.taken.add(result)
        return result

    def fresh(self, stem: str) -> str:
        number = 1
        while f"{stem}_{number}" in self.taken:
            number += 1
        self.taken.add(f"{stem}_{number}")
        return f"{stem}_{number}"

    def _definitions(self) -> dict[int, str]:
        """Which instructions are definitions of the space."""
        builder = Simplifier(self.signature, self.program.constants)
        memo: list[int] = []
        for step in self.steps:
            memo.append(builder.visit(step.op, [memo[i] for i in step.args], step.data))
        place = {index: i for i, index in enumerate(memo)}
        names: dict[int, str] = {}
        for name in self.signature.definitions:
            index = builder.name(name)
            if self.by_index:
                index = self._indexed(builder, index)
            i = place.get(index, -1)
            if i >= 0 and i not in names and self.steps[i].args:
                names[i] = self.identifier(name)
        return names

    def _args(self, i: int) -> tuple[int, ...]:
        return (self.words[i][1],) if i in self.words else self.steps[i].args

    def _indexed(self, builder: Simplifier, index: int) -> int:
        """A definition as it reads on class indices; -1 if it does not."""
        found = by_index(builder.program([index]), self.frame.target)
        if found is None:
            return -1
        memo: list[int] = []
        for step in found.program.instructions:
            memo.append(builder.visit(step.op, [memo[i] for i in step.args], step.data))
        return memo[found.program.outputs[0]]

    # Statements.

    def print(self) -> Printed:
        for i, step in enumerate(self.steps):
            if i not in self.needed:
                self.values.append(_Value(ast.Constant(None)))
                continue
            value = self._value(i, step)
            known = is_simple(value.expression) or i in self.fused or i in self.program.outputs
            if not known and (i in self.names or self.uses[i] > 1):
                value = self._named(value, self.names.get(i) or self._stem(step))
            self.values.append(value)
        for j in self.program.outputs:
            if self.uses[j] > 1:
                self.values[j] = self._named(self.values[j], self.fresh("v"))
            self.out.outputs.append(self._flat(self.values[j]))
        return self.out

    def _is_softmax(self, i: int) -> bool:
        """Whether an instruction is a log_softmax that is read by one exp alone."""
        step = self.steps[i]
        readers = [j for j in self.needed if i in self._args(j)]
        return (
            step.op == "log_softmax"
            and len(cast("tuple[str, ...]", step.data)) == 1
            and [self.steps[j].op for j in readers] == ["exp"]
        )

    def _stem(self, step: Instruction) -> str:
        return self.identifier("classes") if step.op == SIZE and step.data == "c" else self.fresh("v")

    def _needed(self) -> set[int]:
        needed: set[int] = set()
        stack = list(self.program.outputs)
        while stack:
            i = stack.pop()
            if i not in needed:
                needed.add(i)
                stack.extend(self._args(i))
        return needed

    def _flat(self, value: _Value) -> str:
        rank = len(self.axes)
        expression = self._tensor(value).expression
        if len(text_of(expression)) > LONGEST:
            expression = self._named(_Value(expression), self.fresh("v")).expression
        if self.frame.whole:
            expression = call(expression, "reshape", ast.Tuple([], ast.Load()))
        elif rank == 2:
            expression = call(expression, "squeeze", ast.Constant(1))
        elif rank > 2:
            expression = call(expression, "reshape", ast.Constant(-1))
        return text_of(expression)

    def _named(self, value: _Value, name: str) -> _Value:
        self.out.lines.append(f"{name} = {text_of(value.expression)}")
        return _Value(ast.Name(name), value.number)

    # Values.

    def _value(self, i: int, step: Instruction) -> _Value:
        if not step.args:
            return self._terminal(step)
        if i in self.words:
            return self._word(*self.words[i])
        if step.op == "exp" and step.args[0] in self.fused:
            dim = place(self._dims(self.steps[step.args[0]]))
            before = self._tensor(self.values[self.steps[step.args[0]].args[0]])
            return _Value(call(before.expression, "softmax", dim))
        row = PRIMITIVES[step.op]
        args = [self._given(row, k, j) for k, j in enumerate(step.args)]
        ranges = [self.ranges[j] for j in step.args]
        dims = self._dims(step) if row.form is not Form.ELEMENTWISE else None
        function = shortcuts.quickest(row, ranges)
        if all(a.number for a in args):
            if step.op in _INFIX or (step.op in ("div", "pow") and shortcuts.is_idle(row, ranges)):
                return _Value(self._apply(row, row.plain or row.torch, args, dims), number=True)
            args[0] = self._tensor(args[0])
        return _Value(self._apply(row, function, args, dims))

    def _word(self, word: Word, x: int) -> _Value:
        value = self.values[x]
        if not self.steps[x].axes & self.signature.bits["n"]:
            if not is_simple(value.expression):
                value = self._named(value, self.fresh("v"))
            rows = ast.Subscript(ast.Attribute(ast.Name(self.labels), "shape"), ast.Constant(0))
            value = _Value(call(value.expression, "expand", rows, ast.Constant(-1)))
        _, _, line = anatomy(word, 2, None)
        if line is None:
            return _Value(self._helper(word, [value.expression, ast.Name(self.labels)]))
        ready: dict[str, ast.expr] = {"x": value.expression, "target": ast.Name(self.labels)}
        self._shorten(ready, line)
        return _Value(substituted(line, ready, None))

    def _terminal(self, step: Instruction) -> _Value:
        name = str(step.data)
        if step.op == LITERAL:
            return _Value(number(cast(float, step.data)), number=True)
        if step.op == CONSTANT:
            return _Value(ast.Name(self.out.names[name]), number=True)
        if step.op == SIZE:
            return _Value(self._size(name), number=True)
        value: ast.expr = ast.Name(self.out.names[name])
        axes = self.signature.inputs[name].axes
        order = [axes.index(a) for a in self.axes if a in axes]
        if order != sorted(order):
            value = call(value, "permute", *map(number, order))
        index = [a in axes for a in self.axes]
        first = index.index(True) if True in index else len(index)
        if not axes or all(index[first:]):  # broadcasting puts the missing axes in front by itself
            return _Value(value)
        parts: list[ast.expr] = [ast.Slice() if h else ast.Constant(None) for h in index[first:]]
        return _Value(ast.Subscript(value, ast.Tuple(parts, ast.Load())))

    def _size(self, axis: str) -> ast.expr:
        """By the first argument that has the axis, or what it is a copy of."""
        copies = self.signature.copies
        for name in self.frame.arguments:
            axes = [copies.get(a, a) for a in self.signature.inputs[name].axes]
            if copies.get(axis, axis) in axes:
                shape = ast.Attribute(ast.Name(self.out.names[name]), "shape")
                return ast.Subscript(shape, ast.Constant(axes.index(copies.get(axis, axis))))
        raise ExportError(f"No input of the loss has the axis {axis!r}, so its size is unknown.")

    def _given(self, row: Primitive, k: int, j: int) -> _Value:
        """An argument; a mask counts as a number where one is wanted."""
        value = self.values[j]
        if self.steps[j].kind is Kind.MASK and k not in row.masks and row.name != "any":
            dtype = ast.Attribute(ast.Name(self.first), "dtype")
            return _Value(call(value.expression, "to", dtype))
        return value

    def _tensor(self, value: _Value) -> _Value:
        if not value.number:
            return value
        like = ast.Name(self.first)
        return _Value(self._helper(shortcuts.as_tensor, [value.expression, like]))

    def _dims(self, step: Instruction) -> tuple[int, ...]:
        names = cast("tuple[Any, ...]", step.data)
        flat = [a for n in names for a in ((n,) if isinstance(n, str) else n)]
        return tuple(self.axes.index(str(a)) - len(self.axes) for a in flat)

    def _apply(
        self,
        row: Primitive,
        function: Callable[..., Any],
        args: list[_Value],
        dims: tuple[int, ...] | None,
    ) -> ast.expr:
        if row.name == "like" and dims:
            result = args[0].expression
            for to, origin in zip(dims[::2], dims[1::2], strict=True):
                result = call(result, "transpose", number(to), number(origin))
            return result
        if row.name == "mean" and len(args) == 1 and dims:
            x = self._tensor(args[0]).expression
            if not self.frame.any_size and (self.axes[dims[0]] != "c" or len(dims) > 1):
                return call(x, "mean", place(dims), keepdim=ast.Constant(True))
            if len(text_of(x)) > LONGEST - 30:
                x = self._named(_Value(x), self.fresh("v")).expression
            total = call(x, "sum", place(dims), keepdim=ast.Constant(True))  # its slope is a view
            count = reduce(times, [self._size(self.axes[d]) for d in dims])
            if self.frame.any_size:  # the mean of nothing is 0
                count = ast.Call(ast.Name("max"), [count, ast.Constant(1)], [])
            return ast.BinOp(total, ast.Div(), count)
        parameters, bare, line = anatomy(function, len(args), dims)
        names = [p for p in parameters if p != "dims"]
        ready: dict[str, ast.expr] = {}
        for name, value in zip(names, args, strict=False):
            wanted = name in bare and not (row.name == "where" and name == "z")
            ready[name] = (self._tensor(value) if wanted else value).expression
        if line is None or len(text_of(line)) > LONGEST_IN_PLACE:
            order = [ready.get(p, tuple_of(dims)) for p in parameters if p in ready or p == "dims"]
            return self._helper(function, order)
        self._shorten(ready, line)
        return substituted(line, ready, dims)

    def _shorten(self, ready: dict[str, ast.expr], line: ast.expr) -> None:
        """Gives names to what is long, or would be written twice."""
        counts = [n.id for n in ast.walk(line) if isinstance(n, ast.Name)]
        lengths = {name: len(text_of(e)) for name, e in ready.items()}
        total = sum(lengths[name] * counts.count(name) for name in ready) + 12
        for name in sorted(ready, key=lambda n: -lengths[n]):
            trivial = is_simple(ready[name])
            if not trivial and (counts.count(name) > 1 or total > LONGEST):
                total -= lengths[name] * counts.count(name)
                ready[name] = self._named(_Value(ready[name]), self.fresh("v")).expression

    def _helper(self, function: Callable[..., Any], args: Sequence[ast.expr]) -> ast.expr:
        if function not in self.out.helpers:
            self.out.helpers.append(function)
        short = list(args)
        if sum(len(text_of(a)) for a in short) > LONGEST:
            longest = max(range(len(short)), key=lambda k: len(text_of(short[k])))
            if not is_simple(short[longest]):
                short[longest] = self._named(_Value(short[longest]), self.fresh("v")).expression
        return ast.Call(ast.Name(function.__name__), short, [])
