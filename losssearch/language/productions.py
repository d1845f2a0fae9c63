"""In how many ways can a term of a wanted type be made, and how small can it be?

A production makes a wanted term of wanted arguments; a table of least completions says which productions fit
into a given number of nodes and levels. Both are found when a type is wanted for the first time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from losssearch.language.grammar import TARGET, Grammar, Production, Terminal, Want, shares, worth
from losssearch.language.primitives import PRIMITIVES, Form
from losssearch.language.signature import AxisSet, Kind
from losssearch.language.term import CONSTANT, LITERAL

# Result sign <- signs of the arguments. Domains are kept here too (log, sqrt, pow).
_SIGNS: dict[str, tuple[tuple[int, tuple[int, ...]], ...]] = {
    "add": ((0, (0, 0)), (1, (1, 1)), (-1, (-1, -1))),
    "sub": ((0, (0, 0)), (1, (1, -1)), (-1, (-1, 1))),
    "mul": ((0, (0, 0)), (1, (1, 1)), (1, (-1, -1)), (-1, (1, -1))),
    "div": ((0, (0, 1)), (1, (1, 1)), (-1, (-1, 1))),
    "pow": ((1, (1, 1)),),
    "maximum": ((0, (0, 0)), (1, (1, 0)), (-1, (-1, -1))),
    "minimum": ((0, (0, 0)), (1, (1, 1)), (-1, (-1, 0))),
    "neg": ((0, (0,)), (1, (-1,)), (-1, (1,))),
    "abs": ((1, (0,)),),
    "square": ((1, (0,)),),
    "exp": ((1, (0,)),),
    "softplus": ((1, (0,)),),
    "relu": ((1, (0,)),),
    "sigmoid": ((1, (0,)),),
    "sqrt": ((1, (1,)),),
    "log": ((0, (1,)),),
    "sin": ((0, (0,)),),
    "cos": ((0, (0,)),),
    "softmax": ((1, (0,)),),
    "log_softmax": ((-1, (0,)),),
    "logsumexp": ((0, (0,)),),
    "dot": ((0, (0, 0)), (1, (1, 1)), (-1, (1, -1))),
    "where": ((0, (0, 0, 0)), (1, (0, 1, 1)), (-1, (0, -1, -1))),
    "any": ((0, (0,)),),
    "sort_by": ((0, (0, 0)), (1, (1, 0)), (-1, (-1, 0))),
    "unsort_by": ((0, (0, 0)), (1, (1, 0)), (-1, (-1, 0))),
    "diff": ((0, (0,)),),
}
_SAME_SIGN = ((0, (0,)), (1, (1,)), (-1, (-1,)))  # tanh, erf, detach, sum, mean, max, min
_COMPARED = ((0, (0, 0)),)


class Productions:
    """The productions of a grammar.

    Args:
        grammar: What may be written.
        terminals: What its terminals are.
        body_axes: Axes over which the head reduces; growth does not.
    """

    def __init__(self, grammar: Grammar, terminals: Sequence[Terminal], body_axes: AxisSet) -> None:
        self._grammar, self._signature = grammar, grammar.signature
        self._terminals, self._body_axes = terminals, body_axes
        self._table: dict[Want, list[Production]] = {}
        self._least: dict[Want, tuple[int, int]] = {}
        self._measured: dict[Want, list[tuple[Production, int, int]]] = {}  # with fewest nodes, and levels
        self._ready: dict[tuple[Want, int, int], tuple[list[float], list[Production]]] = {}

    def least(self, want: Want) -> tuple[int, int]:
        """Fewest nodes and levels that complete a want, each taken alone."""
        if want not in self._least:
            self._prepare(want)
            self._ready.clear()
        return self._least[want]

    def fitting(self, want: Want, nodes: int, depth: int) -> tuple[list[float], list[Production]]:
        """What completes within the limits, with running totals of the weights."""
        key = (want, nodes, depth)
        found = self._ready.get(key)
        if found is None:
            self.least(want)
            found = self._ready[key] = self._fitting(want, nodes, depth)
        return found

    def _fitting(self, want: Want, nodes: int, depth: int) -> tuple[list[float], list[Production]]:
        """What completes within the limits; leaves are rare while there is room."""
        fits: list[tuple[float, Production]] = []
        measured = self._measured[want]
        for p, size, levels in measured:
            if size <= nodes and levels <= depth:
                rare = 0.05 if not p.args and nodes > 2 else 1.0
                fits.append((p.weight * rare, p))
        if not fits:  # what is smallest may be too deep: depth decides
            most = max(depth, self._least[want][1])
            fits = [(1.0, p) for p, _, levels in measured if levels <= most]
        return list(accumulate(w for w, _ in fits)), [p for _, p in fits]

    def _prepare(self, root: Want) -> None:
        stack = [root]
        while stack:
            want = stack.pop()
            if want not in self._table:
                self._table[want] = list(self._productions(want))
                stack += [arg for production in self._table[want] for arg in production.args]
        far = 10**6
        self._least = dict.fromkeys(self._table, (far, far))
        changed = True
        while changed:
            changed = False
            for want, productions in self._table.items():
                least = self._least[want]
                for p in productions:
                    size, levels = self._measure(p)
                    least = (min(least[0], size), min(least[1], levels))
                if least != self._least[want]:
                    self._least[want], changed = least, True
        self._measured = {
            want: [(p, *self._measure(p)) for p in productions] for want, productions in self._table.items()
        }

    def _measure(self, production: Production) -> tuple[int, int]:
        """Fewest nodes and levels of what it makes, as far as its arguments' are known."""
        least = [self._least[arg] for arg in production.args]
        return 1 + sum([size for size, _ in least]), 1 + max([levels for _, levels in least], default=0)

    def _productions(self, want: Want) -> Iterator[Production]:
        yield from self._leaves(want)
        for op, weight in self._grammar.primitives.items():
            row = PRIMITIVES[op]
            if weight <= 0 or row.form is Form.COPY or (row.result is Kind.MASK) != (want.kind is Kind.MASK):
                continue
            rules = _COMPARED if row.result is Kind.MASK and op != "any" else _SIGNS.get(op, _SAME_SIGN)
            fitting = [args for sign, args in rules if want.sign in (0, sign)]
            if want.sign == 0 and any(sign == 0 for sign, _ in rules):
                fitting = [args for sign, args in rules if sign == 0]
            if op == "detach" and want.need & ~TARGET:
                continue
            for signs in fitting:
                kinds = [Kind.MASK if i in row.masks or op == "any" else Kind.REAL for i in range(len(signs))]
                shapes = list(self._shapes(op, row.form, want.axes, len(signs)))
                needs = _needs(want.need, len(signs), op)
                share = weight / max(len(fitting) * len(needs), 1) / max(sum(s for s, _, _ in shapes), 1e-9)
                for shape_weight, data, axes in shapes:
                    for need in needs:
                        args = tuple(map(Want, kinds, axes, signs, need))
                        yield Production(share * shape_weight, op, data, args)

    def _leaves(self, want: Want) -> Iterator[Production]:
        for terminal in self._terminals:
            low, high = terminal.interval
            if (
                terminal.axes == want.axes
                and terminal.need & want.need == want.need
                and (terminal.kind is Kind.MASK or want.kind is Kind.REAL)
                and (want.sign == 0 or (low >= 0 if want.sign > 0 else high <= 0))
            ):
                # A value that already speaks of both is worth more than a raw input.
                yield Production(worth(terminal.need), "leaf", None, (), terminal.term)
        if want.axes == 0 and want.need == 0 and want.kind is Kind.REAL:
            yield Production(6.0, CONSTANT, None, ())
            yield Production(3.0, LITERAL, None, ())

    def _shapes(
        self, op: str, form: Form, axes: AxisSet, count: int
    ) -> Iterator[tuple[float, tuple[str, ...] | None, tuple[AxisSet, ...]]]:
        """Axes of arguments that give a value over `axes`: weight, axes reduced, one set each."""
        sets = self._grammar.sets
        if form is Form.ELEMENTWISE:
            if count == 1:
                yield 1.0, None, (axes,)
            elif op == "pow":
                yield 1.0, None, (axes, 0)
            elif count == 2:
                for x in sets | {0}:
                    for y in sets | {0}:
                        if x | y == axes:
                            both = 1.0 if x == y else 0.5 if 0 in (x, y) else 0.25
                            yield both, None, (x, y)
            else:
                yield 1.0, None, (axes,) * count
            return
        for i, axis in enumerate(self._signature.axes):
            bit = 1 << i
            if form is Form.ALONG:
                if axes & bit and not self._body_axes & bit:
                    yield 1.0, (axis,), (axes,) * count
                continue
            if bit & (axes | self._body_axes) or axes | bit not in sets:
                continue
            if form is Form.CONTRACTION:
                for x in sets:
                    for y in sets:
                        if x | y == axes | bit and x & y & bit:
                            yield 1.0 if x == y else 0.5, (axis,), (x, y)
            else:
                yield 1.0, (axis,), (axes | bit,)


def _needs(need: int, count: int, op: str) -> list[tuple[int, ...]]:
    """How the arguments share what must occur."""
    if count == 1:
        return [(need,)]
    if op == "pow":
        return [(need, 0)]
    if op == "where":
        return [(0, need, 0), (0, 0, need)]
    if need == 0:
        return [(0,) * count]
    whole: list[tuple[int, ...]] = [(need, 0), (0, need)]
    return whole + [(part, need & ~part) for part in sorted(shares(need)[1:-1])]
