"""Does a meta-learned loss adapt faster than the classical one, given the same help?

Everyone's start is learned with as many outer steps on the same tasks; the classical loss has its best
learning rate, or learned ones. Small tasks are independent of each other, so the t test is the ordinary
paired one. Learning the peers takes some minutes of one core.
"""

from __future__ import annotations

from losssearch.audit.statistics import corrected_t_test
from losssearch.learned.audit.report import LearnedReport, Line, best_first
from losssearch.learned.episodes import FewShot
from losssearch.learned.loss import LearnedLoss
from losssearch.learned.meta import (
    Adaptation,
    Learner,
    MetaSettings,
    evaluate,
    learner_of,
    middle,
    newcomer,
    outer_loop,
)
from losssearch.learned.watch import Watch, no_watch


def audit_adaptation(
    loss: LearnedLoss,
    *,
    task: FewShot | None = None,
    tasks: int = 400,
    seed: int = 0,
    watch: Watch = no_watch,
) -> LearnedReport:
    """A meta-learned loss against the classical one on tasks that nobody learned from.

    Peers have their starts learned anew from the same first weights, with as many outer steps on the same
    tasks: "tuned rate" for each learning rate of the task's grid, the best of them chosen on other tasks
    of the learning stage; "learned rates" with one learned rate a step.

    Args:
        task: One of your own, if the loss was learned on it.
        tasks: How many.
        seed: Of these tasks.
        watch: Follows the learning of the peers.

    Raises:
        UsageError: The loss was not meta-learned.
    """
    learner = learner_of(loss, task)
    task, learned = learner.task, dict(loss.evidence.get("learned", {}))
    known = {k: v for k, v in learned.items() if k in MetaSettings.__dataclass_fields__}
    settings, first = MetaSettings(**known), int(learned.get("seed", 0))
    name = "squared error" if task.space == "regression" else "cross entropy"

    def peer(rate: float, fixed: bool, phase: str) -> Learner:
        one = newcomer(task, settings, first, rate, fixed=fixed)
        outer_loop(one, settings.warm, settings, first, watch, phase)
        outer_loop(one, settings.iterations, settings, first, watch, phase)
        return one

    tuned = [peer(rate, True, f"{name}, rate {rate:g}") for rate in task.rates]
    scores = [float(evaluate(one, tasks, seed + 1, "search").losses[-1].mean()) for one in tuned]
    best = tuned[min(range(len(scores)), key=lambda i: (scores[i] != scores[i], scores[i]))]
    contenders = {
        "learned loss": learner,
        f"{name}, tuned rate": best,
        f"{name}, learned rates": peer(middle(task.rates), False, f"{name}, learned rates"),
    }
    found = {label: evaluate(one, tasks, seed) for label, one in contenders.items()}
    settings_of = {
        label: {f"rate_{k}": float(rate) for k, rate in enumerate(one.rates)}
        for label, one in contenders.items()
    }
    lines = [_adapted(label, found[label], settings_of[label], found["learned loss"]) for label in contenders]
    return LearnedReport(task.name, task.metric, tasks, best_first(lines))


def _adapted(label: str, mine: Adaptation, setting: dict[str, float], learned: Adaptation) -> Line:
    curve = tuple(float(v) for v in mine.errors.mean(1))
    gaps = (learned.errors[-1] - mine.errors[-1]).tolist()
    versus = None if mine is learned else corrected_t_test(gaps, 1, 0)
    return Line(label, curve[-1], curve, setting, versus)
