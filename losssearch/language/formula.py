"""How is a loss written? Text to program, and back without loss.

    formula  := (NAME '=' sum ';')* comparison
    operators, loosest first: comparisons; + -; * /; unary -; ** (to the right)
    calls: NAME '(' arguments ')', with axes as text: sum(x, 'c'), mean(x, 'n', weight),
        sort_by(x, key, 's'), like(x, m='n')

A parser of our own over a whitelisted syntax, with hard caps on characters, nodes and nesting:
nothing that a user, a file or a database holds is ever evaluated. `parse(format_program(p)) == p`
for every written program.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from losssearch.errors import FormulaError
from losssearch.language.primitives import INFIX, PRIMITIVES, Form
from losssearch.language.program import MAX_NODES, Builder, Constant, Program, program_of
from losssearch.language.signature import Definition, Signature
from losssearch.language.term import CONSTANT, DEFINED, INPUT, LITERAL, SIZE, TERMINALS, Term

MAX_CHARACTERS = 20_000
MAX_NESTING = 60

ConstantLike: TypeAlias = "float | tuple[float, float, float] | Constant"

_TOKEN = re.compile(
    r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<text>'[^'\n]*'|\"[^\"\n]*\")"
    r"|(?P<op>\*\*|>=|<=|==|[-+*/()=,;<>])",
    re.ASCII,  # float() would read digits of other scripts too
)
_SPACE = re.compile(r"\s*")
_BINDING = {">": 1, ">=": 1, "<": 1, "<=": 1, "==": 1, "+": 2, "-": 2, "*": 3, "/": 3, "**": 5}
_UNARY, _ATOM = 4, 6


def parse(
    text: str,
    signature: Signature,
    constants: Mapping[str, ConstantLike] | None = None,
    *,
    scalar: bool = True,
    names: Mapping[str, Term] | None = None,
) -> Program:
    """The program that a formula describes.

    Args:
        text: For example `mean(-(1 - p_t)**gamma * log(p_t), 'n')`.
        signature: What its names mean.
        constants: Name -> value, (value, low, high) or `Constant`.
        scalar: Whether the result must be a single number, as a loss must.
        names: What further names stand for, as if the formula began by binding them.

    Raises:
        FormulaError: The text cannot be read or is badly typed; says where and what to do.
    """
    named = [_constant(name, value) for name, value in (constants or {}).items()]
    for constant in named:
        if constant.name in signature.inputs or constant.name in signature.definitions:
            raise FormulaError(
                f"constant {constant.name!r} has the name of an input or definition",
                remedy="Choose another name",
            )
    return program_of(signature, parse_term(text, names), named, text=text, scalar=scalar)


def define(signature: Signature, name: str, text: str) -> Signature:
    """The signature with `name` standing for a formula from now on."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise FormulaError(f"a definition's name must be an identifier, but is {name!r}")
    if name in signature.inputs or name in signature.axes or name in PRIMITIVES:
        raise FormulaError(f"the name {name!r} is taken", remedy="Choose another name")
    term = parse_term(text)
    builder = Builder(signature, text=text)
    root = builder.instructions[builder.add(term)]
    return signature.defining(Definition(name, text, term, root.kind, root.axes))


def _constant(name: str, value: ConstantLike) -> Constant:
    if isinstance(value, Constant):
        return value
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise FormulaError(f"a constant's name must be an identifier, but is {name!r}")
    try:
        if isinstance(value, (tuple, list)):
            number, low, high = (float(v) for v in value)
        else:
            number = float(value)
            low, high = min(-10.0, number), max(10.0, number)
    except (TypeError, ValueError):
        raise FormulaError(
            f"constant {name!r} must be a number or (value, low, high), but is {value!r}"
        ) from None
    if not math.isfinite(number):
        raise FormulaError(f"constant {name!r} must be finite, but is {number}")
    return Constant(name, number, low, high)


def parse_term(text: str, names: Mapping[str, Term] | None = None) -> Term:
    """The tree that a formula describes; names are not yet looked up, but for those given."""
    if not isinstance(text, str):
        raise FormulaError(f"a formula must be text, but is {type(text).__name__}")
    if len(text) > MAX_CHARACTERS:
        raise FormulaError(
            f"the formula has {len(text)} characters, more than {MAX_CHARACTERS}",
            remedy="Give long parts a name in the space's [define]",
        )
    return _Parser(text, names or {}).formula()


class _Parser:
    """Operator precedence over a token list. Recursion is bounded by MAX_NESTING."""

    def __init__(self, text: str, names: Mapping[str, Term]) -> None:
        self.text = text
        self.tokens = list(self._tokenize())
        self.next = 0
        self.nesting = 0
        self.locals = dict(names)

    def _tokenize(self) -> Iterable[tuple[str, str, int]]:
        position = self._skip(0)
        while position < len(self.text):
            match = _TOKEN.match(self.text, position)
            if match is None:
                character = self.text[position]
                hint = "Use ** for powers" if character == "^" else ""
                raise self.error(f"the character {character!r} has no meaning", position, hint)
            yield str(match.lastgroup), match.group(), position
            position = self._skip(match.end())
        yield "end", "", len(self.text)

    def _skip(self, position: int) -> int:
        match = _SPACE.match(self.text, position)
        return match.end() if match else position

    def error(self, message: str, position: int, remedy: str = "") -> FormulaError:
        return FormulaError(message, text=self.text, position=position, remedy=remedy)

    @property
    def token(self) -> tuple[str, str, int]:
        return self.tokens[self.next]

    def take(self) -> tuple[str, str, int]:
        token = self.tokens[self.next]
        self.next += 1
        return token

    def expect(self, wanted: str) -> None:
        kind, value, position = self.token
        if value != wanted or kind == "text":
            seen = repr(value) if kind != "end" else "the end"
            raise self.error(f"expected {wanted!r}, but found {seen}", position)
        self.next += 1

    def formula(self) -> Term:
        while self.token[0] == "name" and self.tokens[self.next + 1][1] == "=":
            _, name, _ = self.take()
            self.take()
            self.locals[name] = self.expression(0)
            self.expect(";")
        term = self.expression(0)
        kind, value, position = self.token
        if kind != "end":
            remedy = "One comparison at a time; use minimum(...) of two masks" if value in _BINDING else ""
            raise self.error(f"the formula should end here, but goes on with {value!r}", position, remedy)
        return term

    def expression(self, binding: int) -> Term:
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            raise self.error(f"nested deeper than {MAX_NESTING}", self.token[2], "Name a part: a = ...; ...")
        left = self.prefix()
        while True:
            kind, value, position = self.token
            power = _BINDING.get(value, 0) if kind == "op" else 0
            if power <= binding:
                break
            self.take()
            # ** groups to the right and lets a sign follow; comparisons do not chain.
            right = self.expression(3 if value == "**" else power)
            left = Term(INFIX[value].name, (left, right), None, position)
            if power == 1:
                break
        self.nesting -= 1
        return left

    def prefix(self) -> Term:
        kind, value, position = self.take()
        if kind == "number":
            number = float(value)
            if not math.isfinite(number):
                raise self.error(f"the number {value} is not finite", position)
            return Term(LITERAL, (), number, position)
        if kind == "op" and value == "-":
            # A sign before a number belongs to it, unless a power follows: -2**x is -(2**x).
            if self.token[0] == "number" and self.tokens[self.next + 1][1] != "**":
                return Term(LITERAL, (), -float(self.take()[1]), position)
            return Term("neg", (self.expression(_UNARY),), None, position)
        if kind == "op" and value == "(":
            inner = self.expression(0)
            self.expect(")")
            return inner
        if kind == "name":
            if self.token[1] == "(" and self.token[0] == "op":
                return self.call(value, position)
            return self.locals.get(value) or Term("name", (), value, position)
        if kind == "end":
            raise self.error("the formula ends too early", position)
        raise self.error(f"expected a value, but found {value!r}", position)

    def call(self, name: str, position: int) -> Term:
        self.take()
        args: list[Term] = []
        axes: tuple[str, ...] | None = None
        pairs: list[tuple[str, str]] = []
        while self.token[1] != ")" or self.token[0] == "text":
            kind, value, at = self.token
            if kind == "text":
                if axes is not None:
                    raise self.error(f"{name} has its axes twice", at)
                self.take()
                axes = tuple(value[1:-1].split())
                if len(set(axes)) < len(axes):
                    raise self.error(f"{name} names an axis twice", at)
            elif kind == "name" and self.tokens[self.next + 1][1] == "=":
                self.take()
                self.take()
                kind, origin, at = self.take()
                if kind != "text" or name != "like":
                    raise self.error(f"{name} takes no {value}=", at, "Only like(x, m='n') does")
                pairs.append((value, origin[1:-1]))
            else:
                args.append(self.expression(0))
            if self.token[1] == ",":
                self.take()
            elif self.token[1] != ")":
                self.expect(")")
        self.expect(")")
        row = PRIMITIVES.get(name)
        if row is not None and row.form in (Form.REDUCTION, Form.CONTRACTION, Form.ALONG):
            if axes is None:
                other = {"max": "maximum", "min": "minimum"}.get(name)
                raise self.error(
                    f"{name} needs the axes that it works over",
                    position,
                    f"For two values it is {other}(x, y)" if other else f"For example {name}(x, 'n')",
                )
        elif axes is not None:
            raise self.error(f"{name} takes no axes", position)
        return Term(name, tuple(args), tuple(pairs) or axes, position)


def format_program(program: Program) -> str:
    """The formula of a program with one output; what is shared in a large one gets a name."""
    uses = [0] * len(program.instructions)
    for step in program.instructions:
        for i in step.args:
            uses[i] += 1
    name_shared = program.size > MAX_NODES // 4
    taken = set(program.signature.inputs) | set(program.signature.definitions)
    taken |= {c.name for c in program.constants} | set(program.signature.sizes)
    bindings: list[str] = []
    written: list[tuple[str, int]] = []
    for i, step in enumerate(program.instructions):
        text, power = format_step(step.op, [written[j] for j in step.args], step.data)
        if name_shared and uses[i] > 1 and step.op not in TERMINALS:
            name = f"v{len(bindings)}"
            while name in taken:
                name += "_"
            bindings.append(f"{name} = {text}; ")
            text, power = name, _ATOM
        written.append((text, power))
    return "".join(bindings) + written[program.outputs[-1]][0]


def format_step(op: str, args: list[tuple[str, int]], data: object) -> tuple[str, int]:
    if op == LITERAL:
        number = float(str(data))
        return format_number(number), _UNARY if number < 0 else _ATOM
    if op == SIZE:
        return str(data).upper(), _ATOM
    if op in (INPUT, DEFINED, CONSTANT):
        return str(data), _ATOM
    if op == "square":
        return f"{_wrap(args[0], 6)}**2", 5
    if op == "neg":
        return f"-{_wrap(args[0], 5)}", _UNARY
    row = PRIMITIVES[op]
    if row.symbol:
        power = _BINDING[row.symbol]
        # Left operands may bind as loosely as the operator; right ones must bind tighter, ** the
        # other way.
        left = _wrap(args[0], power + 1 if power in (1, 5) else power)
        right = _wrap(args[1], _UNARY if power == 5 else power + 1)
        return f"{left} {row.symbol} {right}" if power < 5 else f"{left}**{right}", power
    texts = [text for text, _ in args]
    if row.form is Form.COPY and isinstance(data, tuple):
        texts += [f"{to}='{origin}'" for to, origin in data]
    elif isinstance(data, tuple):
        place = 1 if row.form is Form.REDUCTION else len(texts)
        texts.insert(place, "'" + " ".join(str(a) for a in data) + "'")
    return f"{op}({', '.join(texts)})", _ATOM


def _wrap(written: tuple[str, int], power: int) -> str:
    text, own = written
    return text if own >= power else f"({text})"


def format_number(value: float) -> str:
    """The shortest text that reads back as the same number: 2, 0.25, 1e-06."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
