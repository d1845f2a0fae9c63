"""What does a search propose, train and remember? A named tuple of programs, usually one.

A GAN has two parts, a detector one for boxes and one for classes. Keys, size and text belong
to the candidate as a whole; a part's own are its program's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from losssearch.errors import FormulaError
from losssearch.language.canonical import VERSION, candidate_key, digest, structure_key
from losssearch.language.formula import ConstantLike, parse
from losssearch.language.program import Program
from losssearch.language.signature import Signature

LOSS = "loss"


@dataclass(frozen=True)
class Candidate:
    """One or more programs over one signature, by name and in order of name.

    Args:
        parts: Name -> program; `Candidate.of(program)` makes the usual one.

    Raises:
        FormulaError: There is no part, or parts speak of different signatures.
    """

    parts: Mapping[str, Program]

    def __post_init__(self) -> None:
        if not self.parts:
            raise FormulaError("a candidate needs at least one part", remedy="Give it a 'loss'")
        parts = dict(sorted(self.parts.items()))
        object.__setattr__(self, "parts", MappingProxyType(parts))
        if any(program.signature != self.signature for program in parts.values()):
            raise FormulaError("the parts of a candidate must share one signature")

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
        """A candidate from formulas; constants of one name are one constant in all parts."""
        return cls({name: parse(text, signature, constants) for name, text in parts.items()})

    @property
    def signature(self) -> Signature:
        return next(iter(self.parts.values())).signature

    @property
    def loss(self) -> Program:
        """The only part, or the one called 'loss'.

        Raises:
            FormulaError: There are several, and none has that name.
        """
        if len(self.parts) == 1:
            return next(iter(self.parts.values()))
        if LOSS not in self.parts:
            raise FormulaError(f"the candidate has the parts {', '.join(self.parts)}, but no 'loss'")
        return self.parts[LOSS]

    @cached_property
    def key(self) -> str:
        """Same canonical form and constants; of a single loss, its program's `candidate_key`."""
        return self._joined({name: candidate_key(p) for name, p in self.parts.items()})

    @cached_property
    def structure_key(self) -> str:
        """The same for candidates that differ only in the values of constants."""
        return self._joined({name: structure_key(p) for name, p in self.parts.items()})

    def _joined(self, keys: Mapping[str, str]) -> str:
        if list(keys) == [LOSS]:
            return keys[LOSS]
        return digest(f"{VERSION}|" + "|".join(f"{name}={key}" for name, key in keys.items()))

    @property
    def size(self) -> int:
        return sum(program.size for program in self.parts.values())

    @property
    def text(self) -> str:
        """The formula of a single loss, else `name = formula` line by line."""
        if list(self.parts) == [LOSS]:
            return self.parts[LOSS].text
        return "\n".join(f"{name} = {program.text}" for name, program in self.parts.items())

    def __str__(self) -> str:
        return self.text
