"""The networks that judge digits: good readers, apart from one another, and a distance with known values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from losssearch.proxies.shipped.digits import digit_pool
from losssearch.proxies.shipped.judges import frechet, judge, misread


def test_judges_read_digits_that_they_were_not_taught() -> None:
    pixels, labels, _, pool = digit_pool()
    x, y = torch.as_tensor(pixels[pool]), torch.as_tensor(labels[pool])
    assert misread(judge("a test"), x, y) < 0.06
    assert misread(judge("a test"), torch.zeros_like(x), y) > 0.8


def test_a_judge_is_the_same_by_name_and_another_by_another() -> None:
    first = judge("a test")
    judge.cache_clear()
    again, other = judge("a test"), judge("another test")
    assert torch.equal(first.out.weight, again.out.weight)
    assert not torch.equal(first.out.weight, other.out.weight)
    assert not any(p.requires_grad for p in again.parameters())


def test_the_distance_is_that_of_the_matrix_square_root() -> None:
    draw = np.random.default_rng(0)
    one, two = draw.normal(size=(200, 5)) @ draw.normal(size=(5, 5)), draw.normal(1.0, 2.0, size=(300, 5))
    first, second = np.cov(one.T), np.cov(two.T)
    expected = ((one.mean(0) - two.mean(0)) ** 2).sum() + np.trace(
        first + second - 2 * sqrtm(first @ second).real
    )
    assert frechet(torch.as_tensor(one), torch.as_tensor(two)) == pytest.approx(expected, rel=1e-6)


def test_the_distance_of_a_cloud_to_itself_is_zero_and_to_a_moved_one_the_square_of_the_way() -> None:
    cloud = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    assert frechet(cloud, cloud) == pytest.approx(0, abs=1e-9)
    assert frechet(cloud + 3, cloud) == pytest.approx(4 * 9, rel=1e-5)
    flat = torch.zeros(10, 4)
    assert frechet(flat, flat) == 0
    assert np.isnan(frechet(cloud / 0, cloud))
