"""Every perceptual loss against a loop over pictures and channels, or against slices."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from losssearch.execution.reference import evaluate
from losssearch.spaces import load_space
from tests.spaces.conftest import Bench

DOUBLE = torch.float64
SPACE = load_space("perceptual")
PREDICTION = {name: "pixels_x" if name == "total_variation" else "f" for name in SPACE.losses}


@pytest.fixture(scope="module")
def perceptual() -> Bench:
    return Bench("perceptual")


def pictures(n=2, c=3, s=4, h=5, w=6, seed=0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = {k: torch.randn(n, c, s, generator=g, dtype=DOUBLE) for k in ("f", "g")}
    x |= {k: torch.rand(n, h, w, generator=g, dtype=DOUBLE) for k in ("pixels_x", "pixels_y")}
    deep = (n, 2 * c, s // 2 or s)  # more channels at fewer positions
    return x | {k: torch.randn(deep, generator=g, dtype=DOUBLE) for k in ("f_deep", "g_deep")}


def gram(features) -> Tensor:
    c, s = features.shape
    rows = [torch.stack([(features[a] * features[b]).sum() for b in range(c)]) for a in range(c)]
    return torch.stack(rows) / (c * s)


def content(x, layer=""):
    f, g = x[f"f{layer}"], x[f"g{layer}"]
    return F.mse_loss(f, g) if f.numel() else f.sum()


def style(x, layer=""):
    f, g = x[f"f{layer}"], x[f"g{layer}"]
    values = [((gram(a) - gram(b)) ** 2).sum() for a, b in zip(f, g, strict=True)]
    return torch.stack(values).mean() if values and f.numel() else 0 * f.sum()


def total_variation(x):
    """Torch's mean absolute error between the picture and itself, moved by one pixel."""
    p = x["pixels_x"]
    along, down = (p[:, :, 1:], p[:, :, :-1]), (p[:, 1:], p[:, :-1])
    return sum(F.l1_loss(*pair) if pair[0].numel() else p.sum() * 0 for pair in (along, down))


SECOND_WAYS = {
    "perceptual": content,
    "style": style,
    "content_style": lambda x: content(x) + style(x),
    "perceptual_layers": lambda x: content(x) + content(x, "_deep"),
    "style_layers": lambda x: style(x) + style(x, "_deep"),
    "total_variation": total_variation,
}


def test_every_loss_has_a_second_way():
    assert set(SECOND_WAYS) == set(SPACE.losses)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 6), (1, 1, 1, 2, 2), (3, 2, 7, 1, 4), (1, 4, 2, 3, 1)])
@pytest.mark.parametrize("name", SPACE.losses)
def test_equals_its_second_way(perceptual, name, shape):
    perceptual.agrees(name, pictures(*shape, seed=sum(shape)), SECOND_WAYS[name])


def test_content_and_style_are_told_beside_their_sum():
    x = pictures(seed=1)
    parts = SPACE.loss("content_style").candidate.with_constants({"style_weight": 50.0}).parts
    assert set(parts) == {"content", "style", "loss"}
    torch.testing.assert_close(evaluate(parts["content"], x), content(x))
    torch.testing.assert_close(evaluate(parts["style"], x), style(x))
    torch.testing.assert_close(evaluate(parts["loss"], x), content(x) + 50 * style(x))


@pytest.mark.parametrize("shape", [(0, 3, 4, 5, 6), (2, 0, 4, 0, 6), (2, 3, 0, 5, 0)])
@pytest.mark.parametrize("name", SPACE.losses)
def test_without_pictures_channels_or_positions_it_costs_nothing(perceptual, name, shape):
    x = pictures(*shape)
    assert perceptual.value(name, x) == 0
    wrt = PREDICTION[name]
    assert perceptual.gradient(name, x, wrt).shape == x[wrt].shape


def test_a_single_pixel_has_no_neighbours(perceptual):
    x = pictures(h=1, w=1)
    assert perceptual.value("total_variation", x) == 0
    assert not perceptual.gradient("total_variation", x, "pixels_x").any()


@pytest.mark.parametrize("size", [0.0, 1.0, 100.0, 1e4])
@pytest.mark.parametrize("name", SPACE.losses)
def test_is_finite_in_single_precision_with_its_gradient(perceptual, name, size):
    x = {k: size * torch.sign(v - 0.3).float() for k, v in pictures(seed=2).items()}
    wrt = PREDICTION[name]
    mine = x[wrt].clone().requires_grad_()
    value = perceptual.value(name, {**x, wrt: mine})
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(mine.grad).all()
    assert torch.isfinite(perceptual.gradient(name, x, wrt)).all()


# Identities.


@pytest.mark.parametrize(("content_weight", "style_weight", "alone"), [(1, 0, "perceptual"), (0, 1, "style")])
def test_content_and_style_of_one_weight_are_one_of_them(perceptual, content_weight, style_weight, alone):
    weights = {"content_weight": float(content_weight), "style_weight": float(style_weight)}
    perceptual.same("content_style", pictures(seed=3), alone, **weights)


@pytest.mark.parametrize(
    ("name", "near", "one"), [("perceptual_layers", 3, "perceptual"), ("style_layers", 7, "style")]
)
def test_a_layer_of_weight_zero_is_not_looked_at(perceptual, name, near, one):
    x = pictures(seed=8)
    perceptual.same(name, x, one, factor=near, near_weight=float(near), deep_weight=0.0)
    assert not perceptual.gradient(name, x, "f_deep", deep_weight=0.0).any()
    swapped = {**x, "f": x["f_deep"], "g": x["g_deep"]}
    deep = perceptual.value(name, x, near_weight=0.0, deep_weight=float(near))
    torch.testing.assert_close(deep, near * perceptual.value(one, swapped))


@pytest.mark.parametrize(
    "name", ["perceptual", "style", "content_style", "perceptual_layers", "style_layers"]
)
def test_the_target_itself_costs_nothing(perceptual, name):
    x = pictures(seed=4)
    x |= {"f": x["g"].clone(), "f_deep": x["g_deep"].clone()}
    assert perceptual.value(name, x) == 0
    assert not perceptual.gradient(name, x).any()


def test_a_loss_of_one_layer_asks_for_no_other(perceptual):
    x = pictures(seed=9)
    one = {k: v for k, v in x.items() if "deep" not in k}
    for name in ("perceptual", "style", "content_style", "total_variation"):
        assert perceptual.value(name, one) == perceptual.value(name, x)


def test_style_does_not_ask_where_and_content_does(perceptual):
    x = pictures(seed=5)
    x["f"] = x["g"].flip(2)
    assert perceptual.value("style", x) == pytest.approx(0, abs=1e-24)
    assert perceptual.value("perceptual", x) > 0


def test_style_of_one_channel_is_the_squared_gap_of_mean_squares(perceptual):
    x = pictures(1, 1, 9, seed=6)
    gap = x["f"].square().mean() - x["g"].square().mean()
    torch.testing.assert_close(perceptual.value("style", x), gap**2)


def test_style_is_four_times_that_of_the_first_paper(perceptual):
    """There: sum of squared gaps of the undivided Gram matrices, over 4 C^2 S^2."""
    x = pictures(1, 3, 4, seed=7)
    f, g = x["f"][0], x["g"][0]
    first = (f @ f.T - g @ g.T).square().sum() / (4 * 3**2 * 4**2)
    torch.testing.assert_close(perceptual.value("style", x), 4 * first)


def test_a_ramp_varies_by_its_slope_and_a_plain_picture_not_at_all(perceptual):
    x = pictures(h=4, w=7)
    x["pixels_x"] = 0.3 * torch.arange(7, dtype=DOUBLE).expand(2, 4, 7)
    assert float(perceptual.value("total_variation", x)) == pytest.approx(0.3)
    x["pixels_x"] = torch.full((2, 4, 7), 0.8, dtype=DOUBLE)
    assert perceptual.value("total_variation", x) == pytest.approx(0, abs=1e-12)
    assert not perceptual.gradient("total_variation", x, "pixels_x").any()


def test_a_step_varies_as_much_as_a_ramp_of_the_same_height(perceptual):
    x = pictures(h=3, w=5)
    step = torch.tensor([0.0, 0, 1, 1, 1], dtype=DOUBLE).expand(2, 3, 5)
    ramp = torch.linspace(0, 1, 5, dtype=DOUBLE).expand(2, 3, 5)
    of = [perceptual.value("total_variation", {**x, "pixels_x": p}) for p in (step, ramp)]
    torch.testing.assert_close(*of)
