"""Our segmentation losses called as MONAI's are, and held against theirs in value and gradient.

Ours averages over images and classes, background among them, as theirs do with batch=False and
include_background=True. What differs is where the smoothing numbers stand:

    Dice      1 - (2 hits + s) / (seen + there + s)      theirs: smooth_nr = smooth_dr = s
    Jaccard   1 - (hits + s) / (union + s)               theirs: smooth_nr = smooth_dr = 2 s
    Tversky   1 - (2 hits + s) / (2 (...) + s)           theirs: smooth_nr = smooth_dr = s / 2
"""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import losssearch as ls
from losssearch.adapters.monai import SegmentationLoss
from losssearch.catalogue import find, with_constants
from losssearch.errors import UsageError
from losssearch.spaces import load_space

NEEDS = "needs `pip install 'losssearch[frameworks]'`"
CLASSES = 3


def ours(name: str, *, ignore_index: int | None = None, **constants: float) -> SegmentationLoss:
    program = with_constants(find(name, "segmentation")[1], constants)
    return SegmentationLoss(program, ignore_index=ignore_index)


def images(*size: int, n: int = 2) -> tuple[Tensor, Tensor]:
    """Logits (n, 3, *size) and class indices (n, 1, *size)."""
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(n, CLASSES, *size, generator=draw, dtype=torch.double)
    return logits, torch.randint(CLASSES, (n, 1, *size), generator=draw)


def assert_equal(
    a: Callable[..., Tensor], b: Callable[..., Tensor], x: Tensor, *target: Tensor, rtol: float = 1e-9
) -> None:
    """In value and gradient."""
    for one, other in zip(*(with_slope(loss, x, *target) for loss in (a, b)), strict=True):
        torch.testing.assert_close(one, other.to(one.dtype), rtol=rtol, atol=rtol / 1000)


def with_slope(loss: Callable[..., Tensor], x: Tensor, *target: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    value = loss(x, *target)
    return value.detach(), torch.autograd.grad(value, x)[0]


@pytest.fixture(scope="module")
def theirs() -> Any:
    return pytest.importorskip("monai.losses", reason=NEEDS, exc_type=ImportError)


@pytest.mark.parametrize("size", [(7,), (5, 4), (3, 4, 2)])
def test_dice_equals_dice(theirs: Any, size: tuple[int, ...]) -> None:
    loss = theirs.DiceLoss(softmax=True, to_onehot_y=True, smooth_nr=0.5, smooth_dr=0.5)
    assert_equal(ours("dice", smooth=0.5), loss, *images(*size))


def test_jaccard_has_half_the_smoothing(theirs: Any) -> None:
    loss = theirs.DiceLoss(softmax=True, to_onehot_y=True, jaccard=True, smooth_nr=0.5, smooth_dr=0.5)
    assert_equal(ours("iou", smooth=0.25), loss, *images(5, 4))


def test_tversky_has_twice_the_smoothing(theirs: Any) -> None:
    loss = theirs.TverskyLoss(
        softmax=True, to_onehot_y=True, alpha=0.3, beta=0.7, smooth_nr=0.5, smooth_dr=0.5
    )
    assert_equal(ours("tversky", alpha=0.3, beta=0.7, smooth=1.0), loss, *images(5, 4))


def test_cross_entropy_plus_dice_equals_theirs(theirs: Any) -> None:
    loss = theirs.DiceCELoss(
        softmax=True, to_onehot_y=True, smooth_nr=1.0, smooth_dr=1.0, lambda_dice=0.5, lambda_ce=1.0
    )
    assert_equal(ours("ce_dice", weight=0.5), loss, *images(5, 4))


def test_focal_is_divided_by_the_classes_there(theirs: Any) -> None:
    """Theirs averages over (N, C, H, W), of which one class in C counts at each position; in float32."""
    x, y = images(5, 4)
    loss = theirs.FocalLoss(use_softmax=True, to_onehot_y=True, gamma=2.0)
    focal = ls.loss("focal", gamma=2.0, alpha=1.0)
    assert_equal(lambda x, y: focal(x, y[:, 0]) / CLASSES, loss, x, y, rtol=1e-5)


def test_batch_true_is_another_loss_but_for_one_image(theirs: Any) -> None:
    loss = theirs.DiceLoss(softmax=True, to_onehot_y=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)
    x, y = images(5, 4)
    assert_equal(ours("dice"), loss, x[:1], y[:1])
    assert abs(ours("dice")(x, y) - loss(x, y)) > 1e-4


def test_ignored_positions_are_masked_as_theirs_are(theirs: Any) -> None:
    x, y = images(5, 4)
    y[:, :, ::2] = 255
    loss = theirs.DiceLoss(softmax=True, to_onehot_y=True, ignore_index=255, smooth_nr=1.0, smooth_dr=1.0)
    assert_equal(ours("dice", ignore_index=255), loss, x, y)


def test_an_unlabelled_image_takes_no_part_here_and_costs_nothing_there(theirs: Any) -> None:
    """Theirs counts it as a perfect image: with one of two images unlabelled, half our value."""
    x, y = images(5, 4)
    y[1] = 255
    loss = theirs.DiceLoss(softmax=True, to_onehot_y=True, ignore_index=255, smooth_nr=1.0, smooth_dr=1.0)
    assert_equal(lambda x, y: ours("dice", ignore_index=255)(x, y) / 2, loss, x, y)


def test_their_tensors_with_a_history_are_tensors_too() -> None:
    data = pytest.importorskip("monai.data", reason=NEEDS, exc_type=ImportError)
    x, y = images(5, 4)
    got = ours("dice")(data.MetaTensor(x), data.MetaTensor(y.float()))
    assert type(got) is Tensor
    assert got == ours("dice")(x, y)


def test_the_example_learns(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("monai.networks.nets", reason=NEEDS, exc_type=ImportError)
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "monai_segmentation.py"))["main"]()
    assert float(capsys.readouterr().out.split()[-1]) < 0.2  # MONAI's Dice loss; 0.5 and more untrained


# Without MONAI: the call convention.


def one_hot(y: Tensor) -> Tensor:
    return torch.cat([y == c for c in range(CLASSES)], 1).double()


@pytest.mark.parametrize("name", list(load_space("segmentation").losses))
def test_one_hot_and_indices_are_one_target(name: str) -> None:
    x, y = images(5, 4)
    assert_equal(lambda x: ours(name)(x, y), lambda x: ours(name)(x, one_hot(y)), x)


@pytest.mark.parametrize("name", list(load_space("segmentation").losses))
def test_nothing_to_learn_from_costs_nothing(name: str) -> None:
    x, y = images(5, 4)
    loss = ours(name, ignore_index=255)
    for some, labels in ((x[:0], y[:0]), (x, torch.full_like(y, 255))):
        value, slope = with_slope(loss, some, labels)
        assert value == 0
        assert not slope.any()


def test_what_stands_at_an_ignored_position_does_not_matter() -> None:
    x, y = images(5, 4)
    y[0, 0, 1, 1] = -1
    wild = x.clone()
    wild[0, :, 1, 1] = torch.tensor([float("nan"), float("inf"), -1e4])
    loss = ours("ce_dice", ignore_index=-1)
    assert loss(wild, y) == loss(x, y)
    zero = one_hot(y)
    assert not zero[0, :, 1, 1].any()
    torch.testing.assert_close(loss(x, zero), loss(x, y))


def test_the_schedule_and_the_prior_arrive() -> None:
    program = ls.parse("mean(mean(progress * sum(prior * p, 'c'), 's'), 'n')", space="segmentation")
    x, y = images(5, 4)
    prior = torch.tensor([0.7, 0.2, 0.1])
    loss = SegmentationLoss(program, prior=prior)
    assert loss(x, y) == 0
    loss.set_progress(0.5)
    by_hand = 0.5 * torch.einsum("nchw,c->nhw", x.softmax(1), prior.double()).mean()
    torch.testing.assert_close(loss(x, y), by_hand)
    assert set(loss.state_dict()) == {"prior", "progress"}
    with pytest.raises(UsageError, match="progress"):
        loss.set_progress(2)


def test_half_precision_is_computed_in_float32() -> None:
    x, y = images(5, 4)
    got = ours("dice")(x.bfloat16(), y)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, ours("dice")(x.bfloat16().float(), y))


def test_what_does_not_fit_is_said() -> None:
    x, y = images(5, 4)
    for wrong in (y[:, 0], y[:1], y.expand(-1, 2, -1, -1)):
        with pytest.raises(ValueError, match=r"Got input \(2, 3, 5, 4\) with target"):
            ours("dice")(x, wrong)
    with pytest.raises(ValueError, match="two classes"):
        ours("dice")(x[:, :1], y)
    with pytest.raises(RuntimeError, match="out of bounds"):
        ours("dice")(x, y + 1)
    with pytest.raises(UsageError, match="eye"):
        SegmentationLoss(find("triplet", "embedding")[1].program)
