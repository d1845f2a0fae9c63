"""Every segmentation loss against torch's own function, or against loops over positions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from losssearch.spaces import load_space

DOUBLE = torch.float64
SPACE = load_space("segmentation")


def images(n=3, c=3, s=6, seed=0, spread=2.0) -> dict[str, Tensor]:
    """Labels of all classes but one in each image, and positions without a label."""
    g = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(n, c, s, generator=g, dtype=DOUBLE)
    labels = (torch.randint(max(c - 1, 1), (n, s), generator=g) + torch.arange(n)[:, None]) % c
    valid = torch.rand(n, s, generator=g) < 0.7
    if n and s:
        valid[:, 0] = True
    target = F.one_hot(labels, c).transpose(1, 2).to(DOUBLE)
    prior = torch.full((c,), 1 / c, dtype=DOUBLE)
    return {"logits": logits, "target": target, "valid": valid, "prior": prior}


def labelled(x) -> list[int]:
    return [i for i in range(len(x["logits"])) if x["valid"][i].any()]


def counts(x, i, c) -> tuple[Tensor, Tensor, float]:
    """Hits, predicted and labelled positions of one class of one image, softly."""
    hits, seen, there = torch.zeros((), dtype=DOUBLE), torch.zeros((), dtype=DOUBLE), 0.0
    for s in range(x["logits"].shape[2]):
        if not x["valid"][i, s]:
            continue
        raised = torch.exp(x["logits"][i, :, s])
        p = raised[c] / raised.sum()
        seen = seen + p
        if x["target"][i, c, s] > 0:
            hits, there = hits + p, there + 1
    return hits, seen, there


def over_images(rule):
    def second_way(x):
        values = [rule(x, i) for i in labelled(x)]
        return torch.stack(values).mean() if values else 0 * x["logits"].sum()

    return second_way


def over_classes(rule):
    """The mean over classes of a rule of hits, predicted and labelled positions."""

    def of_image(x, i):
        return torch.stack([rule(*counts(x, i, c)) for c in range(x["logits"].shape[1])]).mean()

    return of_image


def dice(hits, seen, there):
    return 1 - (2 * hits + 1) / (seen + there + 1)


def jaccard(hits, seen, there):
    return 1 - (hits + 1) / (seen + there - hits + 1)


def tversky(hits, seen, there):
    false_positives, false_negatives = seen - hits, there - hits
    return 1 - (hits + 0.5) / (hits + 0.3 * false_positives + 0.7 * false_negatives + 0.5)


def label_map(x) -> Tensor:
    return x["target"].argmax(1).masked_fill(~x["valid"], -100)


def ce_of_image(x, i):
    return F.cross_entropy(x["logits"][i].T, label_map(x)[i])


def lovasz(x, i):
    """By its definition: errors, largest first, times what each adds to the Jaccard loss of the mistakes."""
    values = []
    kept = [s for s in range(x["logits"].shape[2]) if x["valid"][i, s]]
    p = F.softmax(x["logits"][i], 0)
    for c in range(x["logits"].shape[1]):
        own = {s for s in kept if x["target"][i, c, s] > 0}
        if not own:
            continue
        error = {s: 1 - p[c, s] if s in own else p[c, s] for s in kept}
        mistakes: set[int] = set()
        total, before = torch.zeros((), dtype=DOUBLE), 0.0
        for s in sorted(kept, key=lambda s: -float(error[s].detach())):
            mistakes.add(s)
            now = 1 - len(own - mistakes) / len(own | mistakes)
            total = total + error[s] * (now - before)
            before = now
        values.append(total)
    return torch.stack(values).mean()


SECOND_WAYS = {
    "pixel_ce": lambda x: F.cross_entropy(x["logits"], label_map(x)),
    "dice": over_images(over_classes(dice)),
    "ce_dice": over_images(lambda x, i: ce_of_image(x, i) + over_classes(dice)(x, i)),
    "iou": over_images(over_classes(jaccard)),
    "tversky": over_images(over_classes(tversky)),
    "focal_tversky": over_images(over_classes(lambda *a: tversky(*a) ** 0.75)),
    "log_cosh_dice": over_images(lambda x, i: torch.log(torch.cosh(over_classes(dice)(x, i)))),
    "lovasz_softmax": over_images(lovasz),
}


def test_every_loss_has_a_second_way():
    assert set(SECOND_WAYS) == set(SPACE.losses)


@pytest.mark.parametrize("shape", [(3, 3, 6), (1, 2, 1), (2, 5, 4)])
@pytest.mark.parametrize("name", SPACE.losses)
def test_equals_its_second_way(segmentation, name, shape):
    segmentation.agrees(name, images(*shape, seed=sum(shape)), SECOND_WAYS[name])


@pytest.mark.parametrize("name", SPACE.losses)
def test_an_image_without_labels_takes_no_part(segmentation, name):
    x = images(3, seed=5)
    x["valid"][1] = False
    kept = {k: v[[0, 2]] if k != "prior" else v for k, v in x.items()}
    torch.testing.assert_close(segmentation.value(name, x), segmentation.value(name, kept))
    slope = segmentation.gradient(name, x)
    torch.testing.assert_close(slope[[0, 2]], segmentation.gradient(name, kept))
    assert torch.equal(slope[1], torch.zeros_like(slope[1]))


@pytest.mark.parametrize("name", SPACE.losses)
def test_what_stands_at_a_position_without_a_label_does_not_matter(segmentation, name):
    x = images(2, seed=6)
    other = {**x, "logits": torch.where(x["valid"][:, None, :], x["logits"], 17.0)}
    other["target"] = torch.where(x["valid"][:, None, :], x["target"], 0.0)
    torch.testing.assert_close(segmentation.value(name, x), segmentation.value(name, other))
    hidden = ~x["valid"][:, None, :].expand_as(x["logits"])
    assert not segmentation.gradient(name, x)[hidden].any()


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0)])
@pytest.mark.parametrize("name", SPACE.losses)
def test_no_image_or_no_position_costs_nothing(segmentation, name, shape):
    x = images(*shape)
    assert segmentation.value(name, x) == 0
    assert segmentation.gradient(name, x).shape == shape


@pytest.mark.parametrize("name", SPACE.losses)
def test_all_ignored_costs_nothing(segmentation, name):
    x = images(2)
    x["valid"][:] = False
    assert segmentation.value(name, x) == 0
    assert not segmentation.gradient(name, x).any()


@pytest.mark.parametrize("name", SPACE.losses)
def test_no_foreground_is_defined(segmentation, name):
    x = images(2, seed=7)
    x["target"] = torch.zeros_like(x["target"])
    x["target"][:, 0] = 1
    segmentation.agrees(name, x, SECOND_WAYS[name])
    right = {**x, "logits": 60 * (x["target"] - 0.5)}
    assert segmentation.value(name, right) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("size", [0.0, 1.0, 20.0, 100.0, 6e4])
@pytest.mark.parametrize("name", SPACE.losses)
def test_is_finite_in_single_precision_with_its_gradient(segmentation, name, size):
    x = images(3, seed=5)
    x = {k: v.float() if v.is_floating_point() else v for k, v in x.items()}
    x["logits"] = size * torch.sign(x["logits"])
    assert torch.isfinite(segmentation.value(name, x))
    assert torch.isfinite(segmentation.gradient(name, x)).all()
    mine = x["logits"].clone().requires_grad_()
    segmentation.value(name, {**x, "logits": mine}).backward()
    assert torch.isfinite(mine.grad).all()


# Identities.


@pytest.mark.parametrize("smooth", [1e-6, 1.0, 7.0])
def test_tversky_with_equal_halves_is_dice(segmentation, smooth):
    x = images(seed=8)
    segmentation.same("tversky", x, "dice", at={"smooth": smooth}, alpha=0.5, beta=0.5, smooth=smooth)


def test_tversky_with_whole_weights_is_the_jaccard_index(segmentation):
    x = images(seed=9)
    segmentation.same("tversky", x, "iou", at={"smooth": 1.0}, alpha=1.0, beta=1.0, smooth=2.0)


def test_focal_tversky_with_exponent_one_is_tversky(segmentation):
    segmentation.same("focal_tversky", images(seed=10), "tversky", gamma=1.0)


def test_ce_dice_without_weight_is_cross_entropy_of_one_image(segmentation):
    segmentation.same("ce_dice", images(1, seed=11), "pixel_ce", weight=0.0)


def test_pixel_ce_has_the_gradient_p_less_t(segmentation):
    x = images(seed=12)
    kept = x["valid"][:, None, :]
    expected = (F.softmax(x["logits"], 1) - x["target"]) * kept / kept.sum()
    torch.testing.assert_close(segmentation.gradient("pixel_ce", x), expected)


def test_lovasz_softmax_of_hard_predictions_is_the_jaccard_loss(segmentation):
    x = images(1, 2, 8, seed=13)
    x["valid"][:] = True
    x["logits"] = 400.0 * F.one_hot(x["logits"].argmax(1), 2).transpose(1, 2)
    predicted, true = x["logits"].argmax(1)[0], x["target"].argmax(1)[0]
    losses = []
    for c in sorted(set(true.tolist())):
        both = ((predicted == c) & (true == c)).sum()
        either = ((predicted == c) | (true == c)).sum()
        losses.append(1 - both / either)
    assert segmentation.value("lovasz_softmax", x) == pytest.approx(float(sum(losses)) / len(losses))


def test_log_cosh_dice_of_the_wrong_answer_is_log_cosh_of_one(segmentation):
    x = images(1, 2, 500, seed=14)
    x["valid"][:] = True
    x["logits"] = -60 * (x["target"] - 0.5)
    value = segmentation.value("log_cosh_dice", x, smooth=1e-6)
    assert value == pytest.approx(math.log(math.cosh(1.0)), rel=1e-6)
