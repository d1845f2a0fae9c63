"""Rows to put into a store."""

from __future__ import annotations

import hashlib
from typing import Any

from losssearch.store.store import CandidateRow, EvaluationRow, ProposalRow, SearchRow, Store


def key_of(number: int | str) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


def candidate(number: int | str, size: int = 5, **more: Any) -> CandidateRow:
    formula = f"mean(p * {number}, 'n')"
    values: dict[str, Any] = {
        "key": key_of(number),
        "space": "multiclass",
        "parts": {"loss": formula},
        "canonical": formula,
        "structure_key": key_of("structure"),
        "size": size,
    }
    return CandidateRow(**values | more)


def proposal(number: int, score: float | None, of: int | str | None = None, **more: Any) -> Any:
    loss = number if of is None else of
    values: dict[str, Any] = {
        "number": number,
        "candidate_key": key_of(loss),
        "formula": f"mean(p * {loss}, 'n')",
        "origin": "random",
        "outcome": "SCORED" if score is not None else "FLAT",
        "score": score,
    }
    return ProposalRow(**values | more)


def training(number: int | str, run: str = "{}", **more: Any) -> EvaluationRow:
    values: dict[str, Any] = {
        "candidate_key": key_of(number),
        "proxy": "digits",
        "protocol": "quick",
        "run": run,
        "outcome": "SCORED",
        "metric": 0.25,
    }
    return EvaluationRow(**values | more)


def begin(store: Store, name: str = "demo", **config: Any) -> SearchRow:
    return store.open_search(name, "multiclass", "digits", "random", config, 0)


def commit(store: Store, search: SearchRow, scores: list[float | None]) -> SearchRow:
    """One round of fresh losses with these scores."""
    numbers = range(search.proposals, search.proposals + len(scores))
    rows = [proposal(n, score) for n, score in zip(numbers, scores, strict=True)]
    losses = [candidate(n) for n in numbers]
    return store.commit_round(
        search, search.rounds, rows, {}, {"round": search.rounds}, 0.5, candidates=losses
    )
