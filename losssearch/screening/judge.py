"""What a screen is: a judge that needs no training.

A screen looks at a `Case`, one candidate with what cheaper screens found out about it, and returns a
rejection or None. It may add to the case: its gradient on the probes, a flipped sign, a scale. One screen a
file; the table in `pipeline.py` names them, cheapest first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from losssearch.language.canonical import canonical, key_of_canonical
from losssearch.language.drafts import drafts_of
from losssearch.language.program import Program
from losssearch.outcomes import Outcome
from losssearch.screening.bulk import String
from losssearch.screening.measure import Floats, Reading, readings, string_of
from losssearch.screening.scale import gradient_scale
from losssearch.spaces import Space


class Rejection(NamedTuple):
    """Why a candidate goes no further; `same_as` is the key of the loss whose result it is given."""

    outcome: Outcome
    detail: str = ""
    same_as: str | None = None


@dataclass
class Case:
    """One candidate on its way through the screens.

    Args:
        space: Where it comes from.
        written: The program as proposed.
        flipped: Whether its sign was turned, because rising it improved predictions.
        tags: What was noticed, such as "step-size variant of ...".
        reading: What the probes show of the program as written, if somebody looked.
        scale: Of its gradient, see `scale.py`, if somebody found it.
        fingerprint: What `fingerprint.py` compares of the program as written, if somebody found it.
        descent: Error before and after descending it, its sign turned if need be, if somebody did.
    """

    space: Space
    written: Program
    flipped: bool = False
    tags: list[str] = field(default_factory=list)
    reading: Reading | None = None
    scale: float | None = None
    fingerprint: NDArray[np.float64] | None = None
    descent: tuple[float, float] | None = None

    @cached_property
    def program(self) -> Program:
        """The canonical program, which is what runs."""
        return canonical(self.written)

    @cached_property
    def key(self) -> str:
        return key_of_canonical(self.program)

    @cached_property
    def string(self) -> String | None:
        """The canonical program as the kernel runs it, on probes of any size; None if it cannot."""
        return string_of(self.program)

    @property
    def prediction(self) -> str:
        """The prediction by which trainers differentiate: the first that the space declares."""
        return self.space.signature.predictions[0]

    @property
    def known_reading(self) -> Reading:
        """What the probes show of it, before its sign was turned."""
        if self.reading is None:
            [self.reading] = readings([self.program], [self.string])
        return self.reading

    @property
    def known_scale(self) -> float:
        """By which it is multiplied before a training; the same when its sign is turned."""
        if self.scale is None:
            self.scale = gradient_scale(self.program, self.space)
        return self.scale

    @property
    def slopes(self) -> tuple[Floats, ...]:
        """Gradients on the stratified probes, each of its input's shape; the first is the prediction's."""
        slopes = self.known_reading.slopes
        return tuple([-slope for slope in slopes]) if self.flipped else slopes

    def flip(self) -> None:
        """Turn the sign; everything derived from the program is found anew."""
        _ = self.known_reading
        drafts = drafts_of(self.written.signature)
        self.written = drafts.written(drafts.negated(drafts.step_of(self.written)), self.written.constants)
        self.flipped = not self.flipped
        for name in ("program", "key", "string"):
            self.__dict__.pop(name, None)


class Screen(ABC):
    """A judge that needs no training."""

    name: str
    title: str

    def prepare(self, cases: Sequence[Case]) -> list[Case]:
        """Find out for many cases at once what `judge` will ask of each, and keep it on the case.

        No verdict may hang on it. Gives those that later screens may have to judge.
        """
        return list(cases)

    @abstractmethod
    def judge(self, case: Case) -> Rejection | None:
        """A rejection, or None to let the candidate pass."""

    def admit(self, case: Case) -> None:  # noqa: B027 - most screens keep no memory
        """A candidate has passed every screen: remember what later ones are compared with."""
