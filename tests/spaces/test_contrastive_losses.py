"""Every contrastive loss against torch's cross entropy, view by view."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from losssearch.spaces import load_space
from tests.spaces.conftest import Bench

DOUBLE = torch.float64
SPACE = load_space("contrastive")


@pytest.fixture(scope="module")
def contrastive() -> Bench:
    return Bench("contrastive")


def views(of=(0, 1, 2, 0, 1, 2), c=4, seed=0) -> dict[str, Tensor]:
    """Views of the samples `of`; views of one sample are partners."""
    g = torch.Generator().manual_seed(seed)
    own, n = torch.tensor(of), len(of)
    eye = torch.eye(n, dtype=torch.bool)
    z = torch.randn(n, c, generator=g, dtype=DOUBLE)
    return {"z": z, "positive": (own[:, None] == own) & ~eye, "eye": eye}


def found_among(x, i, j, others, temperature) -> Tensor:
    """Cross entropy of finding j among itself and others."""
    unit = F.normalize(x["z"], dim=1)
    rest = [k for k in others if k != j]
    return F.cross_entropy(unit[[j, *rest]] @ unit[i] / temperature, torch.tensor(0))


def partners(x, i):
    return x["positive"][i].nonzero()[:, 0].tolist()


def mean(values, x):
    return torch.stack(values).mean() if values else 0 * x["z"].sum()


def info_nce(x, temperature=0.07):
    values = []
    for i in range(len(x["z"])):
        negatives = [k for k in range(len(x["z"])) if k != i and not x["positive"][i, k]]
        values += [found_among(x, i, j, negatives, temperature) for j in partners(x, i)]
    return mean(values, x)


def of_others(x, temperature):
    """For each view with partners, the cross entropies of finding each among all others."""
    found = []
    for i in range(len(x["z"])):
        others = [k for k in range(len(x["z"])) if k != i]
        own = [found_among(x, i, j, others, temperature) for j in partners(x, i)]
        found += [own] if own else []
    return found


def nt_xent(x):
    return mean([value for own in of_others(x, 0.5) for value in own], x)


def sup_con(x):
    return mean([torch.stack(own).mean() for own in of_others(x, 0.1)], x)


SECOND_WAYS = {"info_nce": info_nce, "nt_xent": nt_xent, "sup_con": sup_con}
MANY = (0, 1, 0, 0, 2, 1, 3)  # three partners, two, and two views without one


def test_every_loss_has_a_second_way():
    assert set(SECOND_WAYS) == set(SPACE.losses)


@pytest.mark.parametrize("of", [(0, 1, 2, 0, 1, 2), MANY, (0, 0), (0, 0, 0), (0, 0, 1)], ids=str)
@pytest.mark.parametrize("name", SPACE.losses)
def test_equals_its_second_way(contrastive, name, of):
    contrastive.agrees(name, views(of), SECOND_WAYS[name])


@pytest.mark.parametrize("of", [(), (0,), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("name", SPACE.losses)
def test_without_a_partner_it_costs_nothing(contrastive, name, of):
    x = views(of)
    assert contrastive.value(name, x) == 0
    slope = contrastive.gradient(name, x)
    assert slope.shape == x["z"].shape
    assert not slope.any()


@pytest.mark.parametrize("of", [(0, 0), (0, 0, 0, 0)], ids=str)
def test_where_nothing_is_negative_there_is_nothing_to_tell_apart(contrastive, of):
    x = views(of)
    assert contrastive.value("info_nce", x) == 0
    assert not contrastive.gradient("info_nce", x).any()


@pytest.mark.parametrize("name", SPACE.losses)
def test_views_without_a_partner_are_still_negatives(contrastive, name):
    x = views((0, 0, 1, 1, 2))
    fewer = {"z": x["z"][:4], "positive": x["positive"][:4, :4], "eye": x["eye"][:4, :4]}
    assert contrastive.value(name, x) > contrastive.value(name, fewer)
    assert contrastive.gradient(name, x)[4].any()


@pytest.mark.parametrize("temperature", [0.01, 1.0])
@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 1e4])
@pytest.mark.parametrize("name", SPACE.losses)
def test_is_finite_in_single_precision_with_its_gradient(contrastive, name, size, temperature):
    x = views(MANY, seed=1)
    x["z"] = (size * torch.sign(x["z"])).float()
    mine = x["z"].clone().requires_grad_()
    value = contrastive.value(name, {**x, "z": mine}, temperature=temperature)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(mine.grad).all()
    assert torch.isfinite(contrastive.gradient(name, x, temperature=temperature)).all()


# Identities.


@pytest.mark.parametrize("other", ["info_nce", "sup_con"])
@pytest.mark.parametrize("of", [(0, 1, 2, 0, 1, 2), (0, 0), (0, 0, 1, 2)], ids=str)
def test_with_one_partner_each_nt_xent_is_the_others(contrastive, other, of):
    contrastive.same("nt_xent", views(of, seed=2), other, temperature=0.3, at={"temperature": 0.3})


def test_sup_con_is_nt_xent_where_all_have_the_same_number_of_partners(contrastive):
    x = views((0, 0, 0, 1, 1, 1), seed=3)
    contrastive.same("sup_con", x, "nt_xent", at={"temperature": 0.1})


def test_with_several_partners_info_nce_is_the_least(contrastive):
    x = views(MANY, seed=4)
    least = contrastive.value("info_nce", x, temperature=0.5)
    assert least < contrastive.value("nt_xent", x)


@pytest.mark.parametrize("name", SPACE.losses)
def test_lengths_are_not_read(contrastive, name):
    x = views(MANY, seed=5)
    longer = {**x, "z": x["z"] * torch.linspace(0.5, 3, 7, dtype=DOUBLE)[:, None]}
    torch.testing.assert_close(contrastive.value(name, longer), contrastive.value(name, x))
    along = (contrastive.gradient(name, x) * x["z"]).sum(1)
    torch.testing.assert_close(along, torch.zeros(7, dtype=DOUBLE), rtol=0, atol=1e-9)


def test_views_that_coincide_are_found_by_chance(contrastive):
    x = views((0, 1, 2, 0, 1, 2))
    x["z"] = torch.ones(6, 4, dtype=DOUBLE)
    for name in SPACE.losses:
        assert contrastive.value(name, x) == pytest.approx(math.log(5))
        assert not contrastive.gradient(name, x).abs().gt(1e-12).any()
