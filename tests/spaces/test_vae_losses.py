"""Every loss of an autoencoder against torch's distributions, and its parts each."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from losssearch.execution.reference import evaluate
from losssearch.spaces import load_space
from tests.spaces.conftest import Bench

DOUBLE = torch.float64
SPACE = load_space("vae")
PREDICTIONS = ("x_logits", "mu", "log_var")


@pytest.fixture(scope="module")
def vae() -> Bench:
    return Bench("vae")


def pictures(n=3, s=5, z=2, seed=0, progress=0.2) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "x_logits": 2 * torch.randn(n, s, generator=g, dtype=DOUBLE),
        "mu": torch.randn(n, z, generator=g, dtype=DOUBLE),
        "log_var": torch.randn(n, z, generator=g, dtype=DOUBLE),
        "x": torch.rand(n, s, generator=g, dtype=DOUBLE),
        "progress": torch.tensor(progress, dtype=DOUBLE),
    }


def reconstruction(x):
    each = F.binary_cross_entropy_with_logits(x["x_logits"], x["x"], reduction="none")
    return each.sum(1).mean() if len(each) else each.sum()


def kl(x):
    total = 0 * (x["mu"].sum() + x["log_var"].sum())
    for mu, log_var in zip(x["mu"], x["log_var"], strict=True):
        prior = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
        posterior = torch.distributions.Normal(mu, (log_var / 2).exp())
        total = total + torch.distributions.kl_divergence(posterior, prior).sum()
    return total / max(len(x["mu"]), 1)


SECOND_WAYS = {
    "elbo": lambda x: reconstruction(x) + kl(x),
    "beta_vae": lambda x: reconstruction(x) + 4 * kl(x),
    "annealed_elbo": lambda x: reconstruction(x) + min(float(x["progress"]) / 0.5, 1) * kl(x),
}
PARTS = {"reconstruction": reconstruction, "kl": kl}


def test_every_loss_has_a_second_way():
    assert set(SECOND_WAYS) == set(SPACE.losses)


@pytest.mark.parametrize("progress", [0.0, 0.2, 0.8])
@pytest.mark.parametrize("shape", [(3, 5, 2), (1, 1, 1), (4, 2, 7)])
@pytest.mark.parametrize("name", SPACE.losses)
def test_equals_its_second_way(vae, name, shape, progress):
    vae.agrees(name, pictures(*shape, progress=progress), SECOND_WAYS[name])


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", SPACE.losses)
def test_each_part_is_told_beside_the_loss(name, part):
    x = pictures(seed=1)
    parts = SPACE.loss(name).candidate.parts
    assert set(parts) == {"reconstruction", "kl", "loss"}
    torch.testing.assert_close(evaluate(parts[part], x), PARTS[part](x))


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 0)])
@pytest.mark.parametrize("name", SPACE.losses)
def test_no_sample_and_no_pixel_or_code_cost_nothing(vae, name, shape):
    x = pictures(*shape)
    assert vae.value(name, x) == 0
    for wrt in PREDICTIONS:
        assert vae.gradient(name, x, wrt).shape == x[wrt].shape


@pytest.mark.parametrize("size", [0.0, 1.0, 20.0, 1e4])
@pytest.mark.parametrize("name", SPACE.losses)
def test_is_finite_in_single_precision_with_its_gradient(vae, name, size):
    x = {k: v.float() for k, v in pictures(seed=2).items()}
    x |= {k: size * torch.sign(x[k]) for k in PREDICTIONS}
    x["x"] = x["x"].round()
    mine = {k: v.clone().requires_grad_(k in PREDICTIONS) for k, v in x.items()}
    value = vae.value(name, mine)
    assert torch.isfinite(value)
    for slope in torch.autograd.grad(value, [mine[k] for k in PREDICTIONS]):
        assert torch.isfinite(slope).all()
    for wrt in PREDICTIONS:
        assert torch.isfinite(vae.gradient(name, x, wrt)).all()


# Identities.


def same_in_all(vae, x, name, other, **constants):
    torch.testing.assert_close(vae.value(name, x, **constants), vae.value(other, x))
    for wrt in PREDICTIONS:
        torch.testing.assert_close(vae.gradient(name, x, wrt, **constants), vae.gradient(other, x, wrt))


def test_beta_one_is_the_evidence_lower_bound(vae):
    same_in_all(vae, pictures(seed=3), "beta_vae", "elbo", beta=1.0)


@pytest.mark.parametrize("progress", [0.5, 1.0])
def test_faded_in_it_is_the_evidence_lower_bound(vae, progress):
    same_in_all(vae, pictures(seed=4, progress=progress), "annealed_elbo", "elbo")


def test_at_the_start_of_the_training_the_code_is_free(vae):
    x = pictures(seed=5, progress=0.0)
    torch.testing.assert_close(vae.value("annealed_elbo", x), reconstruction(x))
    assert not vae.gradient("annealed_elbo", x, "mu").any()


def test_a_posterior_equal_to_the_prior_diverges_by_nothing(vae):
    x = pictures(seed=6)
    x |= {"mu": torch.zeros_like(x["mu"]), "log_var": torch.zeros_like(x["log_var"])}
    torch.testing.assert_close(vae.value("beta_vae", x), reconstruction(x))
    for wrt in ("mu", "log_var"):
        assert not vae.gradient("beta_vae", x, wrt).any()


def test_pixels_are_best_at_their_own_brightness(vae):
    x = pictures(seed=7)
    x["x_logits"] = torch.logit(x["x"])
    assert not vae.gradient("elbo", x).abs().gt(1e-12).any()
