"""Our embedding losses as those of pytorch-metric-learning, with its miners, and held against its values.

Theirs measures distances of embeddings brought to length 1 and most of its reducers average what is not
zero; ours takes embeddings as they are and averages all that a formula's mean speaks of:

    triplet             TripletMarginLoss, LpDistance(normalize_embeddings=False), MeanReducer
    triplet_hard        the same, of the triplets of BatchHardMiner
    contrastive         half the squares of ContrastiveLoss's terms, averaged over all pairs together
    info_nce            NTXentLoss: each partner among the negatives alone
    nt_xent             NTXentLoss where each view has one partner; else ours counts the others too
    sup_con             SupConLoss
    multi_similarity    MultiSimilarityLoss of the pairs of MultiSimilarityMiner
    circle              CircleLoss
    cos_face, arc_face  CosFaceLoss, ArcFaceLoss (whose margin is in degrees, and which leaves the formula
                        where the true angle is above pi - margin)
"""

from __future__ import annotations

import math
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import losssearch as ls
from losssearch.catalogue import find, with_constants
from losssearch.errors import UsageError
from losssearch.language.program import Program

pytest.importorskip(
    "pytorch_metric_learning", reason="needs `pip install 'losssearch[frameworks]'`", exc_type=ImportError
)
from pytorch_metric_learning import losses, miners, reducers, regularizers
from pytorch_metric_learning.distances import LpDistance

from losssearch.adapters.metric_learning import MetricLoss

AS_THEY_ARE = LpDistance(normalize_embeddings=False)
MEAN = reducers.MeanReducer()
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Ten embeddings of four classes, one of which has a single sample."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(10, 4, generator=draw, dtype=torch.double), torch.tensor(
        [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    )


def program(name: str, **constants: float) -> Program:
    space = "contrastive" if name in ("info_nce", "nt_xent", "sup_con") else "embedding"
    return with_constants(find(name, space)[1], constants)


def assert_equal(
    a: Callable[..., Tensor], b: Callable[..., Tensor], e: Tensor, *rest: object, rtol: float = 1e-8
) -> None:
    """In value and gradient."""
    results = []
    for loss in (a, b):
        x = e.clone().requires_grad_()
        value = loss(x, *rest)
        results.append((value.detach(), torch.autograd.grad(value, x)[0]))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol)
    assert results[0][0] > 0


def test_triplet_is_theirs_with_the_mean_of_all(batch: tuple[Tensor, Tensor]) -> None:
    theirs = losses.TripletMarginLoss(margin=0.5, distance=AS_THEY_ARE, reducer=MEAN)
    assert_equal(MetricLoss(program("triplet", margin=0.5)), theirs, *batch)
    normal = losses.TripletMarginLoss(margin=0.5, distance=LpDistance(), reducer=MEAN)
    assert_equal(MetricLoss(program("triplet", margin=0.5), normalize_embeddings=True), normal, *batch)


def test_their_default_reducer_leaves_out_the_triplets_that_cost_nothing(
    batch: tuple[Tensor, Tensor],
) -> None:
    each = losses.TripletMarginLoss(margin=0.5, distance=AS_THEY_ARE, reducer=reducers.DoNothingReducer())
    cost = each(*batch)["loss"]["losses"]
    share = (cost > 0).double().mean()
    assert 0 < share < 1
    theirs = losses.TripletMarginLoss(margin=0.5, distance=AS_THEY_ARE)
    assert_equal(MetricLoss(program("triplet", margin=0.5)), lambda *a: theirs(*a) * share, *batch)


def test_hard_triplets_are_those_of_their_miner(batch: tuple[Tensor, Tensor]) -> None:
    miner = miners.BatchHardMiner(distance=AS_THEY_ARE)
    theirs = losses.TripletMarginLoss(margin=0.5, distance=AS_THEY_ARE, reducer=MEAN)
    hard = MetricLoss(program("triplet_hard", margin=0.5))
    assert_equal(hard, lambda e, y: theirs(e, y, miner(e, y)), *batch)
    # Of the pairs that were mined, one a kind and anchor, all triplets are the mined ones.
    triplet = MetricLoss(program("triplet", margin=0.5))
    assert_equal(lambda e, y: triplet(e, y, miner(e, y)), hard, *batch)


def test_contrastive_is_half_the_squares_of_their_terms_over_all_pairs(batch: tuple[Tensor, Tensor]) -> None:
    each = losses.ContrastiveLoss(neg_margin=2.0, distance=AS_THEY_ARE, reducer=reducers.DoNothingReducer())

    def by_hand(e: Tensor, y: Tensor) -> Tensor:
        terms = each(e, y)
        pull, push = terms["pos_loss"]["losses"], terms["neg_loss"]["losses"]
        return (pull.square().sum() + push.square().sum()) / 2 / (len(e) * (len(e) - 1))

    assert_equal(MetricLoss(program("contrastive", margin=2.0)), by_hand, *batch)


def test_info_nce_is_their_nt_xent(batch: tuple[Tensor, Tensor]) -> None:
    theirs = losses.NTXentLoss(temperature=0.3)
    assert_equal(MetricLoss(program("info_nce", temperature=0.3)), theirs, *batch)


def test_nt_xent_is_theirs_with_one_partner_each(batch: tuple[Tensor, Tensor]) -> None:
    theirs, mine = losses.NTXentLoss(temperature=0.3), MetricLoss(program("nt_xent", temperature=0.3))
    e, labels = batch
    views = torch.arange(5).repeat(2)
    assert_equal(mine, theirs, e, views)
    assert mine(e, labels) > theirs(e, labels) + 0.01


def test_sup_con_is_theirs(batch: tuple[Tensor, Tensor]) -> None:
    theirs = losses.SupConLoss(temperature=0.2)
    assert_equal(MetricLoss(program("sup_con", temperature=0.2)), theirs, *batch)


def test_multi_similarity_mines_as_their_miner_does(batch: tuple[Tensor, Tensor]) -> None:
    miner = miners.MultiSimilarityMiner(epsilon=0.1)
    theirs = losses.MultiSimilarityLoss(alpha=2, beta=10, base=0.5)
    mine = MetricLoss(program("multi_similarity", alpha=2, beta=10, base=0.5, epsilon=0.1))
    assert_equal(mine, lambda e, y: theirs(e, y, miner(e, y)), *batch)


def test_circle_is_theirs(batch: tuple[Tensor, Tensor]) -> None:
    theirs = losses.CircleLoss(m=0.3, gamma=16)
    assert_equal(MetricLoss(program("circle", margin=0.3, gamma=16)), theirs, *batch)


def with_classes(
    name: str, theirs: losses.LargeMarginSoftmaxLoss, **constants: float
) -> Callable[..., Tensor]:
    """Ours, with their learnt classes."""
    mine = MetricLoss(program(name, **constants), num_classes=4, embedding_size=4).double()
    mine.load_state_dict({"W": theirs.W})
    return mine


def test_cos_face_is_theirs(batch: tuple[Tensor, Tensor]) -> None:
    theirs = losses.CosFaceLoss(4, 4, margin=0.35, scale=8).double()
    assert_equal(with_classes("cos_face", theirs, margin=0.35, scale=8), theirs, *batch)


def test_arc_face_is_theirs_while_the_moved_angle_stays_below_a_half_turn(
    batch: tuple[Tensor, Tensor],
) -> None:
    e, y = batch
    theirs = losses.ArcFaceLoss(4, 4, margin=math.degrees(0.5), scale=8).double()
    mine = with_classes("arc_face", theirs, margin=0.5, scale=8)
    angle = theirs.distance(e, theirs.W.t())[torch.arange(10), y].acos()
    fits = angle <= math.pi - 0.5
    assert fits.sum() > 3
    assert_equal(mine, theirs, e[fits], y[fits])
    opposite = -theirs.W.t()[:1].detach()
    first = torch.zeros(1, dtype=torch.long)
    assert (mine(opposite, first) - theirs(opposite, first)).abs() > 0.1


# Use: training, miners, schedules, what does not fit.


def test_a_miners_pairs_are_all_that_a_loss_sees(batch: tuple[Tensor, Tensor]) -> None:
    e, _ = batch
    pairs = tuple(torch.tensor(row) for row in ([0], [1], [0, 3], [4, 5]))
    d = (e[:, None] - e).square().sum(2).sqrt()
    by_hand = (d[0, 1] ** 2 + (2 - d[0, 4]).relu() ** 2 + (2 - d[3, 5]).relu() ** 2) / 2 / 3
    loss = MetricLoss(program("contrastive", margin=2.0))
    torch.testing.assert_close(loss(e, None, pairs), by_hand)


@pytest.mark.parametrize("name", ["triplet", "contrastive", "nt_xent", "sup_con", "circle", "n_pair"])
def test_a_batch_without_pairs_costs_nothing(name: str) -> None:
    e = torch.randn(1, 4, requires_grad=True)
    loss = MetricLoss(program(name))(e, torch.tensor([0]))
    loss.backward()
    assert loss == 0
    assert not e.grad.any()


def test_the_example_sorts_classes_it_never_saw(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "metric_learning.py"))["main"]()
    before, after = (float(line.split()[-1]) for line in capsys.readouterr().out.splitlines())
    assert after > before


def test_their_regularizer_is_added(batch: tuple[Tensor, Tensor]) -> None:
    options = {"embedding_regularizer": regularizers.LpRegularizer(), "embedding_reg_weight": 0.1}
    plain, more = MetricLoss(program("triplet")), MetricLoss(program("triplet"), **options)
    by_hand = plain(*batch) + 0.1 * batch[0].norm(dim=1).mean()
    torch.testing.assert_close(more(*batch), by_hand)


def test_the_schedule_reaches_the_loss(batch: tuple[Tensor, Tensor]) -> None:
    loss = MetricLoss(ls.parse("mean(progress * dist, 'n m', alike)", space="embedding"))
    assert loss(*batch) == 0
    loss.set_progress(1.0)
    e, y = batch
    pairs = [(i, j) for i in range(10) for j in range(10) if i != j and y[i] == y[j]]
    torch.testing.assert_close(loss(e, y), torch.stack([(e[i] - e[j]).norm() for i, j in pairs]).mean())


def test_what_does_not_fit_is_said(batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UsageError, match="'reducer'"):
        MetricLoss(program("triplet"), reducer=MEAN)
    with pytest.raises(UsageError, match="num_classes"):
        MetricLoss(program("arc_face"))
    with pytest.raises(UsageError, match="target, valid"):
        MetricLoss(find("pixel_ce", "segmentation")[1].program)
    with pytest.raises(UsageError, match="one prediction"):
        MetricLoss(ls.parse("mean(d_real, 'n') - mean(d_fake, 'm')", space="gan"))
    with pytest.raises(ValueError, match="ref_emb"):
        MetricLoss(program("triplet"))(*batch, ref_emb=batch[0].clone(), ref_labels=batch[1])
    face = MetricLoss(program("arc_face"), num_classes=4, embedding_size=4)
    with pytest.raises(ValueError, match="no pairs"):
        face(*batch, miners.BatchHardMiner()(*batch))
