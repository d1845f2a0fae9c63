"""What may a formula speak of? Axes, inputs and definitions, as one immutable value.

A value of the language is laid out over a *set of axes*. Sets are kept as bit masks in the declared
order, so that a union is `|` and a test costs nothing; `Signature.axes_of` and
`Signature.axes_text` translate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

from losssearch.errors import FormulaError
from losssearch.language.intervals import Interval

if TYPE_CHECKING:
    from losssearch.language.term import Term

AxisSet = int


class Kind(Enum):
    """What a value is: a number, or a yes/no that counts as 1 and 0 wherever a number is wanted."""

    REAL = "real"
    MASK = "mask"


class Role(Enum):
    """Where an input comes from, and whether a loss is differentiated by it."""

    PREDICTION = "prediction"
    TARGET = "target"
    MASK = "mask"
    PARAMETER = "parameter"
    NOISE = "noise"
    SCHEDULE = "schedule"
    PROVIDED = "provided"

    @property
    def is_differentiable(self) -> bool:
        return self in (Role.PREDICTION, Role.PARAMETER)


@dataclass(frozen=True)
class Input:
    """A tensor that a loss is given.

    Args:
        name: As formulas write it.
        axes: Names of its axes, in declared order.
        role: Where it comes from.
        low, high: Operating range; facts are proved on it, probes are drawn from it.
        properties: Promises such as "simplex over c" or "one_hot".
        player: Whose it is, where several learn from one loss, each by the slopes in what is its own; ""
            where there is one learner.
        there: The mask that says which of its entries are there; "" where all are.
        about: What it is, for people.
    """

    name: str
    axes: tuple[str, ...]
    role: Role = Role.PROVIDED
    low: float = -float("inf")
    high: float = float("inf")
    properties: frozenset[str] = frozenset()
    player: str = ""
    there: str = ""
    about: str = ""

    @property
    def interval(self) -> Interval:
        return Interval(self.low, self.high)


@dataclass(frozen=True)
class Definition:
    """A name that stands for a formula, for example `p_t` for `sum(target * p, 'c')`."""

    name: str
    text: str
    term: Term
    kind: Kind
    axes: AxisSet


@dataclass(frozen=True)
class Signature:
    """Axes, inputs and definitions that the formulas of one space share.

    Args:
        axes: All axis names, in the order in which tensors are laid out.
        copies: Axis -> the axis it is a copy of (same size, reached only by `like`).
        sets: The axis sets that a written value may have; None allows all.
        inputs: By name.
        definitions: By name; each may use the ones before it.
        better: The direction in which a prediction improves, in words.
        about: What is counted along each axis, for people.
    """

    axes: tuple[str, ...]
    inputs: Mapping[str, Input]
    copies: Mapping[str, str] = field(default_factory=dict)
    sets: frozenset[AxisSet] | None = None
    definitions: Mapping[str, Definition] = field(default_factory=dict)
    better: str = ""
    about: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("inputs", "copies", "definitions", "about"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.axes, tuple(self.inputs), tuple(self.definitions), self.sets))

    def __reduce__(self) -> tuple[object, ...]:
        return Signature, (
            self.axes,
            dict(self.inputs),
            dict(self.copies),
            self.sets,
            dict(self.definitions),
            self.better,
            dict(self.about),
        )

    @cached_property
    def bits(self) -> Mapping[str, AxisSet]:
        return MappingProxyType({name: 1 << i for i, name in enumerate(self.axes)})

    @cached_property
    def sizes(self) -> Mapping[str, str]:
        """Name of an axis's size in formulas (its capital) -> axis."""
        return MappingProxyType({name.upper(): name for name in self.axes})

    @cached_property
    def predictions(self) -> tuple[str, ...]:
        return tuple(n for n, i in self.inputs.items() if i.role is Role.PREDICTION)

    @cached_property
    def differentiable(self) -> tuple[str, ...]:
        return tuple(n for n, i in self.inputs.items() if i.role.is_differentiable)

    @cached_property
    def players(self) -> tuple[str, ...]:
        """Who learns, in the order of the inputs; "" alone where nobody is named."""
        return tuple(dict.fromkeys(self.inputs[n].player for n in self.differentiable))

    def axes_of(self, names: Iterable[str] | str) -> AxisSet:
        """The set that `names` (an iterable, or text such as 'n c') stand for."""
        result = 0
        for name in names.split() if isinstance(names, str) else names:
            if name not in self.bits:
                raise FormulaError(
                    f"no axis is called {name!r}",
                    remedy=f"The axes here are {', '.join(self.axes)}",
                )
            result |= self.bits[name]
        return result

    def axes_names(self, axes: AxisSet) -> tuple[str, ...]:
        return tuple(name for i, name in enumerate(self.axes) if axes >> i & 1)

    def axes_text(self, axes: AxisSet) -> str:
        return " ".join(self.axes_names(axes))

    def defining(self, definition: Definition) -> Signature:
        """This signature with one definition more."""
        return replace(self, definitions={**self.definitions, definition.name: definition})
