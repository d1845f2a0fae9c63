"""What can be written next in an unfinished loss? The alphabet of a space, one number a word.

A word is a terminal, a literal, a constant of some size, or a primitive with the axes that it works
over, so that a loss is a list of small integers: its words from the top, left to right. What a primitive
does to axes and to dependence is its *pattern*; most primitives share a few.

Signs are a wish, not a law: `log(1 - p_t)` is a good formula although only a proof shows that its
argument is positive. An argument of log or sqrt, a denominator and a base wish for what is never
negative, and the weights of an untaught writer favour it there. All of it is read off the primitives' rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from typing import NamedTuple, TypeAlias

from losssearch.language.grammar import TARGET, worth
from losssearch.language.intervals import POSITIVE, REALS, UNIT, Interval
from losssearch.language.primitives import PRIMITIVES, Form, Primitive
from losssearch.language.sampling import Sampler
from losssearch.language.signature import AxisSet, Kind
from losssearch.language.term import CONSTANT, LITERAL, Data

LITERALS = (1.0, 2.0, 0.5)
# A constant's value is drawn inside its span, evenly on a logarithmic scale.
SPANS = ((0.1, 0.3), (0.3, 1.0), (1.0, 3.0), (3.0, 10.0), (-1.0, -0.1), (-10.0, -1.0))
ALL = ~0  # of `Want.need`

LEAF_SHARE, ROOT_SHARE = 0.4, 0.05  # of an untaught writer's weights, and of them where the loss begins
LITERAL_WEIGHT, CONSTANT_WEIGHT = 2.0, 1.0  # of all literals, all constants; a terminal has 1 to 4
HALF, SELDOM = 0.5, 0.15  # of its weight, where a wished-for sign is possible, or is unlikely


Ways: TypeAlias = "tuple[tuple[tuple[AxisSet, ...], AxisSet], ...]"


class Made(NamedTuple):
    """What a finished term is: the axes of its value, and what of a need moves it."""

    axes: AxisSet
    brings: int


@dataclass(frozen=True, eq=False)
class Pattern:
    """How the arguments of an operation fit together; primitives that agree in it share one.

    Args:
        ways: Axes of the arguments, and the axes that the value then has.
        passes: For each argument, which dependences it hands on: where no gradient flows, only that on
            the target.
        masks: Which arguments must be yes/no.
    """

    ways: Ways
    passes: tuple[int, ...]
    masks: tuple[bool, ...]


_LEAF = Pattern((), (), ())


class Word(NamedTuple):
    """One thing that can be written.

    Args:
        name: For people and saved states; no two words of a space share it.
        op, data: As in `Term`.
        mask: Whether it gives a yes/no.
        made: Of a leaf: what it is.
        span: Of a constant: between which bounds its value lies.
        pattern: Of an operation; a leaf has no arguments.
        wishes: Of an operation: which arguments had better not be negative, whatever is wished for above.
        keeps: Of an operation: whether its value is never negative if its arguments are not.
    """

    name: str
    op: str
    data: Data = None
    mask: bool = False
    made: Made | None = None
    span: tuple[float, float] | None = None
    pattern: Pattern = _LEAF
    wishes: tuple[bool, ...] = ()
    keeps: bool = False


class Alphabet:
    """The words that a sampler's grammar allows, in a fixed order."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self._sets = sorted(sampler.grammar.sets | {0})
        written = sampler.signature.sets
        self._results = {s for s in self._sets if written is None or s in written}
        self._patterns: dict[tuple[object, ...], Pattern] = {}
        rows = [*self._leaves(), *self._operations()]
        self.words = tuple(word for word, _, _ in rows)
        self.names = tuple(word.name for word in self.words)
        self.number = {(w.op, w.data): i for i, w in enumerate(self.words) if w.span is None}
        self.spans = {w.span: i for i, w in enumerate(self.words) if w.span is not None}
        #: Word -> number of its first argument's place; 0 is the root.
        self.places = [1 + n for n in accumulate((len(w.wishes) for w in self.words), initial=0)]
        self._weights = tuple(
            self._balanced([weight * (_hope(sign) if wish else 1.0) for _, weight, sign in rows], share)
            for wish, share in ((False, ROOT_SHARE), (False, LEAF_SHARE), (True, LEAF_SHARE))
        )

    def __len__(self) -> int:
        return len(self.words)

    def weights(self, root: bool, wish: bool) -> tuple[float, ...]:
        """An untaught writer's log-weights of all words; a wish is for what is never negative."""
        return self._weights[0 if root else 1 + wish]

    def constant(self, value: float) -> int | None:
        """The word for a constant of about this value; None for 0."""
        same = [span for span in self.spans if value * span[0] > 0]
        return self.spans[min(same, key=lambda span: _apart(value, span))] if same else None

    # Each word comes with its weight, and its sign: 2 never negative, 1 if its arguments are not, 0 neither.

    def _leaves(self) -> Iterator[tuple[Word, float, int]]:
        for terminal in self.sampler.terminals:
            term, mask = terminal.term, terminal.kind is Kind.MASK
            made = Made(terminal.axes, terminal.need)
            word = Word(str(term.data), term.op, term.data, mask, made)
            yield word, worth(terminal.need), 2 if terminal.interval.low >= 0 else 0
        for value in LITERALS:
            yield Word(f"{value:g}", LITERAL, value, made=Made(0, 0)), LITERAL_WEIGHT / len(LITERALS), 2
        for low, high in SPANS:
            word = Word(f"{low:g} to {high:g}", CONSTANT, made=Made(0, 0), span=(low, high))
            yield word, CONSTANT_WEIGHT / len(SPANS), 2 if low > 0 else 0

    def _operations(self) -> Iterator[tuple[Word, float, int]]:
        for op, weight in self.sampler.grammar.primitives.items():
            row = PRIMITIVES[op]
            variants = [(data, ways) for data, ways in self._variants(row) if ways]
            for data, ways in variants:
                count = len(ways[0][0])
                masks = tuple(i in row.masks or op == "any" for i in range(count))
                mask = row.result is Kind.MASK
                passes = (TARGET if mask or op == "detach" else ALL,) * count
                sign = 2 if _never_negative(row, masks, REALS) else int(_never_negative(row, masks, POSITIVE))
                word = Word(
                    name=f"{op} over {' '.join(data)}" if data else op,
                    op=op,
                    data=data,
                    mask=mask,
                    pattern=self._patterns.setdefault((ways, passes, masks), Pattern(ways, passes, masks)),
                    wishes=tuple(_wishes(row, count, i) for i in range(count)),
                    keeps=sign == 1,
                )
                yield word, weight / len(variants), sign

    def _variants(self, row: Primitive) -> Iterator[tuple[tuple[str, ...] | None, Ways]]:
        """The axes that a primitive may work over, each with the ways in which its arguments fit."""
        if row.form is Form.ELEMENTWISE:
            exponents = [0] if row.name == "pow" else self._sets
            choices = [self._sets, exponents, self._sets][: row.arity]
            yield None, self._ways(choices, 0, 0)
        if row.form not in (Form.REDUCTION, Form.CONTRACTION, Form.ALONG):
            return
        for axis, bit in self.sampler.signature.bits.items():
            if bit & self.sampler.body_axes:
                continue
            having = [s for s in self._sets if s & bit]
            count = 1 if row.form is Form.REDUCTION else row.arity  # reductions go without a weight
            yield (axis,), self._ways([having] * count, bit, bit * (row.form is not Form.ALONG))

    def _ways(self, choices: Sequence[Sequence[AxisSet]], over: AxisSet, removed: AxisSet) -> Ways:
        found = []
        for args in product(*choices):
            union = 0
            for axes in args:
                union |= axes
            if union in self._sets and union & ~removed in self._results:
                found.append((args, union & ~removed))
        return tuple(found)

    def _balanced(self, weights: Sequence[float], share: float) -> tuple[float, ...]:
        """Logarithms, after the leaves were given their share."""
        leaf = sum(w for w, word in zip(weights, self.words, strict=True) if word.made)
        rest = sum(weights) - leaf
        return tuple(
            math.log(w * (share / leaf if word.made else (1 - share) / (rest or 1.0)))
            for w, word in zip(weights, self.words, strict=True)
        )


def _hope(sign: int) -> float:
    return (SELDOM, HALF, 1.0)[sign]


def _apart(value: float, span: tuple[float, float]) -> float:
    """How far a value is from a span of its sign, on a logarithmic scale."""
    middle = math.sqrt(span[0] * span[1])
    return abs(math.log(abs(value) / middle))


def _never_negative(row: Primitive, masks: Sequence[bool], given: Interval) -> bool:
    return row.interval(*(UNIT if mask else given for mask in masks)).low >= 0


def _wishes(row: Primitive, count: int, i: int) -> bool:
    """Whether argument i needs a guard only if it is negative."""
    if row.harmless is None:
        return False
    good = [Interval(1.0, 2.0)] * count
    mixed = [Interval(-1.0, 2.0) if j == i else x for j, x in enumerate(good)]
    return row.harmless(*good) and not row.harmless(*mixed)
