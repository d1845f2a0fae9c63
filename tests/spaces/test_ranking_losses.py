"""Every ranking loss against torch's own function, or against a loop over queries and documents."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from losssearch.spaces import load_space

DOUBLE = torch.float64
SPACE = load_space("ranking")
BY_PAIRS = ("pairwise_hinge", "pairwise_logistic", "margin_ranking")
BY_LISTS = ("list_net", "list_mle")


def queries(n=3, s=5, seed=0, spread=2.0, ties=True) -> dict[str, Tensor]:
    """Queries of unequal length; relevances 0 to 4, with ties or (up to five documents) without."""
    g = torch.Generator().manual_seed(seed)
    rel = torch.randint(5, (n, s), generator=g)
    if not ties:
        rel = torch.stack([torch.randperm(s, generator=g) for _ in range(n)]) if n else rel
    valid = torch.arange(s) < torch.randint(min(2, s), s + 1, (n, 1), generator=g)
    score = spread * torch.randn(n, s, generator=g, dtype=DOUBLE)
    return {"score": score, "rel": rel.to(DOUBLE), "valid": valid}


def documents(x, i):
    return [s for s in range(x["score"].shape[1]) if x["valid"][i, s]]


def gaps(x, i) -> list[Tensor]:
    """Score of the more relevant less that of the other, for every ordered pair of a query."""
    own = documents(x, i)
    return [
        x["score"][i, a] - x["score"][i, b]
        for a, b in itertools.product(own, own)
        if x["rel"][i, a] > x["rel"][i, b]
    ]


def mean(values, x):
    return torch.stack(values).mean() if values else 0 * x["score"].sum()


def by_query(rule):
    def second_way(x):
        found = [gaps(x, i) for i in range(len(x["score"]))]
        return mean([torch.stack([rule(g) for g in own]).mean() for own in found if own], x)

    return second_way


def margin_ranking(x):
    found = [g for i in range(len(x["score"])) for g in gaps(x, i)]
    if not found:
        return 0 * x["score"].sum()
    first = torch.stack(found)
    return F.margin_ranking_loss(first, torch.zeros_like(first), torch.ones_like(first), margin=0.5)


def list_net(x):
    values = []
    for i in range(len(x["score"])):
        own = documents(x, i)
        if own:
            wanted = F.softmax(x["rel"][i, own], 0)
            values.append(F.cross_entropy(x["score"][i, own][None], wanted[None]))
    return mean(values, x)


def list_mle(x):
    """Each document against those that are no more relevant: of all ties it stands before the others."""
    values = []
    for i in range(len(x["score"])):
        own = documents(x, i)
        total = torch.zeros((), dtype=DOUBLE)
        for a in own:
            rest = [b for b in own if x["rel"][i, b] <= x["rel"][i, a]]
            total = total - torch.log(
                torch.exp(x["score"][i, a]) / sum(torch.exp(x["score"][i, b]) for b in rest)
            )
        if own:
            values.append(total)
    return mean(values, x)


SECOND_WAYS = {
    "pairwise_hinge": by_query(lambda gap: torch.clamp(1 - gap, min=0)),
    "pairwise_logistic": by_query(lambda gap: torch.log(1 + torch.exp(-gap))),
    "margin_ranking": margin_ranking,
    "list_net": list_net,
    "list_mle": list_mle,
}


def test_every_loss_has_a_second_way():
    assert set(SECOND_WAYS) == set(SPACE.losses)


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("shape", [(4, 5), (1, 2), (3, 3)])
@pytest.mark.parametrize("name", SPACE.losses)
def test_equals_its_second_way(ranking, name, shape, ties):
    ranking.agrees(name, queries(*shape, seed=sum(shape), ties=ties), SECOND_WAYS[name])


@pytest.mark.parametrize("name", SPACE.losses)
def test_a_document_that_is_not_there_does_not_matter(ranking, name):
    x = queries(seed=3)
    other = {k: torch.where(x["valid"], v, 9.0) if k != "valid" else v for k, v in x.items()}
    torch.testing.assert_close(ranking.value(name, x), ranking.value(name, other))
    assert not ranking.gradient(name, x)[~x["valid"]].any()


@pytest.mark.parametrize("name", SPACE.losses)
def test_a_query_with_nothing_to_compare_takes_no_part(ranking, name):
    x = queries(3, seed=4)
    if name in BY_PAIRS:
        x["rel"][1] = 2.0
    else:
        x["valid"][1] = False
    kept = {k: v[[0, 2]] for k, v in x.items()}
    torch.testing.assert_close(ranking.value(name, x), ranking.value(name, kept))
    assert not ranking.gradient(name, x)[1].any()


@pytest.mark.parametrize("name", SPACE.losses)
@pytest.mark.parametrize("shape", [(0, 4), (2, 0)])
def test_no_query_or_no_document_costs_nothing(ranking, name, shape):
    x = queries(*shape)
    assert ranking.value(name, x) == 0
    assert ranking.gradient(name, x).shape == shape


@pytest.mark.parametrize("name", SPACE.losses)
def test_no_valid_document_and_a_single_one_cost_nothing(ranking, name):
    for many in (0, 1):
        x = queries(2, 4)
        x["valid"] = torch.arange(4).expand(2, 4) < many
        assert ranking.value(name, x) == pytest.approx(0, abs=1e-12)
        assert not ranking.gradient(name, x).abs().gt(1e-12).any()


@pytest.mark.parametrize("size", [0.0, 1.0, 20.0, 100.0, 6e4])
@pytest.mark.parametrize("name", SPACE.losses)
def test_is_finite_in_single_precision_with_its_gradient(ranking, name, size):
    x = queries(4, seed=5)
    x = {k: v.float() if v.is_floating_point() else v for k, v in x.items()}
    x["score"] = size * torch.sign(x["score"])
    mine = x["score"].clone().requires_grad_()
    value = ranking.value(name, {**x, "score": mine})
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(mine.grad).all()
    assert torch.isfinite(ranking.gradient(name, x)).all()


# Identities.


def test_margin_ranking_with_margin_one_is_the_pairwise_hinge_of_one_query(ranking):
    ranking.same("margin_ranking", queries(1, seed=6), "pairwise_hinge", margin=1.0)


@pytest.mark.parametrize("name", SPACE.losses)
def test_a_score_that_rises_everywhere_changes_nothing(ranking, name):
    x = queries(seed=7)
    moved = {**x, "score": x["score"] + 3}
    torch.testing.assert_close(ranking.value(name, x), ranking.value(name, moved))
    torch.testing.assert_close(ranking.gradient(name, x).sum(1), torch.zeros(3, dtype=DOUBLE))


def test_list_mle_and_pairwise_logistic_of_two_documents_are_one(ranking):
    x = {
        "score": torch.tensor([[0.3, -0.8]], dtype=DOUBLE),
        "rel": torch.tensor([[0.0, 3.0]], dtype=DOUBLE),
        "valid": torch.ones(1, 2, dtype=torch.bool),
    }
    ranking.same("list_mle", x, "pairwise_logistic")


def test_list_net_of_scores_that_are_the_relevances_is_the_entropy(ranking):
    x = queries(1, 5, seed=8)
    x["valid"][:] = True
    x["score"] = x["rel"].clone()
    p = [math.exp(r) for r in x["rel"][0].tolist()]
    p = [v / sum(p) for v in p]
    assert float(ranking.value("list_net", x)) == pytest.approx(-sum(v * math.log(v) for v in p))
    assert not ranking.gradient("list_net", x).abs().gt(1e-12).any()


def test_a_perfect_order_with_wide_gaps_costs_almost_nothing(ranking):
    x = queries(2, 5, seed=9, ties=False)
    x["score"] = 50 * x["rel"]
    for name in (*BY_PAIRS, "list_mle"):
        assert ranking.value(name, x) == pytest.approx(0, abs=1e-12)
