"""Which loss makes a model adapt fastest? Learned by an inner and an outer loop.

    inner   theta_{k+1} = theta_k - rate_k * grad_theta mean loss_phi(f(x; theta_k), y)    on the support set
    outer   phi, theta_0, rate  <-  Adam on  mean_k classical(f(x'; theta_k), y')          on the query set

The outer loop differentiates through all inner steps. It looks at the query after each of them, so that
early steps count too. The start theta_0 and the rates are learned as well: first alone, with the
classical loss (MAML), then together with the loss network, whose factor is 1 at first. Whatever the
network adds is therefore seen against a peer with the same number of outer steps and the same freedom.

Sine curves take about half a minute of one core, digits about a minute.

Source: Bechtle et al. 2019, arXiv:1906.05374 (learned loss); Finn et al. 2017, arXiv:1703.03400 (start);
Li et al. 2017, arXiv:1707.03141 (rates; here one a step); Antoniou et al. 2018, arXiv:1810.09502 (every
step counts).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor

from losssearch.errors import UsageError
from losssearch.execution.plan import Stage
from losssearch.learned.adaptation import Forward, Parameters, adapt, side_by_side, starts
from losssearch.learned.episodes import FewShot, few_shot
from losssearch.learned.loss import NETWORK, LearnedLoss
from losssearch.learned.network import Weights, fresh_weights, multiclass_value, regression_value
from losssearch.learned.watch import Progress, Watch, no_watch

CLIP = 5.0  # norm of the outer gradient
VALUES = {"regression": regression_value, "multiclass": multiclass_value}


@dataclass(frozen=True)
class MetaSettings:
    """How a loss is meta-learned.

    Args:
        steps: Inner steps.
        warm: Outer steps with the classical loss.
        iterations: Outer steps with the loss network.
        tasks: Tasks an outer step.
        rate: Adam's learning rate in the outer loop; falls to 0 along a half cosine in each of the two
            parts.
        hidden: Width of the loss network.
        truncate: See `adapt`.
        learn_start: Whether the start is learned; else every task begins with fresh random weights.
    """

    steps: int = 5
    warm: int = 1000
    iterations: int = 600
    tasks: int = 25
    rate: float = 3e-3
    hidden: int = 32
    truncate: int | None = None
    learn_start: bool = True

    def __post_init__(self) -> None:
        if min(self.steps, self.tasks, self.hidden) < 1 or min(self.warm, self.iterations) < 0:
            raise UsageError(
                "`steps, tasks, hidden >= 1` and `warm, iterations >= 0` must hold, but got "
                f"{self.steps}, {self.tasks}, {self.hidden}, {self.warm} and {self.iterations}."
            )
        if self.truncate is not None and self.truncate < 1:
            raise UsageError(f"`truncate >= 1` must hold, but got {self.truncate}.")


@dataclass
class Learner:
    """Who adapts: a loss, a start and rates.

    Args:
        task: The kind of task.
        start: Parameters at the start; empty where every task begins with fresh ones.
        rates: Learning rate of each inner step.
        weights: Of the loss network; None for the classical loss.
        fixed: Whether the rates stay as they are.
        done: Outer steps taken.
    """

    task: FewShot
    start: Parameters
    rates: Tensor
    weights: Weights | None = None
    fixed: bool = False
    done: int = 0

    def objective(self, prediction: Tensor, target: Tensor, progress: Tensor) -> Tensor:
        """Loss of each sample."""
        if self.weights is None:
            return self.task.classical(prediction, target)
        return VALUES[self.task.space](self.weights, prediction, target, progress)

    def copy(self) -> Learner:
        """The same numbers, without any history of derivatives."""
        start = {name: value.detach().clone() for name, value in self.start.items()}
        weights = self.weights and {name: value.detach().clone() for name, value in self.weights.items()}
        return replace(self, start=start, rates=self.rates.detach().clone(), weights=weights)


@dataclass(frozen=True)
class Adaptation:
    """Errors while adapting: (steps + 1, tasks), from before the first step to after the last."""

    metric: str
    errors: Tensor
    losses: Tensor = field(repr=False)


def learn(
    task: str | FewShot,
    *,
    seed: int = 0,
    settings: MetaSettings | None = None,
    name: str | None = None,
    watch: Watch = no_watch,
) -> LearnedLoss:
    """Meta-learn a loss.

    Args:
        task: "sine", "few-shot-digits", ..., or a `FewShot` of your own.
        seed: Of start, network and tasks; the same seed gives the same loss.
        settings: How; None is the default.
        name: As people will call it; None is the task's name.
        watch: See `Watch`.

    Raises:
        UsageError: No task is called so.
    """
    kind = few_shot(task) if isinstance(task, str) else task
    chosen = settings or MetaSettings()
    learner = newcomer(kind, chosen, seed, middle(kind.rates))
    if outer_loop(learner, chosen.warm, chosen, seed, watch, "start, with the classical loss"):
        learner = with_network(learner, chosen, seed)
        outer_loop(learner, chosen.iterations, chosen, seed, watch, "loss network")
    else:
        learner = with_network(learner, chosen, seed)
    return loss_of(learner, chosen, seed, name or kind.name)


def loss_of(learner: Learner, settings: MetaSettings, seed: int, name: str) -> LearnedLoss:
    """What a learner learned, to be kept."""
    arrays = {"rates": learner.rates, **{f"start.{n}": v for n, v in learner.start.items()}}
    arrays |= {NETWORK + n: v for n, v in (learner.weights or {}).items()}
    return LearnedLoss(
        name,
        "network",
        learner.task.space,
        {"task": learner.task.name, "steps": settings.steps},
        {n: v.detach().numpy().astype("float32") for n, v in arrays.items()},
        {
            "learned": {
                **asdict(settings),
                "task": learner.task.name,
                "seed": seed,
                "outer_steps": learner.done,
            }
        },
    )


def learner_of(loss: LearnedLoss, task: FewShot | None = None) -> Learner:
    """The learner whose loss this is, ready to adapt; name the task if it is one of your own.

    Raises:
        UsageError: It was not meta-learned.
    """
    if loss.kind != "network" or "rates" not in loss.arrays:
        raise UsageError(f"{loss.name} was not meta-learned on small tasks: it has no start and no rates.")
    arrays = {name: torch.as_tensor(value.copy()) for name, value in loss.arrays.items()}
    start = {n.removeprefix("start."): v for n, v in arrays.items() if n.startswith("start.")}
    return Learner(task or few_shot(str(loss.settings["task"])), start, arrays["rates"], loss.network)


def middle(rates: Sequence[float]) -> float:
    """The middle one of some rates; where learning rates begin."""
    return sorted(rates)[len(rates) // 2]


def newcomer(
    task: FewShot, settings: MetaSettings, seed: int, rate: float, *, fixed: bool = False
) -> Learner:
    """Random start, classical loss, one learning rate for all steps."""
    start = _random_start(task, seed) if settings.learn_start else {}
    return Learner(task, start, torch.full((settings.steps,), rate), fixed=fixed)


def with_network(learner: Learner, settings: MetaSettings, seed: int) -> Learner:
    """The same learner with a loss network that still equals the classical loss."""
    generator = torch.Generator().manual_seed(seed)
    return replace(learner.copy(), weights=fresh_weights(learner.task.space, settings.hidden, generator))


def outer_loop(
    learner: Learner,
    iterations: int,
    settings: MetaSettings,
    seed: int,
    watch: Watch = no_watch,
    phase: str = "outer loop",
) -> bool:
    """Improve start, rates and loss network in place; whether it was not ended early.

    Learners of the same seed and number of outer steps see the same tasks.
    """
    forward = side_by_side(learner.task.model())
    generator = learner.task.generator(seed_at(seed, learner.done), "search")
    learned = [*learner.start.values(), *(learner.weights or {}).values()]
    # A rate moves in proportion to itself: it is learned as its logarithm.
    log_rates = learner.rates.log()
    everything = [tensor.requires_grad_() for tensor in (*learned, *([] if learner.fixed else [log_rates]))]
    if not everything:
        return True
    optimiser = torch.optim.Adam(everything, settings.rate)
    late = 0.0
    finished = True
    for iteration in range(iterations):
        for group in optimiser.param_groups:
            group["lr"] = settings.rate * (0.5 + 0.5 * math.cos(math.pi * iteration / iterations))
        rates = learner.rates if learner.fixed else log_rates.exp()
        loss = _query_loss(learner, rates, settings, generator, forward)
        optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(everything, CLIP)
        if bool(torch.isfinite(norm)):  # a start from which a task diverges teaches nothing
            optimiser.step()
        late = float(loss.detach()) if iteration == 0 else 0.95 * late + 0.05 * float(loss.detach())
        learner.done += 1
        if (iteration + 1) % 10 == 0 and not watch(Progress(phase, iteration + 1, iterations, late)):
            finished = False
            break
    if not learner.fixed:
        learner.rates = log_rates.detach().exp()
    for tensor in learned:
        tensor.requires_grad_(False)
    return finished


def evaluate(learner: Learner, tasks: int = 400, seed: int = 0, stage: Stage = "audit") -> Adaptation:
    """Errors on the query of tasks that were not learned from, before and after each inner step."""
    forward = side_by_side(learner.task.model())
    generator = learner.task.generator(seed, stage)
    episodes = learner.task.draw(tasks, generator, stage)
    parameters = _begin(learner, tasks, generator)
    x, y = episodes.query
    errors, losses = [], []
    steps = adapt(forward, parameters, learner.objective, episodes.support, learner.rates)
    for now in (parameters, *steps):
        with torch.no_grad():
            prediction = forward(now, x)
            errors.append(learner.task.error(prediction, y))
            losses.append(learner.task.classical(prediction, y).mean(-1))
    return Adaptation(learner.task.metric, torch.stack(errors), torch.stack(losses))


def seed_at(seed: int, done: int) -> int:
    """The seed of the tasks that follow after `done` outer steps."""
    return seed * 1_000_003 + done


def _query_loss(
    learner: Learner,
    rates: Tensor,
    settings: MetaSettings,
    generator: torch.Generator,
    forward: Forward,
) -> Tensor:
    """Mean classical loss on the query over tasks and inner steps."""
    episodes = learner.task.draw(settings.tasks, generator, "search")
    parameters = _begin(learner, settings.tasks, generator)
    x, y = episodes.query
    steps = adapt(
        forward, parameters, learner.objective, episodes.support, rates,
        graph=True, truncate=settings.truncate,
    )  # fmt: skip
    return torch.stack([learner.task.classical(forward(now, x), y).mean() for now in steps]).mean()


def _begin(learner: Learner, tasks: int, generator: torch.Generator) -> Parameters:
    """The learned start for every task, or fresh weights for each."""
    if learner.start:
        return starts(learner.start, tasks)
    return fresh_starts(learner.task, tasks, generator)


def fresh_starts(task: FewShot, tasks: int, generator: torch.Generator) -> Parameters:
    """Random weights, others for each task."""
    seeds = torch.randint(0, 2**31, (tasks,), generator=generator).tolist()
    drawn = [_random_start(task, seed) for seed in seeds]
    return {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}


def _random_start(task: FewShot, seed: int) -> Parameters:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {name: value.detach().clone() for name, value in task.model().named_parameters()}
