"""Every multiclass loss against torch's own function, or against a loop over samples."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from losssearch.spaces import load_space

DOUBLE = torch.float64
SPACE = load_space("multiclass")


def batch(n, classes=5, seed=0, soft=False, spread=2.0):
    g = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(n, classes, generator=g, dtype=DOUBLE)
    labels = torch.randint(classes, (n,), generator=g)
    target = F.one_hot(labels, classes).to(DOUBLE)
    if soft:
        target = F.softmax(torch.randn(n, classes, generator=g, dtype=DOUBLE), 1)
    count = torch.tensor([500.0, 200.0, 90.0, 30.0, 7.0, 400.0], dtype=DOUBLE)[:classes]
    transition = F.softmax(
        3 * torch.eye(classes, dtype=DOUBLE) + torch.rand(classes, classes, generator=g), 1
    )
    return {
        "logits": logits,
        "target": target,
        "count": count,
        "prior": count / count.sum(),
        "transition": transition,
    }


def each(rule):
    """The mean of a rule over samples; it sees probabilities and target of one sample as lists."""

    def second_way(x):
        total = 0.0
        for z, t in zip(x["logits"], x["target"], strict=True):
            raised = [torch.exp(value - z.max()) for value in z]
            p = [value / sum(raised) for value in raised]
            total = total + rule(p, [float(v) for v in t], x)
        return total / len(x["logits"])

    return second_way


def label(t):
    return t.index(max(t))


def cross_entropy(logits, target):
    return F.cross_entropy(logits, target)


def weighted_by_label(x, weight, per_sample):
    return sum(weight[i] * value for i, value in per_sample) / len(x["logits"])


def effective_weights(count, beta):
    raw = [(1 - beta) / (1 - beta ** float(n)) for n in count]
    return [len(raw) * w / sum(raw) for w in raw]


def class_balanced(gamma):
    def rule(p, t, x):
        true = sum(a * b for a, b in zip(p, t, strict=True))
        log_true = sum(b * torch.log(a) for a, b in zip(p, t, strict=True))
        weights = effective_weights(x["count"], 0.999)
        weight = sum(w * b for w, b in zip(weights, t, strict=True))
        return -weight * (1 - true) ** gamma * log_true

    return each(rule)


def weighted_cross_entropy(x):
    weight = 1 / (x["prior"] * len(x["prior"]))
    return F.cross_entropy(x["logits"], x["target"].argmax(1), weight=weight)


def focal(p, t, x):
    true = sum(a * b for a, b in zip(p, t, strict=True))
    return -0.25 * (1 - true) ** 2 * sum(b * torch.log(a) for a, b in zip(p, t, strict=True))


def distance_weighted(x):
    total = 0.0
    for z, y in zip(x["logits"], x["target"].argmax(1), strict=True):
        best_other = max(value for i, value in enumerate(z.tolist()) if i != y)
        weight = math.exp(-0.5 * abs(z.tolist()[y] - best_other))
        total = total + weight * F.cross_entropy(z, y)
    return total / len(x["logits"])


def ldam(x):
    rarest = min(float(v) for v in x["prior"])
    rows = []
    for z, y in zip(x["logits"], x["target"].argmax(1), strict=True):
        shift = 0.5 * (float(x["prior"][y]) / rarest) ** (-1 / 4)
        pushed = torch.stack([value - shift if i == y else value for i, value in enumerate(z)])
        rows.append(F.cross_entropy(30 * pushed, y))
    return torch.stack(rows).mean()


def crammer_singer(x):
    rows = []
    for z, y in zip(x["logits"], x["target"].argmax(1), strict=True):
        worst = max((z[i] for i in range(len(z)) if i != y), key=lambda v: v.detach())
        rows.append(torch.clamp(1 + worst - z[y], min=0))
    return torch.stack(rows).mean()


def forward_corrected(x):
    seen = F.softmax(x["logits"], 1) @ x["transition"]
    return F.cross_entropy(seen.log(), x["target"])  # rows of `seen` sum to 1 already


def symmetric(p, t, x):
    forward = -sum(b * torch.log(a) for a, b in zip(p, t, strict=True))
    reverse = -sum(a * max(math.log(b), -4.0) if b > 0 else a * -4.0 for a, b in zip(p, t, strict=True))
    return 0.1 * forward + reverse


def normalised(p, t, x):
    logs = [torch.log(a) for a in p]
    own = -sum(b * log for log, b in zip(logs, t, strict=True))
    return own / sum(-log for log in logs)


def sparse_lsr(p, t, x):
    y, classes = label(t), len(p)
    rest = sum(a for i, a in enumerate(p) if i != y)
    smooth = 0.1 / classes
    return -(1 - 0.1 + smooth) * torch.log(p[y]) - 0.1 * (classes - 1) / classes * torch.log(
        rest / (classes - 1)
    )


def taylor(p, t, x):
    total = 0.0
    for y, label_value in zip(p, t, strict=True):
        a, b = label_value + 10.9408, y - 7.5216
        total = total + (
            8.2896 * b
            + 0.2415 * b**2
            + 7.8726 * b**3
            + 8.9666 * a * b
            + 2.0184 * a * b**2
            + 7.0513 * a**2 * b
        )
    return -total / len(p)


def mean_over_classes(term):
    def rule(p, t, x):
        return sum(term(a, b) for a, b in zip(p, t, strict=True)) / len(p)

    return each(rule)


def dots(p, t, function):
    return sum(function(a, b) for a, b in zip(p, t, strict=True))


SECOND_WAYS = {
    "cross_entropy": lambda x: F.cross_entropy(x["logits"], x["target"]),
    "kl": lambda x: F.kl_div(F.log_softmax(x["logits"], 1), x["target"], reduction="batchmean"),
    "label_smoothing": lambda x: F.cross_entropy(x["logits"], x["target"], label_smoothing=0.1),
    "confidence_penalty": lambda x: (
        F.cross_entropy(x["logits"], x["target"])
        - 0.1 * torch.distributions.Categorical(logits=x["logits"]).entropy().mean()
    ),
    "poly1": each(lambda p, t, x: dots(p, t, lambda a, b: b * (1 - a - torch.log(a)))),
    "focal": each(focal),
    "distance_weighted": distance_weighted,
    "weighted_cross_entropy": weighted_cross_entropy,
    "class_balanced": class_balanced(0),
    "class_balanced_focal": class_balanced(2),
    "ldam": ldam,
    "logit_adjusted": lambda x: F.cross_entropy(x["logits"] + x["prior"].log(), x["target"]),
    "balanced_softmax": each(
        lambda p, t, x: (
            -dots(
                [a * n / dots(p, x["count"], lambda q, m: q * m) for a, n in zip(p, x["count"], strict=True)],
                t,
                lambda a, b: b * torch.log(a),
            )
        )
    ),
    "mae": each(lambda p, t, x: dots(p, t, lambda a, b: torch.abs(a - b))),
    "brier": lambda x: F.mse_loss(F.softmax(x["logits"], 1), x["target"], reduction="sum") / len(x["logits"]),
    "gce": each(lambda p, t, x: (1 - p[label(t)] ** 0.7) / 0.7),
    "sce": each(symmetric),
    "nce": each(normalised),
    "nce_mae": each(lambda p, t, x: normalised(p, t, x) + dots(p, t, lambda a, b: torch.abs(a - b))),
    "forward_corrected": forward_corrected,
    "crammer_singer": crammer_singer,
    "baikal": mean_over_classes(lambda a, b: b / a - torch.log(a)),
    "baikal_cma": mean_over_classes(
        lambda a, b: -(2.7278 * 0.9863) * torch.log(1.5352 * a) + (1.1135 * 1.3716 / 0.8411) * b / a
    ),
    "ngl": mean_over_classes(
        lambda a, b: torch.exp(2.4092 - a * (1 + b)) - torch.cos(torch.cos(torch.sin(a)))
    ),
    "face_search": each(lambda p, t, x: -torch.log(p[label(t)] / (2 - p[label(t)]))),
    "sparse_lsr": each(sparse_lsr),
    "taylor_glo": each(taylor),
}
HARD_LABELS_ONLY = {
    "distance_weighted",
    "weighted_cross_entropy",
    "ldam",
    "gce",
    "crammer_singer",
    "face_search",
    "sparse_lsr",
}


def test_every_loss_has_a_second_way():
    assert set(SECOND_WAYS) == set(SPACE.losses)


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("name", SPACE.losses)
def test_equals_its_second_way_on_hard_labels(multiclass, name, n):
    # Published decimals of products are rounded to nine digits.
    rtol = 1e-7 if name == "baikal_cma" else 1e-9
    multiclass.agrees(name, batch(n, seed=n), SECOND_WAYS[name], rtol)


@pytest.mark.parametrize("name", [n for n in SPACE.losses if n not in HARD_LABELS_ONLY])
def test_equals_its_second_way_on_soft_labels(multiclass, name):
    rtol = 1e-7 if name == "baikal_cma" else 1e-9
    multiclass.agrees(name, batch(6, seed=3, soft=True), SECOND_WAYS[name], rtol)


@pytest.mark.parametrize("name", SPACE.losses)
def test_equals_its_second_way_with_two_classes(multiclass, name):
    rtol = 1e-7 if name == "baikal_cma" else 1e-9
    multiclass.agrees(name, batch(5, classes=2, seed=9), SECOND_WAYS[name], rtol)


@pytest.mark.parametrize("name", ["cross_entropy", "label_smoothing", "logit_adjusted", "kl"])
def test_stays_exact_at_the_ends_of_the_operating_range(multiclass, name):
    x = batch(16, seed=4, spread=30.0)
    x["logits"] = x["logits"].clamp(-30, 30)
    multiclass.agrees(name, x, SECOND_WAYS[name])


@pytest.mark.parametrize("size", [0.0, 1.0, 20.0, 100.0, 6e4])
@pytest.mark.parametrize("name", SPACE.losses)
def test_is_finite_in_single_precision_with_its_gradient(multiclass, name, size):
    x = {key: value.float() for key, value in batch(8, seed=5).items()}
    x["logits"] = size * torch.sign(x["logits"])
    assert torch.isfinite(multiclass.value(name, x))
    assert torch.isfinite(multiclass.gradient(name, x)).all()
    mine = x["logits"].clone().requires_grad_()
    multiclass.value(name, {**x, "logits": mine}).backward()
    assert torch.isfinite(mine.grad).all()


@pytest.mark.parametrize("name", SPACE.losses)
def test_an_empty_batch_costs_nothing(multiclass, name):
    x = batch(2)
    x = {**x, "logits": x["logits"][:0], "target": x["target"][:0]}
    assert multiclass.value(name, x) == 0
    assert multiclass.gradient(name, x).shape == (0, 5)


@pytest.mark.parametrize("name", SPACE.losses)
def test_the_derivative_program_equals_autograd_far_outside_the_operating_range(multiclass, name):
    x = batch(16, seed=8, spread=100.0)
    mine = x["logits"].clone().requires_grad_()
    multiclass.value(name, {**x, "logits": mine}).backward()
    derived = multiclass.gradient(name, x)
    torch.testing.assert_close(derived, mine.grad, rtol=1e-7, atol=1e-12)
