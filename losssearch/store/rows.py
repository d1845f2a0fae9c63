"""What goes into the store and comes out: plain rows of text, numbers, lists and dictionaries.

Nothing here knows a database, a tensor or a program. Times are aware datetimes in UTC. Outcomes are
member names of `losssearch.outcomes.Outcome`. A score, like every metric, is *lower is better*.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

# Member names of the outcomes of a candidate that was sent to be trained.
TRAINED = ("SCORED", "DIVERGED", "PRUNED", "FAILED", "INVALID", "TIMEOUT", "DIED", "POISON")


TRACE = "trace"  # the metric that holds how a loss trained, in short
CLIMBED = "climbed"  # the metric that holds the rungs that a loss stood on before, and its scores there
CHOSEN = 9  # the rung of the loss that stands for its search, above all on which losses are trained


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """One loss, addressed by its content.

    Args:
        key: The candidate key, lower-case hexadecimal; equal programs have equal keys.
        space: Name of the search space (or path of its file) in which it can be read.
        parts: Formula of each part; one loss alone is `{"loss": formula}`.
        canonical: Text of the canonical program.
        structure_key: Key that ignores the values of constants.
        size: Number of instructions; breaks ties of the leaderboard.
        constants: `{name: [value, low, high]}`.
        scale: Factor that makes its typical gradient 1; None when not yet measured.
        name: Name of a classical loss, None for a discovered one.
        source: Where a classical loss was published.
        facts: What is proven about it.
    """

    key: str
    space: str
    parts: Mapping[str, str]
    canonical: str
    structure_key: str
    size: int
    constants: Mapping[str, Any] = field(default_factory=dict)
    scale: float | None = None
    name: str | None = None
    source: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ProposalRow:
    """One candidate as one search proposed it.

    Args:
        number: Counts from 0 within the search, without gaps.
        candidate_key: The loss; it must be in the store if its own result counts.
        formula: As the controller wrote it.
        origin: How it was made: "seed", "mutation", "random", ...
        outcome: Member name of `Outcome`.
        parents: Proposal numbers or candidate keys it was made from.
        detail: One line for a person: which screen, which error.
        same_as: Key of the known loss whose result was credited, None when it earned its own.
        rung: The highest rung at which it was scored, from 0.
        score: Lower is better; None when it has none. nan is stored as None.
        metrics: Further numbers, among them the guard metrics; and the search's own note of how it trained,
            see `evidence`.
        constants: Of the formula, `{name: [value, low, high]}`.
        size: Number of nodes of the formula.
    """

    number: int
    candidate_key: str
    formula: str
    origin: str
    outcome: str
    parents: tuple[Any, ...] = ()
    detail: str = ""
    same_as: str | None = None
    rung: int = 0
    score: float | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    size: int = 0

    @property
    def is_chosen(self) -> bool:
        """Whether it stands for its search."""
        return self.rung == CHOSEN

    @property
    def evidence(self) -> dict[str, Any]:
        """The metrics that are for people."""
        return {name: value for name, value in self.metrics.items() if name not in (TRACE, CLIMBED)}


@dataclass(frozen=True, slots=True)
class ScoreUpdate:
    """A new score of a proposal already stored: it rose to a higher rung, or was dropped there."""

    number: int
    outcome: str
    rung: int
    score: float | None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    detail: str = ""


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One training: a candidate on one run of a proxy. `run` is made by `run_text`.

    `curve` is `[[epoch, metric], ...]`; `metric` is None when training gave no finite number.
    """

    candidate_key: str
    proxy: str
    protocol: str
    run: str
    outcome: str
    metric: float | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    curve: tuple[Any, ...] | list[Any] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class SearchRow:
    """One search. `rounds` and `proposals` are how many are stored, and so the next free numbers.

    `state` is what the controller needs to go on exactly where it stopped; None before round 0.
    """

    id: int
    name: str
    space: str
    proxy: str
    controller: str
    config: Mapping[str, Any]
    seed: int
    rounds: int
    proposals: int
    status: str
    state: Any
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One committed round; `counts` is `{screen: {"seen": int, "rejected": int, "seconds": s}}`."""

    number: int
    counts: Mapping[str, Any]
    seconds: float
    created_at: datetime


@dataclass(frozen=True, slots=True)
class EventRow:
    """One line of the append-only log; `id` grows."""

    id: int
    at: datetime
    kind: str
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One audit: the rows of its table, and whatever else describes it in `summary`."""

    created_at: datetime
    protocol: str
    rows: list[Any]
    summary: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ranked:
    """One row of a leaderboard; rank counts from 1."""

    rank: int
    proposal: ProposalRow
    candidate: CandidateRow


@dataclass(frozen=True, slots=True)
class Found:
    """What a reference names. A key or a classical name belongs to no search: those are None."""

    candidate: CandidateRow
    search: str | None = None
    proposal: ProposalRow | None = None


def run_text(run: Mapping[str, Any]) -> str:
    """The canonical text of one run `{split, rate, decay, epochs, condition, stage}`.

    Keys are sorted and a whole float is written as an int, so that 1 and 1.0 are one run.

    >>> run_text({"split": 3, "rate": 0.1, "epochs": 30.0})
    '{"epochs":30,"rate":0.1,"split":3}'
    """
    whole = {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in run.items()}
    return json.dumps(whole, sort_keys=True, separators=(",", ":"))
