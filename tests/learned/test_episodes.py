"""Small tasks are drawn from a seed, and those of the audit share nothing with those of the learning."""

from __future__ import annotations

import math

import pytest
import torch

from losssearch.errors import UsageError
from losssearch.learned.episodes import DIGITS, TASKS, WAYS, few_shot
from losssearch.learned.episodes import _images as images


@pytest.mark.parametrize("name", TASKS)
def test_the_same_seed_draws_the_same_tasks(name: str) -> None:
    task = few_shot(name)
    one, two, other = (task.draw(3, task.generator(seed, "search"), "search") for seed in (4, 4, 5))
    assert torch.equal(one.support[0], two.support[0])
    assert torch.equal(one.query[1], two.query[1])
    assert not torch.equal(one.support[0], other.support[0])


def test_sine_targets_are_sines_of_their_inputs() -> None:
    task = few_shot("sine")
    episodes = task.draw(50, task.generator(0, "audit"), "audit")
    x, y = torch.cat([episodes.support[0], episodes.query[0]], 1).squeeze(-1), None
    y = torch.cat([episodes.support[1], episodes.query[1]], 1)
    # y = a sin x + b cos x for every task, with amplitude sqrt(a^2 + b^2) within [0.1, 5].
    basis = torch.stack([torch.sin(x), torch.cos(x)], -1).double()
    found = torch.linalg.lstsq(basis, y.double().unsqueeze(-1)).solution
    assert torch.allclose(basis @ found, y.double().unsqueeze(-1), atol=1e-4)
    amplitude = found.norm(dim=1)
    assert float(amplitude.min()) >= 0.1 - 1e-4
    assert float(amplitude.max()) <= 5 + 1e-4
    assert float(x.abs().max()) <= 5
    assert math.isclose(float(amplitude.mean()), 2.55, abs_tol=0.6)


def test_no_image_or_digit_of_the_audit_is_ever_learned_from() -> None:
    assert not set(DIGITS["search"]) & set(DIGITS["audit"])
    seen = {tuple(image.flatten().tolist()) for group in images("search") for image in group}
    fresh = {tuple(image.flatten().tolist()) for group in images("audit") for image in group}
    assert fresh
    assert not seen & fresh


def test_noise_is_in_the_support_alone() -> None:
    clean, noisy = few_shot("few-shot-digits"), few_shot("few-shot-digits-noisy")
    for task, low, high in ((clean, 0.0, 0.0), (noisy, 0.25, 0.35)):
        episodes = task.draw(100, task.generator(0, "search"), "search")
        for part, bounds in ((episodes.support, (low, high)), (episodes.query, (0.0, 0.0))):
            label = part[1].argmax(-1)
            truth = torch.arange(WAYS).repeat_interleave(label.shape[1] // WAYS)
            share = float((label != truth).float().mean())
            assert bounds[0] <= share <= bounds[1]


def test_an_unknown_task_is_named_and_the_nearest_offered() -> None:
    with pytest.raises(UsageError, match=r"called 'sin'. Did you mean 'sine'"):
        few_shot("sin")
