"""Both sides of every adversarial loss against torch's own function, and through a live gradient norm."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from losssearch.execution.reference import evaluate, loss_gradient
from losssearch.language.formula import parse
from losssearch.language.program import Program
from losssearch.screening.pipeline import Screens
from losssearch.spaces import load_space
from tests.spaces.conftest import Bench

DOUBLE = torch.float64
SPACE = load_space("gan")
PLAYERS = ("discriminator", "generator")
MOVED = {"discriminator": ("d_real", "d_fake", "grad_norm"), "generator": ("g_fake",)}
READ = (*MOVED["discriminator"], *MOVED["generator"])


class Sides(Bench):
    """A bench that takes one side of a pair as `loss.side`."""

    def program(self, name: str, **constants: float) -> Program:
        loss, _, side = name.partition(".")
        candidate = self.space.loss(loss).candidate.with_constants(constants)
        return candidate.parts[side or "loss"]


@pytest.fixture(scope="module")
def gan() -> Sides:
    return Sides("gan")


def scores(n=4, m=5, seed=0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    real, made = (2 * torch.randn(k, generator=g, dtype=DOUBLE) for k in (n, m))
    norm = torch.randn(n, generator=g, dtype=DOUBLE).abs()
    return {"d_real": real, "d_fake": made, "grad_norm": norm, "g_real": real.clone(), "g_fake": made.clone()}


def called(x, name, is_real) -> Tensor:
    """Binary cross entropy of calling the samples real, or made."""
    return F.binary_cross_entropy_with_logits(x[name], torch.full_like(x[name], float(is_real)))


def told_apart(x):
    return called(x, "d_real", True) + called(x, "d_fake", False)


def above(high: Tensor, low: Tensor) -> Tensor:
    values = [torch.log(1 + torch.exp(b - a)) for a in high for b in low]
    return torch.stack(values).mean()


def margin_one(scores: Tensor, side: float) -> Tensor:
    return torch.stack([(1 - side * s).clamp(min=0) for s in scores]).mean()


def wasserstein(x):
    return x["d_fake"].mean() - x["d_real"].mean()


def penalty(x):
    return sum(10 * (norm - 1) ** 2 for norm in x["grad_norm"]) / len(x["grad_norm"])


def drawn_to(scores, value):
    return F.mse_loss(scores, torch.full_like(scores, value)) / 2


SIDES = {
    "gan_relativistic.discriminator": lambda x: above(x["d_real"], x["d_fake"]),
    "gan_relativistic.generator": lambda x: above(x["g_fake"], x["g_real"]),
    "gan_minimax.discriminator": told_apart,
    "gan_minimax.generator": lambda x: torch.log(1 - torch.sigmoid(x["g_fake"])).mean(),
    "gan_non_saturating.discriminator": told_apart,
    "gan_non_saturating.generator": lambda x: called(x, "g_fake", True),
    "wgan.discriminator": wasserstein,
    "wgan.generator": lambda x: -x["g_fake"].mean(),
    "wgan_gp.discriminator": lambda x: wasserstein(x) + penalty(x),
    "wgan_gp.generator": lambda x: -x["g_fake"].mean(),
    "lsgan.discriminator": lambda x: drawn_to(x["d_real"], 1.0) + drawn_to(x["d_fake"], 0.0),
    "lsgan.generator": lambda x: drawn_to(x["g_fake"], 1.0),
    "gan_hinge.discriminator": lambda x: margin_one(x["d_real"], 1.0) + margin_one(x["d_fake"], -1.0),
    "gan_hinge.generator": lambda x: -x["g_fake"].mean(),
}
SECOND_WAYS = SIDES | {
    name: lambda x, name=name: sum(SIDES[f"{name}.{player}"](x) for player in PLAYERS)
    for name in SPACE.losses
}


def test_every_side_of_every_loss_has_a_second_way():
    assert set(SIDES) == {f"{name}.{player}" for name in SPACE.losses for player in PLAYERS}
    for loss in SPACE.losses.values():
        assert set(loss.candidate.parts) == {*PLAYERS, "loss"}


@pytest.mark.parametrize("shape", [(4, 5), (1, 1), (6, 2)])
@pytest.mark.parametrize("name", SECOND_WAYS)
def test_equals_its_second_way(gan, name, shape):
    gan.agrees(name, scores(*shape, seed=sum(shape)), SECOND_WAYS[name])


@pytest.mark.parametrize("player", PLAYERS)
@pytest.mark.parametrize("name", SPACE.losses)
def test_the_pair_teaches_each_player_what_its_own_loss_teaches(gan, name, player):
    x = scores(seed=8)
    other = next(p for p in PLAYERS if p != player)
    for wrt in MOVED[player]:
        both, own = (gan.gradient(text, x, wrt) for text in (name, f"{name}.{player}"))
        torch.testing.assert_close(both, own, rtol=0, atol=0)
        assert not gan.gradient(f"{name}.{other}", x, wrt).any()


def test_in_a_product_each_player_sees_the_others_factor_as_a_weight():
    x = scores(seed=9)
    program = parse("mean(softplus(-gap) * sigmoid(g_gap), 'n m')", SPACE.signature)
    gaps = x["d_real"][:, None] - x["d_fake"]
    mine = gaps.clone().requires_grad_()
    weight = torch.sigmoid(-gaps)
    (weight * F.softplus(-mine)).mean().backward()
    torch.testing.assert_close(loss_gradient(program, "d_real")(x), mine.grad.sum(1))


def test_a_search_starts_from_every_published_pair():
    assert [loss.name for loss in SPACE.seeds] == list(SPACE.losses)
    found = Screens.of(SPACE).judge_all([loss.program for loss in SPACE.seeds])
    assert [verdict.rejection for verdict in found] == [None] * len(SPACE.seeds)


@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (0, 3)])
@pytest.mark.parametrize("name", SECOND_WAYS)
def test_without_real_or_made_samples_the_others_still_count(gan, name, shape):
    x = scores(*shape)
    value = gan.value(name, x)
    assert torch.isfinite(value)
    if shape == (0, 0):
        assert value == 0
    for wrt in READ:
        slope = gan.gradient(name, x, wrt)
        assert torch.isfinite(slope).all()


@pytest.mark.parametrize("size", [0.0, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("name", SECOND_WAYS)
def test_is_finite_in_single_precision_with_its_gradient(gan, name, size):
    x = {k: size * torch.sign(v).float() for k, v in scores(seed=1).items()}
    read = [k for k in READ if k in gan.program(name).inputs]
    mine = {k: v.clone().requires_grad_() for k, v in x.items()}
    value = gan.value(name, mine)
    assert torch.isfinite(value)
    for k, slope in zip(read, torch.autograd.grad(value, [mine[k] for k in read]), strict=True):
        assert torch.isfinite(slope).all()
        assert torch.isfinite(gan.gradient(name, x, k)).all()


def test_the_penalty_reaches_the_critic_through_a_live_graph():
    """With the norm's graph alive, the critic's slope is that of the penalty written out."""
    g = torch.Generator().manual_seed(2)
    weight = torch.randn(3, generator=g, dtype=DOUBLE).requires_grad_()
    real, made = (torch.randn(4, 3, generator=g, dtype=DOUBLE) for _ in range(2))
    share = torch.rand(4, 1, generator=g, dtype=DOUBLE)
    between = torch.lerp(real, made, share.expand(4, 3)).requires_grad_()

    def critic(samples):
        return (samples @ weight).tanh()

    [inner] = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    x = {"d_real": critic(real), "d_fake": critic(made), "grad_norm": inner.norm(dim=1)}
    value = evaluate(SPACE.loss("wgan_gp").candidate.parts["discriminator"], x)
    [slope] = torch.autograd.grad(value, weight)

    own = weight.detach().clone().requires_grad_()
    steep = 1 - (between.detach() @ own).tanh() ** 2  # the gradient of tanh(x . w) in x is this times w
    written = (made @ own).tanh().mean() - (real @ own).tanh().mean()
    written = written + 10 * ((steep * own.norm() - 1) ** 2).mean()
    [expected] = torch.autograd.grad(written, own)
    torch.testing.assert_close(slope, expected)


# Identities.


@pytest.mark.parametrize("name", ["gan_minimax", "wgan"])
def test_in_a_game_of_one_value_the_generator_undoes_what_the_discriminator_does(gan, name):
    x = scores(seed=3)
    up = gan.gradient(f"{name}.generator", x, "g_fake")
    torch.testing.assert_close(up, -gan.gradient(f"{name}.discriminator", x, "d_fake"))


@pytest.mark.parametrize(
    ("name", "is_so"),
    [
        ("gan_relativistic", True),
        ("gan_non_saturating", True),
        ("wgan", True),
        ("lsgan", True),
        ("gan_minimax", False),
        ("gan_hinge", False),
    ],
)
def test_whether_the_generator_is_the_discriminator_with_real_and_made_exchanged(gan, name, is_so):
    x = scores(seed=4)
    exchanged = {**x, "d_real": x["d_fake"], "d_fake": x["d_real"]}
    slope = gan.gradient(f"{name}.discriminator", exchanged, "d_real")
    assert torch.allclose(slope, gan.gradient(f"{name}.generator", x, "g_fake")) is is_so


def test_a_sure_discriminator_stops_the_minimax_generator_and_not_the_other(gan):
    x = {"g_fake": torch.full((1,), -20.0, dtype=DOUBLE)}
    assert abs(float(gan.gradient("gan_minimax.generator", x, "g_fake"))) < 1e-8
    assert float(gan.gradient("gan_non_saturating.generator", x, "g_fake")) == pytest.approx(-1)


def test_a_critic_whose_slope_is_one_pays_no_penalty(gan):
    x = scores(seed=5)
    x["grad_norm"] = torch.ones(4, dtype=DOUBLE)
    plain = gan.value("wgan.discriminator", x)
    torch.testing.assert_close(gan.value("wgan_gp.discriminator", x), plain)
    assert not gan.gradient("wgan_gp.discriminator", x, "grad_norm").any()
    torch.testing.assert_close(gan.value("wgan_gp.discriminator", scores(seed=5), penalty=0.0), plain)


def test_the_hinge_has_no_slope_beyond_one(gan):
    x = {"d_real": torch.tensor([1.5, 0.5], dtype=DOUBLE), "d_fake": torch.tensor([-1.5, -0.5], dtype=DOUBLE)}
    assert gan.gradient("gan_hinge.discriminator", x, "d_real").tolist() == [0, -0.5]
    assert gan.gradient("gan_hinge.discriminator", x, "d_fake").tolist() == [0, 0.5]


def test_least_squares_with_the_coding_of_minus_one_zero_one(gan):
    x = scores(seed=6)
    made = drawn_to(x["d_fake"], -1.0)
    value = gan.value("lsgan.discriminator", x, a=-1.0, b=1.0)
    torch.testing.assert_close(value, drawn_to(x["d_real"], 1.0) + made)
    torch.testing.assert_close(gan.value("lsgan.generator", x, c=0.0), drawn_to(x["g_fake"], 0.0))


def test_relativistic_scores_count_by_their_differences_alone(gan):
    x = scores(seed=7)
    moved = {name: value + 3 if name != "grad_norm" else value for name, value in x.items()}
    torch.testing.assert_close(gan.value("gan_relativistic", moved), gan.value("gan_relativistic", x))
