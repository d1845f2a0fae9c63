"""Can a network turn the knobs of a loss while a model learns? Learning to learn with gradients.

An LSTM watches the training and sets, before every step, the constants of a formula and the learning rate:

    h_k          = LSTM(log CE_k, log CE_k - log CE_{k-1}, progress;  h_{k-1})      CE of the support set
    constant_k   = range of the constant at (raw + head(h_k)),   rate_k = exp(log rate + head(h_k))
    theta_{k+1}  = theta_k - rate_k * grad mean formula(f(x; theta_k), y; constants_k)

The outer loop follows the gradient of the mean query loss after each step, through all steps (or through
the last few: `truncate`), in the LSTM, in `raw` and in the rate. With a head of zeros the knobs stand
still at what the same outer loop finds best: the honest peer (`still=True`). What the LSTM sees carries
no gradient, as is usual.

Source: Andrychowicz et al. 2016, arXiv:1606.04474, Sec. 2 (the LSTM and its inputs); that it steers a
loss's constants and not the update itself is this project's choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from losssearch.errors import UsageError
from losssearch.execution.conventions import bounded, unbounded
from losssearch.execution.parts import parts_of
from losssearch.execution.plan import Stage
from losssearch.execution.reference import Compiled
from losssearch.language.formula import parse
from losssearch.language.program import Constant, Program
from losssearch.learned.adaptation import Forward, side_by_side
from losssearch.learned.episodes import Episodes, FewShot, few_shot
from losssearch.learned.loss import NETWORK, LearnedLoss
from losssearch.learned.meta import CLIP, Adaptation, fresh_starts, middle
from losssearch.learned.watch import Progress, Watch, no_watch
from losssearch.spaces import load_space

FEATURES = 3
FLOOR = 1e-4  # under the logarithm of a loss


@dataclass(frozen=True)
class SteeringSettings:
    """How a steering LSTM is learned.

    Args:
        steps: Inner steps, from fresh random weights.
        iterations: Outer steps.
        tasks: Tasks an outer step.
        rate: Adam's learning rate in the outer loop; falls to 0 along a half cosine.
        hidden: Width of the LSTM.
        truncate: Inner steps that one gradient passes through; None is all.
        still: Whether the knobs stand still: the constants and the rate are learned, the LSTM is not.
    """

    steps: int = 15
    iterations: int = 200
    tasks: int = 16
    rate: float = 0.01
    hidden: int = 16
    truncate: int | None = None
    still: bool = False

    def __post_init__(self) -> None:
        if min(self.steps, self.tasks, self.hidden, self.truncate or 1) < 1 or self.iterations < 0:
            raise UsageError(
                "`steps, tasks, hidden, truncate >= 1` and `iterations >= 0` must hold, but got "
                f"{self.steps}, {self.tasks}, {self.hidden}, {self.truncate} and {self.iterations}."
            )


class Steering(nn.Module):
    """Sets the constants of a formula, and the learning rate, from the losses it is shown.

    Args:
        program: The formula; each sample must have a value of its own.
        task: "regression" or "multiclass".
        rate: Learning rate at first.
        hidden: Width of the LSTM.
    """

    def __init__(self, program: Program, task: str, rate: float, hidden: int) -> None:
        super().__init__()
        parts = parts_of(program, task)
        if parts.coupled or len(parts.program.outputs) != 1:
            raise UsageError(f"{program.text} gives no value of each sample on its own.")
        self.program = program
        self.names = parts.prediction, parts.target
        self.free: tuple[Constant, ...] = tuple(c for c in program.constants if c.low < c.high)
        self._run = Compiled(parts.program)
        self.cell = nn.LSTMCell(FEATURES, hidden)
        self.head = nn.Linear(hidden, len(self.free) + 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        raws = [unbounded(c.value, c.low, c.high) for c in self.free]
        self.raw = nn.Parameter(torch.stack([*raws, torch.tensor(math.log(rate))]))
        self._memory: tuple[Tensor, Tensor] | None = None
        self._last: Tensor | None = None

    def begin(self) -> None:
        """Forget what was seen: a new training begins."""
        self._memory = self._last = None

    def cut(self) -> None:
        """Let no gradient pass to what was seen before."""
        self._memory = self._memory and (self._memory[0].detach(), self._memory[1].detach())

    def advise(self, loss: Tensor, progress: float) -> tuple[dict[str, Tensor], Tensor]:
        """The knobs for the next step.

        Args:
            loss: Cross entropy or squared error now, one number a training, (trainings,).
            progress: Share of the training that is done.

        Returns:
            The value of each free constant, and the learning rate, (trainings,) each.
        """
        now = loss.detach().clamp_min(FLOOR).log().to(self.raw.dtype)
        change = torch.zeros_like(now) if self._last is None else now - self._last
        self._last = now
        seen = torch.stack([now, change, torch.full_like(now, progress)], -1)
        self._memory = self.cell(seen, self._memory)
        knobs = (self.raw + self.head(self._memory[0])).unbind(-1)
        constants = {
            c.name: bounded(raw, c.low, c.high) for c, raw in zip(self.free, knobs[:-1], strict=True)
        }
        return constants, knobs[-1].exp()

    def values(
        self, prediction: Tensor, target: Tensor, progress: Tensor, constants: Mapping[str, Tensor]
    ) -> Tensor:
        """The formula's value of each sample, (trainings, n)."""
        wanted, truth = self.names
        inputs = {wanted: prediction, truth: target, "progress": progress}
        read = set(self.program.inputs) | {wanted, truth}
        found = self._run({name: value for name, value in inputs.items() if name in read}, constants)[0]
        return found.expand(prediction.shape[:2])


def learn(
    task: str | FewShot,
    program: Program,
    *,
    seed: int = 0,
    settings: SteeringSettings | None = None,
    name: str | None = None,
    watch: Watch = no_watch,
) -> LearnedLoss:
    """Learn to steer a formula.

    Args:
        task: "few-shot-digits-noisy", ..., or a `FewShot` of your own.
        program: Of the task's space, such as `losssearch.parse("...")` or a classical loss's program.
        seed: Of the LSTM and the tasks.
        settings: How; None is the default.
        name: As people will call it.
        watch: Called every few outer steps; False ends the learning, what is learned so far stays.

    Raises:
        UsageError: No task is called so, or the formula couples samples.
    """
    kind, chosen = few_shot(task) if isinstance(task, str) else task, settings or SteeringSettings()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        steering = Steering(program, kind.space, middle(kind.rates), chosen.hidden)
    learned = [steering.raw] if chosen.still else list(steering.parameters())
    adam = torch.optim.Adam(learned, chosen.rate)
    generator, forward = kind.generator(seed, "search"), side_by_side(kind.model())
    late, done = 0.0, 0
    for iteration in range(chosen.iterations):
        for group in adam.param_groups:
            group["lr"] = chosen.rate * (0.5 + 0.5 * math.cos(math.pi * iteration / chosen.iterations))
        episodes = kind.draw(chosen.tasks, generator, "search")
        losses = [
            kind.classical(prediction, episodes.query[1]).mean()
            for prediction in _trained(steering, kind, episodes, generator, chosen, forward, graph=True)
        ]
        loss = torch.stack(losses[1:]).mean()
        adam.zero_grad()
        loss.backward()
        if bool(torch.isfinite(torch.nn.utils.clip_grad_norm_(learned, CLIP))):
            adam.step()
        late = float(loss.detach()) if iteration == 0 else 0.95 * late + 0.05 * float(loss.detach())
        done += 1
        if done % 5 == 0 and not watch(Progress("steering", done, chosen.iterations, late)):
            break
    constants = {c.name: [c.value, c.low, c.high] for c in program.constants}
    return LearnedLoss(
        name or f"steered-{kind.name}",
        "controller",
        kind.space,
        {
            "task": kind.name, "formula": program.text, "constants": constants,
            "steps": chosen.steps, "hidden": chosen.hidden,
        },
        {NETWORK + n: p.detach().numpy().astype("float32") for n, p in steering.named_parameters()},
        {"learned": {**asdict(chosen), "task": kind.name, "seed": seed, "outer_steps": done}},
    )  # fmt: skip


def steering_of(loss: LearnedLoss) -> Steering:
    """The LSTM of a learned loss, ready to advise a training. Its formula is parsed and checked anew.

    Raises:
        UsageError: It is no controller.
        FormulaError: Its formula is none.
    """
    if loss.kind != "controller":
        raise UsageError(f"{loss.name} is a {loss.kind}; only a controller steers.")
    space, settings = load_space(loss.space), loss.settings
    constants = {
        n: Constant(n, float(v), float(low), float(high))
        for n, (v, low, high) in settings["constants"].items()
    }
    program = parse(str(settings["formula"]), space.signature, constants)
    steering = Steering(program, space.task, 1.0, int(settings["hidden"]))
    steering.load_state_dict(loss.network)
    return steering.requires_grad_(False)


def evaluate(loss: LearnedLoss, tasks: int = 200, seed: int = 0, stage: Stage = "audit") -> Adaptation:
    """Errors on the query before and after each step, on tasks that were not learned from."""
    steering, kind = steering_of(loss), few_shot(str(loss.settings["task"]))
    generator = kind.generator(seed, stage)
    episodes = kind.draw(tasks, generator, stage)
    settings = SteeringSettings(steps=int(loss.settings["steps"]))
    forward = side_by_side(kind.model())
    errors, losses = [], []
    for prediction in _trained(steering, kind, episodes, generator, settings, forward, graph=False):
        errors.append(kind.error(prediction.detach(), episodes.query[1]))
        losses.append(kind.classical(prediction.detach(), episodes.query[1]).mean(-1))
    return Adaptation(kind.metric, torch.stack(errors), torch.stack(losses))


def _trained(
    steering: Steering,
    kind: FewShot,
    episodes: Episodes,
    generator: torch.Generator,
    settings: SteeringSettings,
    forward: Forward,
    *,
    graph: bool,
) -> list[Tensor]:
    """Predictions on the query before the first and after every step."""
    x, y = episodes.support
    parameters = fresh_starts(kind, len(x), generator)
    parameters = {name: value.requires_grad_() for name, value in parameters.items()}
    steering.begin()
    found = [forward(parameters, episodes.query[0])]
    for step in range(settings.steps):
        if not graph or (settings.truncate and step and step % settings.truncate == 0):
            parameters = {name: value.detach().requires_grad_() for name, value in parameters.items()}
            steering.cut()
        prediction = forward(parameters, x)
        seen = kind.classical(prediction, y).mean(-1)
        constants, rate = steering.advise(seen, step / settings.steps)
        value = steering.values(prediction, y, torch.tensor(step / settings.steps), constants).mean(-1).sum()
        slopes = torch.autograd.grad(value, list(parameters.values()), create_graph=graph)
        parameters = {
            name: old - rate.reshape(-1, *[1] * (old.ndim - 1)) * slope
            for (name, old), slope in zip(parameters.items(), slopes, strict=True)
        }
        found.append(forward(parameters, episodes.query[0]))
    return found
