r"""The words of the loss language: one row a primitive, and nothing about it elsewhere.

A row says how many arguments, over which axes, between which bounds, what torch computes, what the
derivative is (a formula of the language itself), how it bends, and how LaTeX writes it. Every other
back end is printed from these rows.

**A primitive means its guarded, total form**: the pure function where that is harmless, continued
*linearly* where it is not, so that a finite input never gives nan and the gradient stays alive
where a loss is most wrong.

    log(x), x**g    as they are for x >= EPS, below it their tangent at EPS
    sqrt(x)         likewise at EPS**2
    x / y           as it is for |y| >= EPS; nearer to zero 1/y goes on along its tangent at EPS; 1/0 is 2/EPS
    exp(x)          as it is for x <= CEILING, above it its tangent there
    means           divide by the guarded division, so the mean of nothing is 0

Kinks: abs'(0) = relu'(0) = 0; maximum and minimum share a tie in halves, max and min over axes in
equal parts. Sorting is by descending key, equal keys stay in order, and no gradient flows into a key. In a derivative `x y z` are the arguments, `out` is the value, `g` the gradient of the
whole in `out`, and `'A'` stands for the axes of the operation. A missing weight reads as 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from losssearch.language import intervals as iv
from losssearch.language.intervals import Interval
from losssearch.language.signature import Kind

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-6
CEILING = 60.0


class Form(Enum):
    """How a primitive treats axes."""

    ELEMENTWISE = "keeps the union of its arguments' axes"
    REDUCTION = "removes the named axes; the last argument is an optional weight or mask"
    CONTRACTION = "multiplies two values and sums over the named axes"
    ALONG = "works along the named axes and keeps them"
    COPY = "moves an axis onto its copy"


@dataclass(frozen=True)
class Primitive:
    """One word of the language.

    Args:
        name: As formulas write it.
        form: How it treats axes.
        arity: Number of arguments, an optional weight counted in.
        torch: What it computes; tensors at full rank, then `dims` (negative) where `form` has axes.
        derivative: For each argument a formula, or None where no gradient flows.
        interval: Bounds of the value from bounds of the arguments.
        latex: With {x}, {y}, {z} and {axes}.
        plain: The unguarded function, equal to `torch` wherever `harmless` holds.
        harmless: Whether these bounds of the arguments need no guard.
        masks: Which arguments must be masks.
        result: What it gives.
        symbol: Infix form, if it has one.
        commutes: Whether the first two arguments may be swapped.
        rising: For each argument +1 rising, -1 falling, 0 neither, 2 rising with its size |x|.
        curvature: "affine", "convex", "concave" or "" in all arguments together.
        ordered: Whether the order of elements counts, so that it works along a single axis.
        scalar: The same on numbers, in the operators and `math` alone: what a kernel compiles. Masks
            are 1 and 0. None where an element depends on others.
        lowering: The same by elementwise primitives and plain sums, maxima and minima, for a kernel:
            without and with a weight; `ln` has no guard. "" where it is one of those itself.
    """

    name: str
    form: Form
    arity: int
    torch: Callable[..., Tensor]
    derivative: tuple[str | None, ...]
    interval: Callable[..., Interval]
    latex: str
    plain: Callable[..., Tensor] | None = None
    harmless: Callable[..., bool] | None = None
    masks: tuple[int, ...] = ()
    result: Kind = Kind.REAL
    symbol: str = ""
    commutes: bool = False
    rising: tuple[int, ...] = ()
    curvature: str = ""
    ordered: bool = False
    scalar: Callable[..., float] | None = None
    lowering: tuple[str, ...] | None = None

    @property
    def has_axes(self) -> bool:
        return self.form is not Form.ELEMENTWISE

    @property
    def has_weight(self) -> bool:
        return self.form is Form.REDUCTION and self.arity == 2

    @property
    def usage(self) -> str:
        """How a formula writes it: `sum(x, 'axes', weight=None)`, `x + y`."""
        if self.symbol:
            return f"x {self.symbol} y" if self.arity == 2 else f"{self.symbol}x"
        arguments = [*"xyz"[: self.arity - self.has_weight]]
        if self.has_axes:
            arguments.append("new='old'" if self.form is Form.COPY else "'axes'")
        if self.has_weight:
            arguments.append("weight=None")
        return f"{self.name}({', '.join(arguments)})"


# What torch computes. Tensor methods only, so that an exported loss can carry these lines as they
# stand. The linear parts are written with relu, whose gradient is exactly 0 where the guard is
# idle: `x - clamp(x)` would add and take away 1/eps in the gradient and lose its digits.


def _add(x: Tensor, y: Tensor) -> Tensor:
    return x + y


def _sub(x: Tensor, y: Tensor) -> Tensor:
    return x - y


def _mul(x: Tensor, y: Tensor) -> Tensor:
    return x * y


def _plain_div(x: Tensor, y: Tensor) -> Tensor:
    return x / y


def _div(x: Tensor, y: Tensor) -> Tensor:
    """Division; within 1e-6 of a zero denominator 1/y goes on along its tangent."""
    sign = (y >= 0).to(y.dtype) * 2 - 1
    size = y * sign
    kept = size.clamp(min=1e-6)
    return x * (sign * (1 / kept + (1e-6 - size).relu() * 1e12))


def _neg(x: Tensor) -> Tensor:
    return -x


def _abs(x: Tensor) -> Tensor:
    return x.abs()


def _square(x: Tensor) -> Tensor:
    return x * x


def _plain_sqrt(x: Tensor) -> Tensor:
    return x.sqrt()


def _sqrt(x: Tensor) -> Tensor:
    """Square root; below 1e-12 its tangent there."""
    kept = x.clamp(min=1e-12)
    return kept.sqrt() - (1e-12 - x).relu() * 5e5


def _plain_pow(x: Tensor, y: Tensor) -> Tensor:
    return x**y


def _pow(x: Tensor, y: Tensor) -> Tensor:
    """Power; below 1e-6 its tangent in x there, above e**60 linear in y log x."""
    base = x.clamp(min=1e-6)
    exponent = y * base.log()
    kept = exponent.clamp(max=60.0)
    power = kept.exp()
    return power * (1 + (exponent - 60.0).relu()) - y * power * 1e6 * (1e-6 - x).relu()


def _plain_exp(x: Tensor) -> Tensor:
    return x.exp()


def _exp(x: Tensor) -> Tensor:
    """Exponential; above 60 its tangent there."""
    kept = x.clamp(max=60.0)
    return kept.exp() * (1 + (x - 60.0).relu())


def _plain_log(x: Tensor) -> Tensor:
    return x.log()


def _log(x: Tensor) -> Tensor:
    """Logarithm; below 1e-6 its tangent there."""
    kept = x.clamp(min=1e-6)
    return kept.log() - (1e-6 - x).relu() * 1e6


def _tanh(x: Tensor) -> Tensor:
    return x.tanh()


def _sigmoid(x: Tensor) -> Tensor:
    return x.sigmoid()


def _softplus(x: Tensor) -> Tensor:
    return x.logaddexp(x.new_zeros(()))


def _relu(x: Tensor) -> Tensor:
    return x.relu()


def _sin(x: Tensor) -> Tensor:
    return x.sin()


def _cos(x: Tensor) -> Tensor:
    return x.cos()


def _erf(x: Tensor) -> Tensor:
    return x.erf()


def _atan(x: Tensor) -> Tensor:
    return x.atan()


def _maximum(x: Tensor, y: Tensor) -> Tensor:
    return x.maximum(y)


def _minimum(x: Tensor, y: Tensor) -> Tensor:
    return x.minimum(y)


def _greater(x: Tensor, y: Tensor) -> Tensor:
    return x > y


def _greater_equal(x: Tensor, y: Tensor) -> Tensor:
    return x >= y


def _less(x: Tensor, y: Tensor) -> Tensor:
    return x < y


def _less_equal(x: Tensor, y: Tensor) -> Tensor:
    return x <= y


def _equal(x: Tensor, y: Tensor) -> Tensor:
    return x == y


def _where(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    return y.where(x, z)


def _detach(x: Tensor) -> Tensor:
    return x.detach()


def _softmax(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return (x - x.logsumexp(dims, keepdim=True)).exp() if len(dims) > 1 else x.softmax(dims[0])


def _log_softmax(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x - x.logsumexp(dims, keepdim=True) if len(dims) > 1 else x.log_softmax(dims[0])


def _sum(x: Tensor, dims: tuple[int, ...], weight: Tensor | None = None) -> Tensor:
    return (x if weight is None else x * weight).sum(dims, keepdim=True)


def _mean(x: Tensor, dims: tuple[int, ...], weight: Tensor | None = None) -> Tensor:
    """Mean over `dims`, weighted if asked; a total weight near zero is guarded, nothing at all gives 0."""
    if weight is None:
        count = 1
        for dim in dims:
            count = count * x.shape[dim]
        return x.sum(dims, keepdim=True) / max(count, 1)
    weighted = x * weight
    total = (weight + x.new_zeros(x.shape)).sum(dims, keepdim=True)
    sign = (total >= 0).to(x.dtype) * 2 - 1
    size = total * sign
    kept = size.clamp(min=1e-6)
    return weighted.sum(dims, keepdim=True) * (sign * (1 / kept + (1e-6 - size).relu() * 1e12))


def _max(x: Tensor, dims: tuple[int, ...], mask: Tensor | None = None) -> Tensor:
    """Largest value over `dims` where the mask is positive; nothing at all gives 0."""
    kept = x if mask is None else x.where(mask > 0, -float("inf"))
    if 0 in [kept.shape[dim] for dim in dims]:
        return kept.sum(dims, keepdim=True)
    top = kept.amax(dims, keepdim=True)
    return top if mask is None else top.where(top > -float("inf"), 0.0)


def _min(x: Tensor, dims: tuple[int, ...], mask: Tensor | None = None) -> Tensor:
    """Smallest value over `dims` where the mask is positive; nothing at all gives 0."""
    kept = x if mask is None else x.where(mask > 0, float("inf"))
    if 0 in [kept.shape[dim] for dim in dims]:
        return kept.sum(dims, keepdim=True)
    low = kept.amin(dims, keepdim=True)
    return low if mask is None else low.where(low < float("inf"), 0.0)


def _logsumexp(x: Tensor, dims: tuple[int, ...], weight: Tensor | None = None) -> Tensor:
    """log of sum of weight * exp(x) over `dims`; weights at or below 0 are left out, nothing gives 0."""
    if weight is None:
        nothing = 0 in [x.shape[dim] for dim in dims]
        return x.sum(dims, keepdim=True) if nothing else x.logsumexp(dims, keepdim=True)
    kept = weight > 0
    known = x.detach().where(kept, -float("inf"))
    if 0 in [known.shape[dim] for dim in dims]:
        return (x * weight).sum(dims, keepdim=True)
    top = known.amax(dims, keepdim=True)
    top = top.where(top > -float("inf"), 0.0)
    terms = weight.where(kept, 0.0) * (x - top).where(kept, 0.0).exp()
    total = terms.sum(dims, keepdim=True)
    some = total > 0
    return (total.where(some, 1.0).log() + top).where(some, 0.0)


def _any(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return (x > 0).sum(dims, keepdim=True) > 0


def _dot(x: Tensor, y: Tensor, dims: tuple[int, ...]) -> Tensor:
    return (x * y).sum(dims, keepdim=True)


def _sort_by(x: Tensor, dims: tuple[int, ...], key: Tensor) -> Tensor:
    """The values in the order of descending keys; equal keys stay in order."""
    shape = (x + key).shape
    order = key.expand(shape).argsort(dim=dims[0], descending=True, stable=True)
    return x.expand(shape).gather(dims[0], order)


def _unsort_by(x: Tensor, dims: tuple[int, ...], key: Tensor) -> Tensor:
    """What undoes sorting by the same key: the value of rank r goes back to where rank r came from."""
    shape = (x + key).shape
    order = key.expand(shape).argsort(dim=dims[0], descending=True, stable=True)
    return x.expand(shape).gather(dims[0], order.argsort(dim=dims[0]))


def _cumsum(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x.cumsum(dims[0])


def _diff(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Each value less the one before it; before the first stands 0."""
    return x.diff(dim=dims[0], prepend=x.narrow(dims[0], 0, min(x.shape[dims[0]], 1)) * 0)


def _flip(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x.flip(dims)


def _like(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Swap each pair of dims (to, from): an axis seen along its copy."""
    for to, origin in zip(dims[::2], dims[1::2], strict=True):
        x = x.transpose(to, origin)
    return x


# Bounds that are particular to one primitive.


def _div_interval(x: Interval, y: Interval) -> Interval:
    if y.low >= EPS or y.high <= -EPS:
        return iv.mul(x, Interval(*sorted((1 / y.low, 1 / y.high))))
    if y.low >= 0:
        return iv.mul(x, Interval(0.0 if math.isinf(y.high) else 1 / max(y.high, EPS), 2 / EPS))
    return iv.mul(x, Interval(-2 / EPS, 2 / EPS))


def _div_of(x: float, y: float) -> float:
    kept = max(abs(y), EPS)
    size = 1 / kept + max(EPS - abs(y), 0.0) / EPS / EPS
    return x * (size if y >= 0 else -size)


def _log_of(x: float) -> float:
    return math.log(max(x, EPS)) - max(EPS - x, 0.0) / EPS


def _sqrt_of(x: float) -> float:
    return math.sqrt(max(x, EPS * EPS)) - max(EPS * EPS - x, 0.0) * 0.5 / EPS


def _exp_of(x: float) -> float:
    return math.exp(min(x, CEILING)) * (1 + max(x - CEILING, 0.0))


def _pow_of(x: float, y: float) -> float:
    base = max(x, EPS)
    exponent = y * math.log(base)
    capped = min(exponent, CEILING)
    power = math.exp(capped)
    return power * (1 + (exponent - capped)) - y * power / EPS * (base - x)


def _tanh_of(x: float) -> float:
    return math.tanh(x)


def _erf_of(x: float) -> float:
    return math.erf(x)


def _pow_interval(x: Interval, y: Interval) -> Interval:
    logs = Interval(_log_of(max(x.low, EPS)), _log_of(max(x.high, EPS)))
    power = iv.mul(y, logs)
    value = Interval(_exp_of(power.low), _exp_of(power.high))
    if x.low >= EPS:
        return value
    edge = iv.mul(y, iv.point(math.log(EPS)))
    capped = Interval(_exp_of(min(edge.low, CEILING)), _exp_of(min(edge.high, CEILING)))
    drop = iv.mul(iv.mul(y, capped), Interval(0.0, (EPS - x.low) / EPS))
    return value.hull(iv.sub(Interval(_exp_of(edge.low), _exp_of(edge.high)), drop))


def _softplus_of(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _sigmoid_of(x: float) -> float:
    tail = math.exp(-abs(x))
    return (1 if x >= 0 else tail) / (1 + tail)


def _square_of(x: float) -> float:
    return x * x


def _sum_interval(x: Interval, weight: Interval = iv.UNIT) -> Interval:
    term = iv.mul(x, weight)
    return Interval(0.0 if term.low >= 0 else -iv.INF, 0.0 if term.high <= 0 else iv.INF)


def _mean_interval(x: Interval, weight: Interval = iv.UNIT) -> Interval:
    return x.hull(iv.point(0.0)) if weight.low >= 0 else iv.REALS


def _max_interval(x: Interval, mask: Interval | None = None) -> Interval:
    return x if mask is None else x.hull(iv.point(0.0))


def _logsumexp_interval(x: Interval, weight: Interval | None = None) -> Interval:
    return Interval(x.low if weight is None else -iv.INF, iv.INF)


def _where_interval(x: Interval, y: Interval, z: Interval) -> Interval:
    return y.hull(z)


def _dot_interval(x: Interval, y: Interval) -> Interval:
    return _sum_interval(iv.mul(x, y))


def _cumsum_interval(x: Interval) -> Interval:
    return Interval(x.low if x.low >= 0 else -iv.INF, x.high if x.high <= 0 else iv.INF)


def _diff_interval(x: Interval) -> Interval:
    return x.hull(iv.sub(x, x))


def _same(x: Interval) -> Interval:
    return x


def _first(x: Interval, key: Interval) -> Interval:
    return x


_E, _R, _C, _L = Form.ELEMENTWISE, Form.REDUCTION, Form.CONTRACTION, Form.ALONG
_M, _YES_NO = Kind.MASK, iv.constantly(iv.UNIT)
_TOP = f"{math.exp(CEILING)!r}"

# Derivatives that need more than a line. `b` is the guarded base, `m` the capped power.
_POW_X = f"g * y * minimum(pow(maximum(x, 1e-6), y), {_TOP}) / maximum(x, 1e-6)"
_POW_Y = (
    f"b = maximum(x, 1e-6); q = pow(b, y); m = minimum(q, {_TOP});"
    f"g * (log(b) * m + minimum(x - 1e-6, 0) * 1e6 * (m + y * log(b) * where(q < {_TOP}, m, 0)))"
)
_MEAN_X = "g * y / sum(y, 'A')"
_MEAN_Y = "t = sum(y, 'A'); d = maximum(abs(t), 1e-6); g * (x / t - sum(x * y, 'A') / d / d)"
#: Stands below every number where a value is left out of a maximum: near the edge of single precision.
_KEPT = "k = y > 0; e = max(y, 'A') > 0;"
_MAX_OF_KEPT = f"{_KEPT} where(e, max(where(k, x, -3e38), 'A'), 0)"
_MIN_OF_KEPT = f"{_KEPT} where(e, min(where(k, x, 3e38), 'A'), 0)"
_LOGSUMEXP = (
    "t = max(x, 'A'); t + ln(sum(exp(x - t), 'A'))",
    f"{_KEPT} t = where(e, max(where(k, x, -3e38), 'A'), 0);"
    "where(e, t + ln(sum(where(k, y, 0) * exp(where(k, x - t, 0)), 'A')), 0)",
)
_HIT = "h = where(x == out, y > 0, 0); g * h / sum(h, 'A')"

_ROWS = [
    Primitive("add", _E, 2, _add, ("g", "g"), iv.add, "{x} + {y}", symbol="+", commutes=True,
              rising=(1, 1), curvature="affine",
              scalar=lambda x, y: x + y),
    Primitive("sub", _E, 2, _sub, ("g", "-g"), iv.sub, "{x} - {y}", symbol="-",
              rising=(1, -1), curvature="affine",
              scalar=lambda x, y: x - y),
    Primitive("mul", _E, 2, _mul, ("g * y", "g * x"), iv.mul, r"{x} \cdot {y}", symbol="*", commutes=True,
              scalar=lambda x, y: x * y),
    Primitive("div", _E, 2, _div, ("g / y", "d = maximum(abs(y), 1e-6); -(g * x / d / d)"), _div_interval,
              r"\frac{{{x}}}{{{y}}}", symbol="/", plain=_plain_div,
              harmless=lambda x, y: y.low >= EPS or y.high <= -EPS,
              scalar=_div_of),
    Primitive("neg", _E, 1, _neg, ("-g",), iv.neg, "-{x}", symbol="-", rising=(-1,), curvature="affine",
              scalar=lambda x: -x),
    Primitive("abs", _E, 1, _abs, ("where(x > 0, g, where(x < 0, -g, 0))",), iv.even(abs),
              r"\left|{x}\right|", rising=(2,), curvature="convex",
              scalar=lambda x: abs(x)),
    Primitive("square", _E, 1, _square, ("2 * g * x",), iv.even(_square_of), "{x}^2",
              rising=(2,), curvature="convex",
              scalar=_square_of),
    Primitive("sqrt", _E, 1, _sqrt, ("g / (2 * sqrt(maximum(x, 1e-12)))",), iv.increasing(_sqrt_of),
              r"\sqrt{{{x}}}", plain=_plain_sqrt, harmless=lambda x: x.low >= EPS**2,
              rising=(1,), curvature="concave",
              scalar=_sqrt_of),
    Primitive("pow", _E, 2, _pow, (_POW_X, _POW_Y), _pow_interval, "{x}^{{{y}}}", symbol="**",
              plain=_plain_pow,
              harmless=lambda x, y: x.low >= EPS and iv.mul(y, Interval(_log_of(x.low), _log_of(x.high))).high
              <= CEILING,
              scalar=_pow_of),
    Primitive("exp", _E, 1, _exp, (f"g * minimum(out, {_TOP})",), iv.increasing(_exp_of), r"e^{{{x}}}",
              plain=_plain_exp, harmless=lambda x: x.high <= CEILING, rising=(1,), curvature="convex",
              scalar=_exp_of),
    Primitive("log", _E, 1, _log, ("g / maximum(x, 1e-6)",), iv.increasing(_log_of), r"\log {x}",
              plain=_plain_log, harmless=lambda x: x.low >= EPS, rising=(1,), curvature="concave",
              scalar=_log_of),
    Primitive("tanh", _E, 1, _tanh, ("g * (1 - square(out))",), iv.increasing(math.tanh), r"\tanh {x}",
              rising=(1,),
              scalar=_tanh_of),
    Primitive("sigmoid", _E, 1, _sigmoid, ("g * out * (1 - out)",), iv.increasing(_sigmoid_of),
              r"\sigma\left({x}\right)", rising=(1,),
              scalar=_sigmoid_of),
    Primitive("softplus", _E, 1, _softplus, ("g * sigmoid(x)",), iv.increasing(_softplus_of),
              r"\operatorname{{softplus}}\left({x}\right)", rising=(1,), curvature="convex",
              scalar=_softplus_of),
    Primitive("relu", _E, 1, _relu, ("where(x > 0, g, 0)",), iv.increasing(lambda x: max(x, 0.0)),
              r"\left[{x}\right]_+", rising=(1,), curvature="convex",
              scalar=lambda x: max(x, 0.0)),
    Primitive("sin", _E, 1, _sin, ("g * cos(x)",), iv.wave, r"\sin {x}",
              scalar=lambda x: math.sin(x)),
    Primitive("cos", _E, 1, _cos, ("-(g * sin(x))",), iv.wave, r"\cos {x}",
              scalar=lambda x: math.cos(x)),
    Primitive("erf", _E, 1, _erf, ("g * 1.1283791670955126 * exp(-square(x))",), iv.increasing(math.erf),
              r"\operatorname{{erf}}\left({x}\right)", rising=(1,),
              scalar=_erf_of),
    Primitive("atan", _E, 1, _atan, ("g / (1 + square(x))",), iv.increasing(math.atan),
              r"\arctan\left({x}\right)", rising=(1,),
              scalar=lambda x: math.atan(x)),
    Primitive("maximum", _E, 2, _maximum,
              ("where(x > y, g, where(x < y, 0, g / 2))", "where(y > x, g, where(y < x, 0, g / 2))"),
              iv.maximum, r"\max\left({x}, {y}\right)", commutes=True, rising=(1, 1), curvature="convex",
              scalar=lambda x, y: max(x, y)),
    Primitive("minimum", _E, 2, _minimum,
              ("where(x < y, g, where(x > y, 0, g / 2))", "where(y < x, g, where(y > x, 0, g / 2))"),
              iv.minimum, r"\min\left({x}, {y}\right)", commutes=True, rising=(1, 1), curvature="concave",
              scalar=lambda x, y: min(x, y)),
    Primitive("greater", _E, 2, _greater, (None, None), _YES_NO, "{x} > {y}", symbol=">", result=_M,
              scalar=lambda x, y: 1.0 if x > y else 0.0),
    Primitive("greater_equal", _E, 2, _greater_equal, (None, None), _YES_NO, r"{x} \ge {y}", symbol=">=", result=_M,
              scalar=lambda x, y: 1.0 if x >= y else 0.0),
    Primitive("less", _E, 2, _less, (None, None), _YES_NO, "{x} < {y}", symbol="<", result=_M,
              scalar=lambda x, y: 1.0 if x < y else 0.0),
    Primitive("less_equal", _E, 2, _less_equal, (None, None), _YES_NO, r"{x} \le {y}", symbol="<=", result=_M,
              scalar=lambda x, y: 1.0 if x <= y else 0.0),
    Primitive("equal", _E, 2, _equal, (None, None), _YES_NO, "{x} = {y}", symbol="==", commutes=True, result=_M,
              scalar=lambda x, y: 1.0 if x == y else 0.0),
    Primitive("where", _E, 3, _where, (None, "where(x, g, 0)", "where(x, 0, g)"), _where_interval,
              r"\begin{{cases}} {y} & {x} \\ {z} & \text{{otherwise}} \end{{cases}}", masks=(0,),
              scalar=lambda x, y, z: y if x != 0 else z),
    Primitive("detach", _E, 1, _detach, (None,), _same, r"\overline{{{x}}}",
              scalar=lambda x: x),
    Primitive("softmax", _L, 1, _softmax, ("out * (g - sum(g * out, 'A'))",), iv.constantly(iv.UNIT),
              r"\operatorname{{softmax}}_{{{axes}}}\left({x}\right)",
              lowering=("e = exp(x - max(x, 'A')); e / sum(e, 'A')",)),
    Primitive("log_softmax", _L, 1, _log_softmax, ("g - exp(out) * sum(g, 'A')",),
              iv.constantly(Interval(-iv.INF, 0.0)),
              r"\operatorname{{log\,softmax}}_{{{axes}}}\left({x}\right)", curvature="concave",
              lowering=("d = x - max(x, 'A'); d - ln(sum(exp(d), 'A'))",)),
    Primitive("sum", _R, 2, _sum, ("g * y", "g * x"), _sum_interval, r"\sum_{{{axes}}} {x}",
              rising=(1, 0), curvature="affine",
              lowering=("", "sum(x * y, 'A')")),
    Primitive("mean", _R, 2, _mean, (_MEAN_X, _MEAN_Y), _mean_interval, r"\operatorname{{mean}}_{{{axes}}} {x}",
              rising=(1, 0), curvature="affine",
              lowering=("sum(x, 'A') / sum(1, 'A')", "sum(x * y, 'A') / sum(y, 'A')")),
    Primitive("max", _R, 2, _max, (_HIT, None), _max_interval, r"\max_{{{axes}}} {x}",
              rising=(1, 0), curvature="convex",
              lowering=("", _MAX_OF_KEPT)),
    Primitive("min", _R, 2, _min, (_HIT, None), _max_interval, r"\min_{{{axes}}} {x}",
              rising=(1, 0), curvature="concave",
              lowering=("", _MIN_OF_KEPT)),
    Primitive("logsumexp", _R, 2, _logsumexp,
              ("relu(y) * g * exp(x - out)", "where(y > 0, g * exp(x - out), 0)"), _logsumexp_interval,
              r"\log\sum_{{{axes}}} e^{{{x}}}", rising=(1, 0), curvature="convex",
              lowering=_LOGSUMEXP),
    Primitive("any", Form.REDUCTION, 1, _any, (None,), _YES_NO, r"\exists_{{{axes}}}\, {x}", result=_M,
              lowering=("max(x, 'A')",)),
    Primitive("dot", _C, 2, _dot, ("g * y", "g * x"), _dot_interval, r"\sum_{{{axes}}} {x} \cdot {y}",
              commutes=True,
              lowering=("sum(x * y, 'A')",)),
    Primitive("sort_by", _L, 2, _sort_by, ("unsort_by(g, y, 'A')", None), _first,
              r"\operatorname{{sort}}_{{{axes}}}\left({x};\, {y}\right)", rising=(1, 0), ordered=True),
    Primitive("unsort_by", _L, 2, _unsort_by, ("sort_by(g, y, 'A')", None), _first,
              r"\operatorname{{sort}}^{{-1}}_{{{axes}}}\left({x};\, {y}\right)", rising=(1, 0), ordered=True),
    Primitive("cumsum", _L, 1, _cumsum, ("flip(cumsum(flip(g, 'A'), 'A'), 'A')",), _cumsum_interval,
              r"\operatorname{{cumsum}}_{{{axes}}}\left({x}\right)", rising=(1,), curvature="affine", ordered=True),
    Primitive("diff", _L, 1, _diff, ("flip(diff(flip(g, 'A'), 'A'), 'A')",), _diff_interval,
              r"\Delta_{{{axes}}}\left({x}\right)", rising=(0,), curvature="affine", ordered=True),
    Primitive("flip", _L, 1, _flip, ("flip(g, 'A')",), _same,
              r"\operatorname{{flip}}_{{{axes}}}\left({x}\right)", rising=(1,), curvature="affine", ordered=True),
    Primitive("like", Form.COPY, 1, _like, ("g",), _same, r"{x}^{{({axes})}}", rising=(1,), curvature="affine"),
]  # fmt: skip

PRIMITIVES: dict[str, Primitive] = {row.name: row for row in _ROWS}
OPCODES: dict[str, int] = {row.name: code for code, row in enumerate(_ROWS)}
INFIX: dict[str, Primitive] = {row.symbol: row for row in _ROWS if row.symbol and row.arity == 2}
