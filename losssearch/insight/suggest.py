"""Which loss for which task?

    suggestions("multiclass", ["imbalance", "label-noise"])

What is known stands in `suggestions.toml`: one row a task, a trait of it, a loss, a reason and a source.
A loss that serves several of the traits comes first; where to begin comes last, to compare with.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from losssearch.errors import UsageError
from losssearch.space_file import did_you_mean, shortened
from losssearch.spaces import Space, load_space, space_names

PLAIN = "plain"

_FILE = Path(__file__).with_name("suggestions.toml")


@dataclass(frozen=True)
class Advice:
    """One row: for this task, where it is so, take this loss, for this reason, says this source."""

    task: str
    trait: str
    loss: str
    reason: str
    source: str


@dataclass(frozen=True)
class Suggestion:
    """A loss, and why.

    Args:
        space: Where it lives.
        loss: Its name there.
        traits: Which of the asked traits it serves; ("plain",) for where to begin.
        reasons: One a trait.
        sources: One a reason.
    """

    space: str
    loss: str
    traits: tuple[str, ...]
    reasons: tuple[str, ...]
    sources: tuple[str, ...]

    @property
    def reference(self) -> str:
        """As `losssearch show` and `ls.explain` take it."""
        return f"{self.space}/{self.loss}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}


def suggestions(task: str, traits: Collection[str] = ()) -> list[Suggestion]:
    """Losses for a task, those that serve most of the traits first.

    Args:
        task: Name of a shipped space.
        traits: Out of `traits_of(task)`; without any, only where to begin.

    Returns:
        For a task without advice: all its losses that a search may start from, as the catalogue has them.

    Raises:
        UsageError: There is no such task, or no advice on a trait for it.
    """
    space = _space(task)
    known = traits_of(task)
    for trait in traits:
        if trait not in known:
            there = f"There is advice on {', '.join(known)}." if known else "There is none on any trait."
            hint = did_you_mean(trait, known) or f" {there}"
            raise UsageError(f"No advice on {shortened(trait)} for the task {task!r}.{hint}")
    rows = [row for row in advice() if row.task == task]
    if not rows:
        return [
            Suggestion(task, loss.name, (PLAIN,), (f"{loss.title}.",), (loss.source,))
            for loss in space.losses.values()
            if loss.seed
        ]
    wanted = [row for trait in traits for row in rows if row.trait == trait]
    by_loss: dict[str, list[Advice]] = {}
    for row in [*wanted, *(row for row in rows if row.trait == PLAIN)]:
        by_loss.setdefault(row.loss, []).append(row)
    found = [
        Suggestion(
            space.name,
            loss,
            *(tuple(getattr(row, key) for row in some) for key in ("trait", "reason", "source")),
        )
        for loss, some in by_loss.items()
    ]
    return sorted(found, key=lambda s: (s.traits[0] == PLAIN, -len(s.traits)))  # stable: file order


def traits_of(task: str) -> dict[str, str]:
    """What may be asked about a task: trait -> question, in the file's order."""
    found = {row.trait for row in advice() if row.task == task}
    return {name: question for name, question in questions().items() if name in found and name != PLAIN}


@cache
def advice() -> tuple[Advice, ...]:
    """All rows of the file."""
    return tuple(Advice(**row) for row in _read()["advice"])


def questions() -> Mapping[str, str]:
    """Trait -> the question whether it is so."""
    found: dict[str, str] = _read()["traits"]
    return found


@cache
def _read() -> dict[str, Any]:
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))


def _space(task: str) -> Space:
    if task not in (known := space_names()):
        hint = did_you_mean(task, known) or f" There are {', '.join(known)}."
        raise UsageError(f"No task is called {shortened(task)}.{hint}")
    return load_space(task)
