"""What is a well-typed loss? A flat, immutable list of instructions, checked as it is built.

A `Program` that exists is well typed; nobody downstream checks again. Instructions stand in the
order in which they run (single static assignment): each names earlier ones as its arguments, and
equal instructions are one instruction, so that two programs are the same exactly when their lists
are. `Builder` is the only way in.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, cast

from losssearch.errors import FormulaError
from losssearch.language.primitives import PRIMITIVES, Form, Primitive
from losssearch.language.signature import AxisSet, Kind, Signature
from losssearch.language.term import (
    CONSTANT,
    DEFINED,
    INPUT,
    LITERAL,
    NAME,
    SIZE,
    TERMINALS,
    Data,
    Term,
)

MAX_NODES = 2_000
MAX_DEPTH = 100


@dataclass(frozen=True)
class Constant:
    """A named number of a program, apart from its structure.

    Args:
        name: As the formula writes it.
        value: Current value, finite, within [low, high].
        low, high: Range that a search or a tuner may use.
        learnable: Whether a module offers it as a parameter (opt-in).
    """

    name: str
    value: float
    low: float = -10.0
    high: float = 10.0
    learnable: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise FormulaError(f"constant {self.name!r} must be finite, but is {self.value}")
        if not self.low <= self.value <= self.high:
            raise FormulaError(
                f"constant {self.name!r} = {self.value:g} is outside its range [{self.low:g}, {self.high:g}]",
                remedy="Give a value inside, or widen the range",
            )


class Instruction(NamedTuple):
    """One step: `op` on earlier results. `data` as in `Term`; `kind` and `axes` are its type."""

    op: str
    args: tuple[int, ...]
    data: Data
    kind: Kind
    axes: AxisSet


@dataclass(frozen=True)
class Program:
    """A checked formula, or several over one list of instructions (a gradient: one per input).

    Args:
        signature: What its names mean.
        instructions: In running order.
        outputs: Indices of the results.
        constants: In order of first use.
    """

    signature: Signature
    instructions: tuple[Instruction, ...]
    outputs: tuple[int, ...]
    constants: tuple[Constant, ...] = ()

    def __hash__(self) -> int:
        return hash((self.instructions, self.outputs, self.constants))

    @property
    def root(self) -> Instruction:
        return self.instructions[self.outputs[-1]]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Nodes of the tree under each instruction; what is shared counts each time."""
        sizes: list[int] = []
        for step in self.instructions:
            sizes.append(1 + sum(sizes[i] for i in step.args))
        return tuple(sizes)

    @property
    def size(self) -> int:
        return sum(self.sizes[i] for i in self.outputs)

    @cached_property
    def depth(self) -> int:
        depths: list[int] = []
        for step in self.instructions:
            depths.append(1 + max((depths[i] for i in step.args), default=0))
        return max((depths[i] for i in self.outputs), default=0)

    @cached_property
    def text(self) -> str:
        from losssearch.language.formula import format_program  # the printer stands a floor above

        return format_program(self)

    def __str__(self) -> str:
        return self.text

    @cached_property
    def inputs(self) -> frozenset[str]:
        """Names of the inputs that it reads, those behind its definitions included."""
        found: set[str] = set()
        stack = [Term(s.op, (), s.data) for s in self.instructions if s.op in (INPUT, DEFINED)]
        while stack:
            term = stack.pop()
            if term.op in (INPUT, NAME) and term.data in self.signature.inputs:
                found.add(str(term.data))
            elif term.op in (DEFINED, NAME) and term.data in self.signature.definitions:
                stack.append(self.signature.definitions[str(term.data)].term)
            stack.extend(term.args)
        return frozenset(found)

    def constant(self, name: str) -> Constant:
        for constant in self.constants:
            if constant.name == name:
                return constant
        raise FormulaError(f"no constant is called {name!r}{_suggest(name, self.constant_values)}")

    @property
    def constant_values(self) -> dict[str, float]:
        return {c.name: c.value for c in self.constants}

    def with_constants(self, values: Mapping[str, float]) -> Program:
        """The same structure with other values of its constants.

        Raises:
            FormulaError: A name is unknown, or a value is not finite or outside its range.
        """
        for name in values:
            self.constant(name)
        new = tuple(replace(c, value=float(values.get(c.name, c.value))) for c in self.constants)
        return replace(self, constants=new)

    def term(self, output: int = -1) -> Term:
        """The tree of one output, with what is shared in it shared."""
        terms: list[Term] = []
        for step in self.instructions:
            terms.append(Term(step.op, tuple(terms[i] for i in step.args), step.data))
        return terms[self.outputs[output]]


def program_of(
    signature: Signature,
    term: Term,
    constants: Iterable[Constant] = (),
    *,
    text: str = "",
    scalar: bool = True,
) -> Program:
    """Check a term and make it a program.

    Raises:
        FormulaError: Unknown name, wrong kind or axes, too large, or (with `scalar`) not a single
            number.
    """
    builder = Builder(signature, constants, text=text)
    root = builder.add(term)
    program = builder.program([root])
    if program.size > MAX_NODES:
        raise FormulaError(
            f"the formula has {program.size if program.size < 10**9 else 'over 10^9'} nodes, "
            f"more than {MAX_NODES}"
        )
    if program.depth > MAX_DEPTH:
        raise FormulaError(f"the formula is {program.depth} deep, more than {MAX_DEPTH}")
    if scalar and program.root.axes:
        left = signature.axes_text(program.root.axes)
        raise FormulaError(
            f"a loss is one number, but this still has the axes '{left}'",
            text=text,
            position=max(term.position, 0) if text else None,
            remedy=f"Wrap it: mean(..., '{left}')",
        )
    return program


class Builder:
    """Makes instructions, checks each, and makes equal ones once.

    Args:
        signature: What names mean and which axis sets are allowed.
        constants: The constants that names may stand for.
        text: The formula as written, for error messages.
        strict: Hold the signature's allowed axis sets (derived programs need not).
        expand: Replace definitions by what they stand for.
    """

    def __init__(
        self,
        signature: Signature,
        constants: Iterable[Constant] = (),
        *,
        text: str = "",
        strict: bool = True,
        expand: bool = False,
    ) -> None:
        self.signature, self.text, self.strict, self.expand = signature, text, strict, expand
        self.constants = {c.name: c for c in constants}
        self.instructions: list[Instruction] = []
        self._index: dict[tuple[str, tuple[int, ...], Data], int] = {}
        self._terms: dict[int, tuple[Term, int]] = {}  # keeps the term alive: ids are reused
        self._definitions: dict[str, int] = {}

    # Terms.

    def add(self, term: Term) -> int:
        """The index of a term's value; shared sub-terms are visited once, without recursion."""
        stack = [term]
        while stack:
            node = stack[-1]
            if id(node) in self._terms:
                stack.pop()
                continue
            waiting = [arg for arg in node.args if id(arg) not in self._terms]
            if waiting:
                stack.extend(reversed(waiting))
                if len(stack) > MAX_NODES * 2:
                    raise FormulaError(f"the formula has more than {MAX_NODES} nodes")
                continue
            stack.pop()
            args = tuple(self._terms[id(arg)][1] for arg in node.args)
            self._terms[id(node)] = (node, self._resolve(node, args))
        return self._terms[id(term)][1]

    def _resolve(self, node: Term, args: tuple[int, ...]) -> int:
        if node.op in (NAME, INPUT, DEFINED, CONSTANT):
            return self.name(str(node.data), node.position)
        if node.op == SIZE:
            return self._emit(SIZE, (), node.data, Kind.REAL, 0)
        if node.op == LITERAL:
            return self.literal(node.data, node.position)
        return self.apply(node.op, args, node.data, node.position)

    def name(self, name: str, position: int = -1) -> int:
        """The value that a name stands for: input, definition, constant or axis size."""
        signature = self.signature
        if name in self.constants:
            return self._emit(CONSTANT, (), name, Kind.REAL, 0)
        if name in signature.inputs:
            axes = signature.axes_of(signature.inputs[name].axes)
            kind = Kind.MASK if signature.inputs[name].role.value == "mask" else Kind.REAL
            return self._emit(INPUT, (), name, kind, axes)
        if name in signature.definitions:
            definition = signature.definitions[name]
            if not self.expand:
                return self._emit(DEFINED, (), name, definition.kind, definition.axes)
            if name not in self._definitions:
                self._definitions[name] = self.add(definition.term)
            return self._definitions[name]
        if name in signature.sizes:
            return self._emit(SIZE, (), signature.sizes[name], Kind.REAL, 0)
        known = [*signature.inputs, *signature.definitions, *self.constants, *signature.sizes]
        raise self._error(
            f"no input, definition or constant is called {name!r}{_suggest(name, known)}",
            position,
            f"Known names: {', '.join(known)}" if not difflib.get_close_matches(name, known) else "",
        )

    def literal(self, value: Data, position: int = -1) -> int:
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self._error(f"a number must be finite, but this is {value!r}", position)
        return self._emit(LITERAL, (), float(value) + 0.0, Kind.REAL, 0)

    def visit(self, op: str, args: Sequence[int], data: Data) -> int:
        """One step of another program whose arguments are in this builder already."""
        if args or op in PRIMITIVES:
            return self.apply(op, args, data)
        return self.add(Term(op, (), data))

    # Operations.

    def apply(self, op: str, args: Sequence[int], data: Data = None, position: int = -1) -> int:
        """The index of `op` applied to earlier results.

        Raises:
            FormulaError: Unknown primitive, wrong number or kind of arguments, wrong axes.
        """
        row = PRIMITIVES.get(op)
        if row is None:
            raise self._error(
                f"no primitive is called {op!r}{_suggest(op, PRIMITIVES)}",
                position,
                "" if difflib.get_close_matches(op, PRIMITIVES) else "`losssearch parts` lists all",
            )
        args = tuple(args)
        if folded := self._fold(op, args):
            return folded[0]
        low = row.arity - 1 if row.has_weight else row.arity
        if not low <= len(args) <= row.arity:
            wanted = f"{low} or {row.arity}" if low < row.arity else str(row.arity)
            raise self._error(f"{op} takes {wanted} arguments, but got {len(args)}", position)
        for i in row.masks:
            if self.instructions[args[i]].kind is not Kind.MASK:
                raise self._error(
                    f"argument {i + 1} of {op} must be a mask, but is a number",
                    position,
                    "Compare it, for example x > 0",
                )
        data, axes = self._axes(row, args, data, position)
        return self._emit(op, args, data, row.result, axes, position)

    def _axes(self, row: Primitive, args: tuple[int, ...], data: Data, position: int) -> tuple[Data, AxisSet]:
        """The operation's axes in declared order, and the axes of its value."""
        union = 0
        for i in args:
            union |= self.instructions[i].axes
        if row.form is Form.ELEMENTWISE:
            return None, union
        if row.form is Form.COPY:
            return self._copy(union, data, position)
        names = tuple(str(n) for n in data) if isinstance(data, tuple) else ()
        if not names:
            raise self._error(
                f"{row.name} needs the axes that it works over",
                position,
                f"For example {row.name}(x, 'n')",
            )
        try:
            over = self.signature.axes_of(names)
        except FormulaError as error:
            raise self._error(error.message, position, error.remedy) from None
        if row.ordered and len(names) > 1:
            raise self._error(
                f"{row.name} works along one axis, but got '{' '.join(names)}'",
                position,
                f"For example {row.name}(..., '{names[0]}')",
            )
        if absent := over & ~union:
            raise self._error(
                f"{row.name} over '{self.signature.axes_text(absent)}', but its argument has "
                + (f"only the axes '{self.signature.axes_text(union)}'" if union else "no axes"),
                position,
                "Name axes that the argument has",
            )
        kept = union if row.form is Form.ALONG else union & ~over
        return self.signature.axes_names(over), kept

    def _copy(self, axes: AxisSet, data: Data, position: int) -> tuple[Data, AxisSet]:
        pairs: list[tuple[str, str]] = []
        for pair in data if isinstance(data, tuple) else ():
            to, origin = str(pair[0]), str(pair[1])
            copies = self.signature.copies
            for axis in (to, origin):
                if axis not in self.signature.bits:
                    raise self._error(f"no axis is called {axis!r}", position)
            if copies.get(to, to) != copies.get(origin, origin) or to == origin:
                raise self._error(
                    f"like: axis '{to}' is no copy of '{origin}'",
                    position,
                    "A space declares copies, for example m = { copy_of = 'n' }",
                )
            bit_to, bit_origin = self.signature.bits[to], self.signature.bits[origin]
            if not axes & bit_origin or axes & bit_to:
                swapped = axes & bit_to and not axes & bit_origin
                raise self._error(
                    f"like({to}='{origin}') needs a value with axis '{origin}' and without '{to}', "
                    f"but it has '{self.signature.axes_text(axes)}'",
                    position,
                    f"Name the new axis first: like(x, {origin}='{to}')" if swapped else "",
                )
            axes = axes & ~bit_origin | bit_to
            pairs.append((to, origin))
        if not pairs:
            raise self._error("like needs a copy", position, "For example like(x, m='n')")
        return tuple(pairs), axes

    def _fold(self, op: str, args: tuple[int, ...]) -> tuple[int] | None:
        """What has one meaning gets one form: -(2) is a literal, and whole powers are products."""
        if op == "neg" and len(args) == 1 and self.instructions[args[0]].op == LITERAL:
            return (self.literal(-cast(float, self.instructions[args[0]].data)),)
        if op == "pow" and len(args) == 2 and self.instructions[args[1]].op == LITERAL:
            x, exponent = args[0], self.instructions[args[1]].data
            if exponent == 1:
                return (x,)
            if exponent == 2:
                return (self.apply("square", [x]),)
            if exponent == 3:
                return (self.apply("mul", [x, self.apply("square", [x])]),)
            if exponent == 4:
                return (self.apply("square", [self.apply("square", [x])]),)
            if exponent == 0.5:
                return (self.apply("sqrt", [x]),)
            if exponent == -1:
                return (self.apply("div", [self.literal(1.0), x]),)
        return None

    def _emit(
        self,
        op: str,
        args: tuple[int, ...],
        data: Data,
        kind: Kind,
        axes: AxisSet,
        position: int = -1,
    ) -> int:
        key = (op, args, data)
        index = self._index.get(key)
        if index is None:
            sets = self.signature.sets
            if self.strict and sets is not None and axes not in sets and op not in TERMINALS:
                allowed = ", ".join(f"'{self.signature.axes_text(s)}'" for s in sorted(sets))
                raise self._error(
                    f"{op} gives a value over '{self.signature.axes_text(axes)}', which this "
                    "space does not allow",
                    position,
                    f"Reduce earlier; allowed are {allowed}",
                )
            index = self._index[key] = len(self.instructions)
            self.instructions.append(Instruction(op, args, data, kind, axes))
        return index

    def _error(self, message: str, position: int, remedy: str = "") -> FormulaError:
        place = position if position >= 0 and self.text else None
        return FormulaError(message, text=self.text, position=place, remedy=remedy)

    # The end.

    def program(self, outputs: Sequence[int]) -> Program:
        """What the outputs need, in the order of a walk from the first; the rest is dropped."""
        order: dict[int, int] = {}
        for output in outputs:
            stack = [output]
            while stack:
                index = stack[-1]
                if index in order:
                    stack.pop()
                    continue
                waiting = [i for i in self.instructions[index].args if i not in order]
                if waiting:
                    stack.extend(reversed(waiting))
                    continue
                order[index] = len(order)
                stack.pop()
        kept = tuple(
            self.instructions[i]._replace(args=tuple(order[j] for j in self.instructions[i].args))
            for i in order
        )
        used = [str(step.data) for step in kept if step.op == CONSTANT]
        return Program(
            self.signature,
            kept,
            tuple(order[i] for i in outputs),
            tuple(self.constants[name] for name in used),
        )


def _suggest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
