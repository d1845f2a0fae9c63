"""What may a search write, and of which type is a term that is wanted?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from losssearch.language.intervals import Interval
from losssearch.language.signature import AxisSet, Kind, Signature
from losssearch.language.term import Term

PREDICTION, TARGET = 1, 2  # bits of `Want.need`

# How often an operation is chosen: sums and products make losses, towers of sigmoids do not.
WEIGHTS = {
    "add": 4.0, "sub": 3.0, "mul": 4.0, "div": 2.5, "neg": 1.0, "square": 1.5, "exp": 1.5,
    "log": 1.5, "pow": 2.0, "sum": 2.0, "mean": 1.5, "dot": 3.0, "max": 1.0, "min": 1.0,
    "logsumexp": 0.5,
}  # fmt: skip
ORDINARY_WEIGHT = 0.6


class Want(NamedTuple):
    """The type of a wanted term.

    Args:
        kind: Number or mask.
        axes: Exactly these.
        sign: 1 never negative, -1 never positive, 0 either.
        need: Which of PREDICTION and TARGET must occur in it.
    """

    kind: Kind
    axes: AxisSet
    sign: int = 0
    need: int = 0


class Production(NamedTuple):
    """One way to make a wanted term: a finished leaf, or an operation on wanted arguments."""

    weight: float
    op: str
    data: tuple[str, ...] | None
    args: tuple[Want, ...]
    leaf: Term | None = None


class Terminal(NamedTuple):
    """A name that formulas may use, and what is known of it."""

    term: Term
    kind: Kind
    axes: AxisSet
    interval: Interval
    need: int


@dataclass(frozen=True)
class Grammar:
    """What a search may write.

    Args:
        signature: What names mean.
        primitives: Name -> weight of the primitives that may be used.
        terminals: Names of inputs, definitions and axis sizes that may be used.
        sets: Axis sets that a grown value may have.
        nodes, depth: Limits of a body; the head does not count.
        head: A formula with the name `body` in it.
        rightness: Terminal -> +1 if it rises as the prediction gets better, -1 if it falls, 2 if
            its size falls.
    """

    signature: Signature
    primitives: Mapping[str, float]
    terminals: tuple[str, ...]
    sets: frozenset[AxisSet]
    nodes: int = 24
    depth: int = 8
    head: str = "body"
    rightness: Mapping[str, int] | None = None
