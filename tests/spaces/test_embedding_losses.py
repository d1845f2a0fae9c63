"""Every embedding loss against torch's own function, or against a loop over pairs and triplets."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from losssearch.spaces import load_space
from tests.spaces.conftest import Bench

DOUBLE = torch.float64
SPACE = load_space("embedding")
TRIPLETS = ("triplet", "triplet_random", "triplet_hard", "triplet_semihard")
BY_CLASS = ("cos_face", "arc_face")
BY_PAIR = tuple(name for name in SPACE.losses if name not in BY_CLASS)
BY_ANGLE = ("multi_similarity", "circle", *BY_CLASS)


@pytest.fixture(scope="module")
def embedding() -> Bench:
    return Bench("embedding")


def samples(n=7, c=3, classes=3, seed=0, labels=None) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    y = (
        torch.randint(classes, (n,), generator=g)
        if labels is None
        else torch.tensor(labels, dtype=torch.int64)
    )
    n = len(y)
    return {
        "e": torch.randn(n, c, generator=g, dtype=DOUBLE),
        "same": y[:, None] == y,
        "eye": torch.eye(n, dtype=torch.bool),
        "pick": torch.rand(n, n, generator=g) < 0.6,
        "weights": torch.randn(c, classes, generator=g, dtype=DOUBLE),
        "label": F.one_hot(y, classes).to(DOUBLE),
    }


def plain(value: Tensor) -> float:
    return float(value.detach())


def partners(x, i) -> tuple[list[int], list[int]]:
    indices = range(len(x["e"]))
    return [j for j in indices if j != i and x["same"][i, j]], [j for j in indices if not x["same"][i, j]]


def anchors(x):
    """Each anchor that has a partner of both kinds, with them."""
    found = [(i, *partners(x, i)) for i in range(len(x["e"]))]
    return [(i, alike, unlike) for i, alike, unlike in found if alike and unlike]


def distance(x, i, j) -> Tensor:
    return (x["e"][i] - x["e"][j]).norm()


def cosine(x, i, j) -> Tensor:
    return F.cosine_similarity(x["e"][i], x["e"][j], dim=0)


def mean(values, x) -> Tensor:
    return torch.stack(values).mean() if values else 0 * x["e"].sum()


def contrastive(x):
    values = []
    for i in range(len(x["e"])):
        alike, unlike = partners(x, i)
        values += [distance(x, i, j) ** 2 / 2 for j in alike]
        values += [(1 - distance(x, i, j)).clamp(min=0) ** 2 / 2 for j in unlike]
    return mean(values, x)


def of_triplets(chosen, x):
    """Torch's triplet loss of (anchor, positive, negative), without the 1e-6 that its own distance adds."""

    def between(u, v):
        return (u - v).norm(dim=1)

    if not chosen:
        return 0 * x["e"].sum()
    a, p, n = (x["e"][list(which)] for which in zip(*chosen, strict=True))
    return F.triplet_margin_with_distance_loss(a, p, n, distance_function=between, margin=0.2)


def triplet(x):
    return of_triplets([(i, j, k) for i, alike, unlike in anchors(x) for j in alike for k in unlike], x)


def triplet_random(x):
    chosen = [(i, j, k) for i, alike, unlike in anchors(x) for j in alike for k in unlike]
    return of_triplets([(i, j, k) for i, j, k in chosen if x["pick"][i, j] and x["pick"][i, k]], x)


def triplet_hard(x):
    chosen = []
    for i, alike, unlike in anchors(x):
        far = max(alike, key=lambda j: plain(distance(x, i, j)))
        chosen.append((i, far, min(unlike, key=lambda k: plain(distance(x, i, k)))))
    return of_triplets(chosen, x)


def triplet_semihard(x):
    chosen = []
    for i, alike, unlike in anchors(x):
        for j in alike:
            beyond = [k for k in unlike if distance(x, i, k) > distance(x, i, j)]
            if beyond:
                chosen.append((i, j, min(beyond, key=lambda k: plain(distance(x, i, k)))))
    return of_triplets(chosen, x)


def n_pair(x):
    values = []
    for i, alike, unlike in anchors(x):
        for j in alike:
            gaps = [x["e"][i] @ x["e"][k] - x["e"][i] @ x["e"][j] for k in unlike]
            values.append(torch.log(1 + sum(gap.exp() for gap in gaps)))
    return mean(values, x)


def multi_similarity(x, alpha=2, beta=50, base=1, epsilon=0.1):
    values = [0 * x["e"].sum() for _ in range(len(x["e"]))]
    for i, alike, unlike in anchors(x):
        least = min(plain(cosine(x, i, j)) for j in alike)
        most = max(plain(cosine(x, i, k)) for k in unlike)
        pulled = [j for j in alike if cosine(x, i, j) - epsilon < most]
        pushed = [k for k in unlike if cosine(x, i, k) + epsilon > least]
        if pulled:
            total = sum((-alpha * (cosine(x, i, j) - base)).exp() for j in pulled)
            values[i] = values[i] + torch.log(1 + total) / alpha
        if pushed:
            total = sum((beta * (cosine(x, i, k) - base)).exp() for k in pushed)
            values[i] = values[i] + torch.log(1 + total) / beta
    return mean(values, x)


def circle(x, margin=0.4, gamma=80):
    values = []
    for i, alike, unlike in anchors(x):
        pull, push = 0.0, 0.0
        for s in (cosine(x, i, j) for j in alike):
            weight = max(1 + margin - plain(s), 0)
            pull = pull + torch.exp(-gamma * weight * (s - (1 - margin)))
        for s in (cosine(x, i, k) for k in unlike):
            weight = max(plain(s) + margin, 0)
            push = push + torch.exp(gamma * weight * (s - margin))
        values.append(torch.log(1 + pull * push))
    return mean(values, x)


def cosines(x):
    return F.normalize(x["e"], dim=1) @ F.normalize(x["weights"], dim=0)


def classified(x, logits):
    """Cross entropy; samples without a label count, but cost nothing."""
    return F.cross_entropy(64 * logits, x["label"]) if len(logits) else 0 * logits.sum()


def cos_face(x):
    return classified(x, cosines(x) - 0.35 * x["label"])


def arc_face(x):
    theta = torch.acos(cosines(x))
    return classified(x, torch.cos(theta + 0.5 * x["label"]))


SECOND_WAYS = {
    "contrastive": contrastive,
    "triplet": triplet,
    "triplet_random": triplet_random,
    "triplet_hard": triplet_hard,
    "triplet_semihard": triplet_semihard,
    "n_pair": n_pair,
    "multi_similarity": multi_similarity,
    "circle": circle,
    "cos_face": cos_face,
    "arc_face": arc_face,
}


def test_every_loss_has_a_second_way():
    assert set(SECOND_WAYS) == set(SPACE.losses)


@pytest.mark.parametrize("case", [(7, 3, 3, 0), (6, 2, 2, 1), (9, 4, 4, 2)], ids=str)
@pytest.mark.parametrize("name", SPACE.losses)
def test_equals_its_second_way(embedding, name, case):
    embedding.agrees(name, samples(*case), SECOND_WAYS[name], rtol=1e-8)


def test_mining_of_multi_similarity_keeps_more_pairs_the_wider_it_is(embedding):
    x, widths = samples(10, 2, 3, seed=4), (0.0, 0.1, 0.2, 0.4, 2.0)
    values = [float(embedding.value("multi_similarity", x, epsilon=w, beta=2.0)) for w in widths]
    assert values == sorted(set(values))
    for w in widths:
        embedding.agrees(
            "multi_similarity", x, lambda x, w=w: multi_similarity(x, beta=2, epsilon=w),
            rtol=1e-8, epsilon=w, beta=2.0,
        )  # fmt: skip


# Nothing to compare.

LONELY = {"one sample": [0], "no class twice": [0, 1, 2], "one class": [1, 1, 1]}


@pytest.mark.parametrize("case", LONELY)
@pytest.mark.parametrize("name", SPACE.losses)
def test_without_pairs_of_both_kinds_it_is_defined(embedding, name, case):
    x = samples(labels=LONELY[case], seed=3)
    embedding.agrees(name, x, SECOND_WAYS[name], rtol=1e-8)
    if name in BY_PAIR and (name != "contrastive" or case == "one sample"):
        assert embedding.value(name, x) == 0
        assert not embedding.gradient(name, x).any()


@pytest.mark.parametrize("name", SPACE.losses)
def test_an_empty_batch_costs_nothing(embedding, name):
    x = samples(labels=[])
    assert embedding.value(name, x) == 0
    assert embedding.gradient(name, x).shape == (0, 3)


def test_without_a_picked_pair_random_triplets_cost_nothing(embedding):
    x = samples()
    x["pick"][:] = False
    assert embedding.value("triplet_random", x) == 0
    assert not embedding.gradient("triplet_random", x).any()


@pytest.mark.parametrize("name", BY_CLASS)
def test_samples_without_a_label_cost_nothing(embedding, name):
    x = samples()
    x["label"][:] = 0
    assert embedding.value(name, x) == 0
    assert not embedding.gradient(name, x).any()
    assert not embedding.gradient(name, x, "weights").any()


@pytest.mark.parametrize("name", BY_PAIR)
def test_a_mask_of_classes_without_the_diagonal_says_the_same(embedding, name):
    x = samples(seed=5)
    torch.testing.assert_close(
        embedding.value(name, {**x, "same": x["same"] & ~x["eye"]}), embedding.value(name, x)
    )


@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 100.0, 1e4])
@pytest.mark.parametrize("name", SPACE.losses)
def test_is_finite_in_single_precision_with_its_gradient(embedding, name, size):
    x = {k: v.float() if v.is_floating_point() else v for k, v in samples(seed=6).items()}
    x["e"] = size * torch.sign(x["e"])  # many coincide, others are opposite
    mine = {k: v.clone().requires_grad_(k in ("e", "weights")) for k, v in x.items()}
    value = embedding.value(name, mine)
    assert torch.isfinite(value)
    wrt = [k for k in ("e", "weights") if k in embedding.program(name).inputs]
    for k, slope in zip(wrt, torch.autograd.grad(value, [mine[k] for k in wrt]), strict=True):
        assert torch.isfinite(slope).all()
        assert torch.isfinite(embedding.gradient(name, x, k)).all()


# Identities.


@pytest.mark.parametrize("name", TRIPLETS)
def test_without_a_margin_triplets_whose_negative_is_farther_cost_nothing(embedding, name):
    x = samples(labels=[0, 0, 0, 1, 1, 1], seed=7)
    x["e"] = x["e"] + 100 * x["label"]
    assert embedding.value(name, x, margin=300.0) > 0
    assert embedding.value(name, x, margin=0.0) == 0
    assert not embedding.gradient(name, x, margin=0.0).any()


@pytest.mark.parametrize("name", ["triplet_hard", "triplet_semihard", "triplet_random"])
def test_where_each_anchor_has_one_triplet_all_mining_is_the_same(embedding, name):
    x = samples(labels=[0, 0, 1], seed=8)
    x["e"] = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, 0.2]], dtype=DOUBLE)
    x["pick"][:] = True
    embedding.same(name, x, "triplet")


def test_with_all_pairs_picked_random_triplets_are_all_triplets(embedding):
    x = samples(9, seed=9)
    x["pick"][:] = True
    embedding.same("triplet_random", x, "triplet")


def test_n_pair_with_one_negative_is_the_logistic_loss_of_the_gap(embedding):
    x = samples(labels=[0, 0, 1], seed=10)
    e = x["e"]
    gaps = torch.stack([e[0] @ e[1] - e[0] @ e[2], e[1] @ e[0] - e[1] @ e[2]])
    torch.testing.assert_close(embedding.value("n_pair", x), F.softplus(-gaps).mean())


def test_without_a_margin_both_faces_are_cross_entropy_of_scaled_cosines(embedding):
    x = samples(seed=11)
    embedding.same("arc_face", x, "cos_face", margin=0.0, at={"margin": 0.0})
    torch.testing.assert_close(
        embedding.value("cos_face", x, margin=0.0), F.cross_entropy(64 * cosines(x), x["label"])
    )


@pytest.mark.parametrize("name", BY_ANGLE)
def test_losses_of_angles_do_not_read_lengths(embedding, name):
    x = samples(seed=12)
    longer = {**x, "e": x["e"] * torch.linspace(0.5, 3, 7, dtype=DOUBLE)[:, None]}
    torch.testing.assert_close(embedding.value(name, longer), embedding.value(name, x))
    along = (embedding.gradient(name, x) * x["e"]).sum(1)
    torch.testing.assert_close(along, torch.zeros(7, dtype=DOUBLE), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", BY_PAIR)
def test_turning_all_embeddings_changes_nothing(embedding, name):
    x = samples(seed=13)
    angle = torch.tensor(0.7, dtype=DOUBLE)
    turn = torch.eye(3, dtype=DOUBLE)
    turn[0, 0] = turn[1, 1] = angle.cos()
    turn[0, 1], turn[1, 0] = -angle.sin(), angle.sin()
    torch.testing.assert_close(embedding.value(name, {**x, "e": x["e"] @ turn}), embedding.value(name, x))


def test_embeddings_that_coincide_within_and_part_between_classes_are_perfect(embedding):
    x = samples(labels=[0, 0, 1, 1], seed=14)
    x["e"] = 10 * torch.tensor([[1.0, 0, 0], [1, 0, 0], [-1, 0, 0], [-1, 0, 0]], dtype=DOUBLE)
    for name in ("contrastive", *TRIPLETS, "n_pair"):
        assert embedding.value(name, x) == pytest.approx(0, abs=1e-9)


def test_the_slope_of_circle_has_the_weight_of_the_paper(embedding):
    """One pair of each kind: dL/ds_p = -gamma Z (1 + m - s_p), Z the logistic of the exponent."""
    theta, phi = torch.tensor([0.9, 2.0], dtype=DOUBLE)
    x = samples(labels=[0, 0, 1])
    x["e"] = torch.stack([torch.stack([a.cos(), a.sin(), 0 * a]) for a in (0 * theta, theta, phi)])
    x["same"][1, 0] = False  # the first is the only anchor
    slope = embedding.gradient("circle", x, margin=0.25, gamma=2.0)[1]
    s_p, s_n = theta.cos(), phi.cos()
    w_p, w_n = 1.25 - s_p, torch.relu(s_n + 0.25)
    z = torch.sigmoid(2 * (w_n * (s_n - 0.25) - w_p * (s_p - 0.75)))
    expected = -2 * z * w_p * torch.stack([theta.sin() ** 2, -theta.sin() * theta.cos()])
    torch.testing.assert_close(slope[:2], expected)
    assert math.isclose(float(slope[2]), 0)
