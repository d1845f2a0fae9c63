"""When are two formulas the same loss? The canonical form, which is also what runs.

A program is rebuilt bottom up with its definitions expanded; each new instruction is first offered
to the rules of its operation. Sums and products are sorted, differences and quotients have one
form, literals fold (named constants do not), and what is unstable is written stably: log(softmax),
log(1 + exp), log(sigmoid), log(p_t), 1 - p_t. There is no distributivity, and x/x -> 1 or exp(log
x) -> x need a proof by bounds.

Costs about a tenth of a millisecond for a loss of twenty nodes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import cast

from losssearch.language import bounds as bnd
from losssearch.language.formula import format_program
from losssearch.language.intervals import Interval
from losssearch.language.primitives import CEILING, EPS, PRIMITIVES, Form
from losssearch.language.program import Builder, Constant, Instruction, Program
from losssearch.language.signature import AxisSet, Kind, Role, Signature
from losssearch.language.term import CONSTANT, INPUT, LITERAL, SIZE, Data, Term

VERSION = 1

_LINEAR = frozenset({"sum", "mean", "dot", "like", "detach"})
_ODD = frozenset({"sin", "tanh", "erf"})
_EVEN = frozenset({"cos", "abs", "square"})


def canonical(program: Program) -> Program:
    """The program that runs: same meaning, one form, constants named c0, c1, ... by use."""
    simplifier = Simplifier(program.signature, program.constants)
    memo: list[int] = []
    for step in program.instructions:
        memo.append(simplifier.visit(step.op, [memo[i] for i in step.args], step.data))
    return _renamed(simplifier.program([memo[i] for i in program.outputs]))


def structure_key(program: Program) -> str:
    """The same for programs that differ only in the values of constants. 32 hex digits."""
    return structure_key_of_canonical(canonical(program))


def structure_key_of_canonical(program: Program) -> str:
    """`structure_key` of a program that is canonical already."""
    return digest(f"{VERSION}|{format_program(program)}")


def candidate_key(program: Program) -> str:
    """The same exactly for programs with the same canonical form and constants. 32 hex digits."""
    return key_of_canonical(canonical(program))


def key_of_canonical(program: Program) -> str:
    """`candidate_key` of a program that is canonical already."""
    values = ",".join(repr(c.value) for c in program.constants)
    return digest(f"{VERSION}|{format_program(program)}|{values}")


def digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _renamed(program: Program) -> Program:
    """Constants named by their order of use, so that a name chosen by a person is no difference."""
    taken = set(program.signature.inputs)
    names = [f"c{i}" if f"c{i}" not in taken else f"c{i}_" for i in range(len(program.constants))]
    new = dict(zip((c.name for c in program.constants), names, strict=True))
    return replace(
        program,
        instructions=tuple(
            s._replace(data=new[str(s.data)]) if s.op == CONSTANT else s for s in program.instructions
        ),
        constants=tuple(replace(c, name=new[c.name]) for c in program.constants),
    )


@lru_cache(maxsize=10_000)
def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _mixed(x: int, y: int) -> int:
    """A 64-bit number from two; order counts. Only decides what is written first."""
    x = (x ^ y) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    return x ^ x >> 29


class Simplifier(Builder):
    """A builder whose `apply` gives the simplest known form; derivatives use it too."""

    def __init__(
        self, signature: Signature, constants: Iterable[Constant] = (), *, expand: bool = True
    ) -> None:
        super().__init__(signature, constants, strict=False, expand=expand)
        self.bounds: list[Interval] = []
        self._digests: list[tuple[int, int]] = []

    def apply(self, op: str, args: Sequence[int], data: Data = None, position: int = -1) -> int:
        if isinstance(data, tuple) and (fewer := self._lacking(op, tuple(args), data)) is not None:
            return fewer
        rule = _RULES.get(op)
        simpler = rule(self, tuple(args), data) if rule else None
        if simpler is None and op in _LINEAR:
            simpler = self._linear(op, tuple(args), data)
        if simpler is None and op in _ODD | _EVEN and self._is(args[0], "neg"):
            inner = self.apply(op, self._args(args[0]))
            simpler = inner if op in _EVEN else self.neg(inner)
        return super().apply(op, args, data, position) if simpler is None else simpler

    def _lacking(self, op: str, args: tuple[int, ...], data: tuple[object, ...]) -> int | None:
        """An operation over axes some of which a simplified argument has lost, as in mean(0 * x).

        Along those it is the same everywhere: a sum counts it as often as the axis is long, a mean
        or maximum is it.
        """
        union = 0
        for i in args:
            union |= self._step(i).axes
        if PRIMITIVES[op].form is Form.COPY:
            pairs = cast("tuple[tuple[str, str], ...]", data)
            kept = tuple(pair for pair in pairs if self.signature.bits[pair[1]] & union)
            if len(kept) == len(pairs):
                return None
            return self.apply(op, args, kept) if kept else args[0]
        names = cast("tuple[str, ...]", data)
        present = tuple(a for a in names if self.signature.bits[a] & union)
        if len(present) == len(names):
            return None
        sizes = [self.add(Term(SIZE, (), a)) for a in names if a not in present]
        if op in ("sum", "dot"):
            inner = self.apply(op, args, present) if present else self.product_of(args)
            return self.product_of([inner, *sizes])
        if op in ("logsumexp", "log_softmax", "softmax"):
            return self._lacking_in_exponents(op, args, present, sizes)
        if present:
            return self.apply(op, args, present)
        if len(args) == 1:
            return args[0]
        if op == "mean":
            return self.apply("div", (self.apply("mul", args), args[1]))
        some = self.apply("greater", (args[1], self.literal(0.0)))
        return self.apply("where", (some, args[0], self.literal(0.0)))

    def _lacking_in_exponents(
        self, op: str, args: tuple[int, ...], present: tuple[str, ...], sizes: list[int]
    ) -> int:
        if op == "softmax":
            logs = self._lacking_in_exponents("log_softmax", args, present, sizes)
            return self.apply("exp", (logs,))
        extra = self.apply("log", (self.product_of(sizes),))
        if op == "log_softmax":
            inner = self.apply(op, args, present) if present else self.literal(0.0)
            return self.apply("sub", (inner, extra))
        if len(args) == 1:
            inner = self.apply(op, args, present) if present else args[0]
            return self.apply("add", (inner, extra))
        zero = self.literal(0.0)
        some = self.apply("greater", (args[1], zero))
        if present:
            inner = self.apply(op, args, present)
            held = tuple(a for a in present if self.signature.bits[a] & self._step(some).axes)
            some = self.apply("any", (some,), held) if held else some
        else:
            inner = self.apply("add", (args[0], self.apply("log", (args[1],))))
        return self.apply("where", (some, self.apply("add", (inner, extra)), zero))

    def _emit(
        self,
        op: str,
        args: tuple[int, ...],
        data: Data,
        kind: Kind,
        axes: AxisSet,
        position: int = -1,
    ) -> int:
        index = super()._emit(op, args, data, kind, axes, position)
        if index == len(self.bounds):
            step = self.instructions[index]
            # A rewrite must hold for whatever is fed, so no operating range is believed.
            self.bounds.append(
                bnd.bound(
                    self.signature,
                    step,
                    self.instructions,
                    self.bounds,
                    self.constants,
                    any_input=True,
                )
            )
        return index

    # Small words for the rules below.

    def _step(self, i: int) -> Instruction:
        return self.instructions[i]

    def _is(self, i: int, op: str) -> bool:
        return self.instructions[i].op == op

    def _args(self, i: int) -> tuple[int, ...]:
        return self.instructions[i].args

    def number(self, i: int) -> float | None:
        """The value of a literal, else None."""
        step = self.instructions[i]
        return cast(float, step.data) if step.op == LITERAL else None

    def neg(self, i: int) -> int:
        return self.apply("neg", (i,))

    def _sorted(self, items: Iterable[int]) -> list[int]:
        """Blind to the values of constants first, so that structure alone decides where it can."""
        items = list(items)
        return items if len(items) < 2 else sorted(items, key=self._digest)

    def _digest(self, index: int) -> tuple[int, int]:
        """What stands under an instruction, without and with the values of constants."""
        for step in self.instructions[len(self._digests) : index + 1]:
            if step.op == CONSTANT:
                shape = _hashed(CONSTANT)
                number = shape ^ _hashed(repr(self.constants[str(step.data)].value))
            else:
                shape = number = _hashed(f"{step.op}|{step.data}")
            for i in step.args:
                below = self._digests[i]
                shape = _mixed(shape, below[0])
                number = _mixed(number, below[1])
            self._digests.append((shape, number))
        return self._digests[index]

    # Sums.

    def signed(self, i: int, sign: int = 1) -> list[tuple[int, int]]:
        """The signed terms of a (flattened) sum."""
        if self._is(i, "add"):
            return [t for arg in self._args(i) for t in self.signed(arg, sign)]
        if self._is(i, "neg"):
            return self.signed(self._args(i)[0], -sign)
        return [(sign, i)]

    def sum_of(self, terms: list[tuple[int, int]]) -> int:
        """One form for a signed sum: literals folded, opposites cancelled, equals doubled."""
        total, counts = 0.0, dict[int, int]()
        for sign, i in terms:
            number = self.number(i)
            if number is not None:
                total += sign * number
            else:
                counts[i] = counts.get(i, 0) + sign
        axes = 0
        for i in counts:
            axes |= self._step(i).axes
        plus: list[int] = []
        minus: list[int] = []
        for i, count in counts.items():
            if count:
                scaled = i if abs(count) == 1 else self.apply("mul", (self.literal(abs(count)), i))
                (plus if count > 0 else minus).append(scaled)
        plus, minus = self._sorted(plus), self._sorted(minus)
        if total or not (plus or minus):
            first = self.literal(total)
            lone = total == 1 and not plus and len(minus) == 1
            if lone and (rest := self._one_minus(minus[0])) is not None:
                return rest
            (plus if total > 0 or not minus else minus).insert(
                0, first if total > 0 or not minus else self.literal(-total)
            )
        result = -1
        for i in plus:
            result = i if result < 0 else super().apply("add", (result, i))
        for i in minus:
            negative = super().apply("neg", (i,))
            result = negative if result < 0 else super().apply("add", (result, negative))
        return result

    def _one_minus(self, i: int) -> int | None:
        """1 - sum(t * p) = sum((1 - t) * p), exact near p = 1, for simplices t and p."""
        step = self._step(i)
        if step.op != "dot":
            return None
        for t, p in (step.args, step.args[::-1]):
            if (
                bnd.is_simplex(self.signature, self._step(t), step.data)
                and self._is(p, "exp")
                and self._is(self._args(p)[0], "log_softmax")
                and self._step(self._args(p)[0]).data == step.data
            ):
                rest = self.sum_of([(1, self.literal(1.0)), (-1, t)])
                return self.apply("dot", (rest, p), step.data)
        return None

    # Products.

    def _factors(self, i: int) -> tuple[int, list[int], list[int]]:
        """Sign, numerator factors and denominators of a (flattened) product."""
        if self._is(i, "neg"):
            sign, top, bottom = self._factors(self._args(i)[0])
            return -sign, top, bottom
        if self._is(i, "mul"):
            sign, top, bottom = 1, list[int](), list[int]()
            for arg in self._args(i):
                s, t, b = self._factors(arg)
                sign, top, bottom = sign * s, top + t, bottom + b
            return sign, top, bottom
        if self._is(i, "div"):
            sign, top, bottom = self._factors(self._args(i)[0])
            return sign, top, [*bottom, self._args(i)[1]]
        if self._is(i, "square"):
            return 1, [self._args(i)[0]] * 2, []
        number = self.number(i)
        if number is not None and number < 0:
            return -1, [self.literal(-number)], []
        return 1, [i], []

    def product_of(self, args: Sequence[int]) -> int:
        """One form for a product: sign out, literals folded, equal factors squared."""
        sign, number, top, bottom = 1, 1.0, list[int](), list[int]()
        for arg in args:
            s, t, b = self._factors(arg)
            sign *= s
            bottom += b
            for i in t:
                literal = self.number(i)
                if literal is None:
                    top.append(i)
                else:
                    number *= literal
        if number == 0 or not math.isfinite(number):
            return self.literal(0.0) if number == 0 else super().apply("mul", tuple(args))
        factors: list[int] = []
        top = self._sorted(top)
        while top:
            i = top.pop(0)
            if top and top[0] == i:
                top.pop(0)
                factors.append(super().apply("square", (i,)))
            else:
                factors.append(i)
        if number != 1 or not factors:
            factors.insert(0, self.literal(number))
        result = factors[0]
        for i in factors[1:]:
            result = super().apply("mul", (result, i))
        for i in self._sorted(bottom):
            result = super().apply("div", (result, i))
        return self.neg(result) if sign < 0 else result

    def _linear(self, op: str, args: tuple[int, ...], data: Data) -> int | None:
        """Sign, and factors that lack the summed axes, leave linear operations."""
        if op in ("like", "detach"):
            return self.neg(self.apply(op, self._args(args[0]), data)) if self._is(args[0], "neg") else None
        over = self.signature.axes_of(data) if isinstance(data, tuple) else 0  # type: ignore[arg-type]
        outside: list[int] = []
        under: list[int] = []
        inside: list[int] = []
        sign = 1
        for k, arg in enumerate(args):
            s, top, bottom = self._factors(arg)
            if op == "mean" and k == 1:
                inside.append(arg)
                continue
            free = [i for i in top if not self._step(i).axes & over and self.number(i) != 1]
            below = [i for i in bottom if not self._step(i).axes & over]
            if len(free) == len(top) and len(below) == len(bottom):
                free, below = [], []
            if s > 0 and not free and not below:
                inside.append(arg)
                continue
            body = self.product_of([i for i in top if i not in free] or [self.literal(1.0)])
            for i in self._sorted(i for i in bottom if i not in below):
                body = super().apply("div", (body, i))
            inside.append(body)
            outside += free
            under += below
            sign *= s
        if sign > 0 and not outside and not under:
            return None
        result = self.product_of([*outside, self.apply(op, tuple(inside), data)])
        for i in self._sorted(under):
            result = self.apply("div", (result, i))
        return self.neg(result) if sign < 0 else result


# Rules: None means "no simpler form known".


def _add(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    return b.sum_of(b.signed(args[0]) + b.signed(args[1]))


def _sub(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    return b.sum_of(b.signed(args[0]) + b.signed(args[1], -1))


def _mul(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    return b.product_of(args)


def _neg(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    if b._is(args[0], "neg"):
        return b._args(args[0])[0]
    if b._is(args[0], "add"):
        return b.sum_of(b.signed(args[0], -1))
    step = b._step(args[0])
    if step.op in ("sum", "mean", "like") and b._is(step.args[0], "add"):
        return b.apply(step.op, (b.neg(step.args[0]), *step.args[1:]), step.data)
    return None


def _div(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    x, y = args
    top, bottom, range_ = b.number(x), b.number(y), b.bounds[y]
    if top == 0:
        return x
    proven = range_.low >= EPS or range_.high <= -EPS
    if x == y and proven:
        return b.literal(1.0)
    if bottom is not None and proven:
        return b.product_of((x, b.literal(1 / bottom)))
    if b._is(x, "neg"):
        return b.neg(b.apply("div", (b._args(x)[0], y)))
    if b._is(y, "neg") and proven:
        return b.neg(b.apply("div", (x, b._args(y)[0])))
    return None


def _square(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    number = b.number(args[0])
    return b.literal(number * number) if number is not None and abs(number) < 1e100 else None


def _abs(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    range_ = b.bounds[args[0]]
    if range_.low >= 0:
        return args[0]
    return b.neg(args[0]) if range_.high <= 0 else None


def _relu(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    return args[0] if b.bounds[args[0]].low > 0 else None


def _maximum(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    return _extreme(b, args, "maximum", 1)


def _minimum(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    return _extreme(b, args, "minimum", -1)


def _extreme(b: Simplifier, args: tuple[int, ...], op: str, sign: int) -> int | None:
    """Proven order decides; what is left is sorted."""
    x, y = args
    if x == y:
        return x
    numbers = b.number(x), b.number(y)
    if numbers[0] is not None and numbers[1] is not None:
        return x if (numbers[0] - numbers[1]) * sign > 0 else y
    if b._step(x).axes == b._step(y).axes | b._step(x).axes and (
        b.bounds[x].low > b.bounds[y].high if sign > 0 else b.bounds[x].high < b.bounds[y].low
    ):
        return x
    if b._step(y).axes == b._step(x).axes | b._step(y).axes and (
        b.bounds[y].low > b.bounds[x].high if sign > 0 else b.bounds[y].high < b.bounds[x].low
    ):
        return y
    return Builder.apply(b, op, b._sorted(args))


def _exp(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    x = args[0]
    if b._is(x, "log") and b.bounds[b._args(x)[0]].low >= EPS:
        return b._args(x)[0]
    return b.literal(1.0) if b.number(x) == 0 else None


def _log(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    x = args[0]
    step = b._step(x)
    if b.number(x) == 1:
        return b.literal(0.0)
    if step.op == "exp":
        range_ = b.bounds[step.args[0]]
        safe = range_.high <= CEILING and range_.low >= math.log(EPS)
        if safe or b._is(step.args[0], "log_softmax"):
            return step.args[0]
    if step.op == "sigmoid":
        return b.neg(b.apply("softplus", (b.neg(step.args[0]),)))
    if step.op == "add":
        one, other = step.args
        if b.number(one) == 1 and b._is(other, "exp"):
            return b.apply("softplus", b._args(other))
        if b.number(one) == 1 and b._is(other, "neg") and b._is(b._args(other)[0], "sigmoid"):
            return b.neg(b.apply("softplus", b._args(b._args(other)[0])))
    if step.op == "dot":
        for weight, p in (step.args, step.args[::-1]):
            if b._is(p, "exp") and b._is(b._args(p)[0], "log_softmax") and _has_some(b, weight, step.data):
                return b.apply("logsumexp", (b._args(p)[0], weight), step.data)
    return None


def _has_some(b: Simplifier, weight: int, axes: Data) -> bool:
    """Whether a weight is never negative and never 0 throughout: a simplex t, 1 - t, or bounded."""
    if b.bounds[weight].low >= EPS or bnd.is_simplex(b.signature, b._step(weight), axes):
        return True
    step = b._step(weight)
    return (
        step.op == "add"
        and b.number(step.args[0]) == 1
        and b._is(step.args[1], "neg")
        and bnd.is_simplex(b.signature, b._step(b._args(step.args[1])[0]), axes)
    )


def _softmax(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    return b.apply("exp", (b.apply("log_softmax", args, data),))


def _sigmoid(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    if b._is(args[0], "neg"):
        one_minus = [(1, b.literal(1.0)), (-1, b.apply("sigmoid", b._args(args[0])))]
        return b.sum_of(one_minus)
    return None


def _sum(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    if len(args) == 2:
        if b.number(args[1]) == 1:
            return b.apply("sum", args[:1], data)
        over = b.signature.axes_of(cast("tuple[str, ...]", data))
        if over & ~b._step(args[0]).axes or over & ~b._step(args[1]).axes:
            return None
        return b.apply("dot", args, data)
    step = b._step(args[0])
    # A target is left alone: its sum is the natural weight of a sample, 0 where a label is missing.
    target = step.op == INPUT and b.signature.inputs[str(step.data)].role is Role.TARGET
    if not target and bnd.is_distribution(b.signature, b.instructions, args[0], data):
        return b.literal(1.0)
    if step.op == "sum" and len(step.args) == 1:
        return b.apply("sum", step.args, _joined(b, step.data, data))
    if step.op == "mul":
        return b.apply("dot", step.args, data)
    return None


def _dot(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    over = b.signature.axes_of(cast("tuple[str, ...]", data))
    x, y = args
    if b.number(x) == 1 or b.number(y) == 1:
        return b.apply("sum", (y if b.number(x) == 1 else x,), data)
    if not all(b._step(i).axes & over for i in args) and all(
        over & ~b._step(i).axes in (0, over) for i in args
    ):
        inside = [i for i in args if b._step(i).axes & over]
        outside = [i for i in args if not b._step(i).axes & over]
        return b.product_of([*outside, b.apply("sum", inside, data)])
    if b._sorted(args) != list(args):
        return b.apply("dot", b._sorted(args), data)
    return None


def _mean(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    if len(args) == 2:
        number = b.number(args[1])
        return b.apply("mean", args[:1], data) if number is not None and number >= EPS else None
    step = b._step(args[0])
    if step.op == "mean" and len(step.args) == 1:
        return b.apply("mean", step.args, _joined(b, step.data, data))
    return None


def _joined(b: Simplifier, *axes: Data) -> tuple[str, ...]:
    union = 0
    for names in axes:
        union |= b.signature.axes_of(cast("tuple[str, ...]", names))
    return b.signature.axes_names(union)


def _less(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    return b.apply("greater", args[::-1])


def _less_equal(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    return b.apply("greater_equal", args[::-1])


def _where(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    return args[1] if args[1] == args[2] else None


def _detach(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    return args[0] if b._step(args[0]).op in ("detach", LITERAL, SIZE) else None


def _pow(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    return b.literal(1.0) if b.number(args[1]) == 0 or b.number(args[0]) == 1 else None


_RULES = {
    "pow": _pow,
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "neg": _neg,
    "div": _div,
    "square": _square,
    "abs": _abs,
    "relu": _relu,
    "maximum": _maximum,
    "minimum": _minimum,
    "exp": _exp,
    "log": _log,
    "softmax": _softmax,
    "sigmoid": _sigmoid,
    "sum": _sum,
    "dot": _dot,
    "mean": _mean,
    "less": _less,
    "less_equal": _less_equal,
    "where": _where,
    "detach": _detach,
}
