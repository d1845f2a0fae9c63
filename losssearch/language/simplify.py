"""How is a program written as simply as is known, step by step?

A builder whose every new step is first offered to the rule of its operation (`rules.py`). Sums and products
are flattened, their literals folded, their parts sorted; signs and factors that lack the summed axes leave
linear operations. A step that was simplified once is remembered.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import cast

from losssearch.errors import FormulaError
from losssearch.language import bounds as bnd
from losssearch.language.intervals import Interval
from losssearch.language.primitives import PRIMITIVES, Form
from losssearch.language.program import Builder, Constant, Instruction
from losssearch.language.rules import RULES
from losssearch.language.signature import AxisSet, Kind, Signature
from losssearch.language.term import CONSTANT, LITERAL, SIZE, Data, Term

_LINEAR = frozenset({"sum", "mean", "dot", "like", "detach"})
_ODD = frozenset({"sin", "tanh", "erf", "atan"})
_EVEN = frozenset({"cos", "abs", "square"})


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
        self._simplified: dict[tuple[str, tuple[int, ...], Data], int] = {}

    def apply(self, op: str, args: Sequence[int], data: Data = None, position: int = -1) -> int:
        args = tuple(args)
        key = (op, args, data)
        index = self._simplified.get(key)
        if index is None:
            index = self._simplified[key] = self._simplify(op, args, data, position)
        return index

    def _simplify(self, op: str, args: tuple[int, ...], data: Data, position: int) -> int:
        if isinstance(data, tuple) and (fewer := self._lacking(op, args, data)) is not None:
            return fewer
        rule = RULES.get(op)
        simpler = rule(self, args, data) if rule else None
        if simpler is None and op in _LINEAR:
            simpler = self._linear(op, args, data)
        if simpler is None and (op in _ODD or op in _EVEN) and self.is_a(args[0], "neg"):
            inner = self.apply(op, self.under(args[0]))
            simpler = inner if op in _EVEN else self.neg(inner)
        return self.as_it_is(op, args, data, position) if simpler is None else simpler

    def as_it_is(self, op: str, args: tuple[int, ...], data: Data = None, position: int = -1) -> int:
        """The operation itself, offered to no rule."""
        index = self._index.get((op, args, data))
        return super().apply(op, args, data, position) if index is None else index

    def _lacking(self, op: str, args: tuple[int, ...], data: tuple[object, ...]) -> int | None:
        """An operation over axes some of which a simplified argument has lost, as in mean(0 * x).

        Along those it is the same everywhere: a sum counts it as often as the axis is long, a mean
        or maximum is it.
        """
        union = 0
        for i in args:
            union |= self.step(i).axes
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
        if op in ("cumsum", "diff") and self.number(args[0]) != 0:  # they count along the axis
            return self.apply(op, (self.product_of((args[0], self._ones(names[0]))),), names)
        if PRIMITIVES[op].form is Form.ALONG or len(args) == 1:
            return args[0]
        if op == "mean":
            return self.apply("div", (self.apply("mul", args), args[1]))
        some = self.apply("greater", (args[1], self.literal(0.0)))
        return self.apply("where", (some, args[0], self.literal(0.0)))

    def _ones(self, axis: str) -> int:
        """1 all along an axis: an input that has it, or a copy of it, is equal to itself."""
        copies = self.signature.copies
        twins = [a for a in self.signature.axes if copies.get(a, a) == copies.get(axis, axis)]
        for along in sorted(twins, key=lambda a: a != axis):
            for name in (*self.signature.predictions, *self.signature.inputs):
                axes = self.signature.inputs[name].axes
                if along in axes:
                    ones = self.apply("equal", (self.name(name),) * 2)
                    others = tuple(a for a in axes if a != along)
                    ones = self.apply("any", (ones,), others) if others else ones
                    return ones if along == axis else self.apply("like", (ones,), ((axis, along),))
        raise FormulaError(f"no input has the axis {axis!r}")

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
            held = tuple(a for a in present if self.signature.bits[a] & self.step(some).axes)
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

    def step(self, i: int) -> Instruction:
        return self.instructions[i]

    def is_a(self, i: int, op: str) -> bool:
        return self.instructions[i].op == op

    def under(self, i: int) -> tuple[int, ...]:
        return self.instructions[i].args

    def number(self, i: int) -> float | None:
        """The value of a literal, else None."""
        step = self.instructions[i]
        return cast(float, step.data) if step.op == LITERAL else None

    def neg(self, i: int) -> int:
        return self.apply("neg", (i,))

    def in_order(self, items: Iterable[int]) -> list[int]:
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
        if self.is_a(i, "add"):
            return [t for arg in self.under(i) for t in self.signed(arg, sign)]
        if self.is_a(i, "neg"):
            return self.signed(self.under(i)[0], -sign)
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
            axes |= self.step(i).axes
        plus: list[int] = []
        minus: list[int] = []
        for i, count in counts.items():
            if count:
                scaled = i if abs(count) == 1 else self.apply("mul", (self.literal(abs(count)), i))
                (plus if count > 0 else minus).append(scaled)
        plus, minus = self.in_order(plus), self.in_order(minus)
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
            result = i if result < 0 else self.as_it_is("add", (result, i))
        for i in minus:
            negative = self.as_it_is("neg", (i,))
            result = negative if result < 0 else self.as_it_is("add", (result, negative))
        return result

    def _one_minus(self, i: int) -> int | None:
        """1 - sum(t * p) = sum((1 - t) * p), exact near p = 1, for simplices t and p."""
        step = self.step(i)
        if step.op != "dot":
            return None
        for t, p in (step.args, step.args[::-1]):
            if (
                bnd.is_simplex(self.signature, self.step(t), step.data)
                and self.is_a(p, "exp")
                and self.is_a(self.under(p)[0], "log_softmax")
                and self.step(self.under(p)[0]).data == step.data
            ):
                rest = self.sum_of([(1, self.literal(1.0)), (-1, t)])
                return self.apply("dot", (rest, p), step.data)
        return None

    # Products.

    def _factors(self, i: int) -> tuple[int, list[int], list[int]]:
        """Sign, numerator factors and denominators of a (flattened) product."""
        if self.is_a(i, "neg"):
            sign, top, bottom = self._factors(self.under(i)[0])
            return -sign, top, bottom
        if self.is_a(i, "mul"):
            sign, top, bottom = 1, list[int](), list[int]()
            for arg in self.under(i):
                s, t, b = self._factors(arg)
                sign, top, bottom = sign * s, top + t, bottom + b
            return sign, top, bottom
        if self.is_a(i, "div"):
            sign, top, bottom = self._factors(self.under(i)[0])
            return sign, top, [*bottom, self.under(i)[1]]
        if self.is_a(i, "square"):
            return 1, [self.under(i)[0]] * 2, []
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
            return self.literal(0.0) if number == 0 else self.as_it_is("mul", tuple(args))
        factors: list[int] = []
        top = self.in_order(top)
        while top:
            i = top.pop(0)
            if top and top[0] == i:
                top.pop(0)
                factors.append(self.as_it_is("square", (i,)))
            else:
                factors.append(i)
        if number != 1 or not factors:
            factors.insert(0, self.literal(number))
        result = factors[0]
        for i in factors[1:]:
            result = self.as_it_is("mul", (result, i))
        for i in self.in_order(bottom):
            result = self.as_it_is("div", (result, i))
        return self.neg(result) if sign < 0 else result

    def _linear(self, op: str, args: tuple[int, ...], data: Data) -> int | None:
        """Sign, and factors that lack the summed axes, leave linear operations."""
        if op in ("like", "detach"):
            return self.neg(self.apply(op, self.under(args[0]), data)) if self.is_a(args[0], "neg") else None
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
            free = [i for i in top if not self.step(i).axes & over and self.number(i) != 1]
            below = [i for i in bottom if not self.step(i).axes & over]
            if len(free) == len(top) and len(below) == len(bottom):
                free, below = [], []
            if s > 0 and not free and not below:
                inside.append(arg)
                continue
            body = self.product_of([i for i in top if i not in free] or [self.literal(1.0)])
            for i in self.in_order(i for i in bottom if i not in below):
                body = self.as_it_is("div", (body, i))
            inside.append(body)
            outside += free
            under += below
            sign *= s
        if sign > 0 and not outside and not under:
            return None
        result = self.product_of([*outside, self.apply(op, tuple(inside), data)])
        for i in self.in_order(under):
            result = self.apply("div", (result, i))
        return self.neg(result) if sign < 0 else result
