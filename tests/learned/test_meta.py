"""Meta-learning: an outer loop improves what the inner loop starts from and descends."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from losssearch.errors import UsageError
from losssearch.learned.audit.adaptation import audit_adaptation
from losssearch.learned.episodes import few_shot
from losssearch.learned.loss import LearnedLoss
from losssearch.learned.meta import (
    MetaSettings,
    evaluate,
    learn,
    learner_of,
    newcomer,
    outer_loop,
    with_network,
)
from losssearch.learned.watch import Progress
from tests.learned.conftest import SHORT


def test_the_same_seed_learns_the_same_loss() -> None:
    tiny = replace(SHORT, warm=3, iterations=3)
    one, two = learn("sine", settings=tiny), learn("sine", settings=tiny)
    assert one.key == two.key
    assert learn("sine", seed=1, settings=tiny).key != one.key


def test_learning_lowers_the_error_on_tasks_never_seen(curve_loss: LearnedLoss) -> None:
    begin = newcomer(few_shot("sine"), SHORT, 0, 0.01)
    before, after = evaluate(begin, 100), evaluate(learner_of(curve_loss), 100)
    assert float(after.losses[-1].mean()) < float(before.losses[-1].mean())


def test_a_new_network_changes_nothing_before_it_is_learned() -> None:
    plain = newcomer(few_shot("few-shot-digits"), SHORT, 0, 0.2)
    with_loss = with_network(plain, SHORT, 0)
    assert torch.allclose(evaluate(plain, 20).losses, evaluate(with_loss, 20).losses, atol=1e-4)


def test_fixed_rates_stay_and_learned_ones_move() -> None:
    for fixed in (True, False):
        learner = newcomer(few_shot("sine"), SHORT, 0, 0.01, fixed=fixed)
        outer_loop(learner, 5, SHORT, 0)
        assert bool(torch.equal(learner.rates, torch.full((3,), 0.01))) is fixed


def test_without_a_learned_start_every_task_has_its_own() -> None:
    settings = replace(SHORT, learn_start=False, warm=2, iterations=2)
    loss = learn("sine", settings=settings)
    assert not [name for name in loss.arrays if name.startswith("start.")]
    assert float(evaluate(learner_of(loss), 5).losses[0].std()) > 0


def test_a_learning_that_is_stopped_still_gives_a_loss() -> None:
    seen: list[Progress] = []

    def watch(progress: Progress) -> bool:
        seen.append(progress)
        return progress.done < 20

    loss = learn("sine", settings=SHORT, watch=watch)
    assert [p.done for p in seen] == [10, 20]
    assert loss.evidence["learned"]["outer_steps"] == 20
    loss.module()(torch.zeros(2), torch.ones(2))


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="`steps, tasks, hidden >= 1`"):
        MetaSettings(steps=0)
    with pytest.raises(UsageError, match="truncate >= 1"):
        MetaSettings(truncate=0)


@pytest.mark.slow
def test_a_learned_loss_adapts_faster_than_cross_entropy_with_its_best_rate() -> None:
    """Held-out digits, the same first weights, tasks and number of outer steps for everyone."""
    loss = learn("few-shot-digits", settings=MetaSettings(steps=3, warm=120, iterations=80, tasks=10))
    report = audit_adaptation(loss, tasks=200)
    assert {line.label for line in report.lines} == {
        "learned loss",
        "cross entropy, tuned rate",
        "cross entropy, learned rates",
    }
    tuned = report.line("cross entropy, tuned rate")
    assert tuned.versus is not None
    assert tuned.versus.high < 0, report.to_dict()
