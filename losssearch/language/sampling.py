"""How is a loss drawn at random so that it has a chance to be one?

Terms grow from the top by the wanted type: kind, axes, sign, and whether prediction and target
must occur below. A table of least completions keeps every draw inside the node and depth limits.
Free growth rarely gives a loss that teaches anything, so there is growth *by role* too: a weight,
never negative, times a rising function of how wrong the prediction is, plus a free term.

Randomness is counted: proposal k of seed s draws from its own Philox stream, so that it is the
same after any restart. One proposal, type check included, takes a quarter of a millisecond.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from statistics import NormalDist
from typing import NamedTuple, TypeVar

import numpy as np

from losssearch.errors import FormulaError
from losssearch.language.bounds import bounds
from losssearch.language.canonical import canonical
from losssearch.language.formula import parse, parse_term
from losssearch.language.intervals import Interval
from losssearch.language.primitives import PRIMITIVES, Form
from losssearch.language.program import Constant, Program, program_of
from losssearch.language.signature import AxisSet, Kind, Role, Signature
from losssearch.language.term import CONSTANT, LITERAL, NAME, Term, at, literal, name, paths

T = TypeVar("T")

PREDICTION, TARGET = 1, 2  # bits of `Want.need`
FREE_TRIES = 20
_UNIT_NORMAL = NormalDist()


class Draws:
    """A stream of uniform numbers, and what is made of them; one number a choice."""

    def __init__(self, numbers: Iterator[float]) -> None:
        self._numbers = numbers

    @classmethod
    def counted(cls, seed: int, *counter: int) -> Draws:
        """The stream that belongs to a seed and a counter, on every machine."""
        return cls(_philox(seed, *counter))

    @classmethod
    def codons(cls, codons: Sequence[int], base: int) -> Draws:
        """Integers in [0, base) as choices; when they are used up, a stream that they determine."""
        return cls(_decoded(codons, base))

    def uniform(self) -> float:
        return next(self._numbers)

    def below(self, n: int) -> int:
        return min(int(next(self._numbers) * n), n - 1)

    def chance(self, share: float) -> bool:
        return next(self._numbers) < share

    def pick(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def weighted(self, totals: Sequence[float]) -> int:
        """An index, from running totals of the weights."""
        return min(bisect(totals, next(self._numbers) * totals[-1]), len(totals) - 1)

    def normal(self) -> float:
        return _UNIT_NORMAL.inv_cdf(min(max(next(self._numbers), 1e-9), 1 - 1e-9))

    def between(self, low: float, high: float) -> float:
        """Even on a logarithmic scale."""
        return float(low * (high / low) ** next(self._numbers))


def _philox(seed: int, *counter: int) -> Iterator[float]:
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *counter))))
    while True:
        yield from generator.random(64).tolist()


def _decoded(codons: Sequence[int], base: int) -> Iterator[float]:
    for codon in codons:
        yield (codon + 0.5) / base
    yield from _philox(len(codons), *codons)


class Want(NamedTuple):
    """The type of a wanted term.

    Args:
        kind: Number or mask.
        axes: Exactly these.
        sign: 1 never negative, -1 never positive, 0 either.
        need: Which of PREDICTION and TARGET must occur in it.
    """

    kind: Kind
    axes: AxisSet
    sign: int = 0
    need: int = 0


class Production(NamedTuple):
    """One way to make a wanted term: a finished leaf, or an operation on wanted arguments."""

    weight: float
    op: str
    data: tuple[str, ...] | None
    args: tuple[Want, ...]
    leaf: Term | None = None


class Terminal(NamedTuple):
    """A name that formulas may use, and what is known of it."""

    term: Term
    kind: Kind
    axes: AxisSet
    interval: Interval
    need: int


@dataclass(frozen=True)
class Grammar:
    """What a search may write.

    Args:
        signature: What names mean.
        primitives: Name -> weight of the primitives that may be used.
        terminals: Names of inputs, definitions and axis sizes that may be used.
        sets: Axis sets that a grown value may have.
        nodes, depth: Limits of a body; the head does not count.
        head: A formula with the name `body` in it.
        rightness: Terminal -> +1 if it rises as the prediction gets better, -1 if it falls, 2 if
            its size falls.
    """

    signature: Signature
    primitives: Mapping[str, float]
    terminals: tuple[str, ...]
    sets: frozenset[AxisSet]
    nodes: int = 24
    depth: int = 8
    head: str = "body"
    rightness: Mapping[str, int] | None = None


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
}
_SAME_SIGN = ((0, (0,)), (1, (1,)), (-1, (-1,)))  # tanh, erf, detach, sum, mean, max, min
_COMPARED = ((0, (0, 0)),)

# How often an operation is chosen: sums and products make losses, towers of sigmoids do not.
WEIGHTS = {
    "add": 4.0, "sub": 3.0, "mul": 4.0, "div": 2.5, "neg": 1.0, "square": 1.5, "exp": 1.5,
    "log": 1.5, "pow": 2.0, "sum": 2.0, "mean": 1.5, "dot": 3.0, "max": 1.0, "min": 1.0,
    "logsumexp": 0.5,
}  # fmt: skip
ORDINARY_WEIGHT = 0.6

_LITERALS = (1.0, 1.0, 2.0, 0.5, 3.0, 0.1)

# How wrong is the prediction? `x` is a terminal of known rightness; each is never negative.
_WRONG_SHARE = ("1 - x", "1 - x", "-log(x)", "1 - x**a", "(1 - x)**a")
_WRONG_LOG = ("-x", "-x", "1 - exp(a*x)", "1 - exp(x)", "log(1 - x)")
_WRONG_SCORE = (
    "softplus(b - a*x)",
    "sigmoid(b - a*x)",
    "sigmoid(-a*x)",
    "relu(b - x)",
    "1 - tanh(a*x - b)",
    "exp(-a*x)",
)
_WRONG_SIZE = (
    "abs(x)",
    "square(x)",
    "log(1 + square(x/a))",
    "tanh(square(x/a))",
    "sqrt(1 + square(x/a))",
)
# Rising functions of something that is never negative.
_RISING = (
    "u**a", "log(1 + a*u)", "tanh(a*u)", "1 - exp(-a*u)", "u / (a + u)", "sqrt(u)", "square(u)",
    "minimum(u, a)", "softplus(a*(u - b))", "u * (1 + a*u)", "exp(a*u)", "sigmoid(a*(u - b))",
    "u + a*sqrt(u)", "u + a*square(u)",
)  # fmt: skip
# Weights, from a wrongness.
_WEIGHT = ("exp(-a*u)", "1 / (1 + a*u)", "u**a", "1 + a*u", "a + exp(-b*u)", "1 - a*exp(-u)")


class Sketch:
    """A term in the making, and the constants that it has been given."""

    def __init__(self, taken: Sequence[str] = ()) -> None:
        self.constants: dict[str, Constant] = {}
        self._taken = set(taken)

    def constant(self, value: float, low: float, high: float) -> Term:
        """A new named constant of three digits."""
        value = min(max(float(f"{value:.3g}"), low), high)
        return self.adopted(Constant("c", value, low, high))

    def adopted(self, constant: Constant) -> Term:
        """A constant of another program, under a new name."""
        i = len(self.constants)
        while f"c{i}" in self._taken or f"c{i}" in self.constants:
            i += 1
        self.constants[f"c{i}"] = replace(constant, name=f"c{i}")
        return Term(CONSTANT, (), f"c{i}")


class Sampler:
    """Draws terms and programs of a grammar."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar, self.signature = grammar, grammar.signature
        for op in grammar.primitives:
            if op not in PRIMITIVES:
                raise FormulaError(f"no primitive is called {op!r}")
        self.head = parse_term(grammar.head)
        self.body_path = _place_of_body(self.head)
        self.body_axes = self._axes_under_head()
        self.terminals = [self._terminal(n) for n in grammar.terminals]
        names = {str(t.term.data): t for t in self.terminals}
        self.right = [(names[n], d) for n, d in (grammar.rightness or {}).items() if n in names]
        self._penalised = [t for t in self.terminals if self._can_be_penalised(t)]
        self.body = Want(Kind.REAL, self.body_axes, 0, self._possible_need())
        self._table: dict[Want, list[Production]] = {}
        self._least: dict[Want, tuple[int, int]] = {}
        self._ready: dict[tuple[Want, int, int], tuple[list[float], list[Production]]] = {}
        self._templates = {
            key: [parse_term(text) for text in texts if self._writable(text)]
            for key, texts in {
                "share": _WRONG_SHARE, "log": _WRONG_LOG, "score": _WRONG_SCORE,
                "size": _WRONG_SIZE, "rising": _RISING, "weight": _WEIGHT,
            }.items()
        }  # fmt: skip
        self._prepare(self.body)

    # What is known beforehand.

    def _writable(self, text: str) -> bool:
        """Whether the space allows every operation of a template."""
        term = parse_term(text)
        return all(
            at(term, p).op in (NAME, LITERAL) or at(term, p).op in self.grammar.primitives
            for p in paths(term)
        )

    def _axes_under_head(self) -> AxisSet:
        axes = 0
        for i in range(len(self.body_path)):
            node = at(self.head, self.body_path[:i])
            row = PRIMITIVES.get(node.op)
            reduces = row is not None and row.form in (Form.REDUCTION, Form.CONTRACTION)
            if reduces and isinstance(node.data, tuple):
                axes |= self.signature.axes_of(str(axis) for axis in node.data)
        return axes

    def _terminal(self, text: str) -> Terminal:
        program = parse(text, self.signature, scalar=False)
        plain = canonical(program)
        interval = bounds(plain)[plain.outputs[0]]
        if text in self.signature.inputs:
            interval = self.signature.inputs[text].interval
        return Terminal(
            program.term(),
            program.root.kind,
            program.root.axes,
            interval,
            _need_of(self.signature, program),
        )

    def _can_be_penalised(self, terminal: Terminal) -> bool:
        """Speaks of the prediction alone, and can be reduced to the body's axes."""
        more = terminal.axes & ~self.body_axes
        reduces = {"mean", "max", "sum"} & set(self.grammar.primitives)
        covers = terminal.axes & self.body_axes == self.body_axes
        return terminal.need == PREDICTION and covers and (not more or bool(reduces))

    def _possible_need(self) -> int:
        need = 0
        for terminal in self.terminals:
            need |= terminal.need
        return need

    # Productions, and the least size and depth that completes each want.

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
                    size = 1 + sum(self._least[a][0] for a in p.args)
                    depth = 1 + max((self._least[a][1] for a in p.args), default=0)
                    least = (min(least[0], size), min(least[1], depth))
                if least != self._least[want]:
                    self._least[want], changed = least, True

    def _productions(self, want: Want) -> Iterator[Production]:
        yield from self._leaves(want)
        for op, weight in self.grammar.primitives.items():
            row = PRIMITIVES[op]
            if weight <= 0 or row.form is Form.COPY or (row.result is Kind.MASK) != (want.kind is Kind.MASK):
                continue
            rules = _COMPARED if row.result is Kind.MASK and op != "any" else _SIGNS.get(op, _SAME_SIGN)
            fitting = [args for sign, args in rules if want.sign in (0, sign)]
            if want.sign == 0 and any(sign == 0 for sign, _ in rules):
                fitting = [args for sign, args in rules if sign == 0]
            if op == "detach" and want.need & PREDICTION:
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
        for terminal in self.terminals:
            low, high = terminal.interval
            if (
                terminal.axes == want.axes
                and terminal.need & want.need == want.need
                and (terminal.kind is Kind.MASK or want.kind is Kind.REAL)
                and (want.sign == 0 or (low >= 0 if want.sign > 0 else high <= 0))
            ):
                # A value that already speaks of both is worth more than a raw input.
                yield Production(1.0 + terminal.need, "leaf", None, (), terminal.term)
        if want.axes == 0 and want.need == 0 and want.kind is Kind.REAL:
            yield Production(6.0, CONSTANT, None, ())
            yield Production(3.0, LITERAL, None, ())

    def _shapes(
        self, op: str, form: Form, axes: AxisSet, count: int
    ) -> Iterator[tuple[float, tuple[str, ...] | None, tuple[AxisSet, ...]]]:
        """Axes of arguments that give a value over `axes`: weight, axes reduced, one set each."""
        sets = self.grammar.sets
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
        for i, axis in enumerate(self.signature.axes):
            bit = 1 << i
            if form is Form.ALONG:
                if axes & bit and not self.body_axes & bit:
                    yield 1.0, (axis,), (axes,)
                continue
            if bit & (axes | self.body_axes) or axes | bit not in sets:
                continue
            if form is Form.CONTRACTION:
                for x in sets:
                    for y in sets:
                        if x | y == axes | bit and x & y & bit:
                            yield 1.0 if x == y else 0.5, (axis,), (x, y)
            else:
                yield 1.0, (axis,), (axes | bit,)

    # Growth.

    def can(self, want: Want, nodes: int, depth: int) -> bool:
        """Whether some term of this type has at most so many nodes and levels."""
        if want not in self._table:
            self._prepare_more(want)
        size, least_depth = self._least[want]
        return size <= nodes and least_depth <= depth

    def _prepare_more(self, want: Want) -> None:
        known = len(self._table)
        self._prepare(want)
        if len(self._table) > known:
            self._ready.clear()

    def grow(self, want: Want, nodes: int, depth: int, draws: Draws, sketch: Sketch) -> Term:
        """A term of the wanted type, of about `nodes` nodes and at most `depth` levels.

        Raises:
            FormulaError: Nothing of this type is so small.
        """
        if not self.can(want, nodes, depth):
            raise FormulaError(f"no term of the wanted type has {nodes} nodes and {depth} levels")
        return self._grow(want, nodes, depth, draws, sketch)

    def _grow(self, want: Want, nodes: int, depth: int, draws: Draws, sketch: Sketch) -> Term:
        key = (want, nodes, depth)
        ready = self._ready.get(key)
        if ready is None:
            ready = self._ready[key] = self._fitting(want, nodes, depth)
        totals, productions = ready
        production = productions[draws.weighted(totals)]
        if production.leaf is not None:
            return production.leaf
        if production.op == CONSTANT:
            return drawn_constant(want.sign, draws, sketch)
        if production.op == LITERAL:
            value = draws.pick(_LITERALS)
            return literal(-value if want.sign < 0 else value)
        least = [self._least[a][0] for a in production.args]
        spare = max(nodes - 1 - sum(least), 0)
        args: list[Term] = []
        for i, arg in enumerate(production.args):
            extra = spare if i == len(least) - 1 else draws.below(spare + 1)
            spare -= extra
            args.append(self._grow(arg, least[i] + extra, depth - 1, draws, sketch))
        return Term(production.op, tuple(args), production.data)

    def _fitting(self, want: Want, nodes: int, depth: int) -> tuple[list[float], list[Production]]:
        """What completes within the limits; leaves are rare while there is room."""
        fits: list[tuple[float, Production]] = []
        for p in self._table[want]:
            size = 1 + sum(self._least[a][0] for a in p.args)
            levels = 1 + max((self._least[a][1] for a in p.args), default=0)
            if size <= nodes and levels <= depth:
                rare = 0.05 if not p.args and nodes > 2 else 1.0
                fits.append((p.weight * rare, p))
        if not fits:  # what is smallest may be too deep: depth decides
            fits = [
                (1.0, p)
                for p in self._table[want]
                if max((self._least[a][1] for a in p.args), default=0) < max(depth, self._least[want][1])
            ]
        return list(accumulate(w for w, _ in fits)), [p for _, p in fits]

    # Whole programs.

    def dressed(self, body: Term) -> Term:
        """The body under the space's head."""
        return _with_body(self.head, self.body_path, body)

    def has_head(self, program: Program) -> bool:
        """Whether a program is a body under the space's head."""
        return _matches(self.head, program.term())

    def fits(self, program: Program) -> bool:
        """Inside the limits, and dependent on all that a loss needs."""
        nodes, depth = self.limits
        inside = program.size <= nodes and program.depth <= depth
        return inside and self.speaks_of_all(program)

    def speaks_of_all(self, program: Program) -> bool:
        """Whether prediction and target occur, as far as the grammar can name them."""
        return _need_of(self.signature, program) & self.body.need == self.body.need

    def program(self, body: Term, sketch: Sketch) -> Program:
        """The checked program of a body.

        Raises:
            FormulaError: It is badly typed.
        """
        return program_of(self.signature, self.dressed(body), sketch.constants.values())

    @cached_property
    def limits(self) -> tuple[int, int]:
        """Most nodes and levels of a whole program."""
        grammar = self.grammar
        return grammar.nodes + len(paths(self.head)) - 1, grammar.depth + len(self.body_path)

    def free(self, draws: Draws) -> Program:
        """Free growth: prediction and target occur, and that is all.

        Raises:
            FormulaError: Nothing fits the limits.
        """
        nodes, depth = self.grammar.nodes, self.grammar.depth
        least = self._least[self.body][0]
        for _ in range(FREE_TRIES):
            sketch = Sketch()
            size = min(max(round(draws.between(max(least, 3), max(nodes, 4))), least), nodes)
            program = self.program(self._grow(self.body, size, depth, draws, sketch), sketch)
            if self.fits(program):  # a whole power is written as products, which may be deeper
                return program
        raise FormulaError(f"no body was found with {nodes} nodes and {depth} levels")

    def by_role(self, draws: Draws) -> Program:
        """One to three weighted rising functions of wrongness, added; sometimes a free term too."""
        if not self.right or not self._templates["rising"]:
            return self.free(draws)
        sketch = Sketch()
        body = self.role_term(draws, sketch)
        for chance in (0.5, 0.25):
            if draws.chance(chance) and "mul" in self.grammar.primitives:
                more = self.role_term(draws, sketch)
                body = Term("add", (body, Term("mul", (drawn_constant(1, draws, sketch), more))))
        if draws.chance(0.4) and {"add", "mul"} <= set(self.grammar.primitives):
            body = Term("add", (body, self.free_term(draws, sketch)))
        return self.program(body, sketch)

    def free_term(self, draws: Draws, sketch: Sketch) -> Term:
        """What need not know the target, with its factor: free growth, or a weak penalty on a prediction."""
        if not self._penalised or draws.chance(0.35):
            want = self.body._replace(need=self.body.need & PREDICTION)
            grown = self._grown_small(want, 6, draws, sketch)
            return Term("mul", (drawn_constant(0, draws, sketch), grown))
        terminal = draws.pick(self._penalised)
        known = self.grammar.primitives
        inner = [op for op in ("square", "square", "abs", "exp", "softplus") if op in known]
        term = terminal.term
        if inner and draws.chance(0.7):
            term = Term(draws.pick(inner), (term,))
        if over := terminal.axes & ~self.body_axes:
            reductions = [op for op in ("mean", "max", "sum") if op in known]
            term = Term(draws.pick(reductions), (term,), self.signature.axes_names(over))
        # A penalty works beside the rest of the loss, so that it is mostly small, and mostly pulls inwards.
        factor = sketch.constant(draws.between(0.001, 1.0), 0.0001, 5.0)
        return Term("mul", (factor if draws.chance(0.8) else Term("neg", (factor,)), term))

    def role_term(self, draws: Draws, sketch: Sketch) -> Term:
        """A weight, never negative, times a rising function of a wrongness."""
        term = self.wrongness(draws, sketch)
        for chance in (0.5, 0.2):
            if draws.chance(chance):
                term = self.filled(draws.pick(self._templates["rising"]), {"u": term}, draws, sketch)
        if self._templates["weight"] and draws.chance(0.25):
            if draws.chance(0.7):
                weight = self.filled(
                    draws.pick(self._templates["weight"]),
                    {"u": self.wrongness(draws, sketch)},
                    draws,
                    sketch,
                )
            else:
                want = self.body._replace(sign=1, need=0)
                weight = self._grown_small(want, 4, draws, sketch)
            if "detach" in self.grammar.primitives and draws.chance(0.5):
                weight = Term("detach", (weight,))
            term = Term("mul", (weight, term))
        return term

    def wrongness(self, draws: Draws, sketch: Sketch) -> Term:
        """Never negative, and larger the worse the prediction is."""
        terminal, direction = draws.pick(self.right)
        low, high = terminal.interval
        if direction == 2:
            key = "size"
        elif direction < 0:
            if low >= 0:
                return terminal.term
            key = "score"
        else:
            key = "share" if low >= 0 and high <= 2 else "log" if high <= 0 else "score"
        x = Term("neg", (terminal.term,)) if direction < 0 else terminal.term
        templates = self._templates[key]
        if not templates:
            return x if direction < 0 else Term("neg", (x,))
        return self.filled(draws.pick(templates), {"x": x}, draws, sketch)

    def rising(self, term: Term, draws: Draws, sketch: Sketch) -> Term:
        """A rising function of `term`, as if it were never negative."""
        templates = self._templates["rising"]
        return self.filled(draws.pick(templates), {"u": term}, draws, sketch) if templates else term

    def weighted(self, term: Term, draws: Draws, sketch: Sketch) -> Term:
        """`term` times a weight that is never negative."""
        templates = self._templates["weight"]
        if not (templates and self.right):
            return Term("mul", (drawn_constant(1, draws, sketch), term))
        weight = self.filled(draws.pick(templates), {"u": self.wrongness(draws, sketch)}, draws, sketch)
        return Term("mul", (weight, term))

    def _grown_small(self, want: Want, nodes: int, draws: Draws, sketch: Sketch) -> Term:
        size = 1 + draws.below(nodes)
        self.can(want, nodes, nodes)
        least, levels = self._least[want]
        return self._grow(want, max(size, least), max(4, levels), draws, sketch)

    def filled(self, template: Term, parts: Mapping[str, Term], draws: Draws, sketch: Sketch) -> Term:
        """A template with its holes filled; what is left over becomes a positive constant."""
        if template.op == NAME:
            known = parts.get(str(template.data))
            return drawn_constant(1, draws, sketch) if known is None else known
        if not template.args:
            return template
        args = tuple(self.filled(a, parts, draws, sketch) for a in template.args)
        return Term(template.op, args, template.data)


def drawn_constant(sign: int, draws: Draws, sketch: Sketch) -> Term:
    """A named constant: positive ones even on a logarithmic scale, others normal."""
    if sign > 0:
        return sketch.constant(draws.between(0.1, 10.0), 0.001, 20.0)
    if sign < 0:
        return sketch.constant(-draws.between(0.1, 10.0), -20.0, -0.001)
    return sketch.constant(max(-10.0, min(10.0, draws.normal() * 1.5)), -10.0, 10.0)


def _need_of(signature: Signature, program: Program) -> int:
    roles = {signature.inputs[i].role for i in program.inputs}
    moves = any(role.is_differentiable for role in roles)
    return PREDICTION * moves | TARGET * (Role.TARGET in roles)


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
    splits: list[tuple[int, ...]] = [(need, 0), (0, need)]
    if need == PREDICTION | TARGET:
        splits += [(PREDICTION, TARGET), (TARGET, PREDICTION)]
    return splits


def _place_of_body(head: Term) -> tuple[int, ...]:
    for path in paths(head):
        if at(head, path) == name("body"):
            return path
    raise FormulaError("the head has no `body` in it", remedy="For example mean(body, 'n')")


def _with_body(head: Term, path: tuple[int, ...], body: Term) -> Term:
    if not path:
        return body
    i, rest = path[0], path[1:]
    args = (*head.args[:i], _with_body(head.args[i], rest, body), *head.args[i + 1 :])
    return Term(head.op, args, head.data)


def _matches(head: Term, term: Term) -> bool:
    if head == name("body"):
        return True
    if head.op == NAME:
        return term.data == head.data and not term.args
    return (
        head.op == term.op
        and head.data == term.data
        and len(head.args) == len(term.args)
        and all(map(_matches, head.args, term.args))
    )
