"""What was measured of a loss, before anything is said about it?

Slopes of the loss and of its reference on one dense grid of the walk. *Wrong* is the far end of it where
the prediction is bad: to the left for a label, either side for a residual. Numbers only; some
milliseconds a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from losssearch.insight.profile import profile, slopes
from losssearch.insight.walk import FAR, SHOWN, Walk
from losssearch.insight.weights import ratio
from losssearch.language.facts import Facts
from losssearch.language.program import Program

POINTS = 1201
SMALL = 1e-3  # a residual near 0
JUMP = 0.01  # of the largest slope in view, for a kink
KINKS = 3  # that are told


@dataclass(frozen=True)
class Measured:
    """A loss beside its reference on a walk.

    Args:
        program: The loss.
        walk: Its line.
        facts: What is proved or refuted of it.
        reference: What it is compared with.
        reference_name: How people call that.
        assumed: Other inputs that it reads, and what they are along the walk.
    """

    program: Program
    walk: Walk
    facts: Facts
    reference: Program
    reference_name: str
    assumed: dict[str, str]

    @property
    def labels(self) -> bool:
        """Whether the walk goes towards a label, and not over residuals."""
        return self.walk.task != "regression"

    @property
    def far(self) -> float:
        return FAR[self.walk.task]

    @cached_property
    def grid(self) -> tuple[float, ...]:
        """Rising positions: even for labels, geometric on both sides of 0 for residuals."""
        if self.labels:
            return tuple(-self.far + 2 * self.far * i / (POINTS - 1) for i in range(POINTS))
        half = POINTS // 2
        sizes = [SMALL * (self.far / SMALL) ** (i / (half - 1)) for i in range(half)]
        return (*(-s for s in reversed(sizes)), *sizes)

    @cached_property
    def slope(self) -> tuple[float, ...]:
        return slopes(self.program, self.walk, self.grid)

    @cached_property
    def reference_slope(self) -> tuple[float, ...]:
        return slopes(self.reference, self.walk, self.grid)

    @cached_property
    def ratios(self) -> tuple[float, ...]:
        """Of the slopes; nan where the reference has none."""
        return ratio(self.slope, self.reference_slope)

    @cached_property
    def peak(self) -> tuple[float, float]:
        """Size and place of the steepest slope."""
        return max((abs(s), x) for s, x in zip(self.slope, self.grid, strict=True))

    def at(self, *x: float, walk: Walk | None = None) -> tuple[float, ...]:
        """Slopes at single positions."""
        return slopes(self.program, walk or self.walk, x)

    def values(self, *x: float) -> tuple[float, ...]:
        return profile(self.program, self.walk, x).value

    @cached_property
    def wrong(self) -> tuple[tuple[float, float], ...]:
        """Sizes of the slope half-way to the wrong end and at it, for each wrong side."""
        ends = (-self.far,) if self.labels else (-self.far, self.far)
        return tuple((abs(a), abs(b)) for a, b in (self.at(x / 2, x) for x in ends))

    @cached_property
    def kinks(self) -> tuple[tuple[float, float, float], ...]:
        """Where the slope jumps in view, and from what to what; by bisection of the steepest steps."""
        low, high = SHOWN[self.walk.task]
        grid = [low + (high - low) * (i + 0.37) / 400 for i in range(400)]  # no kink on a point
        values = self.at(*grid)
        least = JUMP * max(abs(v) for v in values)
        steps = list(zip(grid, grid[1:], values, values[1:], strict=False))
        open_ = [step for step in steps if abs(step[3] - step[2]) > least]
        for _ in range(40):
            if not open_:
                break
            middles = [(a + b) / 2 for a, b, _, _ in open_]
            found = self.at(*middles)
            halves = [
                max(((a, m, s, v), (m, b, v, t)), key=lambda h: abs(h[3] - h[2]))
                for (a, b, s, t), m, v in zip(open_, middles, found, strict=True)
            ]
            open_ = [h for h in halves if abs(h[3] - h[2]) > least]
        return tuple((a, s, t) for a, _, s, t in open_[:KINKS])

    def reach(self, holds: Sequence[bool], start: int, step: int) -> float | None:
        """The last position, from `start` on, up to which a condition holds without a gap."""
        last = None
        while 0 <= start < len(holds) and holds[start]:
            last = self.grid[start]
            start += step
        return last

    def index(self, condition: Callable[[float], bool]) -> int:
        """Of the first position for which it is true."""
        return next(i for i, x in enumerate(self.grid) if condition(x))
