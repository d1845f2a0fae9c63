"""What can be proved about a loss without running it?

Each fact is proved, refuted by a counter-example, or unknown; unknown is the honest answer of a
cheap proof. Proofs are intervals and rules of composition over the canonical program and its
gradient, with the constants at their values, the inputs on their operating ranges and hard labels;
they cost a few milliseconds and no torch. `losssearch.execution.refute` looks for counter-examples
to what stays unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from losssearch.language import intervals as iv
from losssearch.language.bounds import bound, is_distribution
from losssearch.language.canonical import canonical
from losssearch.language.derivative import gradient
from losssearch.language.heads import Coupled, split
from losssearch.language.intervals import Interval
from losssearch.language.primitives import CEILING, EPS, PRIMITIVES
from losssearch.language.program import Instruction, Program
from losssearch.language.signature import Role
from losssearch.language.term import CONSTANT, INPUT, SIZE

MAX_SIZE = 1e6  # no axis is longer, for what is said about sums
FLOAT32_MAX = 3.4e38
MAX_INFLUENCE = 1e5  # a gradient beyond it is bounded by a guard alone


class Verdict(Enum):
    """What is known of a fact."""

    PROVED = "proved"
    REFUTED = "refuted"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Fact:
    """A verdict, why, and for a refuted one the inputs (nested lists) and values that refute it."""

    verdict: Verdict
    why: str = ""
    counterexample: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.verdict is Verdict.PROVED


@dataclass(frozen=True)
class Facts:
    """What is known of a loss.

    Args:
        finite: Value and gradient are finite in fp32 on the operating range.
        smooth: No kink (of abs, relu, max, where, ...) is reached.
        bounded_influence: The gradient is bounded however wrong the prediction is.
        batch_free: A batch given twice has the same value.
        convex: In the raw prediction.
        monotone: It never rises as the prediction gets better.
        equivariant: Renumbering samples, classes or positions changes nothing.
        blind_to: Predictions and targets that cannot change it (or, a prediction, its gradient).
        kinks: The words whose kink may be reached.
    """

    finite: Fact
    smooth: Fact
    bounded_influence: Fact
    batch_free: Fact
    convex: Fact
    monotone: Fact
    equivariant: Fact
    blind_to: tuple[str, ...] = ()
    kinks: tuple[str, ...] = ()

    def as_plain(self) -> dict[str, Any]:
        """Plain data, as the store keeps it."""
        plain: dict[str, Any] = {"blind_to": list(self.blind_to), "kinks": list(self.kinks)}
        for item in fields(self):
            fact = getattr(self, item.name)
            if isinstance(fact, Fact):
                plain[item.name] = {"verdict": fact.verdict.value, "why": fact.why}
                if fact.counterexample:
                    plain[item.name]["counterexample"] = dict(fact.counterexample)
        return plain


def facts(program: Program) -> Facts:
    """What can be proved of a loss."""
    source = canonical(program)
    signature = program.signature
    ranges = ranges_of(source)
    slope = gradient(program, signature.predictions)
    kinks = _kinks(source, ranges)
    return Facts(
        finite=_finite(ranges, ranges_of(slope)),
        smooth=Fact(Verdict.UNKNOWN, f"May reach the kinks of {', '.join(kinks)}.")
        if kinks
        else Fact(Verdict.PROVED, "No word with a kink is near it."),
        bounded_influence=_bounded_influence(slope),
        batch_free=_batch_free(program),
        convex=_convex(source, ranges),
        monotone=_monotone(source),
        equivariant=_equivariant(source),
        blind_to=_blind_to(source, slope),
        kinks=kinks,
    )


# Bounds, sharper than those of the rewrites: constants have values and sums have an end.


def ranges_of(program: Program, *, anywhere: bool = False, longest: float = MAX_SIZE) -> tuple[Interval, ...]:
    """An interval an instruction.

    Args:
        program: Canonical, or a gradient.
        anywhere: Let predictions be any number.
        longest: No axis has more elements.
    """
    signature = program.signature
    constants = {c.name: c for c in program.constants}
    found: list[Interval] = []
    for step in program.instructions:
        if step.op == CONSTANT:
            found.append(iv.point(constants[str(step.data)].value))
        elif step.op == SIZE:
            found.append(Interval(1.0, longest))
        elif anywhere and step.op == INPUT and step.data in signature.predictions:
            found.append(iv.REALS)
        else:
            found.append(
                _sharper(program, step, found, longest)
                or bound(signature, step, program.instructions, found, constants)
            )
    return tuple(found)


def _sharper(program: Program, step: Instruction, found: list[Interval], longest: float) -> Interval | None:
    """Sums over axes that end, and simplices; None where nothing is gained."""
    given = [found[i] for i in step.args]
    if not isinstance(step.data, tuple) or not given:
        return None
    size = longest ** len(step.data)
    x = given[0]
    if step.op == "sum" and len(given) == 1:
        if is_distribution(program.signature, program.instructions, step.args[0], step.data):
            return iv.point(1.0)
        return _repeated(x, size)
    if step.op in ("sum", "dot"):
        if any(is_distribution(program.signature, program.instructions, i, step.data) for i in step.args):
            return None
        return _repeated(iv.mul(x, given[1]), size)
    if step.op == "cumsum":
        return _repeated(x, size)
    if step.op == "logsumexp":
        top = x.high + math.log(size)
        if len(given) == 1:
            return Interval(x.low, top)
        return Interval(-iv.INF, max(0.0, top + math.log(max(given[1].high, 1.0))))
    if step.op == "log_softmax" and x.is_bounded:
        return Interval(x.low - x.high - math.log(size), 0.0)
    return None


def _repeated(x: Interval, size: float) -> Interval:
    return Interval(x.low * size if x.low < 0 else x.low, x.high * size if x.high > 0 else x.high)


def endpoint_range(function: Callable[[float], float], x: Interval, rises: int) -> Interval:
    """The range of a monotone function of one variable, however often that variable repeats in it.

    Args:
        function: Its value at a point.
        x: Where the variable lies.
        rises: +1 for a rising function, -1 for a falling one.
    """
    ends = function(x.low), function(x.high)
    return Interval(*ends) if rises > 0 else Interval(*ends[::-1])


# Proofs.


def _finite(value: tuple[Interval, ...], slope: tuple[Interval, ...]) -> Fact:
    def tame(x: Interval) -> bool:
        return max(-x.low, x.high) < FLOAT32_MAX

    if all(map(tame, value)) and all(map(tame, slope)):
        return Fact(Verdict.PROVED, "Every value on the way has finite bounds.")
    return Fact(Verdict.UNKNOWN, "A value on the way has no bound that fp32 can hold.")


def _kinks(program: Program, ranges: tuple[Interval, ...]) -> tuple[str, ...]:
    """Words with a kink where the prediction moves them, and whose bounds do not exclude it."""
    moves = _moving(program)
    found: list[str] = []
    for i, step in enumerate(program.instructions):
        if i not in moves or step.op in found:
            continue
        given = [ranges[j] for j in step.args]
        match step.op:
            case "abs" | "relu":
                reached = 0.0 in given[0]
            case "maximum" | "minimum":
                reached = given[0].low <= given[1].high and given[1].low <= given[0].high
            case "where":
                reached = step.args[0] in moves
            case "max" | "min":
                reached = step.args[0] in moves
            case "sort_by" | "unsort_by":
                reached = step.args[1] in moves
            case _:
                reached = False
        if reached:
            found.append(step.op)
    return tuple(found)


def _moving(program: Program) -> frozenset[int]:
    """The instructions that a prediction can move."""
    found: set[int] = set()
    predictions = program.signature.predictions
    for i, step in enumerate(program.instructions):
        if (step.op == INPUT and step.data in predictions) or any(j in found for j in step.args):
            found.add(i)
    return frozenset(found)


def _bounded_influence(slope: Program) -> Fact:
    ranges = ranges_of(slope, anywhere=True, longest=1e3)
    found = [ranges[i] for i in slope.outputs]
    limit = max((max(abs(x.low), abs(x.high)) for x in found), default=0.0)
    if limit <= MAX_INFLUENCE:
        return Fact(Verdict.PROVED, f"The gradient stays within {limit:.3g}.")
    return Fact(Verdict.UNKNOWN, "The gradient has no bound that intervals can show.")


def _batch_free(program: Program) -> Fact:
    if "n" not in program.signature.bits:
        return Fact(Verdict.UNKNOWN, "The space has no axis 'n' of samples.")
    parts = split(program)
    if isinstance(parts, Coupled):
        return Fact(Verdict.UNKNOWN, parts.why)
    return Fact(Verdict.PROVED, "A batch given twice has the same value.")


def _equivariant(program: Program) -> Fact:
    for step in program.instructions:
        if step.op in PRIMITIVES and PRIMITIVES[step.op].ordered:
            return Fact(Verdict.UNKNOWN, f"'{step.op}' looks at the order of elements.")
    return Fact(Verdict.PROVED, "No word in it looks at a position.")


def _blind_to(source: Program, slope: Program) -> tuple[str, ...]:
    signature = source.signature
    flat = {
        name
        for name, output in zip(signature.predictions, slope.outputs, strict=True)
        if slope.instructions[output].data == 0.0
    }
    return tuple(
        name
        for name, item in signature.inputs.items()
        if (item.role in (Role.PREDICTION, Role.TARGET) and name not in source.inputs) or name in flat
    )


# Convexity by the rules of disciplined convex programming (Grant, Boyd & Ye 2006).

_CONSTANT, _AFFINE, _CONVEX, _CONCAVE, _OPEN = "constant", "affine", "convex", "concave", ""


def _convex(program: Program, ranges: tuple[Interval, ...]) -> Fact:
    bends: list[str] = []
    for step in program.instructions:
        bends.append(_bend(program, step, bends, ranges))
    bend = bends[program.outputs[-1]]
    if bend in (_CONSTANT, _AFFINE, _CONVEX):
        return Fact(Verdict.PROVED, f"By composition it is {bend} in the prediction.")
    return Fact(Verdict.UNKNOWN, "The rules of composition do not decide.")


def _bend(program: Program, step: Instruction, bends: list[str], ranges: tuple[Interval, ...]) -> str:
    if step.op == INPUT:
        return _AFFINE if step.data in program.signature.predictions else _CONSTANT
    given = [bends[i] for i in step.args]
    if all(bend == _CONSTANT for bend in given):
        return _CONSTANT
    where = [ranges[i] for i in step.args]
    match step.op:
        case "mul" | "dot" if _CONSTANT in given:
            k = given.index(_CONSTANT)
            return _scaled(given[1 - k], where[k])
        case "div" if given[1] == _CONSTANT:
            return _scaled(given[0], where[1])
        case "div" if given[0] == _CONSTANT and where[1].low >= EPS:
            bend = _CONVEX if given[1] in (_AFFINE, _CONCAVE) else _OPEN
            return _scaled(bend, where[0])
        case "sum" | "mean" | "max" | "min" | "logsumexp" if len(given) == 2:
            if given[1] != _CONSTANT or (step.op in ("sum", "mean") and where[1].low < 0):
                return _OPEN
            given, where = given[:1], where[:1]
        case "where" if given[0] == _CONSTANT:
            return _joined(given[1:])
        case "pow" if given[1] == _CONSTANT:
            return _power(given[0], where[0], where[1])
    row = PRIMITIVES[step.op]
    if row.curvature == _AFFINE:
        signs = zip(given, row.rising, strict=False)
        return _joined([_scaled(bend, iv.point(sign) if sign else iv.REALS) for bend, sign in signs])
    if row.curvature not in (_CONVEX, _CONCAVE):
        return _OPEN
    rising = row.rising or (0,) * len(given)
    for bend, sign, x in zip(given, rising, where, strict=False):
        if sign == 2:
            sign = 1 if x.low >= 0 else -1 if x.high <= 0 else 0
        same, other = row.curvature, _CONCAVE if row.curvature == _CONVEX else _CONVEX
        allowed = {0: (), 1: (same,), -1: (other,)}[sign]
        if bend not in (_CONSTANT, _AFFINE, *allowed):
            return _OPEN
    return row.curvature


def _scaled(bend: str, by: Interval) -> str:
    if bend in (_CONSTANT, _AFFINE, _OPEN) or by.low >= 0:
        return bend
    if by.high <= 0:
        return _CONCAVE if bend == _CONVEX else _CONVEX
    return _OPEN


def _joined(bends: list[str]) -> str:
    """The bend of a sum."""
    kinds = set(bends) - {_CONSTANT}
    if _OPEN in kinds or len(kinds - {_AFFINE}) > 1:
        return _OPEN
    return (kinds - {_AFFINE} or kinds or {_CONSTANT}).pop()


def _power(bend: str, x: Interval, exponent: Interval) -> str:
    """x**k for a constant k, where the cap of the power is not reached."""
    if x.high <= 0 or exponent.high * math.log(max(x.high, 1.0)) > CEILING:
        return _OPEN
    if exponent.low >= 1 and bend in (_AFFINE, _CONVEX):
        return _CONVEX
    if exponent.low >= 0 and exponent.high <= 1 and bend in (_AFFINE, _CONCAVE):
        return _CONCAVE
    if exponent.high <= 0 and bend in (_AFFINE, _CONCAVE):
        return _CONVEX
    return _OPEN


# Monotone: how a value moves as the logit of the true class rises. Over classes, the true one and
# the others move apart; a one-hot target picks the true one, 1 - target the others.

_Move = tuple["int | None", "int | None"]


def _monotone(program: Program) -> Fact:
    signature = program.signature
    targets = [
        (name, axis)
        for name, item in signature.inputs.items()
        if item.role is Role.TARGET
        for axis in item.axes
        if {f"simplex over {axis}", f"one_hot over {axis}"} & item.properties
    ]
    if len(targets) != 1 or len(signature.predictions) != 1:
        return Fact(Verdict.UNKNOWN, "No rule knows what makes this prediction better.")
    [(target, axis)], [prediction] = targets, signature.predictions
    if axis not in signature.inputs[prediction].axes:
        return Fact(Verdict.UNKNOWN, "No rule knows what makes this prediction better.")
    walk = _Walk(program, target, prediction, axis, ranges_of(program, anywhere=True))
    move = walk.moves[program.outputs[-1]]
    if move[0] is not None and move[0] == move[1] and move[0] <= 0:
        return Fact(Verdict.PROVED, "By composition it falls as the true logit rises.")
    return Fact(Verdict.UNKNOWN, "The rules of composition do not decide.")


class _Walk:
    """Each value's move (true class, other classes): +1 rises, -1 falls, 0 stays, None unknown."""

    def __init__(
        self,
        program: Program,
        target: str,
        prediction: str,
        axis: str,
        ranges: tuple[Interval, ...],
    ) -> None:
        self.program, self.ranges = program, ranges
        self.target, self.prediction, self.axis = target, prediction, axis
        self.moves: list[_Move] = []
        for step in program.instructions:
            self.moves.append(self._move(step))

    def _move(self, step: Instruction) -> _Move:
        if step.op == INPUT:
            return (1, 0) if step.data == self.prediction else (0, 0)
        given = [self.moves[i] for i in step.args]
        over = self.axis in step.data if isinstance(step.data, tuple) else False
        if step.op == "log_softmax" and step.data == (self.axis,):
            return (1, -1) if given[0] == (1, 0) else (0, 0) if given[0] == (0, 0) else (None, None)
        if step.op == "like" and given[0] != (0, 0):
            return None, None
        if all(move == (0, 0) for move in given):
            return 0, 0
        if not over:
            both = [self._one(step, [m[k] for m in given]) for k in (0, 1)]
            return both[0], both[1]
        if step.op == "dot":
            for k in (0, 1):
                if (side := self._side(step.args[k])) is not None:
                    move = given[1 - k][side]
                    return move, move
        elif len(step.args) == 2 and (side := self._side(step.args[1])) is not None:
            return given[0][side], given[0][side]
        each = [self._one(step, [m[k] for m in given]) for k in (0, 1)]
        joined = _agree(each)
        return joined, joined

    def _side(self, index: int) -> int | None:
        """0 where a value picks the true class, 1 where it picks the others."""
        steps = self.program.instructions
        step = steps[index]
        if step.op == INPUT:
            return 0 if step.data == self.target else None
        if step.op == "add" and steps[step.args[0]].data == 1.0:
            inner = steps[step.args[1]]
            if inner.op == "neg" and steps[inner.args[0]].data == self.target:
                return 1
        return None

    def _one(self, step: Instruction, given: list[int | None]) -> int | None:
        """The move of one operation whose arguments move as given."""
        if all(move == 0 for move in given):
            return 0
        where = [self.ranges[i] for i in step.args]
        match step.op:
            case "mul" | "dot":
                terms = [
                    self._times(given[0], where[1]),
                    self._times(given[1], where[0]),
                ]
                return _agree(terms)
            case "div":
                if where[1].low < EPS:
                    return None
                return _agree([given[0], self._times(_negative(given[1]), where[0])])
            case "pow" if given[1] == 0 and where[0].low >= 0:
                return self._times(given[0], where[1])
            case "where" if given[0] == 0:
                return _agree(given[1:])
            case "sum" | "mean" if len(given) == 2:
                return self._times(given[0], where[1]) if given[1] == 0 else None
            case "max" | "min" | "logsumexp" if len(given) == 2:
                return given[0] if given[1] == 0 else None
        row = PRIMITIVES[step.op]
        if not row.rising or step.op == "detach":
            return None
        moves: list[int | None] = []
        for move, sign, x in zip(given, row.rising, where, strict=False):
            if sign == 2:
                sign = 1 if x.low >= 0 else -1 if x.high <= 0 else 0
            moves.append(0 if move == 0 else None if move is None or not sign else move * sign)
        return _agree(moves)

    @staticmethod
    def _times(move: int | None, by: Interval) -> int | None:
        if move in (0, None) or by.low >= 0:
            return move
        return _negative(move) if by.high <= 0 else None


def _negative(move: int | None) -> int | None:
    return None if move is None else -move


def _agree(moves: list[int | None]) -> int | None:
    kinds = set(moves) - {0}
    return 0 if not kinds else kinds.pop() if len(kinds) == 1 else None
