"""What may a search write, and of which type is a term that is wanted?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from losssearch.language.intervals import Interval
from losssearch.language.signature import AxisSet, Kind, Role, Signature
from losssearch.language.term import Term

# Bits of `Want.need`. A second player's predictions have the next bit, 4, a third's 8, and so on.
PREDICTION, TARGET = 1, 2

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
        need: Which of TARGET and each player's PREDICTION must occur in it, as bits.
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


def bits_of_players(signature: Signature) -> tuple[int, ...]:
    """The bit of `need` that stands for each player's predictions, in the order of the players."""
    return tuple(PREDICTION if k == 0 else TARGET << k for k in range(len(signature.players)))


def need_of(signature: Signature, inputs: Iterable[str]) -> int:
    """What of a need these inputs bring; of several players, each needs a prediction, no mere parameter."""
    bits = dict(zip(signature.players, bits_of_players(signature), strict=True))
    need = 0
    for name in inputs:
        given = signature.inputs[name]
        if given.role is Role.TARGET:
            need |= TARGET
        elif given.role is Role.PREDICTION or (given.role.is_differentiable and len(bits) == 1):
            need |= bits[given.player]
    return need


def worth(need: int) -> float:
    """How much oftener than a raw input something is chosen that speaks of predictions, target or both."""
    return 1.0 + (PREDICTION if need & ~TARGET else 0) + (need & TARGET)


def shares(need: int) -> tuple[int, ...]:
    """What a part of a whole may bring of its need: nothing first, then little, the target before others."""
    found = [part for part in range(need + 1) if not part & ~need]
    return tuple(sorted(found, key=lambda part: (part.bit_count(), part & ~TARGET)))
