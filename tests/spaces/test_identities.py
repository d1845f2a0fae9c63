"""Losses that are the same where the mathematics says so, in value and in slope."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from losssearch.execution.reference import compiled, loss_gradient
from losssearch.language.formula import parse

DOUBLE = torch.float64


def classes(n=8, c=5, soft=False, spread=2.0):
    g = torch.Generator().manual_seed(n + c)
    logits = spread * torch.randn(n, c, generator=g, dtype=DOUBLE)
    target = F.one_hot(torch.randint(c, (n,), generator=g), c).to(DOUBLE)
    if soft:
        target = F.softmax(torch.randn(n, c, generator=g, dtype=DOUBLE), 1)
    uniform = torch.full((c,), 1 / c, dtype=DOUBLE)
    return {"logits": logits, "target": target, "prior": uniform, "count": 30 * uniform}


def answers(n=8, soft=False):
    g = torch.Generator().manual_seed(n)
    target = torch.rand(n, generator=g, dtype=DOUBLE)
    return {
        "logit": 2 * torch.randn(n, generator=g, dtype=DOUBLE),
        "target": target if soft else (target > 0.5).to(DOUBLE),
        "prior": torch.tensor(0.5, dtype=DOUBLE),
        "positives": torch.tensor(70.0, dtype=DOUBLE),
        "negatives": torch.tensor(70.0, dtype=DOUBLE),
    }


def numbers(n=12):
    g = torch.Generator().manual_seed(n)
    pred, target = 3 * torch.randn(2, n, generator=g, dtype=DOUBLE)
    return {"pred": pred, "target": target, "log_var": torch.zeros(n, dtype=DOUBLE)}


# Multiclass.


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    ("name", "constants"),
    [
        ("focal", {"gamma": 0, "alpha": 1}),
        ("label_smoothing", {"smoothing": 0}),
        ("poly1", {"epsilon": 0}),
        ("face_search", {"a": 0}),
        ("confidence_penalty", {"beta": 0}),
        ("sce", {"alpha": 1, "beta": 0}),
        ("ldam", {"m": 0, "s": 1}),
        ("logit_adjusted", {"tau": 0}),
        ("distance_weighted", {"rate": 0}),
    ],
)
def test_without_its_extra_it_is_cross_entropy(multiclass, name, constants, soft):
    multiclass.same(name, classes(soft=soft), "cross_entropy", **constants)


def test_sparse_lsr_without_smoothing_is_cross_entropy(multiclass):
    multiclass.same("sparse_lsr", classes(), "cross_entropy", s=0)


@pytest.mark.parametrize("name", ["class_balanced", "weighted_cross_entropy", "balanced_softmax"])
def test_equal_counts_make_it_cross_entropy(multiclass, name):
    multiclass.same(name, classes(), "cross_entropy")


def test_class_balanced_focal_with_equal_counts_is_focal(multiclass):
    multiclass.same("class_balanced_focal", classes(), "focal", at={"alpha": 1})


def test_a_uniform_prior_makes_logit_adjustment_cross_entropy(multiclass):
    multiclass.same("logit_adjusted", classes(soft=True), "cross_entropy", tau=1.7)


def test_balanced_softmax_is_logit_adjustment_by_one(multiclass):
    x = classes()
    x["count"] = torch.tensor([500.0, 200.0, 90.0, 30.0, 7.0], dtype=DOUBLE)
    x["prior"] = x["count"] / x["count"].sum()
    multiclass.same("balanced_softmax", x, "logit_adjusted", at={"tau": 1})


def test_gce_tends_to_cross_entropy_as_q_falls(multiclass):
    x = classes()
    far, near = (
        (multiclass.gradient("gce", x, q=q) - multiclass.gradient("cross_entropy", x)).abs().max()
        for q in (1e-2, 1e-3)
    )
    assert near < 1e-2 * multiclass.gradient("cross_entropy", x).abs().max()
    assert near / far == pytest.approx(0.1, rel=0.05)  # the gap closes in proportion to q
    assert multiclass.value("gce", x, q=1e-5).item() == pytest.approx(
        multiclass.value("cross_entropy", x).item(), rel=1e-4
    )


def test_gce_at_q_one_is_half_the_absolute_error_on_hard_labels(multiclass):
    multiclass.same("gce", classes(), "mae", factor=0.5, q=1)


@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_is_divergence_plus_entropy_of_the_target(multiclass, soft):
    x = classes(soft=soft)
    entropy = torch.distributions.Categorical(probs=x["target"]).entropy().mean()
    total = multiclass.value("kl", x) + entropy
    torch.testing.assert_close(multiclass.value("cross_entropy", x), total, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(multiclass.gradient("kl", x), multiclass.gradient("cross_entropy", x))


@pytest.mark.parametrize("soft", [False, True])
def test_the_slope_of_cross_entropy_is_prediction_less_target(multiclass, soft):
    x = classes(soft=soft, spread=10.0)
    expected = (F.softmax(x["logits"], 1) - x["target"]) / len(x["logits"])
    torch.testing.assert_close(multiclass.gradient("cross_entropy", x), expected)


@pytest.mark.parametrize("s", [0.1, 0.4, 1.0])
def test_sparse_lsr_is_label_smoothing_where_the_other_classes_are_equal(multiclass, s):
    x = classes()
    true = torch.linspace(-6, 6, len(x["target"]), dtype=DOUBLE)[:, None]
    x["logits"] = true * x["target"] + 0.3
    multiclass.same("sparse_lsr", x, "label_smoothing", at={"smoothing": s}, s=s)


def test_sparse_lsr_with_the_published_sign_is_not_label_smoothing(multiclass):
    x = classes()
    x["logits"] = 3.0 * x["target"]
    text = (
        "mean(-(1 - s + s / C) * log_pt"
        " + s * (C - 1) / C * (logsumexp(log_p, 'c', 1 - target) - log(C - 1)), 'n')"
    )
    published = parse(text, multiclass.space.signature, {"s": (0.1, 0, 1)})
    smooth = multiclass.value("label_smoothing", x, smoothing=0.1)
    assert abs(compiled(published)(x)[0] - smooth) > 0.1


def test_forward_correction_without_noise_is_cross_entropy(multiclass):
    x = classes(soft=True, spread=10.0)
    x["transition"] = torch.eye(5, dtype=DOUBLE)
    multiclass.same("forward_corrected", x, "cross_entropy")


def test_active_passive_without_the_passive_part_is_normalised_cross_entropy(multiclass):
    multiclass.same("nce_mae", classes(), "nce", alpha=1, beta=0)


def test_normalised_cross_entropy_sums_to_one_over_all_labels(multiclass):
    x = classes(n=1)
    total = sum(
        multiclass.value("nce", {**x, "target": F.one_hot(torch.tensor([y]), 5).to(DOUBLE)}) for y in range(5)
    )
    assert float(total) == pytest.approx(1)


def test_two_classes_are_the_binary_case(multiclass, binary):
    x = answers()
    two = {
        "logits": torch.stack([torch.zeros_like(x["logit"]), x["logit"]], 1),
        "target": torch.stack([1 - x["target"], x["target"]], 1),
    }
    for mine, other in [
        ("cross_entropy", "bce"),
        ("crammer_singer", "hinge"),
        ("distance_weighted",) * 2,
    ]:
        torch.testing.assert_close(multiclass.value(mine, two), binary.value(other, x))
    torch.testing.assert_close(
        multiclass.value("focal", two, alpha=1), 2 * binary.value("focal", x, alpha=0.5)
    )
    torch.testing.assert_close(multiclass.value("brier", two), 2 * binary.value("savage", x))


# Binary.


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    ("name", "constants"),
    [
        ("weighted_bce", {"positive_weight": 1}),
        ("asymmetric", {"gamma_positive": 0, "gamma_negative": 0, "clip": 0}),
        ("distance_weighted", {"rate": 0}),
        ("inverse_frequency", {}),
        ("class_balanced", {}),
    ],
)
def test_balanced_and_plain_it_is_binary_cross_entropy(binary, name, constants, soft):
    binary.same(name, answers(soft=soft), "bce", **constants)


def test_binary_focal_without_focus_is_half_of_cross_entropy(binary):
    binary.same("focal", answers(soft=True), "bce", factor=0.5, gamma=0, alpha=0.5)


def test_binary_focal_with_all_weight_on_positives_is_their_cross_entropy(binary):
    x = answers()
    x["target"] = torch.ones_like(x["target"])
    binary.same("focal", x, "bce", gamma=0, alpha=1)


def test_logistic_loss_is_cross_entropy_on_hard_answers(binary):
    binary.same("logistic", answers(), "bce")


# Regression.


def test_wide_huber_is_half_the_squared_error(regression):
    regression.same("huber", numbers(), "mse", factor=0.5, delta=1e3)


def test_narrow_huber_over_its_width_is_the_absolute_error(regression):
    x, delta = numbers(), 1e-9
    torch.testing.assert_close(regression.value("huber", x, delta=delta) / delta, regression.value("mae", x))
    torch.testing.assert_close(
        regression.gradient("huber", x, delta=delta) / delta, regression.gradient("mae", x)
    )


@pytest.mark.parametrize("width", [0.2, 1.0, 4.0])
def test_smooth_l1_is_huber_over_its_width(regression, width):
    x = numbers()
    regression.same("smooth_l1", x, "huber", factor=1 / width, at={"delta": width}, beta=width)


@pytest.mark.parametrize("c", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(
    ("alpha", "name", "width", "factor"),
    [(2, "mse", "", 0.5), (1, "pseudo_huber", "delta", 1.0), (0, "cauchy", "c", 1.0)],
)
def test_barron_at_its_named_shapes(regression, alpha, name, width, factor, c):
    at = {width: c} if width else {}
    # Barron divides by c^2 what mean squared error and pseudo-Huber leave.
    factor /= 1 if name == "cauchy" else c**2
    regression.same("barron", numbers(), name, factor, rtol=1e-4, at=at, alpha=alpha, c=c)


@pytest.mark.parametrize("name", ["welsch", "tukey"])
def test_wide_redescending_losses_are_half_the_squared_error(regression, name):
    regression.same(name, numbers(), "mse", factor=0.5, rtol=1e-4, c=1e4)


def test_pinball_at_the_median_is_half_the_absolute_error(regression):
    regression.same("pinball", numbers(), "mae", factor=0.5, tau=0.5)


def test_expectile_at_the_mean_is_half_the_squared_error(regression):
    regression.same("expectile", numbers(), "mse", factor=0.5, tau=0.5)


def test_gaussian_likelihood_of_unit_variance_is_half_the_squared_error(regression):
    regression.same("gaussian_nll", numbers(), "mse", factor=0.5)


def test_student_t_of_many_degrees_is_half_the_squared_error(regression):
    regression.same("student_t", numbers(), "mse", factor=0.5, rtol=1e-4, nu=1e7)


def test_cauchy_has_the_slope_of_student_t_with_one_degree(regression):
    x = numbers()
    slope = loss_gradient(regression.program("student_t", nu=1, scale=math.sqrt(2)), "pred")(x)
    torch.testing.assert_close(regression.gradient("cauchy", x), slope)
