"""How is a proposal told to a person who looks at it in another program?

As names with plain values, a curve, and a note in Markdown; nothing here knows that program.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from losssearch.outcomes import Outcome
from losssearch.store.rows import CandidateRow, EvaluationRow, ProposalRow


def attributes(search: str, row: ProposalRow, candidate: CandidateRow) -> dict[str, Any]:
    """What a person wants to know of a proposal, as names and plain values."""
    told: dict[str, Any] = {
        "formula": row.formula,
        "reference": f"{search}@{row.number}",
        "proposal": row.number,
        "origin": row.origin,
        "outcome": sentence(row.outcome),
        "key": candidate.key,
    }
    if candidate.name:
        told["classical loss"] = candidate.name
    if candidate.source:
        told["source"] = candidate.source
    if row.detail:
        told["detail"] = row.detail
    if row.parents:
        told["parents"] = ", ".join(map(str, row.parents))
    for name, value in row.evidence.items():
        number = isinstance(value, int | float) and math.isfinite(value)
        told[f"metric: {name}"] = value if number else str(value)
    return told


def sentence(outcome: str) -> str:
    """The sentence of an outcome's member name."""
    return Outcome[outcome].value if outcome in Outcome.__members__ else outcome


def bounds(constant: Any) -> tuple[float, float, float] | None:
    """(value, low, high) of a stored constant; None when it is not finite."""
    if isinstance(constant, Mapping):
        constant = [constant.get("value"), constant.get("low"), constant.get("high")]
    values = list(constant) if isinstance(constant, list | tuple) else [constant]
    value, low, high = [*values, None, None][:3]
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    ends = [v for v in (low, high) if isinstance(v, int | float) and math.isfinite(v)]
    return float(value), float(min([value, *ends])), float(max([value, *ends]))


def curve(runs: Sequence[EvaluationRow]) -> dict[int, float]:
    """The learning curve of the best of the longest runs; {} when there is none."""
    curves = [run for run in runs if run.curve]
    if not curves:
        return {}

    def goodness(run: EvaluationRow) -> tuple[float, float]:
        last = run.metric if run.metric is not None else math.inf
        return -float(run.curve[-1][0]), last

    return {int(step): float(value) for step, value in min(curves, key=goodness).curve}


def note(search: str, rank: int, row: ProposalRow) -> str:
    """A note in Markdown on a scored proposal."""
    lines = [f"## {search}/{rank}", "", f"`{row.formula}`", "", f"- score {row.score:.6g}"]
    lines += ["- chosen" if row.is_chosen else f"- rung {row.rung}", f"- made by {row.origin}"]
    lines += [f"- {name}: {value}" for name, value in row.evidence.items()]
    return "\n".join([*lines, "", f"`losssearch show {search}@{row.number}` tells more."])
