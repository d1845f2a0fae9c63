"""What did a check find? Rows, as plain data, as a table, and as a page for people."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

WIDTH = 110


class Verdict(Enum):
    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Row:
    """One line of the contract: its name, the verdict and a sentence."""

    name: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True)
class LossReport:
    """What `check_loss` found; `print(report)` shows a table.

    Args:
        loss: Name of its class.
        task: What it was checked as.
        rows: One a check.
        groups: Title -> names of checks, for `as_text`.
    """

    loss: str
    task: str
    rows: tuple[Row, ...]
    groups: Mapping[str, Sequence[str]]

    @property
    def passed(self) -> bool:
        """No row failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.verdict is Verdict.FAILED)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "loss": self.loss,
            "task": self.task,
            "passed": self.passed,
            "rows": [{"name": r.name, "verdict": r.verdict.value, "detail": r.detail} for r in self.rows],
        }

    def __str__(self) -> str:
        width = max((len(row.name) for row in self.rows), default=0)
        lines = [f"{r.verdict.value:<14}  {r.name:<{width}}  {r.detail}" for r in self.rows]
        return "\n".join([f"{self.loss} ({self.task})", *lines, self._counted()])

    def as_text(self) -> str:
        """By groups, what failed marked and told again at the end, wrapped to `WIDTH`."""
        marks = {Verdict.PASSED: "ok  ", Verdict.FAILED: "FAIL", Verdict.NOT_APPLICABLE: " -  "}
        by_name = {row.name: row for row in self.rows}
        width = max(map(len, by_name), default=0)
        lines = [f"{self.loss} ({self.task})"]
        for title, names in self.groups.items():
            if rows := [by_name[name] for name in names if name in by_name]:
                lines += ["", title.capitalize()]
                for row in rows:
                    head = f"  {marks[row.verdict]}  {row.name:<{width}}  "
                    text = textwrap.wrap(row.detail, WIDTH - len(head)) or [""]
                    lines.append(head + text[0])
                    lines += [" " * len(head) + more for more in text[1:]]
        lines += ["", self._counted() + "."]
        if self.failed:
            lines[-1] += f" Failed: {', '.join(row.name for row in self.failed)}."
        return "\n".join(lines)

    def _counted(self) -> str:
        count = {v: sum(r.verdict is v for r in self.rows) for v in Verdict}
        return ", ".join(f"{n} {verdict.value}" for verdict, n in count.items())
