"""What is known of each step that programs share, found once?

Candidates of one search are made of the same words: two of three steps of a new one have been checked,
bounded and written before. A builder that many programs use (`forms.py`, `drafts.py`) keeps each such step
once; its shelf knows what stands under a step, in running order, how large and deep that is, how it is
written and which inputs it reads. A program is then read off its root.

About 1 kB a step. A full builder is thrown away, so that the memory of a long search is bounded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar, cast

from losssearch.language.formula import format_step
from losssearch.language.program import MAX_NODES, Constant, Instruction, Program
from losssearch.language.signature import Kind, Signature
from losssearch.language.term import CONSTANT, DEFINED, INPUT

FULL = 60_000  # steps that a builder may hold
MOST = 16  # builders of a kind that a thread keeps
_LONG = MAX_NODES // 4  # nodes beyond which shared parts are written under a name, and not here
_NONE: frozenset[str] = frozenset()


class Growing(Protocol):
    """A builder that grows while it is used."""

    @property
    def is_full(self) -> bool: ...


Room = TypeVar("Room", bound=Growing)


class Rooms(threading.local, Generic[Room]):
    """One builder a signature, for each thread its own; a full one gives way to an empty one.

    Args:
        make: Makes an empty one.
    """

    def __init__(self, make: Callable[[Signature], Room]) -> None:
        self._make = make
        self._newest: dict[Signature, Room] = {}

    def of(self, signature: Signature) -> Room:
        """The builder of a signature."""
        room = self._newest.get(signature)
        if room is None or room.is_full:
            if len(self._newest) >= MOST:
                self._newest.clear()
            room = self._newest[signature] = self._make(signature)
        return room


class Shelf:
    """Notes on the steps of a builder that grows; index i speaks of its step i.

    `below[i]` are the steps that i needs, i included, in running order; `nodes`, `depths` and `inputs` are
    those of the tree under i.

    Args:
        signature: Of the steps.
        steps: The builder's own list. A constant in it has its own name, or one letter that stands for it.
    """

    def __init__(self, signature: Signature, steps: Sequence[Instruction]) -> None:
        self.signature, self.steps = signature, steps
        self.below: list[tuple[int, ...]] = []
        self.nodes: list[int] = []
        self.depths: list[int] = []
        self.texts: dict[int, tuple[str, int]] = {}
        self.inputs: list[frozenset[str]] = []
        self._constants: dict[str, Instruction] = {}
        self._read: dict[tuple[int, tuple[int, ...]], Instruction] = {}

    @property
    def is_full(self) -> bool:
        return len(self.steps) > FULL or len(self._read) > 3 * FULL

    def catch_up(self) -> None:
        """Take in the steps that are new."""
        below, nodes, depths, inputs = self.below, self.nodes, self.depths, self.inputs
        for i in range(len(below), len(self.steps)):
            step = self.steps[i]
            args = step.args
            if not args:
                below.append((i,))
                nodes.append(1)
                depths.append(1)
                read = step.op in (INPUT, DEFINED)
                inputs.append(Program(self.signature, (step,), (0,)).inputs if read else _NONE)
            elif len(args) == 1:
                [j] = args
                below.append((*below[j], i))
                nodes.append(1 + nodes[j])
                depths.append(1 + depths[j])
                inputs.append(inputs[j])
            else:
                below.append((*dict.fromkeys([k for j in args for k in below[j]]), i))
                nodes.append(1 + sum([nodes[j] for j in args]))
                depths.append(1 + max([depths[j] for j in args]))
                every = inputs[args[0]]
                for j in args[1:]:
                    every = every if inputs[j] <= every else every | inputs[j]
                inputs.append(every)

    def text(self, root: int) -> str | None:
        """The formula under a step; None for a long one, in which shared parts have names."""
        if self.nodes[root] > _LONG:
            return None
        texts = self.texts
        if root not in texts:
            for i in self.below[root]:
                if i not in texts:
                    op, args, data, _, _ = self.steps[i]
                    texts[i] = format_step(op, [texts[j] for j in args], data)
        return texts[root][0]

    def read_off(
        self, roots: Sequence[int], constants: Mapping[str, Constant], names: Sequence[str] | None = None
    ) -> Program:
        """The program of some roots.

        Args:
            roots: Its outputs.
            constants: By the name that a step holds, which need not be the constant's own.
            names: Names that they get, by their order of use; None for their own.
        """
        if len(self.below) < len(self.steps):
            self.catch_up()
        order: Iterable[int] = self.below[roots[0]]
        if len(roots) > 1:
            order = dict.fromkeys([i for root in roots for i in self.below[root]])
        place: dict[int, int] = {}
        steps: list[Instruction] = []
        used: list[Constant] = []
        renamed: dict[str, str] = {}
        read, known = self._read, self.steps
        for count, i in enumerate(order):
            place[i] = count
            step = known[i]
            if step.op == CONSTANT:
                constant = constants[cast(str, step.data)]
                if names is not None and constant.name != names[len(used)]:
                    constant = _renamed(constant, names[len(used)])
                renamed[cast(str, step.data)] = constant.name
                step = self._named(constant.name)
                used.append(constant)
            elif args := step.args:
                key = (i, tuple([place[j] for j in args]))
                found = read.get(key)
                if found is None:
                    found = read[key] = Instruction(step.op, key[1], step.data, step.kind, step.axes)
                step = found
            steps.append(step)
        program = Program(self.signature, tuple(steps), tuple([place[i] for i in roots]), tuple(used))
        self._prepare(program, roots, renamed)
        return program

    def _named(self, name: str) -> Instruction:
        found = self._constants.get(name)
        if found is None:
            found = self._constants[name] = Instruction(CONSTANT, (), name, Kind.REAL, 0)
        return found

    def _prepare(self, program: Program, roots: Sequence[int], renamed: Mapping[str, str]) -> None:
        """Fill in what a program would find out of itself when asked."""
        known = program.__dict__
        known["depth"] = max([self.depths[i] for i in roots])
        if len(roots) > 1:
            return
        [root] = roots
        known["inputs"] = self.inputs[root]
        known["sizes"] = tuple([self.nodes[i] for i in self.below[root]])
        text = self.text(root)
        if text is not None:
            # What was renamed was one letter, so that no name can be part of another.
            letters = {ord(letter): name for letter, name in renamed.items() if letter != name}
            known["text"] = text.translate(letters) if letters else text


def _renamed(constant: Constant, name: str) -> Constant:
    return Constant(name, constant.value, constant.low, constant.high, constant.learnable)
