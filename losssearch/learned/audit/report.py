"""What does an audit of a learned loss report? Everyone's errors, best first, and the differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from losssearch.audit.statistics import PairedComparison
from losssearch.proxies.base import Proxy

DECAYS = (0.0, 0.01, 0.03)  # where a proxy names none


@dataclass(frozen=True)
class Line:
    """One contender.

    Args:
        label: Who.
        error: Mean over splits or tasks, at the end.
        curve: Mean error before the first and after every inner step; empty for proxies.
        setting: What tuning chose.
        versus: The learned loss less this one; None for the learned loss itself.
        classical: This one less plain cross entropy; None for that itself, and for small tasks.
    """

    label: str
    error: float
    curve: tuple[float, ...]
    setting: dict[str, float]
    versus: PairedComparison | None = None
    classical: PairedComparison | None = None


@dataclass(frozen=True)
class LearnedReport:
    """Everyone's errors, best first."""

    on: str
    metric: str
    count: int
    lines: tuple[Line, ...]

    def line(self, label: str) -> Line:
        """The contender called so."""
        return next(line for line in self.lines if line.label == label)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "lines": [asdict(line) for line in self.lines]}


def best_first(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Sorted by error; equal ones by name."""
    return tuple(sorted(lines, key=lambda line: (line.error, line.label)))


def grid_of(task: Proxy) -> list[tuple[float, float]]:
    """Every rate with every decay that the proxy names."""
    usual = task.setting()
    return list(product(usual.rates, usual.decays if len(usual.decays) > 1 else DECAYS))
