"""Along which lines is a loss of many numbers shown? Small batches that hang on one number.

A space file names them: a batch whose entries are numbers or formulas of `x`, and what x is. A loss of one
sample's one prediction needs none (`insight.walk`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from losssearch.errors import FormulaError
from losssearch.language.formula import parse
from losssearch.language.program import Program
from losssearch.language.signature import Input, Role, Signature

X = "x"
MOST = 64  # entries of one input

_ONE_NUMBER = Signature((), {X: Input(X, (), Role.PREDICTION)})

Nest = Program | list["Nest"]  # entries, in lists as deep as the input has axes


@dataclass(frozen=True)
class Line:
    """A line of one space.

    Args:
        title: What the batch is.
        x: What x is, in words.
        low, high: The part that is shown.
        inputs: Entries by input; what is not named is neutral.
        sizes: Of every axis that a named input has.
    """

    title: str
    x: str
    low: float
    high: float
    inputs: Mapping[str, Nest]
    sizes: Mapping[str, int]

    @cached_property
    def moved(self) -> frozenset[str]:
        """The inputs that x moves."""
        return frozenset(name for name, nest in self.inputs.items() if _moves(nest))


def line_of(
    title: str, x: str, ends: tuple[float, float], inputs: Mapping[str, object], signature: Signature
) -> Line:
    """A line, checked.

    Raises:
        FormulaError: A name is unknown, lists do not fit the axes, or an entry is no formula of x.
    """
    if not -math.inf < ends[0] < ends[1] < math.inf:
        raise FormulaError(f"the range must be finite, low < high, but is {ends[0]:g} to {ends[1]:g}")
    sizes: dict[str, int] = {}
    found: dict[str, Nest] = {}
    for name, entries in inputs.items():
        if name not in signature.inputs:
            raise FormulaError(f"no input is called {name!r}")
        axes = signature.inputs[name].axes
        found[name] = _nest(entries, name, axes)
        for axis, size in zip(axes, _shape(found[name], name), strict=True):
            own = signature.copies.get(axis, axis)
            if sizes.setdefault(own, size) != size:
                raise FormulaError(f"{own} has two sizes: {sizes[own]}, and in {name!r} {size}")
    line = Line(title, x, *ends, found, sizes)
    if not line.moved:
        raise FormulaError("no entry speaks of x")
    return line


def _nest(entries: object, name: str, axes: tuple[str, ...]) -> Nest:
    if axes:
        if not isinstance(entries, list) or not 1 <= len(entries) <= MOST:
            raise FormulaError(f"{name!r} stands over '{' '.join(axes)}': lists are wanted, as deep as that")
        return [_nest(each, name, axes[1:]) for each in entries]
    if isinstance(entries, bool) or not isinstance(entries, str | int | float):
        raise FormulaError(f"{name!r} holds no number and no formula of x where one is wanted")
    return parse(str(entries), _ONE_NUMBER)


def _shape(nest: Nest, name: str) -> tuple[int, ...]:
    if not isinstance(nest, list):
        return ()
    shapes = {_shape(each, name) for each in nest}
    if len(shapes) > 1:
        raise FormulaError(f"the lists of {name!r} are of different lengths")
    return (len(nest), *shapes.pop())


def _moves(nest: Nest) -> bool:
    return any(map(_moves, nest)) if isinstance(nest, list) else X in nest.inputs
