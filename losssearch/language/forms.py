"""What did the programs before this one teach about canonical forms?

One simplifier for all programs of a signature. Constants stand in it as *slots*, by their place in the
program and their range, since neither rules nor bounds look at a value; so `exp(-a * u)` is simplified once,
whatever a is. Only the order of two different terms of one shape may hang on values: such a program is sent
back (`ValuesDecide`; two to four of a hundred).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise

from losssearch.language.program import MAX_NODES, Constant, Program
from losssearch.language.shelf import Rooms, Shelf
from losssearch.language.signature import Kind, Signature
from losssearch.language.simplify import Simplifier
from losssearch.language.term import CONSTANT

_LETTERS = 0xE000  # for private use; no name of a formula has them


class ValuesDecide(Exception):
    """Two different terms of one shape: only the values of their constants tell which stands first."""


class Forms(Simplifier):
    """A simplifier that many programs use.

    Args:
        signature: Of the programs.
        expand: Whether definitions are replaced by what they stand for.
    """

    def __init__(self, signature: Signature, *, expand: bool = True) -> None:
        super().__init__(signature, expand=expand)
        self.shelf = Shelf(signature, self.instructions)
        self._slots: dict[tuple[int, float, float], tuple[str, int]] = {}
        taken = set(signature.inputs)
        self._names = [f"c{i}" if f"c{i}" not in taken else f"c{i}_" for i in range(MAX_NODES)]

    def canonical(self, program: Program) -> Program:
        """The simplest form, constants named c0, c1, ... by use; raises as `simplest`."""
        return self._simplest(program, self._names)

    def simplest(self, program: Program) -> Program:
        """The simplest known form.

        Raises:
            ValuesDecide: It hangs on the values of constants.
            FormulaError: What is left is badly typed.
        """
        return self._simplest(program, None)

    def _simplest(self, program: Program, names: Sequence[str] | None) -> Program:
        slots: dict[str, int] = {}
        constants: dict[str, Constant] = {}
        for place, constant in enumerate(program.constants):
            letter, slots[constant.name] = self._slot(place, constant)
            constants[letter] = constant
        known = self._simplified
        found: list[int] = []
        for op, args, data, _, _ in program.instructions:
            if op == CONSTANT:
                found.append(slots[data])  # type: ignore[index]
                continue
            key = (op, tuple([found[i] for i in args]), data)
            index = known.get(key)
            if index is None:
                index = known[key] = self.visit(*key)
            found.append(index)
        return self.shelf.read_off([found[i] for i in program.outputs], constants, names)

    def in_order(self, items: Iterable[int]) -> list[int]:
        items = list(items)
        if len(items) < 2:
            return items
        found = sorted(items, key=self._shape)
        for one, other in pairwise(found):
            if one != other and self._shape(one) == self._shape(other):
                raise ValuesDecide
        return found

    def _shape(self, index: int) -> int:
        return self._digest(index)[0]

    def _slot(self, place: int, constant: Constant) -> tuple[str, int]:
        """Letter and step of the constant at a place, for its range."""
        key = (place, constant.low, constant.high)
        found = self._slots.get(key)
        if found is None:
            letter = chr(_LETTERS + len(self._slots))
            self.constants[letter] = Constant(letter, constant.value, constant.low, constant.high)
            found = self._slots[key] = (letter, self._emit(CONSTANT, (), letter, Kind.REAL, 0))
        return found

    @property
    def is_full(self) -> bool:
        return self.shelf.is_full or len(self._slots) >= 5_000  # letters are running out


_EXPANDED = Rooms(Forms)
_AS_WRITTEN = Rooms(partial(Forms, expand=False))


def forms_of(signature: Signature, *, expand: bool = True) -> Forms:
    """The simplifier that this thread's programs of a signature share."""
    return (_EXPANDED if expand else _AS_WRITTEN).of(signature)
