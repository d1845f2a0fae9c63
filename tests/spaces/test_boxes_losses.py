"""Every box loss against torch's own function, or against a loop over anchors."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from losssearch.execution.reference import evaluate
from losssearch.language.formula import parse
from losssearch.spaces import load_space

DOUBLE = torch.float64
SPACE = load_space("boxes")
CORNERS = ("x1", "y1", "x2", "y2")


def anchors(n=2, c=3, s=5, seed=0, far=1.0) -> dict[str, Tensor]:
    """Pairs of boxes that overlap much, little or (with a larger `far`) not at all."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g, dtype=DOUBLE)

    x: dict[str, Tensor] = {}
    for who in "tp":
        x[f"{who}x1"], x[f"{who}y1"] = 10 + far * 4 * draw(n, s), 10 + far * 4 * draw(n, s)
        x[f"{who}x2"], x[f"{who}y2"] = x[f"{who}x1"] + 2 + 5 * draw(n, s), x[f"{who}y1"] + 2 + 5 * draw(n, s)
    labels = torch.randint(c, (n, s), generator=g)
    pos = draw(n, s) < 0.6
    if n and s:
        pos[0, 0] = True
    one_hot = F.one_hot(labels, c).transpose(1, 2).to(DOUBLE)
    return x | {
        "logits": 2 * torch.randn(n, c, s, generator=g, dtype=DOUBLE),
        "label": one_hot * pos[:, None, :],
        "pos": pos,
    }


def box(x, who, i, s):
    return tuple(x[f"{who}{corner}"][i, s] for corner in CORNERS)


def area(b):
    return (b[2] - b[0]).clamp(min=0) * (b[3] - b[1]).clamp(min=0)


def areas(p, t):
    """Intersection, union, and the box around both."""
    both = (torch.max(p[0], t[0]), torch.max(p[1], t[1]), torch.min(p[2], t[2]), torch.min(p[3], t[3]))
    around = (torch.min(p[0], t[0]), torch.min(p[1], t[1]), torch.max(p[2], t[2]), torch.max(p[3], t[3]))
    return area(both), area(p) + area(t) - area(both), around


def iou(p, t):
    inter, union, _ = areas(p, t)
    return 1 - inter / union


def giou(p, t):
    _, union, around = areas(p, t)
    return iou(p, t) + 1 - union / area(around)


def diou(p, t):
    around = areas(p, t)[2]
    centres = [((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in (p, t)]
    distance = sum((a - b) ** 2 for a, b in zip(*centres, strict=True))
    diagonal = (around[2] - around[0]) ** 2 + (around[3] - around[1]) ** 2
    return iou(p, t) + distance / diagonal


def ciou(p, t):
    angles = [torch.atan((b[2] - b[0]) / (b[3] - b[1])) for b in (p, t)]
    v = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
    with torch.no_grad():
        alpha = v / (iou(p, t) + v)
    return diou(p, t) + alpha * v


def cse_a_box(p, t):
    inter, union, around = areas(p, t)
    return 1 - (inter / union - (area(around) - inter - 2) / area(around))


def cse_b_box(p, t):
    """As published, needless words included."""
    i, u, around = areas(p, t)
    e = area(around)
    return -((-(-e + (1 + i)) / -(3 + (2 + u)) + (e / e + -e / -1)) / -(-(u + i / 1) / -3 + -e))


def each_assigned(rule):
    def second_way(x):
        found = [rule(box(x, "p", i, s), box(x, "t", i, s)) for i, s in x["pos"].nonzero().tolist()]
        nothing = 0 * sum(x[f"p{corner}"].sum() for corner in CORNERS)
        return torch.stack(found).mean() if found else nothing

    return second_way


def coordinates(function):
    def second_way(x):
        kept = x["pos"]
        p, t = (torch.stack([x[f"{who}{corner}"][kept] for corner in CORNERS]) for who in "pt")
        return function(p, t, reduction="sum") / max(int(kept.sum()), 1)

    return second_way


def focal(x):
    p = torch.sigmoid(x["logits"])
    right = torch.where(x["label"] > 0, p, 1 - p)
    alpha = torch.where(x["label"] > 0, 0.25, 0.75)
    bce = F.binary_cross_entropy_with_logits(x["logits"], x["label"], reduction="none")
    return (alpha * (1 - right) ** 2 * bce).sum() / max(int(x["pos"].sum()), 1)


def cse_a_class(x):
    total = torch.zeros((), dtype=DOUBLE)
    n, _, s = x["logits"].shape
    for i in range(n):
        for k in range(s):
            overlap = 1 - iou(box(x, "p", i, k), box(x, "t", i, k)).detach() if x["pos"][i, k] else 1.0
            log_p = F.log_softmax(x["logits"][i, :, k], 0)
            total = total - (1 + math.sin(overlap)) * (x["label"][i, :, k] * log_p).sum()
    return total / max(n * s, 1)


def cse_b_class(x):
    """As published, needless words included; `q` is the label, 1 - y whether it is none."""
    z, q = x["logits"], x["label"]
    negative = (q == 0).to(DOUBLE)
    serf = (torch.erf(math.sqrt(math.pi) / 2 * torch.sigmoid(negative) / 2) + 1) / 2
    angle = 2 * torch.atan(torch.tanh(math.pi / 4 * z / 2))
    sgdf = (angle * 2 / math.pi + 1) / 2
    p = torch.sigmoid(z)
    value = -(q * ((1 + serf) * torch.log(p)) + (sgdf - q) * (((1 - q) - (1 - p)) * torch.log(1 - p)))
    return value.sum() / max(int(x["pos"].sum()), 1)


SECOND_WAYS = {
    "l1": coordinates(F.l1_loss),
    "smooth_l1": coordinates(F.smooth_l1_loss),
    "iou": each_assigned(iou),
    "giou": each_assigned(giou),
    "diou": each_assigned(diou),
    "ciou": each_assigned(ciou),
    "focal_iou": lambda x: focal(x) + each_assigned(iou)(x),
    "cse_a": lambda x: cse_a_class(x) + each_assigned(cse_a_box)(x),
    "cse_b": lambda x: cse_b_class(x) + each_assigned(cse_b_box)(x),
}
PARTS = {
    "focal_iou": (focal, each_assigned(iou)),
    "cse_a": (cse_a_class, each_assigned(cse_a_box)),
    "cse_b": (cse_b_class, each_assigned(cse_b_box)),
}


def test_every_loss_has_a_second_way():
    assert set(SECOND_WAYS) == set(SPACE.losses)


@pytest.mark.parametrize("far", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("name", SPACE.losses)
def test_equals_its_second_way(boxes, name, far):
    boxes.agrees(name, anchors(seed=int(far * 10), far=far), SECOND_WAYS[name])


@pytest.mark.parametrize("name", ["focal_iou", "cse_b"])
def test_equals_its_second_way_with_qualities_for_labels(boxes, name):
    x = anchors(seed=3)
    if name == "cse_b":
        x["label"] = x["label"] * torch.rand(x["label"].shape, generator=torch.Generator().manual_seed(0))
    boxes.agrees(name, x, SECOND_WAYS[name])


@pytest.mark.parametrize("name", PARTS)
def test_the_loss_is_the_sum_of_its_two_parts_and_each_is_told(boxes, name):
    candidate = boxes.space.loss(name).candidate
    assert list(candidate.parts) == ["classification", "localisation", "loss"]
    x = anchors(seed=4)
    values = [evaluate(candidate.parts[part], x) for part in ("classification", "localisation")]
    for value, second_way in zip(values, PARTS[name], strict=True):
        torch.testing.assert_close(value, second_way(x), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(sum(values), boxes.value(name, x))


@pytest.mark.parametrize("name", [n for n in SPACE.losses if n not in PARTS])
def test_without_an_assigned_anchor_a_box_loss_is_nothing(boxes, name):
    x = anchors()
    x["pos"][:] = False
    assert boxes.value(name, x) == 0
    assert not boxes.gradient(name, x).any()


@pytest.mark.parametrize("name", PARTS)
def test_without_an_assigned_anchor_the_background_is_still_learnt(boxes, name):
    x = anchors()
    x["pos"][:] = False
    x["label"][:] = 0
    boxes.agrees(name, x, SECOND_WAYS[name])


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0)])
@pytest.mark.parametrize("name", SPACE.losses)
def test_no_image_or_no_anchor_costs_nothing(boxes, name, shape):
    x = anchors(*shape)
    assert boxes.value(name, x) == 0
    assert boxes.gradient(name, x).shape == (shape[0], shape[2])


@pytest.mark.parametrize("case", ["equal", "apart", "turned", "points", "huge"])
@pytest.mark.parametrize("name", SPACE.losses)
def test_is_finite_in_single_precision_with_its_gradient(boxes, name, case):
    x = {k: v.float() if v.is_floating_point() else v for k, v in anchors().items()}
    for corner in CORNERS:
        if case == "equal":
            x[f"p{corner}"] = x[f"t{corner}"]
        if case == "apart":
            x[f"p{corner}"] = x[f"p{corner}"] + 1e4
        if case == "points":
            x[f"p{corner}"], x[f"t{corner}"] = 0 * x[f"p{corner}"], 0 * x[f"p{corner}"]
        if case == "huge":
            x[f"p{corner}"], x["logits"] = 1e3 * x[f"p{corner}"], 1e3 * x["logits"]
    if case == "turned":
        x["px1"], x["px2"] = x["px2"], x["px1"]
    mine = {k: v.clone().requires_grad_() if k[0] == "p" and k != "pos" else v for k, v in x.items()}
    mine["logits"] = x["logits"].clone().requires_grad_()
    value = boxes.value(name, mine)
    assert torch.isfinite(value)
    leaves = [v for v in mine.values() if v.requires_grad]
    for slope in torch.autograd.grad(value, leaves, allow_unused=True):
        assert slope is None or torch.isfinite(slope).all()
    for wrt in SPACE.signature.predictions:
        assert torch.isfinite(boxes.gradient(name, x, wrt)).all()


# Identities.


def test_boxes_that_are_equal_cost_nothing(boxes):
    x = anchors(seed=5)
    x |= {f"p{corner}": x[f"t{corner}"] for corner in CORNERS}
    for name in ("l1", "smooth_l1", "iou", "giou", "diou", "ciou"):
        assert boxes.value(name, x) == pytest.approx(0, abs=1e-12)


def test_giou_is_iou_where_the_box_around_both_is_their_union(boxes):
    x = anchors(seed=6)
    x |= {"py1": x["ty1"], "py2": x["ty2"], "px1": x["tx1"] + 0.3, "px2": x["tx2"] + 0.7}
    torch.testing.assert_close(boxes.value("giou", x), boxes.value("iou", x))


def test_diou_is_iou_where_the_centres_coincide_and_ciou_is_diou_where_the_shapes_do(boxes):
    x = anchors(seed=7)
    grown = {"x1": -1, "y1": -0.5, "x2": 1, "y2": 0.5}
    x |= {f"p{corner}": x[f"t{corner}"] + by for corner, by in grown.items()}
    torch.testing.assert_close(boxes.value("diou", x), boxes.value("iou", x))
    x |= {f"p{corner}": x[f"t{corner}"] + 0.5 for corner in CORNERS}
    torch.testing.assert_close(boxes.value("ciou", x), boxes.value("diou", x))


def test_boxes_that_do_not_touch_are_pulled_by_giou_and_not_by_iou(boxes):
    x = anchors(seed=8)
    x |= {f"p{corner}": x[f"t{corner}"] + 100 for corner in CORNERS}
    assert not boxes.gradient("iou", x).any()
    assert (boxes.gradient("giou", x)[x["pos"]] > 0).all()


def test_smooth_l1_with_a_small_width_is_l1(boxes):
    x = anchors(seed=9)
    torch.testing.assert_close(
        boxes.value("smooth_l1", x, beta=1e-6), boxes.value("l1", x), rtol=1e-5, atol=1e-5
    )


def test_focal_iou_without_focus_is_half_the_cross_entropy_plus_iou(boxes):
    x = anchors(seed=10)
    bce = F.binary_cross_entropy_with_logits(x["logits"], x["label"], reduction="sum") / x["pos"].sum()
    value = boxes.value("focal_iou", x, alpha=0.5, gamma=0.0)
    torch.testing.assert_close(value, bce / 2 + boxes.value("iou", x))


def test_the_published_form_of_cse_b_loses_its_needless_words(boxes):
    written = parse(
        "mean(-((-(-enclosing + (1 + inter)) / -(3 + (2 + union)) + (1 + -enclosing / -1))"
        " / -(-(union + inter / 1) / -3 + -enclosing)), 'n s', pos)",
        SPACE.signature,
    )
    x = anchors(seed=11)
    part = boxes.space.loss("cse_b").candidate.parts["localisation"]
    torch.testing.assert_close(evaluate(written, x), evaluate(part, x))
