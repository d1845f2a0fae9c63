"""How does one loss become another of the same type?

Operators on drafts: a part is drawn anew, cut out, wrapped, or swapped with one of the same
type from another program; constants take a step. Whatever an operator makes is checked when it is
built, and what does not fit counts as a miss (None), so that nothing badly typed leaves this
room.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from losssearch.errors import FormulaError
from losssearch.language.drafts import Drafts, drafts_of
from losssearch.language.draws import Draws
from losssearch.language.grammar import Want
from losssearch.language.primitives import PRIMITIVES
from losssearch.language.program import Constant, Instruction, Program
from losssearch.language.sampling import Sampler, Sketch, drawn_constant
from losssearch.language.signature import Kind
from losssearch.language.term import CONSTANT, LITERAL, TERMINALS, Term, literal

Path = tuple[int, ...]


class Place(NamedTuple):
    """One node of a draft's tree, below its head, and its step."""

    path: Path
    step: int


class Draft(NamedTuple):
    """A loss as it stands among the drafts of its signature: its root, and the constants that it uses."""

    root: int
    constants: tuple[Constant, ...]


class Edit:
    """A loss being changed: its places, its constants, and draws.

    Args:
        sampler: Of the space.
        drafts: The room in which the loss and all that it becomes have their steps.
        draft: The loss.
        draws: What decides.
    """

    def __init__(self, sampler: Sampler, drafts: Drafts, draft: Draft, draws: Draws) -> None:
        self.sampler, self.drafts, self.draft, self.draws = sampler, drafts, draft, draws
        self.sketch = Sketch([c.name for c in draft.constants])
        self.places = self.places_of(draft)

    @classmethod
    def of(cls, sampler: Sampler, program: Program, draws: Draws) -> Edit:
        """A program about to be changed."""
        drafts = drafts_of(sampler.signature)
        return cls(sampler, drafts, Draft(drafts.step_of(program), program.constants), draws)

    def places_of(self, draft: Draft) -> list[Place]:
        """The nodes that may vary: the body's, or all but the root where the head is another."""
        steps, root = self.drafts.instructions, draft.root
        body = self.sampler.body_path if self.sampler.is_headed(steps, root) else ()
        for i in body:
            root = steps[root].args[i]
        found: list[Place] = []
        stack = [Place(body, root)]
        while stack:
            place = stack.pop()
            path, step = place
            if path:
                found.append(place)
            args = steps[step].args
            for i in range(len(args) - 1, -1, -1):
                stack.append(Place((*path, i), args[i]))
        return found

    def step(self, place: Place) -> Instruction:
        return self.drafts.instructions[place.step]

    def part(self, place: Place) -> Term:
        return self.drafts.term(place.step)

    def want(self, place: Place) -> Want:
        step = self.step(place)
        return Want(step.kind, step.axes)

    def room(self, place: Place) -> tuple[int, int]:
        """Nodes and levels that a part at this place may have."""
        nodes, depth = self.sampler.limits
        size, own = (self.drafts.size(step)[0] for step in (self.draft.root, place.step))
        return nodes - size + own, depth - len(place.path)

    def grown(self, want: Want, nodes: int, depth: int) -> Term | None:
        """A new part; None where none is so small."""
        if not self.sampler.can(want, nodes, depth):
            return None
        return self.sampler.grow(want, nodes, depth, self.draws, self.sketch)

    def put(self, place: Place, part: Term) -> Draft | None:
        """The loss with another part at a place; None where that does not fit."""
        try:
            root = self.drafts.replaced(self.draft.root, place.path, self.drafts.place(part))
        except FormulaError:
            return None
        if not self.sampler.fits_as(self.drafts, root):
            return None
        constants = [*self.draft.constants, *self.sketch.constants.values()]
        return Draft(root, tuple(self.drafts.used(root, constants)))

    def written(self, draft: Draft) -> Program:
        return self.drafts.written(*draft)


# Operators. Each makes a changed draft, or None.


def subtree(edit: Edit) -> Draft | None:
    """A part is drawn anew."""
    place = edit.draws.pick(edit.places)
    nodes, depth = edit.room(place)
    size = min(nodes, 1 + edit.draws.below(8))
    part = edit.grown(edit.want(place), size, depth)
    return None if part is None else edit.put(place, part)


def point(edit: Edit) -> Draft | None:
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


def hoist(edit: Edit) -> Draft | None:
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


def shrink(edit: Edit) -> Draft | None:
    """A part becomes a terminal."""
    large = [p for p in edit.places if edit.step(p).args]
    if not large:
        return None
    place = edit.draws.pick(large)
    part = edit.grown(edit.want(place), 1, 1)
    return None if part is None else edit.put(place, part)


def wrap(edit: Edit) -> Draft | None:
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


def add_term(edit: Edit) -> Draft | None:
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


def drop_term(edit: Edit) -> Draft | None:
    """A sum, difference, product or quotient loses one side."""
    sums = [p for p in edit.places if edit.step(p).op in ("add", "sub", "mul", "div")]
    if not sums:
        return None
    place = edit.draws.pick(sums)
    return edit.put(place, edit.draws.pick(edit.part(place).args))


def weigh(edit: Edit) -> Draft | None:
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


def nudge(edit: Edit) -> Draft | None:
    """Constants take a step."""
    root, constants = edit.draft
    if not constants or not edit.sampler.fits_as(edit.drafts, root):
        return None
    return Draft(root, tuple(_stepped(constants, edit.draws)))


def nudged(sampler: Sampler, program: Program, draws: Draws) -> Program | None:
    """One constant takes a step, or all do; None where there is none, or the program does not fit."""
    if not program.constants or not sampler.fits(program):
        return None
    return program.with_constants({c.name: c.value for c in _stepped(program.constants, draws)})


def _stepped(constants: Sequence[Constant], draws: Draws) -> list[Constant]:
    """One constant takes a step, or all do: a factor if it keeps its sign, else a normal step."""
    chosen = draws.below(len(constants))
    everyone = draws.chance(0.3)
    spread = draws.pick((0.1, 0.3, 0.8))
    return [
        replace(c, value=stepped(c, spread, draws)) if everyone or i == chosen else c
        for i, c in enumerate(constants)
    ]


def stepped(constant: Constant, spread: float, draws: Draws) -> float:
    """A value near the constant's, in its range, of three digits."""
    value, low, high = constant.value, constant.low, constant.high
    if (low >= 0 and value > 0) or (high <= 0 and value < 0):
        value *= math.exp(spread * draws.normal())
    else:
        value += spread * draws.normal() * max(min(1.0, high - low), 1e-3, abs(value))
    return min(max(float(f"{value:.3g}"), low), high)


def name_literal(edit: Edit) -> Draft | None:
    """A literal becomes a constant, or a constant a literal."""
    chosen = [p for p in edit.places if edit.step(p).op in (LITERAL, CONSTANT)]
    if not chosen:
        return None
    place = edit.draws.pick(chosen)
    step = edit.step(place)
    if step.op == CONSTANT:
        value = next(c.value for c in edit.draft.constants if c.name == step.data)
        rounded = edit.draws.pick((float(round(value)), float(f"{value:.1g}"), value))
        return edit.put(place, literal(rounded))
    value = float(str(step.data))
    low, high = (0.001, 20.0) if value > 0 else (-10.0, 10.0)
    if not low <= value <= high:
        return None
    return edit.put(place, edit.sketch.constant(value, low, high))


MUTATIONS: Mapping[str, Callable[[Edit], Draft | None]] = {
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
    edit = Edit.of(sampler, program, draws)
    for _ in range(steps * 4):
        chosen = names[draws.weighted(totals)]
        changed = MUTATIONS[chosen](edit)
        if changed is not None and changed != edit.draft:
            used.append(chosen)
            edit = Edit(sampler, edit.drafts, changed, draws)
        else:
            edit.sketch.constants.clear()
        if len(used) == steps:
            break
    return (edit.written(edit.draft), "+".join(used)) if used else None


def crossed(sampler: Sampler, mother: Program, father: Program, draws: Draws) -> Program | None:
    """The mother with one part swapped for a part of the father of the same type."""
    edit = Edit.of(sampler, mother, draws)
    other = Draft(edit.drafts.step_of(father), father.constants)
    place = draws.pick(edit.places)
    step = edit.step(place)
    gifts = [
        p for p in edit.places_of(other) if edit.step(p).axes == step.axes and edit.step(p).kind is step.kind
    ]
    if not gifts:
        return None
    child = edit.put(place, transplanted(edit, other, draws.pick(gifts)))
    return None if child is None else edit.written(child)


def blended(sampler: Sampler, mother: Program, father: Program, draws: Draws) -> Program | None:
    """The sum of two bodies, the second times a constant."""
    if not (sampler.has_head(mother) and sampler.has_head(father)):
        return None
    if not {"add", "mul"} <= set(sampler.grammar.primitives):
        return None
    edit = Edit.of(sampler, mother, draws)
    other = Draft(edit.drafts.step_of(father), father.constants)
    part = transplanted(edit, other, edit.places_of(other)[0])
    factor = edit.sketch.constant(draws.between(0.05, 10.0), 0.001, 20.0)
    first = edit.places[0]
    child = edit.put(first, Term("add", (edit.part(first), Term("mul", (factor, part)))))
    return None if child is None else edit.written(child)


def transplanted(edit: Edit, donor: Draft, place: Place) -> Term:
    """A part of another loss; its constants get new names here."""
    constants = {c.name: c for c in donor.constants}
    new: dict[str, Term] = {}

    def renamed(term: Term) -> Term:
        if term.op == CONSTANT:
            old = str(term.data)
            if old not in new:
                new[old] = edit.sketch.adopted(constants[old])
            return new[old]
        if not term.args:
            return term
        return Term(term.op, tuple(renamed(a) for a in term.args), term.data)

    return renamed(edit.part(place))
