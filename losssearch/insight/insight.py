"""Everything that is known of one loss without training it.

    found = ls.explain("focal", against=["cross_entropy", "focal(gamma=5)"])
    print(found)                     # the sentences, and the tables behind them
    found.plot("focal.svg")

Facts are proved or refuted, sentences rest on facts and on measured slopes, and tables and pictures show
the slopes themselves. A tenth of a second a loss, and a second to load torch the first time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from losssearch.errors import UsageError
from losssearch.execution.refute import refuted
from losssearch.insight.along import along, lines_of, positions
from losssearch.insight.counterexample import with_small_examples
from losssearch.insight.measured import Measured
from losssearch.insight.profile import profile
from losssearch.insight.sentences import FROM_FACTS, Sentence, explain
from losssearch.insight.walk import Walk, assumed, no_walk
from losssearch.insight.weights import Weights, pull, ratio, usual_groups, weigh
from losssearch.language.facts import Fact, Facts, facts
from losssearch.lines import Line
from losssearch.result import Discovered

MOST = 4  # others in one picture; more cannot be told apart

PROBABILITIES = (0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99, 0.999)
ROWS = 9  # of the table of a line
RESIDUALS = (-100.0, -10.0, -3.0, -1.0, -0.3, -0.1, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)


@dataclass(frozen=True)
class Insight:
    """A loss, looked at.

    Args:
        loss: The loss.
        reference: What ratios are taken to.
        others: What is drawn beside it; all of one space.
        facts: What is proved or refuted of it.
        no_profile: Why it has no curves; empty where it has.
    """

    loss: Discovered
    reference: Discovered
    others: tuple[Discovered, ...]
    facts: Facts
    no_profile: str

    @cached_property
    def lines(self) -> dict[str, Line]:
        """Along which it is shown where it has no profile, by name."""
        return lines_of(self.loss.program, self.loss.space.lines) if self.no_profile else {}

    @cached_property
    def tables(self) -> dict[str, list[dict[str, float]]]:
        """As `table`, along each line; ratios are nan where the reference reads nothing that moves."""
        found = {}
        for name, line in self.lines.items():
            x = positions(line, ROWS)
            own, base = (along(each.program, line, x) for each in (self.loss, self.reference))
            if not lines_of(self.reference.program, {name: line}):
                base = replace(base, value=(math.nan,) * ROWS)
            columns = {"x": own.x, "value": own.value, "gradient": own.slope, "curvature": own.curvature}
            columns["value_ratio"] = ratio(own.value, base.value)
            columns["gradient_ratio"] = ratio(own.slope, base.slope)
            found[name] = [
                dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
            ]
        return found

    @cached_property
    def walk(self) -> Walk:
        return Walk(self.loss.space.task)

    @cached_property
    def sentences(self) -> tuple[Sentence, ...]:
        """What can be said of it in plain words."""
        loss = self.loss
        words = {} if self.no_profile else dict(assumed(loss.program, loss.space))
        reference = name_of(self.reference).replace("_", " ")
        m = Measured(loss.program, self.walk, self.facts, self.reference.program, reference, words)
        return explain(m, FROM_FACTS if self.no_profile else ())

    @cached_property
    def table(self) -> list[dict[str, float]]:
        """The loss at some points of its walk: at, value, gradient, curvature and ratios to the reference."""
        if self.no_profile:
            return []
        labels = self.walk.task != "regression"
        points = PROBABILITIES if labels else RESIDUALS
        x = [self.walk.at_probability(p) for p in points] if labels else list(points)
        own, base = (profile(d.program, self.walk, x) for d in (self.loss, self.reference))
        columns = {
            "p" if labels else "r": points,
            "value": own.value,
            "gradient": own.slope,
            "curvature": own.curvature,
            "value_ratio": ratio(own.value, base.value),
            "gradient_ratio": ratio(own.slope, base.slope),
        }
        return _rows(columns)

    @cached_property
    def weights(self) -> dict[str, dict[str, Any]]:
        """How each loss weighs samples, by its name: by value, by gradient, and the hard samples' pull."""
        if self.no_profile:
            return {}
        found = {}
        for each in self.shown:
            by = {b: weigh(each.program, self.reference.program, self.walk, b) for b in ("value", "gradient")}
            share = pull(each.program, self.reference.program, self.walk)
            name = name_of(each) if name_of(each) not in found else each.reference
            found[name] = {**by, "pull": share.own if share else None}
        return found

    @property
    def shown(self) -> tuple[Discovered, ...]:
        """The loss, then the reference, then the others, each once."""
        found: dict[str, Discovered] = {}
        for each in (self.loss, self.reference, *self.others):
            found.setdefault(each.key, each)
        return tuple(found.values())

    def plot(self, path: str | Path) -> Path:
        """Draw value, gradient, curvature, ratios and weights into a file, PNG or SVG by its suffix.

        Where a loss has no profile, the first three along each line of its space.

        Raises:
            UsageError: There is neither, or the suffix is another.
            ExportError: The file cannot be written there.
        """
        from losssearch.insight.figure import draw
        from losssearch.insight.picture import six_panels
        from losssearch.insight.rows import rows

        if self.no_profile and not self.lines:
            raise UsageError(f"Nothing to draw. {self.no_profile}")
        return draw(lambda: rows(self) if self.no_profile else six_panels(self), Path(path))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON; ratios to 0 are nan."""
        examples = {
            name: dict(fact.counterexample)
            for name, fact in vars(self.facts).items()
            if isinstance(fact, Fact) and fact.counterexample
        }
        return {
            "explanation": [
                {"name": s.name, "text": s.text, "basis": s.basis.value, "numbers": dict(s.numbers)}
                for s in self.sentences
            ],
            "counterexamples": examples,
            "no_profile": self.no_profile,
            "reference": name_of(self.reference),
            "against": [name_of(each) for each in self.others],
            "profile": self.table,
            "lines": {
                name: {"title": line.title, "x": line.x, "rows": self.tables[name]}
                for name, line in self.lines.items()
            },
            "weights": {
                name: {k: vars(w) if isinstance(w, Weights) else w for k, w in row.items()}
                for name, row in self.weights.items()
            },
        }

    def __str__(self) -> str:
        from losssearch.insight.text import as_text

        return as_text(self)


def _rows(columns: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def look(loss: Discovered, others: Sequence[Discovered] = (), reference: Discovered | None = None) -> Insight:
    """Look at a loss beside others of its task.

    Args:
        loss: The loss.
        others: At most `MOST`.
        reference: What ratios are taken to; None takes the one of the space.

    Raises:
        UsageError: A loss is of another task or there are too many.
    """
    space = loss.space
    if reference is None:
        from losssearch.insight.lookup import find_loss

        reference = find_loss(space.reference, "", space)
    if len(others) > MOST:
        raise UsageError(f"At most {MOST} losses stand beside one, but got {len(others)}.")
    why = no_walk(loss.program, space)
    for other in (*others, reference):
        if other.space.task != space.task:
            raise UsageError(
                f"{name_of(other)!r} is a loss for {other.space.task}, and {name_of(loss)!r} one for "
                f"{space.task}: they cannot be compared."
            )
        if not why and (reason := no_walk(other.program, other.space)):
            raise UsageError(f"{name_of(other)!r} cannot be compared. {reason}")
    known = with_small_examples(loss.program, refuted(loss.program, facts(loss.program)))
    return Insight(loss, reference, tuple(others), known, why)


def name_of(loss: Discovered) -> str:
    """What people call it; a formula is cut to what fits a table."""
    name = loss.candidate.name or loss.reference
    return name if len(name) <= 40 else name[:39] + "…"


def groups_in_words(task: str) -> str:
    """10 hard samples (p 0.1 to 0.5) and 990 easy ones (p 0.9 to 0.99)."""
    hard, easy = usual_groups(task)
    what, letter = ("residuals", "|r|") if task == "regression" else ("samples", "p")
    return (
        f"{hard.count} {hard.name} {what} ({letter} {hard.low:g} to {hard.high:g}) and "
        f"{easy.count} {easy.name} ones ({letter} {easy.low:g} to {easy.high:g})"
    )
