"""On how many samples does a loss spend its gradient?

A loss weighs sample i by its ratio to a reference loss, either of values or of gradients:

    w_i = L(x_i) / L_ref(x_i)        w_i = L'(x_i) / L_ref'(x_i)

For focal loss against cross entropy the first is (1 - p)^gamma, the second
(1 - p)^gamma (1 - gamma p log(p) / (1 - p)). Three summaries tell how a population of samples is used:

    summed weight      W = sum_i w_i, by which the literature on focal loss counts "effective samples";
                       it moves with the scale of the loss
    effective number   (sum_i w_i)^2 / sum_i w_i^2 (Kish 1965, Survey Sampling), which does not
    entropy            H = -sum_i (w_i / W) log(w_i / W), in nats; log N where all weigh the same

The populations are uniform densities, and sums over samples are expectations by Gauss-Legendre
quadrature: nothing is drawn. Weights count by size: a negative ratio pulls the other way, as hard.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from losssearch.insight.profile import profile, slopes
from losssearch.insight.walk import Walk
from losssearch.language.program import Program

NODES = 64  # of the quadrature in each group
ZERO = 1e-300


@dataclass(frozen=True)
class Group:
    """`count` samples even over (low, high): of probability, or of the residual's size, either sign alike."""

    name: str
    count: int
    low: float
    high: float


CLASSIFICATION = (Group("hard", 10, 0.1, 0.5), Group("easy", 990, 0.9, 0.99))
REGRESSION = (Group("far", 10, 5.0, 50.0), Group("near", 990, 0.5, 2.0))


def usual_groups(task: str) -> tuple[Group, ...]:
    """A hundred times more easy samples than hard ones; of residuals, than outliers."""
    return REGRESSION if task == "regression" else CLASSIFICATION


@dataclass(frozen=True)
class Weights:
    """How a loss weighs a population, against a reference.

    Args:
        by: "value" or "gradient": which ratio is the weight.
        total: Summed weight W.
        effective: Kish's effective number, between 1 and the number of samples.
        entropy: In nats.
        share: The first group's share of W, in [0, 1].
    """

    by: str
    total: float
    effective: float
    entropy: float
    share: float


@dataclass(frozen=True)
class Pull:
    """Who moves the model: the first group's share of the summed size of the gradient, in [0, 1]."""

    own: float
    reference: float


def ratio(own: Sequence[float], reference: Sequence[float]) -> tuple[float, ...]:
    """own / reference, position by position; nan where the reference is 0."""
    return tuple(a / b if abs(b) > ZERO else math.nan for a, b in zip(own, reference, strict=True))


def weigh(
    program: Program,
    reference: Program,
    walk: Walk,
    by: str = "value",
    groups: Sequence[Group] | None = None,
) -> Weights | None:
    """How a loss weighs a population.

    Args:
        program: The loss.
        reference: What it is compared with.
        walk: Of both.
        by: "value" or "gradient".
        groups: The population; None takes `usual_groups`.

    Returns:
        None where some weight is undefined, as the reference is 0 there, or all are 0.
    """
    groups = usual_groups(walk.task) if groups is None else groups
    places, counts, first = _population(walk, groups)
    mine, theirs = (profile(p, walk, places) for p in (program, reference))
    ratios = ratio(mine.value, theirs.value) if by == "value" else ratio(mine.slope, theirs.slope)
    w = np.abs(np.array(ratios))
    total = float(counts @ w)
    if not math.isfinite(total) or total <= 0:
        return None
    # w log w is 0 where a weight is.
    crossed = float(counts @ np.where(w > 0, w * np.log(np.where(w > 0, w, 1.0)), 0.0))
    return Weights(
        by=by,
        total=total,
        effective=total**2 / float(counts @ w**2),
        entropy=math.log(total) - crossed / total,
        share=float(counts[:first] @ w[:first]) / total,
    )


def pull(
    program: Program, reference: Program, walk: Walk, groups: Sequence[Group] | None = None
) -> Pull | None:
    """The first group's share of the gradient; None where a loss has no gradient on the population."""
    groups = usual_groups(walk.task) if groups is None else groups
    places, counts, first = _population(walk, groups)
    shares = []
    for each in (program, reference):
        size = np.abs(np.array(slopes(each, walk, places))) * counts
        if not np.isfinite(size.sum()) or size.sum() <= 0:
            return None
        shares.append(float(size[:first].sum() / size.sum()))
    return Pull(*shares)


@cache
def _legendre() -> tuple[tuple[float, ...], tuple[float, ...]]:
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return tuple(nodes.tolist()), tuple(weights.tolist())


def _population(walk: Walk, groups: Sequence[Group]) -> tuple[list[float], NDArray[np.float64], int]:
    """Positions, how many samples each stands for, and how many positions the first group has."""
    sizes = [(g.low + g.high) / 2 + (g.high - g.low) / 2 * node for g in groups for node in _legendre()[0]]
    counts = np.array([g.count / 2 * weight for g in groups for weight in _legendre()[1]])
    if walk.task != "regression":
        return [walk.at_probability(p) for p in sizes], counts, NODES
    return [sign * r for r in sizes for sign in (-1, 1)], np.repeat(counts / 2, 2), 2 * NODES
