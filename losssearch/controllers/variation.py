"""How does one loss become another of the same type?

Operators on programs: a part is drawn anew, cut out, wrapped, or swapped with one of the same
type from another program; constants take a step. Whatever an operator makes is checked when it is
built, and what does not fit counts as a miss (None), so that nothing badly typed leaves this
room.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from losssearch.language.drafts import drafts_of
from losssearch.language.draws import Draws
from losssearch.language.grammar import Want
from losssearch.language.primitives import PRIMITIVES
from losssearch.language.program import Constant, Instruction, Program
from losssearch.language.sampling import Sampler, Sketch, drawn_constant
from losssearch.language.signature import Kind
from losssearch.language.term import CONSTANT, LITERAL, TERMINALS, Term, literal, replaced

Path = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """One node of a program's tree, below its head."""

    path: Path
    index: int  # of the instruction


def places(sampler: Sampler, program: Program) -> list[Place]:
    """The nodes that may vary: the body's, or all but the root where the head is another."""
    body = sampler.body_path if sampler.has_head(program) else ()
    index = program.outputs[-1]
    for i in body:
        index = program.instructions[index].args[i]
    found: list[Place] = []
    stack = [Place(body, index)]
    while stack:
        place = stack.pop()
        if place.path:
            found.append(place)
        args = program.instructions[place.index].args
        for i in range(len(args) - 1, -1, -1):
            stack.append(Place((*place.path, i), args[i]))
    return found


class Edit:
    """A program being changed: its tree, its constants, and draws."""

    def __init__(self, sampler: Sampler, program: Program, draws: Draws) -> None:
        self.sampler, self.program, self.draws = sampler, program, draws
        self._terms = drafts_of(sampler.signature).terms(program)
        self.term = self._terms[program.outputs[-1]]
        self.sketch = Sketch([c.name for c in program.constants])
        self.places = places(sampler, program)

    def step(self, place: Place) -> Instruction:
        return self.program.instructions[place.index]

    def part(self, place: Place) -> Term:
        return self._terms[place.index]

    def want(self, place: Place) -> Want:
        step = self.step(place)
        return Want(step.kind, step.axes)

    def room(self, place: Place) -> tuple[int, int]:
        """Nodes and levels that a part at this place may have."""
        nodes, depth = self.sampler.limits
        spare = nodes - self.program.size + self.program.sizes[place.index]
        return spare, depth - len(place.path)

    def grown(self, want: Want, nodes: int, depth: int) -> Term | None:
        """A new part; None where none is so small."""
        if not self.sampler.can(want, nodes, depth):
            return None
        return self.sampler.grow(want, nodes, depth, self.draws, self.sketch)

    def put(self, place: Place, part: Term) -> Program | None:
        """The program with another part at a place; None where that does not fit."""
        return self.built(replaced(self.term, place.path, part))

    def built(self, term: Term) -> Program | None:
        constants = [*self.program.constants, *self.sketch.constants.values()]
        return self.sampler.fitting(term, constants)


# Operators. Each makes a changed program, or None.


def subtree(edit: Edit) -> Program | None:
    """A part is drawn anew."""
    place = edit.draws.pick(edit.places)
    nodes, depth = edit.room(place)
    size = min(nodes, 1 + edit.draws.below(8))
    part = edit.grown(edit.want(place), size, depth)
    return None if part is None else edit.put(place, part)


def point(edit: Edit) -> Program | None:
    """An operation becomes another of the same form, or a terminal another of the same type."""
    place = edit.draws.pick(edit.places)
    step = edit.step(place)
    if step.op in TERMINALS:
        part = edit.grown(edit.want(place), 1, 1)
        return None if part is None else edit.put(place, part)
    row = PRIMITIVES[step.op]
    others = [
        op
        for op in edit.sampler.grammar.primitives
        if op != step.op
        and PRIMITIVES[op].form is row.form
        and PRIMITIVES[op].result is row.result
        and PRIMITIVES[op].masks == row.masks
        and len(step.args) in (PRIMITIVES[op].arity, PRIMITIVES[op].arity - row.has_weight)
    ]
    if not others:
        return None
    part = edit.part(place)
    return edit.put(place, Term(edit.draws.pick(others), part.args, part.data))


def hoist(edit: Edit) -> Program | None:
    """A part gives way to a smaller part of itself, of the same type."""
    place = edit.draws.pick(edit.places)
    step, n = edit.step(place), len(place.path)
    inner = [
        p
        for p in edit.places
        if len(p.path) > n
        and p.path[:n] == place.path
        and edit.step(p).axes == step.axes
        and edit.step(p).kind is step.kind
    ]
    return edit.put(place, edit.part(edit.draws.pick(inner))) if inner else None


def shrink(edit: Edit) -> Program | None:
    """A part becomes a terminal."""
    large = [p for p in edit.places if edit.step(p).args]
    if not large:
        return None
    place = edit.draws.pick(large)
    part = edit.grown(edit.want(place), 1, 1)
    return None if part is None else edit.put(place, part)


def wrap(edit: Edit) -> Program | None:
    """A part becomes the argument of a new operation: a rising function, or any that fits."""
    place = edit.draws.pick(edit.places)
    step, part = edit.step(place), edit.part(place)
    if step.kind is Kind.MASK:
        return None
    if edit.draws.chance(0.5):
        return edit.put(place, edit.sampler.rising(part, edit.draws, edit.sketch))
    ops = [
        op
        for op in edit.sampler.grammar.primitives
        if not PRIMITIVES[op].has_axes and PRIMITIVES[op].result is Kind.REAL and PRIMITIVES[op].arity <= 2
    ]
    if not ops:
        return None
    op = edit.draws.pick(ops)
    if PRIMITIVES[op].arity == 1:
        return edit.put(place, Term(op, (part,)))
    other = edit.grown(Want(Kind.REAL, 0 if op == "pow" else step.axes), 4, 3)
    if other is None:
        return None
    args = (part, other) if op == "pow" or edit.draws.chance(0.5) else (other, part)
    return edit.put(place, Term(op, args))


def add_term(edit: Edit) -> Program | None:
    """To a part of the body's type comes another, by role or free, with a constant in front."""
    place = _like_body(edit)
    if place is None or not {"add", "mul"} <= set(edit.sampler.grammar.primitives):
        return None
    if edit.sampler.right and edit.draws.chance(0.5):
        sign = 1 if edit.draws.chance(0.85) else 0
        factor = drawn_constant(sign, edit.draws, edit.sketch)
        more = Term("mul", (factor, edit.sampler.role_term(edit.draws, edit.sketch, edit.sampler.right)))
    else:
        more = edit.sampler.free_term(edit.draws, edit.sketch)
    return edit.put(place, Term("add", (edit.part(place), more)))


def drop_term(edit: Edit) -> Program | None:
    """A sum, difference, product or quotient loses one side."""
    sums = [p for p in edit.places if edit.step(p).op in ("add", "sub", "mul", "div")]
    if not sums:
        return None
    place = edit.draws.pick(sums)
    return edit.put(place, edit.draws.pick(edit.part(place).args))


def weigh(edit: Edit) -> Program | None:
    """A part of the body's type is multiplied by a weight that is never negative."""
    place = _like_body(edit)
    if place is None or "mul" not in edit.sampler.grammar.primitives:
        return None
    return edit.put(place, edit.sampler.weighted(edit.part(place), edit.draws, edit.sketch))


def _like_body(edit: Edit) -> Place | None:
    """The whole body in half of the cases, else any part of its type."""
    alike = [
        p
        for p in edit.places
        if edit.step(p).axes == edit.sampler.body_axes and edit.step(p).kind is Kind.REAL
    ]
    if not alike:
        return None
    return alike[0] if edit.draws.chance(0.5) else edit.draws.pick(alike)


def nudge(edit: Edit) -> Program | None:
    """Constants take a step."""
    return nudged(edit.sampler, edit.program, edit.draws)


def nudged(sampler: Sampler, program: Program, draws: Draws) -> Program | None:
    """One constant takes a step, or all do: a factor if it keeps its sign, else a normal step."""
    constants = program.constants
    if not constants or not sampler.fits(program):
        return None
    chosen = draws.below(len(constants))
    everyone = draws.chance(0.3)
    spread = draws.pick((0.1, 0.3, 0.8))
    return program.with_constants(
        {c.name: stepped(c, spread, draws) for i, c in enumerate(constants) if everyone or i == chosen}
    )


def stepped(constant: Constant, spread: float, draws: Draws) -> float:
    """A value near the constant's, in its range, of three digits."""
    value, low, high = constant.value, constant.low, constant.high
    if (low >= 0 and value > 0) or (high <= 0 and value < 0):
        value *= math.exp(spread * draws.normal())
    else:
        value += spread * draws.normal() * max(min(1.0, high - low), 1e-3, abs(value))
    return min(max(float(f"{value:.3g}"), low), high)


def name_literal(edit: Edit) -> Program | None:
    """A literal becomes a constant, or a constant a literal."""
    chosen = [p for p in edit.places if edit.step(p).op in (LITERAL, CONSTANT)]
    if not chosen:
        return None
    place = edit.draws.pick(chosen)
    step = edit.step(place)
    if step.op == CONSTANT:
        value = edit.program.constant(str(step.data)).value
        rounded = edit.draws.pick((float(round(value)), float(f"{value:.1g}"), value))
        return edit.put(place, literal(rounded))
    value = float(str(step.data))
    low, high = (0.001, 20.0) if value > 0 else (-10.0, 10.0)
    if not low <= value <= high:
        return None
    return edit.put(place, edit.sketch.constant(value, low, high))


MUTATIONS: Mapping[str, Callable[[Edit], Program | None]] = {
    "subtree": subtree,
    "point": point,
    "hoist": hoist,
    "shrink": shrink,
    "wrap": wrap,
    "add": add_term,
    "drop": drop_term,
    "weigh": weigh,
    "constants": nudge,
    "literal": name_literal,
}


def mutated(
    sampler: Sampler, program: Program, draws: Draws, totals: Sequence[float], steps: int
) -> tuple[Program, str] | None:
    """`steps` mutations in a row; None if all missed.

    Args:
        totals: Running totals of the operators' weights, in the order of `MUTATIONS`.

    Returns:
        The program, and the names of the operators that made it, joined by "+".
    """
    names = list(MUTATIONS)
    used: list[str] = []
    for _ in range(steps * 4):
        chosen = names[draws.weighted(totals)]
        changed = MUTATIONS[chosen](Edit(sampler, program, draws))
        if changed is not None and changed != program:
            program = changed
            used.append(chosen)
        if len(used) == steps:
            break
    return (program, "+".join(used)) if used else None


def crossed(sampler: Sampler, mother: Program, father: Program, draws: Draws) -> Program | None:
    """The mother with one part swapped for a part of the father of the same type."""
    edit = Edit(sampler, mother, draws)
    place = draws.pick(edit.places)
    step = edit.step(place)
    gifts = [
        p
        for p in places(sampler, father)
        if father.instructions[p.index].axes == step.axes and father.instructions[p.index].kind is step.kind
    ]
    if not gifts:
        return None
    part = transplanted(father, draws.pick(gifts).index, edit.sketch)
    return edit.built(replaced(edit.term, place.path, part))


def blended(sampler: Sampler, mother: Program, father: Program, draws: Draws) -> Program | None:
    """The sum of two bodies, the second times a constant."""
    if not (sampler.has_head(mother) and sampler.has_head(father)):
        return None
    if not {"add", "mul"} <= set(sampler.grammar.primitives):
        return None
    edit = Edit(sampler, mother, draws)
    first = edit.places[0]
    gift = places(sampler, father)[0]
    part = transplanted(father, gift.index, edit.sketch)
    factor = edit.sketch.constant(draws.between(0.05, 10.0), 0.001, 20.0)
    body = Term("add", (edit.part(first), Term("mul", (factor, part))))
    return edit.built(replaced(edit.term, first.path, body))


def transplanted(donor: Program, index: int, sketch: Sketch) -> Term:
    """A part of another program; its constants get new names here."""
    new: dict[str, Term] = {}

    def renamed(term: Term) -> Term:
        if term.op == CONSTANT:
            old = str(term.data)
            if old not in new:
                new[old] = sketch.adopted(donor.constant(old))
            return new[old]
        if not term.args:
            return term
        return Term(term.op, tuple(renamed(a) for a in term.args), term.data)

    return renamed(drafts_of(donor.signature).terms(donor)[index])
