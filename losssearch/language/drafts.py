"""How are thousands of programs written from terms without checking the same words again?

One strict builder for all that is grown and changed in a signature. A term that the room gave out itself is
known by its identity, so that a mutation costs the few nodes above its place. Meant for terms that a program
made (a sampler, a mutation); what a person wrote goes through the parser, which can say where it is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable

from losssearch.errors import FormulaError
from losssearch.language.program import MAX_DEPTH, MAX_NODES, Builder, Constant, Program
from losssearch.language.shelf import Rooms, Shelf
from losssearch.language.signature import Kind, Signature
from losssearch.language.term import CONSTANT, LITERAL, NAME, TERMINALS, Data, Term


class Drafts(Builder):
    """A builder that many programs use: `place` a term, look at its size, and have it `written`."""

    def __init__(self, signature: Signature) -> None:
        super().__init__(signature)
        self.shelf = Shelf(signature, self.instructions)
        self._places: dict[tuple[str, tuple[int, ...], Data], int] = {}
        self._given: list[Term] = []
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

    def terms(self, program: Program) -> list[Term]:
        """The tree under each instruction of a program; the room knows these terms again."""
        steps: list[int] = []
        for op, args, data, _, _ in program.instructions:
            key = (op, tuple([steps[i] for i in args]), data)
            found = self._places.get(key)
            if found is None:
                found = self._places[key] = self._placed(Term(op, (), data), key[1])
            steps.append(found)
        self._give(len(self.instructions))
        return [self._given[i] for i in steps]

    def _give(self, count: int) -> None:
        """One term a step, kept alive here."""
        for i in range(len(self._given), count):
            step = self.instructions[i]
            term = Term(step.op, tuple([self._given[j] for j in step.args]), step.data)
            self._given.append(term)
            self._by_identity[id(term)] = i


_ROOMS = Rooms(Drafts)


def drafts_of(signature: Signature) -> Drafts:
    """The builder that this thread's drafts in a signature share."""
    return _ROOMS.of(signature)
