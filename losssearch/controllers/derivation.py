"""How is a loss written word by word, so that whatever is begun ends in a legal program?

The Markov decision process that the learning controllers share:

    state    an unfinished loss: a tree written from the top, left to right, with typed holes
    action   the number of a word of the space's alphabet, for the leftmost hole; `legal` lists those that fit
             by kind, axes, required dependence on prediction and target, nodes and levels
    end      no hole is left: under the space's head the body is a checked program

What an argument must be depends on what was written to the left of it: after `sub(1, ` the second
argument has to bring the axes and the dependence that the first did not. Least sizes, level by level, are
worked out when first wanted, and what open arguments may cost at worst is set aside, so that the limits
hold; some programs that come near the limits are out of reach for that. A word costs some twenty microseconds
once the tables are warm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from losssearch.controllers.words import Alphabet, Made, Pattern, Word
from losssearch.errors import FormulaError
from losssearch.language.grammar import shares
from losssearch.language.program import Program
from losssearch.language.sampling import Sampler, Sketch
from losssearch.language.signature import AxisSet
from losssearch.language.term import CONSTANT, LITERAL, Term, at


class Hole(NamedTuple):
    """A place to be written.

    Args:
        mask: Whether a yes/no is wanted; otherwise a number, for which a yes/no leaf counts too.
        axes: The value has one of these axis sets.
        need: Which of the target and each player's predictions must occur in it, as in `Want`.
        levels: How deep the term may be, at least 1.
    """

    mask: bool
    axes: frozenset[AxisSet]
    need: int
    levels: int


class Step(NamedTuple):
    """The next argument of an operation, and the nodes that those after it may cost at worst."""

    hole: Hole
    after: float


class Rules:
    """What may stand where. The tables are shared by all derivations of a space."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler, self.alphabet = sampler, Alphabet(sampler)
        self.nodes, depth = sampler.grammar.nodes, sampler.grammar.depth
        self.root = Hole(False, frozenset([sampler.body_axes]), sampler.body.need, depth)
        self._least: dict[tuple[bool, AxisSet, int, int], float] = {}
        self._steps: dict[tuple[Pattern, tuple[AxisSet, ...], Hole], tuple[Step, ...]] = {}
        self._legal: dict[tuple[Hole, float], tuple[int, ...]] = {}
        if not self.legal(self.root, self.nodes):
            raise FormulaError(f"no body has at most {self.nodes} nodes and {depth} levels")

    def legal(self, hole: Hole, room: float) -> tuple[int, ...]:
        """Numbers of the words that can begin a term of at most `room` nodes for a hole, ascending."""
        key = hole, room
        found = self._legal.get(key)
        if found is None:
            words = enumerate(self.alphabet.words)
            found = self._legal[key] = tuple(i for i, word in words if self._cost(word, hole) <= room)
        return found

    def step(self, pattern: Pattern, made: tuple[AxisSet, ...], hole: Hole, room: float) -> Step | None:
        """The argument after those over the axes `made`; None where the rest takes more than `room` nodes.

        `hole` is that of the whole operation, but needs no more than the arguments still to come must bring.
        What later arguments can bring is left to them, unless there is no room for that.
        """
        steps = self._possible(pattern, made, hole)
        return next((step for step in steps if self._least_of(step.hole) + step.after <= room), None)

    def _possible(self, pattern: Pattern, made: tuple[AxisSet, ...], hole: Hole) -> tuple[Step, ...]:
        """The next argument by what it must bring itself, nothing first."""
        key = pattern, made, hole
        if key not in self._steps:
            self._steps[key] = tuple(self._found(pattern, made, hole))
        return self._steps[key]

    def _found(self, pattern: Pattern, made: tuple[AxisSet, ...], hole: Hole) -> Iterator[Step]:
        i, mask, levels = len(made), pattern.masks[len(made)], hole.levels - 1
        options = {args[i] for args, axes in pattern.ways if axes in hole.axes and args[:i] == made}
        for own in shares(hole.need & pattern.passes[i]):
            rest = hole._replace(need=hole.need & ~own)
            after = {x: self._after(pattern, (*made, x), rest) for x in options}
            fit = frozenset(
                x for x in options if after[x] < math.inf and self.least(mask, x, own, levels) < math.inf
            )
            if fit:
                yield Step(Hole(mask, fit, own, levels), max(after[x] for x in fit))

    def _after(self, pattern: Pattern, made: tuple[AxisSet, ...], hole: Hole) -> float:
        """Nodes that are enough for the arguments after `made`."""
        if len(made) == len(pattern.passes):
            return math.inf if hole.need else 0
        steps = self._possible(pattern, made, hole)
        return min((self._least_of(step.hole) + step.after for step in steps), default=math.inf)

    def _cost(self, word: Word, hole: Hole) -> float:
        """Nodes that are enough for a term that begins with a word; infinite where it does not fit."""
        if word.made is not None:
            fits = word.made.axes in hole.axes and not hole.need & ~word.made.brings
            return 1 if fits and (word.mask or not hole.mask) else math.inf
        if word.mask is not hole.mask or hole.levels < 2:
            return math.inf
        return 1 + self._after(word.pattern, (), hole)

    def least(self, mask: bool, axes: AxisSet, need: int, levels: int) -> float:
        """Nodes that are enough for a term over exactly these axes."""
        key = mask, axes, need, levels
        if key not in self._least:
            hole = Hole(mask, frozenset([axes]), need, levels)
            self._least[key] = min(self._cost(word, hole) for word in self.alphabet.words)
        return self._least[key]

    def _least_of(self, hole: Hole) -> float:
        return min(self.least(hole.mask, axes, hole.need, hole.levels) for axes in hole.axes)


@dataclass
class _Open:
    """An operation whose arguments are being written."""

    number: int
    hole: Hole
    wish: bool
    after: float = 0
    brought: int = 0
    axes: tuple[AxisSet, ...] = ()
    terms: list[Term] = field(default_factory=list)
    last: int = -1  # the word that the latest argument began with


class Context(NamedTuple):
    """What a policy sees of a state.

    Args:
        place: 0 at the root, else a number for the parent word and which of its arguments this is.
        above: The place of the parent; 0 where there is none.
        sibling: 1 + the word that the argument to the left begins with, 0 if there is none.
        before: 1 + the word that was written last, 0 at the beginning.
        need: What must occur here, as the bits of `Want`: 0 to 3 where there is one player.
        wish: Whether something never negative is hoped for.
        levels: How deep the term may be.
        room: How many nodes it may have.
    """

    place: int
    above: int
    sibling: int
    before: int
    need: int
    wish: bool
    levels: int
    room: int


class Derivation:
    """A loss in the making: one episode."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.hole, self.wish = rules.root, False
        self.written: list[int] = []
        self.sketch = Sketch()
        self.body: Term | None = None
        self._open: list[_Open] = []
        self._reserved = 0.0

    @property
    def room(self) -> float:
        """Nodes that a term in the hole may have."""
        return self.rules.nodes - len(self.written) - self._reserved

    def legal(self) -> tuple[int, ...]:
        """The numbers of the words that fit here, ascending; none once the loss is complete."""
        return () if self.body is not None else self.rules.legal(self.hole, self.room)

    def context(self) -> Context:
        parent = self._open[-1] if self._open else None
        return Context(
            place=self._place(-1),
            above=self._place(-2),
            sibling=1 + parent.last if parent else 0,
            before=1 + self.written[-1] if self.written else 0,
            need=self.hole.need,
            wish=self.wish,
            levels=self.hole.levels,
            room=int(self.room),
        )

    def _place(self, level: int) -> int:
        """The place under an open operation, counted from the innermost, -1."""
        if len(self._open) < -level:
            return 0
        parent = self._open[level]
        return self.rules.alphabet.places[parent.number] + len(parent.terms)

    def write(self, number: int, fraction: float = 0.5) -> None:
        """Fill the hole with a legal word; a constant lies at this fraction of its span, in [0, 1)."""
        word = self.rules.alphabet.words[number]
        self.written.append(number)
        if word.made is None:
            self._open.append(_Open(number, self.hole, self.wish))
            self._next_argument()
        else:
            self._close(word.made, self._leaf(word, fraction), number)

    def program(self) -> Program:
        """The checked program of a complete derivation.

        Raises:
            FormulaError: It is not complete.
        """
        if self.body is None:
            raise FormulaError(f"the loss is not complete: {len(self._open)} operations wait for arguments")
        return self.rules.sampler.program(self.body, self.sketch)

    def _leaf(self, word: Word, fraction: float) -> Term:
        if word.span is None:
            return Term(word.op, (), word.data)
        low, high = (abs(x) for x in word.span)
        value = math.copysign(low * (high / low) ** fraction, word.span[0])
        bounds = (0.001, 20.0) if value > 0 else (-20.0, -0.001)
        return self.sketch.constant(value, *bounds)

    def _next_argument(self) -> None:
        top = self._open[-1]
        word = self.rules.alphabet.words[top.number]
        rest = top.hole._replace(need=top.hole.need & ~top.brought)
        step = self.rules.step(word.pattern, top.axes, rest, self.room + top.after)
        if step is None:
            raise FormulaError(f"{word.name} does not fit here")
        self._reserved += step.after - top.after
        top.after, self.hole = step.after, step.hole
        self.wish = word.wishes[len(top.terms)] or (top.wish and word.keeps)

    def _close(self, made: Made, term: Term, number: int) -> None:
        """A term is finished, and with it perhaps the operations above it."""
        while self._open:
            top = self._open[-1]
            word = self.rules.alphabet.words[top.number]
            top.brought |= made.brings & word.pattern.passes[len(top.terms)]
            top.axes, top.last = (*top.axes, made.axes), number
            top.terms.append(term)
            if len(top.terms) < len(word.pattern.passes):
                self._next_argument()
                return
            self._open.pop()
            axes = next(axes for args, axes in word.pattern.ways if args == top.axes)
            made, number = Made(axes, top.brought), top.number
            term = Term(word.op, tuple(top.terms), word.data)
        self.body = term


def written_as(rules: Rules, program: Program) -> list[int] | None:
    """The words that write a program, its constants up to their spans; None where they cannot."""
    sampler, alphabet = rules.sampler, rules.alphabet
    if not sampler.has_head(program):
        return None
    derivation = Derivation(rules)
    stack = [at(program.term(), sampler.body_path)]
    values = program.constant_values
    while stack:
        term = stack.pop()
        number = alphabet.number.get((term.op, term.data))
        if number is None and term.op == CONSTANT:
            number = alphabet.constant(values[str(term.data)])
        elif number is None and term.op == LITERAL and isinstance(term.data, float):
            number = alphabet.constant(term.data)
        if number is None or number not in derivation.legal():
            return None
        derivation.write(number)
        stack += reversed(term.args)
    return derivation.written


def rewritten(rules: Rules, words: Sequence[int]) -> list[tuple[Context, tuple[int, ...]]]:
    """What a writer saw and might have written before each of the words.

    Raises:
        FormulaError: They are not a derivation of these rules.
    """
    derivation = Derivation(rules)
    seen = []
    for number in words:
        legal = derivation.legal()
        if number not in legal:
            raise FormulaError(f"word {number} does not fit after {derivation.written}")
        seen.append((derivation.context(), legal))
        derivation.write(number)
    return seen
