"""Every preference loss against torch's own function, pair by pair."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from losssearch.spaces import load_space
from tests.spaces.conftest import Bench

DOUBLE = torch.float64
SPACE = load_space("preference")
BETA = 0.1


@pytest.fixture(scope="module")
def preference() -> Bench:
    return Bench("preference")


def answers(n=6, seed=0, spread=10.0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    names = ("chosen", "rejected", "ref_chosen", "ref_rejected")
    return {k: -spread * torch.rand(n, generator=g, dtype=DOUBLE) for k in names}


def at(*ratios: float) -> dict[str, Tensor]:
    x = {k: torch.zeros(len(ratios), dtype=DOUBLE) for k in answers(0)}
    return x | {"chosen": torch.tensor(ratios, dtype=DOUBLE)}


def by_pair(rule):
    def second_way(x):
        own = zip(x["chosen"], x["rejected"], x["ref_chosen"], x["ref_rejected"], strict=True)
        return torch.stack([rule((c - r) - (ref_c - ref_r)) for c, r, ref_c, ref_r in own]).mean()

    return second_way


def lrml(ratio):
    scaled = BETA * ratio
    share = torch.sigmoid(scaled / 0.05)
    return -(1 - share) * F.logsigmoid(scaled) + share * torch.exp(-scaled)


SECOND_WAYS = {
    "dpo": by_pair(lambda ratio: -F.logsigmoid(BETA * ratio)),
    "ipo": by_pair(lambda ratio: (ratio - 1 / (2 * BETA)) ** 2),
    "slic": by_pair(lambda ratio: torch.clamp(1 - BETA * ratio, min=0)),
    "lrml": by_pair(lrml),
}


def test_every_loss_has_a_second_way():
    assert set(SECOND_WAYS) == set(SPACE.losses)


@pytest.mark.parametrize("spread", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("name", SPACE.losses)
def test_equals_its_second_way(preference, name, n, spread):
    preference.agrees(name, answers(n, seed=n, spread=spread), SECOND_WAYS[name])


@pytest.mark.parametrize("name", SPACE.losses)
def test_no_pair_costs_nothing(preference, name):
    x = answers(0)
    assert preference.value(name, x) == 0
    assert preference.gradient(name, x).shape == (0,)


@pytest.mark.parametrize("size", [0.0, 1.0, 100.0, 1e4])
@pytest.mark.parametrize("name", SPACE.losses)
def test_is_finite_in_single_precision_with_its_gradient(preference, name, size):
    x = {k: v.float() for k, v in at(size, -size).items()}
    mine = x["chosen"].clone().requires_grad_()
    value = preference.value(name, {**x, "chosen": mine})
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(mine.grad).all()
    for wrt in ("chosen", "rejected"):
        assert torch.isfinite(preference.gradient(name, x, wrt)).all()


def test_sums_over_tokens_that_are_there_make_the_log_probabilities(preference):
    g = torch.Generator().manual_seed(1)
    tokens = {k: -torch.rand(3, 5, generator=g, dtype=DOUBLE) for k in answers(0)}
    there = {k: torch.rand(3, 5, generator=g) < 0.6 for k in ("chosen", "rejected")}
    summed = {k: (v * there[k.removeprefix("ref_")]).sum(1) for k, v in tokens.items()}
    values = []
    for i in range(3):
        gain = {}
        for k in ("chosen", "rejected"):
            own = [t for t in range(5) if there[k][i, t]]
            gain[k] = sum(float(tokens[k][i, t] - tokens[f"ref_{k}"][i, t]) for t in own)
        values.append(math.log1p(math.exp(-BETA * (gain["chosen"] - gain["rejected"]))))
    assert float(preference.value("dpo", summed)) == pytest.approx(sum(values) / 3)


# Identities.


def test_a_policy_that_is_its_reference_costs_what_no_gain_costs(preference):
    x = answers(seed=2)
    x |= {"chosen": x["ref_chosen"].clone(), "rejected": x["ref_rejected"].clone()}
    expected = {"dpo": math.log(2), "ipo": 25.0, "slic": 1.0, "lrml": (math.log(2) + 1) / 2}
    for name, value in expected.items():
        assert float(preference.value(name, x)) == pytest.approx(value)


@pytest.mark.parametrize("name", SPACE.losses)
def test_only_the_gain_on_the_one_less_that_on_the_other_counts(preference, name):
    x = answers(seed=3)
    moved = {**x, "chosen": x["chosen"] + 2, "ref_rejected": x["ref_rejected"] - 2}
    torch.testing.assert_close(preference.value(name, moved), preference.value(name, x))
    slope = preference.gradient(name, x, "chosen")
    torch.testing.assert_close(preference.gradient(name, x, "rejected"), -slope)


def test_the_slope_of_dpo_is_its_weight_of_the_paper(preference):
    x = answers(seed=4)
    ratio = x["chosen"] - x["ref_chosen"] - x["rejected"] + x["ref_rejected"]
    expected = -BETA * torch.sigmoid(-BETA * ratio) / len(ratio)
    torch.testing.assert_close(preference.gradient("dpo", x), expected)


def test_lrml_is_logistic_where_the_ratio_is_negative_and_exponential_where_it_is_positive(preference):
    preference.same("lrml", at(-30.0, -60.0), "dpo", tau=0.01)
    value = preference.value("lrml", at(30.0, 60.0), tau=0.01)
    assert float(value) == pytest.approx((math.exp(-3) + math.exp(-6)) / 2)


def test_lrml_of_an_endless_tau_is_half_of_each(preference):
    x = answers(seed=5)
    ratio = x["chosen"] - x["ref_chosen"] - x["rejected"] + x["ref_rejected"]
    expected = (preference.value("dpo", x) + torch.exp(-BETA * ratio).mean()) / 2
    torch.testing.assert_close(preference.value("lrml", x, tau=1e9), expected)


def test_ipo_has_its_target_and_slic_its_end_where_the_papers_put_them(preference):
    assert preference.value("ipo", at(5.0)) == pytest.approx(0)
    assert preference.value("slic", at(10.0, 12.0)) == pytest.approx(0)
    assert not preference.gradient("slic", at(12.0)).any()
