"""How are thousands of programs written from terms without checking the same words again?

One strict builder for all that is grown and changed in a signature. A term that the room gave out itself is
known by its identity, so that a mutation costs the few nodes above its place. Meant for terms that a program
made (a sampler, a mutation); what a person wrote goes through the parser, which can say where it is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from losssearch.errors import FormulaError
from losssearch.language.program import MAX_DEPTH, MAX_NODES, Builder, Constant, Instruction, Program
from losssearch.language.shelf import Rooms, Shelf
from losssearch.language.signature import Kind, Signature
from losssearch.language.term import CONSTANT, LITERAL, NAME, TERMINALS, Data, Term


class Drafts(Builder):
    """A builder that many programs use: `place` a term, look at its size, and have it `written`."""

    def __init__(self, signature: Signature) -> None:
        super().__init__(signature)
        self.shelf = Shelf(signature, self.instructions)
        self._places: dict[tuple[str, tuple[int, ...], Data], int] = {}
        self._given: dict[int, Term] = {}
        self._by_identity: dict[int, int] = {}

    @property
    def is_full(self) -> bool:
        return self.shelf.is_full

    def place(self, term: Term) -> int:
        """The step that a term stands for, checked; `CONSTANT` terms are taken as they are.

        Raises:
            FormulaError: It is badly typed.
        """
        found = self._by_identity.get(id(term))
        if found is not None:
            return found
        key = (term.op, tuple([self.place(arg) for arg in term.args]), term.data)
        found = self._places.get(key)
        if found is None:
            found = self._places[key] = self._placed(term, key[1])
        return found

    def _placed(self, term: Term, args: tuple[int, ...]) -> int:
        if term.op == CONSTANT:
            return self._emit(CONSTANT, (), term.data, Kind.REAL, 0)
        if term.op in TERMINALS or term.op == NAME:
            return self.literal(term.data) if term.op == LITERAL else self.add(term)
        return self.apply(term.op, args, term.data)

    def size(self, step: int) -> tuple[int, int]:
        """Nodes and levels of the tree under a step."""
        if step >= len(self.shelf.below):
            self.shelf.catch_up()
        return self.shelf.nodes[step], self.shelf.depths[step]

    def reads(self, step: int) -> frozenset[str]:
        """The inputs that the tree under a step reads."""
        self.size(step)
        return self.shelf.inputs[step]

    def written(self, step: int, constants: Iterable[Constant]) -> Program:
        """The program with a step as its root.

        Raises:
            FormulaError: It is too large, or not a single number.
        """
        nodes, depth = self.size(step)
        if nodes > MAX_NODES or depth > MAX_DEPTH:
            raise FormulaError(f"a program of {nodes} nodes and {depth} levels is too large")
        if self.instructions[step].axes:
            raise FormulaError("a loss is one number, but this still has axes")
        return self.shelf.read_off([step], {c.name: c for c in constants})

    def step_of(self, program: Program) -> int:
        """The step that a program's root stands for."""
        steps: list[int] = []
        for op, args, data, _, _ in program.instructions:
            steps.append(self._step(op, tuple([steps[i] for i in args]), data))
        return steps[program.outputs[-1]]

    def _step(self, op: str, args: tuple[int, ...], data: Data) -> int:
        key = (op, args, data)
        found = self._places.get(key)
        if found is None:
            found = self._places[key] = self._placed(Term(op, (), data), args)
        return found

    def replaced(self, root: int, path: Sequence[int], by: int) -> int:
        """The step of a tree in which another stands at a path; only the steps above it are made anew.

        Raises:
            FormulaError: It is badly typed.
        """
        above: list[tuple[Instruction, int]] = []
        for i in path:
            step = self.instructions[root]
            above.append((step, i))
            root = step.args[i]
        for step, i in reversed(above):
            by = self._step(step.op, (*step.args[:i], by, *step.args[i + 1 :]), step.data)
        return by

    def negated(self, root: int) -> int:
        """The step of a tree with its sign turned."""
        return self._step("neg", (root,), None)

    def used(self, root: int, constants: Iterable[Constant]) -> list[Constant]:
        """Those of the constants that the tree under a step uses, in order of use."""
        self.size(root)
        named = {c.name: c for c in constants}
        steps = self.instructions
        return [named[cast(str, steps[i].data)] for i in self.shelf.below[root] if steps[i].op == CONSTANT]

    def term(self, step: int) -> Term:
        """The tree under a step, which the room knows again; kept alive here."""
        found = self._given.get(step)
        if found is None:
            op, args, data, _, _ = self.instructions[step]
            found = self._given[step] = Term(op, tuple([self.term(i) for i in args]), data)
            self._by_identity[id(found)] = step
        return found


_ROOMS = Rooms(Drafts)


def drafts_of(signature: Signature) -> Drafts:
    """The builder that this thread's drafts in a signature share."""
    return _ROOMS.of(signature)
