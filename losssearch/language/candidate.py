"""What does a search propose, train and remember? A named tuple of programs, usually one.

A detector has a part for boxes, one for classes, and one called 'loss' that puts them together: that one
is trained, the others are told beside it. Without it each part is trained on its own. Keys, size and text
are those of what is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from losssearch.errors import FormulaError
from losssearch.language.canonical import VERSION, candidate_key, digest, structure_key
from losssearch.language.formula import ConstantLike, parse
from losssearch.language.program import Constant, Program
from losssearch.language.signature import Signature

LOSS = "loss"


@dataclass(frozen=True)
class Candidate:
    """One or more programs over one signature, by name and in order of name.

    Args:
        parts: Name -> program; `Candidate.of(program)` makes the usual one.

    Raises:
        FormulaError: There is no part, or parts speak of different signatures, or mean different
            constants by one name.
    """

    parts: Mapping[str, Program]

    def __post_init__(self) -> None:
        if not self.parts:
            raise FormulaError("a candidate needs at least one part", remedy="Give it a 'loss'")
        parts = dict(sorted(self.parts.items()))
        object.__setattr__(self, "parts", MappingProxyType(parts))
        if any(program.signature != self.signature for program in parts.values()):
            raise FormulaError("the parts of a candidate must share one signature")
        constants = {c.name: c for program in parts.values() for c in program.constants}
        for program in parts.values():
            for c in program.constants:
                if c != constants[c.name]:
                    raise FormulaError(f"the constant {c.name!r} must be the same in all parts")

    def __hash__(self) -> int:
        return hash(tuple(self.parts.items()))

    def __reduce__(self) -> tuple[object, ...]:
        return Candidate, (dict(self.parts),)

    @classmethod
    def of(cls, program: Program) -> Candidate:
        """The usual candidate: one loss."""
        return cls({LOSS: program})

    @classmethod
    def parse(
        cls,
        parts: Mapping[str, str],
        signature: Signature,
        constants: Mapping[str, ConstantLike] | None = None,
    ) -> Candidate:
        """A candidate from formulas; constants of one name are one constant in all parts.

        A part called 'loss' may speak of the others by their names.
        """
        found = {name: parse(text, signature, constants) for name, text in parts.items() if name != LOSS}
        if LOSS in parts:
            names = {name: program.term() for name, program in found.items()}
            found[LOSS] = parse(parts[LOSS], signature, constants, names=names)
        return cls(found)

    def with_constants(self, values: Mapping[str, float]) -> Candidate:
        """The same structure with other values of its constants, in every part that has them.

        Raises:
            FormulaError: No part has a constant of a name, or a value is outside its range.
        """
        known = self.constant_values
        if unknown := [name for name in values if name not in known]:
            raise FormulaError(f"no part has a constant {unknown[0]!r}")
        return Candidate(
            {
                name: p.with_constants({k: v for k, v in values.items() if k in p.constant_values})
                for name, p in self.parts.items()
            }
        )

    @property
    def signature(self) -> Signature:
        return next(iter(self.parts.values())).signature

    @property
    def trained(self) -> Mapping[str, Program]:
        """The parts that are trained: the one called 'loss' where there is one, else all."""
        return {LOSS: self.parts[LOSS]} if LOSS in self.parts else self.parts

    @property
    def is_one(self) -> bool:
        """Whether one program is trained."""
        return len(self.trained) == 1

    @property
    def loss(self) -> Program:
        """The one program that is trained.

        Raises:
            FormulaError: There are several.
        """
        if not self.is_one:
            raise FormulaError(
                f"the candidate has the parts {', '.join(self.parts)}, but no 'loss'",
                remedy="Each part is trained on its own; take one by its name",
            )
        return next(iter(self.trained.values()))

    @property
    def inputs(self) -> frozenset[str]:
        """Names of the inputs that some part reads."""
        return frozenset[str]().union(*(program.inputs for program in self.parts.values()))

    @property
    def constants(self) -> tuple[Constant, ...]:
        """The constants of all parts, each once."""
        return tuple({c.name: c for program in self.parts.values() for c in program.constants}.values())

    @property
    def constant_values(self) -> dict[str, float]:
        return {c.name: c.value for c in self.constants}

    @cached_property
    def key(self) -> str:
        """Same canonical form and constants; of a single loss, its program's `candidate_key`."""
        return self._joined({name: candidate_key(p) for name, p in self.trained.items()})

    @cached_property
    def structure_key(self) -> str:
        """The same for candidates that differ only in the values of constants."""
        return self._joined({name: structure_key(p) for name, p in self.trained.items()})

    def _joined(self, keys: Mapping[str, str]) -> str:
        if list(keys) == [LOSS]:
            return keys[LOSS]
        return digest(f"{VERSION}|" + "|".join(f"{name}={key}" for name, key in keys.items()))

    @property
    def size(self) -> int:
        return sum(program.size for program in self.trained.values())

    @property
    def text(self) -> str:
        """The formula of a single loss, else `name = formula` line by line."""
        if LOSS in self.parts:
            return self.parts[LOSS].text
        return "\n".join(f"{name} = {program.text}" for name, program in self.parts.items())

    def __str__(self) -> str:
        return self.text
