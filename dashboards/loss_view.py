"""What does the page of one loss say? Formula, facts, evidence, curves: values for its template.

A formula from the database is parsed and checked like any other; where that fails, the page shows
its text and says why there is no more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dashboards import tally
from dashboards.charts import Chart, Line, chart
from dashboards.search_view import first_values, sentence, tags
from losssearch.errors import LossSearchError
from losssearch.language.facts import Fact, facts
from losssearch.language.latex import definitions_to_latex, to_latex
from losssearch.language.program import Program
from losssearch.records import constants_of, program_of_row
from losssearch.spaces import ClassicalLoss, Space, load_space
from losssearch.store.rows import CandidateRow, EvaluationRow, ProposalRow
from losssearch.store.store import Store

FACTS = {
    "finite": "Finite",
    "smooth": "Smooth",
    "bounded_influence": "Bounded influence",
    "batch_free": "Free of the batch",
    "convex": "Convex",
    "monotone": "Monotone",
    "equivariant": "Equivariant",
}
MARKS = {"proved": "✓", "refuted": "✗", "unknown": "?"}
#: What a page shows in place of `read`, of a loss that is no single readable formula.
UNREAD: dict[str, Any] = {"latex": "", "walk": "", "definitions": {}, "facts": [], "charts": []}


def stored_page(
    store: Store,
    candidate: CandidateRow,
    heading: str,
    search: str | None = None,
    proposal: ProposalRow | None = None,
) -> dict[str, Any]:
    """The page of a loss in the database, as a search came by it, if any did."""
    sightings = tally.sightings(store, candidate.key)
    if proposal is None and sightings:
        first = sightings[0]
        search = first.search
        proposal = next(iter(store.proposals(first.search, first.number, limit=1)), None)
    page: dict[str, Any] = {
        "heading": heading,
        "reference": heading if "/" in heading else candidate.key,
        "title": "",
        "stored": True,
        "space": candidate.space,
        "text": str(candidate.parts.get("loss", candidate.canonical)),
        "constants": candidate.constants,
        "size": candidate.size,
        "key": candidate.key,
        "source": candidate.source,
        "scale": candidate.scale,
        "search": search,
        "proposal": proposal,
        "outcome": sentence(proposal.outcome) if proposal else "",
        "tags": tags(candidate.name, proposal) if proposal else (),
        "evidence": evidence(proposal.evidence) if proposal else [],
        "parents": parents(store, search, proposal) if proposal else [],
        "same_as": proposal.same_as if proposal else None,
        "sightings": sightings,
        "learning": learning_charts(tally.runs_of(store, candidate.key)),
        "problem": "",
    }
    try:
        space = load_space(candidate.space)
        program = program_of_row(candidate, space)
    except (LossSearchError, KeyError, ValueError, TypeError) as error:
        why = f"This formula cannot be read any more: {error}"
        return page | {"problem": why} | UNREAD
    return page | read(program, space, candidate.scale)


def classical_page(store: Store, loss: ClassicalLoss, space: Space) -> dict[str, Any]:
    """The page of a loss of the catalogue, whether or not any search has met it."""
    candidate = loss.candidate
    key = candidate.key
    return {
        "heading": loss.name,
        "reference": f"{space.name}/{loss.name}",
        "title": loss.title,
        "stored": bool(store.candidates([key])),
        "space": space.name,
        "text": candidate.text,
        "constants": constants_of(candidate),
        "size": candidate.size,
        "key": key,
        "source": loss.source,
        "scale": None,
        "search": None,
        "proposal": None,
        "outcome": "",
        "tags": (),
        "evidence": [],
        "parents": [],
        "same_as": None,
        "sightings": tally.sightings(store, key),
        "learning": learning_charts(tally.runs_of(store, key)),
        "problem": "",
    } | (read(loss.program, space, None) if candidate.is_one else UNREAD)


def read(program: Program, space: Space, scale: float | None) -> dict[str, Any]:
    """What follows from the program alone."""
    from dashboards import curves  # brings torch

    return {
        "latex": to_latex(program),
        "definitions": definitions_to_latex(program),
        "facts": told(program),
        "charts": curves.charts(program, space, scale),
        "walk": curves.WALKS.get(space.task, ""),
    }


def told(program: Program) -> list[tuple[str, str, str, str]]:
    """(name, verdict, mark, why) of each fact."""
    known = facts(program)
    found = []
    for name, title in FACTS.items():
        fact = getattr(known, name)
        if isinstance(fact, Fact):
            verdict = fact.verdict.value
            found.append((title, verdict, MARKS.get(verdict, "?"), fact.why))
    if known.blind_to:
        found.append(("Blind to", "refuted", "✗", ", ".join(known.blind_to)))
    return found


def parents(store: Store, search: str | None, proposal: ProposalRow) -> list[tuple[str, str]]:
    """(key, formula) of what a loss was made from; parents are keys or numbers of proposals."""
    keys = []
    for parent in proposal.parents:
        if isinstance(parent, int) and search:
            keys += [row.candidate_key for row in store.proposals(search, parent, limit=1)]
        else:
            keys.append(str(parent))
    rows = store.candidates(keys)
    return [(k, str(rows[k].parts.get("loss", rows[k].canonical)) if k in rows else k) for k in keys]


def evidence(metrics: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Numbers by name; one level of nesting is taken apart."""
    found: list[tuple[str, Any]] = []
    for name, value in metrics.items():
        words = name.replace("_", " ")
        if isinstance(value, Mapping):
            found += [(f"{words}: {inner}", v) for inner, v in first_values(value).items()]
        else:
            found.append((words, value))
    return found


def learning_charts(runs: Sequence[EvaluationRow], limit: int = 3) -> list[Chart]:
    """One chart a proxy and condition: the mean curve over splits for each learning rate."""
    groups: dict[tuple[str, str], dict[float, list[Any]]] = {}
    for row in runs:
        run = _run(row.run)
        if not row.curve or run.get("stage", "search") != "search" or run.get("decay"):
            continue
        place = groups.setdefault((row.proxy, str(run.get("condition", "default"))), {})
        place.setdefault(float(run.get("rate") or 0.0), []).append(row.curve)
    found = []
    for (proxy, condition), rates in list(groups.items())[:limit]:
        curves = {rate: _mean(several) for rate, several in sorted(rates.items())}
        best = min(curves, key=lambda rate: curves[rate][-1][1])
        lines = [
            Line(f"rate {rate:g}, mean of {len(rates[rate])}", points, f"ref{i}")
            for i, (rate, points) in enumerate(curves.items(), start=1)
            if rate != best
        ][:5]
        lines.append(Line(f"rate {best:g}, mean of {len(rates[best])}", curves[best], "own"))
        title = proxy if condition == "default" else f"{proxy}, condition {condition}"
        drawn = chart(title, lines, "epoch", "validation error", height=280)
        found += [drawn] if drawn else []
    return found


def _run(text: str) -> dict[str, Any]:
    try:
        run = json.loads(text)
    except ValueError:
        return {}
    return run if isinstance(run, dict) else {}


def _mean(curves: Sequence[Any]) -> list[tuple[float, float]]:
    """The mean of curves at the epochs that all of them have."""
    shared = set.intersection(*({float(e) for e, _ in curve} for curve in curves))
    at = [{float(e): float(v) for e, v in curve} for curve in curves]
    return [(e, sum(c[e] for c in at) / len(at)) for e in sorted(shared)]
