"""Which simpler form does an operation have? One rule an operation.

A rule sees the builder and the operation's arguments, simplified already, and gives the index of a simpler
value that means the same, or None. What is unstable is written stably here: log(softmax), log(1 + exp),
log(sigmoid), log(p_t). There is no distributivity, and x/x -> 1 or exp(log x) -> x need a proof by bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, cast

from losssearch.language import bounds as bnd
from losssearch.language.primitives import CEILING, EPS
from losssearch.language.signature import Role
from losssearch.language.term import INPUT, LITERAL, SIZE, Data

if TYPE_CHECKING:
    from losssearch.language.simplify import Simplifier

Rule: TypeAlias = "Callable[[Simplifier, tuple[int, ...], Data], int | None]"


def _add(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    return b.sum_of(b.signed(args[0]) + b.signed(args[1]))


def _sub(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    return b.sum_of(b.signed(args[0]) + b.signed(args[1], -1))


def _mul(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    return b.product_of(args)


def _neg(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    if b.is_a(args[0], "neg"):
        return b.under(args[0])[0]
    if b.is_a(args[0], "add"):
        return b.sum_of(b.signed(args[0], -1))
    step = b.step(args[0])
    if step.op in ("sum", "mean", "like") and b.is_a(step.args[0], "add"):
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
    if b.is_a(x, "neg"):
        return b.neg(b.apply("div", (b.under(x)[0], y)))
    if b.is_a(y, "neg") and proven:
        return b.neg(b.apply("div", (x, b.under(y)[0])))
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
    if b.step(x).axes == b.step(y).axes | b.step(x).axes and (
        b.bounds[x].low > b.bounds[y].high if sign > 0 else b.bounds[x].high < b.bounds[y].low
    ):
        return x
    if b.step(y).axes == b.step(x).axes | b.step(y).axes and (
        b.bounds[y].low > b.bounds[x].high if sign > 0 else b.bounds[y].high < b.bounds[x].low
    ):
        return y
    return b.as_it_is(op, tuple(b.in_order(args)))


def _exp(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    x = args[0]
    if b.is_a(x, "log") and b.bounds[b.under(x)[0]].low >= EPS:
        return b.under(x)[0]
    return b.literal(1.0) if b.number(x) == 0 else None


def _log(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    x = args[0]
    step = b.step(x)
    if b.number(x) == 1:
        return b.literal(0.0)
    if step.op == "exp":
        range_ = b.bounds[step.args[0]]
        safe = range_.high <= CEILING and range_.low >= math.log(EPS)
        if safe or b.is_a(step.args[0], "log_softmax"):
            return step.args[0]
    if step.op == "sigmoid":
        return b.neg(b.apply("softplus", (b.neg(step.args[0]),)))
    if step.op == "add":
        one, other = step.args
        if b.number(one) == 1 and b.is_a(other, "exp"):
            return b.apply("softplus", b.under(other))
        if b.number(one) == 1 and b.is_a(other, "neg") and b.is_a(b.under(other)[0], "sigmoid"):
            return b.neg(b.apply("softplus", b.under(b.under(other)[0])))
    if step.op == "dot":
        for weight, p in (step.args, step.args[::-1]):
            if b.is_a(p, "exp") and b.is_a(b.under(p)[0], "log_softmax") and _has_some(b, weight, step.data):
                return b.apply("logsumexp", (b.under(p)[0], weight), step.data)
    return None


def _has_some(b: Simplifier, weight: int, axes: Data) -> bool:
    """Whether a weight is never negative and never 0 throughout: a simplex t, 1 - t, or bounded."""
    if b.bounds[weight].low >= EPS or bnd.is_simplex(b.signature, b.step(weight), axes):
        return True
    step = b.step(weight)
    return (
        step.op == "add"
        and b.number(step.args[0]) == 1
        and b.is_a(step.args[1], "neg")
        and bnd.is_simplex(b.signature, b.step(b.under(step.args[1])[0]), axes)
    )


def _softmax(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    return b.apply("exp", (b.apply("log_softmax", args, data),))


def _sigmoid(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    if b.is_a(args[0], "neg"):
        one_minus = [(1, b.literal(1.0)), (-1, b.apply("sigmoid", b.under(args[0])))]
        return b.sum_of(one_minus)
    return None


def _sum(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    if len(args) == 2:
        if b.number(args[1]) == 1:
            return b.apply("sum", args[:1], data)
        over = b.signature.axes_of(cast("tuple[str, ...]", data))
        if over & ~b.step(args[0]).axes or over & ~b.step(args[1]).axes:
            return None
        return b.apply("dot", args, data)
    step = b.step(args[0])
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
    if not all(b.step(i).axes & over for i in args) and all(
        over & ~b.step(i).axes in (0, over) for i in args
    ):
        inside = [i for i in args if b.step(i).axes & over]
        outside = [i for i in args if not b.step(i).axes & over]
        return b.product_of([*outside, b.apply("sum", inside, data)])
    if b.in_order(args) != list(args):
        return b.apply("dot", b.in_order(args), data)
    return None


def _mean(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    if len(args) == 2:
        number = b.number(args[1])
        return b.apply("mean", args[:1], data) if number is not None and number >= EPS else None
    step = b.step(args[0])
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
    return args[0] if b.step(args[0]).op in ("detach", LITERAL, SIZE) else None


def _pow(b: Simplifier, args: tuple[int, ...], data: Data) -> int | None:
    return b.literal(1.0) if b.number(args[1]) == 0 or b.number(args[0]) == 1 else None


RULES: dict[str, Rule] = {
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
