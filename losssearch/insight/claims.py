"""What is a claim? A sentence that is true of a loss, what it rests on, and the numbers in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

WITHIN = 0.25  # "like the reference": the ratio of gradients moves by no more
TENTH = 0.1  # "fades", "gives up"
SURE = 0.999  # beyond, nothing is said about answers that are right


class Basis(Enum):
    """What a sentence rests on."""

    PROVED = "proved"
    REFUTED = "refuted by a counter-example"
    MEASURED = "measured"


@dataclass(frozen=True)
class Sentence:
    """One thing that is true of a loss.

    Args:
        name: Key of `SENTENCES`.
        text: For people.
        basis: What it rests on.
        numbers: The numbers in it, unrounded.
    """

    name: str
    text: str
    basis: Basis
    numbers: Mapping[str, float] = field(default_factory=dict)


Found = tuple[str, Basis, dict[str, float]] | None
"""Text, basis and numbers of a sentence, or nothing."""
