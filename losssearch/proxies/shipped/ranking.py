"""Which losses put documents in order?

Generated queries of 5 to 20 documents. How relevant a document is follows from its features and the query's
by a fixed curved law; grades 0 to 4 are thresholds of it, most documents have 0. In training and validation a
quarter of the grades is drawn anew at random; the audit's test grades are right. Every split draws its own
queries. One training takes about 0.3 seconds of one core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from losssearch.execution.plan import Floats, Setting, Split, Stage
from losssearch.proxies.base import Proxy, Rung, generator, seed_of
from losssearch.proxies.structured import Task

QUERIES = {"train": 240, "valid": 160, "test": 400}
DOCUMENTS = 20
CUT = 10  # documents of a result list that a reader looks at
NOISE = 0.25  # share of the grades that are drawn anew; none under "clean"
_LATENT, _FEATURES = 4, 8
_GRADES = (0.6, 0.8, 0.9, 0.96)  # quantiles of relevance at which the grade rises


class Scorer(nn.Module):
    """A score for each document from its own features and the query's."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(_FEATURES + _LATENT, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"score": self.layers(x).squeeze(-1)}


class WideScorer(Scorer):
    def __init__(self) -> None:
        super().__init__(width=128)


class Order(Task):
    """Targets are (queries, documents, 2): the grade, and 1 where there is a document."""

    def batch(self, x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        return x, {"rel": y[..., 0], "valid": y[..., 1] > 0}

    def errors(self, model: nn.Module, split: Split, x: Tensor, y: Tensor) -> Mapping[str, float]:
        score, grade, valid = model(x)["score"].double(), y[..., 0].double(), y[..., 1] > 0
        return {
            "ndcg_error": ndcg_error(score, grade, valid),
            "reciprocal_error": reciprocal_error(score, grade, valid),
            "swapped": swapped(score, grade, valid),
        }


def ndcg_error(score: Tensor, grade: Tensor, valid: Tensor, cut: int = CUT) -> float:
    """1 - NDCG@cut, a mean over the queries that have a document of grade above 0.

        DCG = sum_r (2^grade_r - 1) / log2(r + 1),    r = 1 .. cut by falling score;    NDCG = DCG / its most

    Args:
        score, grade, valid: Shape (queries, documents); equal scores stand in the order given.

    Returns:
        In [0, 1]; nan where a score is not finite or no query has such a document.

    Source:
        Burges et al. 2005, ICML, Sec. 6; Jarvelin & Kekalainen 2002, ACM TOIS 20.
    """
    if not bool(torch.isfinite(score).all()):
        return float("nan")
    gain = torch.where(valid, 2**grade - 1, 0.0)
    discount = 1 / torch.log2(torch.arange(2, min(cut, score.shape[1]) + 2, dtype=score.dtype))
    found, best = (
        (gain.gather(1, order)[:, : len(discount)] * discount).sum(1)
        for order in (_order(score, valid), _order(gain, valid))
    )
    asked = best > 0
    return float(1 - (found[asked] / best[asked]).mean())


def reciprocal_error(score: Tensor, grade: Tensor, valid: Tensor) -> float:
    """1 - mean reciprocal rank of the first document of the query's best grade.

    Args and returns as in `ndcg_error`.
    """
    if not bool(torch.isfinite(score).all()):
        return float("nan")
    best = torch.where(valid, grade, -1.0).amax(1, keepdim=True)
    hit = ((grade == best) & valid).gather(1, _order(score, valid))
    rank = hit.double().argmax(1) + 1
    asked = best.squeeze(1) > 0
    return float(1 - (1 / rank[asked].double()).mean())


def swapped(score: Tensor, grade: Tensor, valid: Tensor) -> float:
    """Share of the pairs of unequal grade that stand the wrong way round, a tie half: (1 - tau) / 2.

    Args as in `ndcg_error`; tau is Kendall's over those pairs, of all queries together.

    Returns:
        In [0, 1]; nan where a score is not finite or there is no such pair.
    """
    if not bool(torch.isfinite(score).all()):
        return float("nan")
    pair = (grade.unsqueeze(2) > grade.unsqueeze(1)) & valid.unsqueeze(2) & valid.unsqueeze(1)
    gap = score.unsqueeze(2) - score.unsqueeze(1)
    wrong = (gap < 0).double() + 0.5 * (gap == 0)
    return float(wrong[pair].mean())


def _order(score: Tensor, valid: Tensor) -> Tensor:
    """Documents by falling score; those that are not there stand last."""
    return torch.where(valid, score, -torch.inf).argsort(dim=1, descending=True, stable=True)


@lru_cache(maxsize=1)
def _law() -> tuple[NDArray[np.float64], ...]:
    """Weights of the relevance, the same in every split, and the thresholds of the grades."""
    draw = generator("queries", "law")
    weights = (
        draw.normal(size=(_LATENT, _FEATURES)) / np.sqrt(_FEATURES),
        draw.normal(size=_FEATURES) / np.sqrt(_FEATURES),
    )
    query, document = draw.normal(size=(2000, _LATENT)), draw.normal(size=(2000, 1, _FEATURES))
    return (*weights, np.quantile(_relevance(query, document, *weights), _GRADES))


def _relevance(
    query: NDArray[np.float64],
    document: NDArray[np.float64],
    meet: NDArray[np.float64],
    own: NDArray[np.float64],
) -> NDArray[np.float64]:
    """How well a document meets the query, plus how good it is in itself, (queries, documents)."""
    asked = query @ meet
    found: NDArray[np.float64] = np.tanh((document * asked[:, None]).sum(-1) / 2) * 2
    return found + np.sin(2 * document @ own)


def _queries(draw: np.random.Generator, count: int, noise: float) -> tuple[Floats, Floats]:
    """Features (count, documents, 12) and targets (count, documents, 2)."""
    meet, own, thresholds = _law()
    query = draw.normal(size=(count, _LATENT))
    document = draw.normal(size=(count, DOCUMENTS, _FEATURES))
    grade = np.searchsorted(thresholds, _relevance(query, document, meet, own))
    wrong = draw.random(grade.shape) < noise
    grade = np.where(wrong, draw.integers(0, len(_GRADES) + 1, grade.shape), grade)
    there = np.arange(DOCUMENTS) < draw.integers(5, DOCUMENTS + 1, (count, 1))
    repeated = np.broadcast_to(query[:, None], (count, DOCUMENTS, _LATENT))
    x = np.concatenate([document, repeated], -1) * there[..., None]
    return x.astype(np.float32), np.stack([grade * there, there], -1).astype(np.float32)


@lru_cache(maxsize=32)
def _split(seed: int, condition: str, stage: Stage) -> Split:
    noise = 0.0 if "clean" in condition.split("+") else NOISE
    parts = [
        _queries(generator("queries", stage, seed, part), count, 0.0 if part == "test" else noise)
        for part, count in QUERIES.items()
        if part != "test" or stage == "audit"
    ]
    return Split(seed_of("queries", stage, seed), *parts)


def queries() -> Proxy:
    """Generated queries, a quarter of whose grades is noise."""
    return Proxy(
        name="queries",
        title="Generated queries, a quarter of the grades wrong",
        space="ranking",
        metric="ndcg_error",
        guards=("reciprocal_error", "swapped"),
        draw=_split,
        default=Setting(
            model=Scorer,
            optimiser="adam",
            batch=24,
            epochs=24,
            evaluate_every=4,
            rates=(0.01, 0.003, 0.03),
        ),
        changes={"wide": {"model": WideScorer}, "clean": {}},
        second="wide",
        rungs=(
            Rung(tuple(range(2)), 1, epochs=12),
            Rung(tuple(range(2, 6)), 2),
            Rung(tuple(range(6, 14)), 3, ("default", "wide")),
        ),
        task=Order(),
        sizes=(QUERIES["train"], 0),  # every split draws its own queries, so that they are independent
    )


PROXIES: Mapping[str, Callable[[], Proxy]] = {"queries": queries}
