"""kornia's losses as a reference for the values of ours; nothing of it is called by losssearch.

s is our `smooth`. kornia adds its `eps` below the fraction only and averages over the classes that an
image has; ours adds s on both sides and averages over all classes, since s makes an absent one harmless.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import losssearch as ls
from losssearch.adapters.monai import SegmentationLoss
from losssearch.catalogue import find, with_constants

kornia = pytest.importorskip(
    "kornia.losses", reason="needs `pip install 'losssearch[frameworks]'`", exc_type=ImportError
)

CLASSES = 4


@pytest.fixture
def image() -> tuple[Tensor, Tensor]:
    """Logits (3, 4, 6, 5) and class indices (3, 6, 5), with each class in each image."""
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3, CLASSES, 6, 5, generator=draw, dtype=torch.double)
    labels = torch.randint(CLASSES, (3, 6, 5), generator=draw)
    labels[:, 0, :CLASSES] = torch.arange(CLASSES)
    return logits, labels


def ours(name: str, logits: Tensor, labels: Tensor, **constants: float) -> Tensor:
    loss = SegmentationLoss(with_constants(find(name, "segmentation")[1], constants))
    value: Tensor = loss(logits, labels[:, None])
    return value


def close(a: Tensor, b: Tensor, rtol: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=1e-12)


def test_focal_is_theirs_times_the_classes_and_alpha(image: tuple[Tensor, Tensor]) -> None:
    """Their mean divides by the classes too; their alpha weighs class 0 by 1 - alpha, ours weighs all."""
    loss = ls.loss("focal", gamma=1.5, alpha=0.25)
    close(loss(*image), 0.25 * CLASSES * kornia.focal_loss(*image, alpha=None, gamma=1.5, reduction="mean"))
    weighted = loss.__class__(
        program=loss.program, reduction="sum", weight=torch.tensor([3.0, 1, 1, 1]).double()
    )
    close(weighted(*image), kornia.focal_loss(*image, alpha=0.25, gamma=1.5, reduction="sum"))


def test_binary_focal_is_theirs(image: tuple[Tensor, Tensor]) -> None:
    logits, labels = image[0][:, :1], (image[1] > 1).double()[:, None]
    loss = ls.loss("focal", space="binary", alpha=0.25, gamma=2.0)
    close(loss(logits, labels), kornia.binary_focal_loss_with_logits(logits, labels, 0.25, 2.0, "mean"))


@pytest.mark.parametrize("smooth", [1e-6, 1.0])
def test_dice_is_theirs_moved_towards_one_by_the_smoothing(
    image: tuple[Tensor, Tensor], smooth: float
) -> None:
    """(2 hits + s) / (m + s) = D m / (m + s) + s / (m + s), with their D = 2 hits / m, image by image."""
    scores = []
    for x, y in zip(*image, strict=True):
        for c in range(CLASSES):
            only = torch.eye(CLASSES, dtype=torch.double)[c]
            d = 1 - kornia.dice_loss(x[None], y[None], average="macro", eps=0.0, weight=only)
            m = x.softmax(0)[c].sum() + (y == c).sum()
            scores.append((d * m + smooth) / (m + smooth))
    close(ours("dice", *image, smooth=smooth), 1 - torch.stack(scores).mean())


def test_dice_without_smoothing_is_theirs(image: tuple[Tensor, Tensor]) -> None:
    """Our least smoothing, a millionth of a pixel, is seen in the sixth digit."""
    close(ours("dice", *image, smooth=1e-6), kornia.dice_loss(*image, average="macro", eps=0.0), rtol=1e-5)


def test_tversky_without_smoothing_is_theirs(image: tuple[Tensor, Tensor]) -> None:
    mine = ours("tversky", *image, alpha=0.3, beta=0.7, smooth=1e-6)
    close(mine, kornia.tversky_loss(*image, alpha=0.3, beta=0.7, eps=0.0), rtol=1e-5)


def test_lovasz_is_theirs_where_each_image_has_each_class(image: tuple[Tensor, Tensor]) -> None:
    close(ours("lovasz_softmax", *image), kornia.lovasz_softmax_loss(*image))


def test_lovasz_leaves_out_absent_classes_where_theirs_adds_their_largest_probability(
    image: tuple[Tensor, Tensor],
) -> None:
    """theirs = (ours (C - 1) + max_pixel p_absent) / C, for an image that lacks one class."""
    x, y = image[0][:1], image[1][:1].clamp(min=1)
    mine = ours("lovasz_softmax", x, y)
    by_hand = (mine * (CLASSES - 1) + x.softmax(1)[:, 0].max()) / CLASSES
    close(by_hand, kornia.lovasz_softmax_loss(x, y))
