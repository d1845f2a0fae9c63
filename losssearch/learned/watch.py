"""How does one follow a learning that takes a while, and end it early?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a learning is: what is done, of how much, and how good it is of late; lower is better."""

    phase: str
    done: int
    of: int
    loss: float


#: Is told of the progress now and then; False ends the learning early, and what is learned so far stays.
Watch = Callable[[Progress], bool]


def no_watch(progress: Progress) -> bool:
    """Goes on to the end."""
    return True
