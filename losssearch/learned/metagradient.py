"""Which constants would a training have wished for? Asked of the training itself, by its derivative.

    theta_{k+1} = theta_k - rate * scale * grad L(f(x; theta_k), y; c)          k = 0 .. steps - 1
    c  <-  Adam step down  d/dc  mean_s R(f(x_valid; theta_steps(c)), y_valid)

The proxy's model is trained on several splits side by side with the loss's constants c as leaves of the
graph; the slope of the validation risk R passes back through all steps, or through windows of `truncate`
steps, which is cheaper and blind to what a step does later (short-horizon bias). R has a derivative where
the proxy's error has none: the expected error 1 - p_t of a classifier that answers by its probabilities,
the mean absolute residual of a regression. All losses of a call that share a structure are trained as one
population. What comes out is a proposal: the search's own judges say whether it is better.

Source: Maclaurin et al. 2015, arXiv:1502.03492 (hypergradients through training); Wu et al. 2018,
arXiv:1803.02021 (short-horizon bias).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from losssearch.errors import UsageError
from losssearch.execution.conventions import bounded, unbounded
from losssearch.execution.plan import MLP
from losssearch.execution.reference import Compiled
from losssearch.execution.stacked import initial_weights
from losssearch.language.canonical import canonical, structure_key_of_canonical
from losssearch.language.program import Constant, Program
from losssearch.learned.adaptation import Parameters, adapt
from losssearch.proxies.base import Proxy
from losssearch.screening.scale import gradient_scale
from losssearch.spaces import Space, load_space

Risk = Callable[[Tensor, Tensor], Tensor]

#: Task -> risk of each training: predictions and targets (trainings, n, ...) to (trainings,).
RISKS: Mapping[str, Risk] = {
    "multiclass": lambda z, y: 1 - (z.softmax(-1) * y).sum(-1).mean(-1),
    "binary": lambda z, y: (y - z.sigmoid()).abs().mean(-1),
    "regression": lambda z, y: (y - z).abs().mean(-1),
}


@dataclass(frozen=True)
class Settings:
    """How constants are tuned.

    Args:
        splits: Numbers of the proxy's search splits.
        steps: Full-batch steps of the inner training.
        truncate: Inner steps that one gradient passes through; None is all.
        iterations: Steps of the constants.
        rate: Adam's rate for the constants, on the scale on which a range is a logistic curve.
    """

    splits: tuple[int, ...] = (1000, 1001, 1002, 1003)
    steps: int = 60
    truncate: int | None = 20
    iterations: int = 12
    rate: float = 0.2

    def __post_init__(self) -> None:
        if min(self.steps, self.truncate or 1, len(self.splits)) < 1 or self.iterations < 0:
            raise UsageError(
                "`splits` needs one split, and `steps, truncate >= 1` and `iterations >= 0` must hold, "
                f"but got {self}."
            )


def can_tune(program: Program, proxy: Proxy) -> bool:
    """Whether there is something to tune, and a model that can be differentiated through."""
    free = any(c.low < c.high for c in program.constants)
    trainable = proxy.custom is None and isinstance(proxy.setting().model, MLP)
    return free and trainable and proxy.space in RISKS


def tuned(
    programs: Sequence[Program], proxy: Proxy, space: Space | None = None, settings: Settings | None = None
) -> list[Program]:
    """Each program, in its canonical form, with the constants that did best on the way, its own included.

    Args:
        programs: Losses of the proxy's space; `can_tune` must hold.
        proxy: Its model, data and first learning rate are used.
        space: None means the proxy's.
        settings: See `Settings`.

    Raises:
        UsageError: A loss has no free constant, or the proxy trains what cannot be differentiated.
    """
    space, settings = space or load_space(proxy.space), settings or Settings()
    for program in programs:
        if not can_tune(program, proxy):
            raise UsageError(f"{program.text}: no free constant, or no model that can be differentiated.")
    found = [canonical(program) for program in programs]
    groups: dict[str, list[int]] = {}
    for k, program in enumerate(found):
        groups.setdefault(structure_key_of_canonical(program), []).append(k)
    training = _Training(proxy, settings)
    for members in groups.values():
        better = _tuned_alike([found[k] for k in members], training, space)
        for k, program in zip(members, better, strict=True):
            found[k] = program
    return found


def _tuned_alike(programs: Sequence[Program], training: _Training, space: Space) -> list[Program]:
    """Programs of one structure, as one population."""
    settings, first = training.settings, programs[0]
    free = [c for c in first.constants if c.low < c.high]
    raw = torch.stack([torch.stack([_raw(p.constant(c.name)) for c in free]) for p in programs])
    raw.requires_grad_()
    optimiser = torch.optim.Adam([raw], settings.rate)
    best = [(float("inf"), p) for p in programs]
    run = Compiled(first)
    for iteration in range(settings.iterations + 1):
        now = [_set(p, free, row) if iteration else p for p, row in zip(programs, raw.detach(), strict=True)]
        scales = torch.tensor([gradient_scale(p, space) for p in now])
        columns = zip(free, raw.unbind(1), strict=True)
        constants = {c.name: bounded(column, c.low, c.high) for c, column in columns}
        risks = training.risks(run, constants, scales)
        for k, (risk, program) in enumerate(zip(risks.detach().tolist(), now, strict=True)):
            if risk < best[k][0]:
                best[k] = (risk, program)
        if iteration < settings.iterations:
            optimiser.zero_grad()
            # A training that diverged has nothing to say about its constants.
            torch.where(torch.isfinite(risks), risks, 0.0).sum().backward()
            if raw.grad is not None:
                raw.grad.nan_to_num_(0.0, 0.0, 0.0)
            optimiser.step()
    return [program for _, program in best]


def _raw(constant: Constant) -> Tensor:
    return unbounded(constant.value, constant.low, constant.high)


def _set(program: Program, free: Sequence[Constant], raw: Tensor) -> Program:
    values = {c.name: float(bounded(v, c.low, c.high)) for c, v in zip(free, raw, strict=True)}
    return program.with_constants(values)


class _Training:
    """The proxy's model on several splits, for any number of losses."""

    def __init__(self, proxy: Proxy, settings: Settings) -> None:
        self.settings, self.proxy = settings, proxy
        setting = proxy.setting()
        if not isinstance(setting.model, MLP):
            raise UsageError(f"The proxy {proxy.name} trains no perceptron.")
        # Momentum m moves as far as steps 1 / (1 - m) times as long.
        self.rate = setting.rates[0] / (1 - (setting.momentum if setting.optimiser == "sgd" else 0.0))
        data = [proxy.split(number) for number in settings.splits]
        self.train = [torch.stack([torch.as_tensor(s.train[i]) for s in data]) for i in (0, 1)]
        self.valid = [torch.stack([torch.as_tensor(s.valid[i]) for s in data]) for i in (0, 1)]
        self.provided = {
            name: torch.stack([torch.as_tensor(s.provided[name]).float() for s in data])
            for name in data[0].provided
        }
        outputs = proxy.classes or 1
        starts = [initial_weights(setting.model, self.train[0].shape[-1], outputs, s.seed) for s in data]
        self.start: Parameters = {}
        for layer in range(len(starts[0])):
            self.start[f"weight{layer}"] = torch.stack([start[layer][0] for start in starts])
            self.start[f"bias{layer}"] = torch.stack([start[layer][1] for start in starts])
        self.risk = RISKS[proxy.space]

    def forward(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Predictions (trainings, n, c), or (trainings, n)."""
        for layer in range(len(parameters) // 2):
            x = x.relu() if layer else x
            x = torch.baddbmm(
                parameters[f"bias{layer}"][:, None], x, parameters[f"weight{layer}"].transpose(1, 2)
            )
        return x if self.proxy.classes else x.squeeze(-1)

    def risks(self, run: Compiled, constants: Mapping[str, Tensor], scales: Tensor) -> Tensor:
        """Mean validation risk of each loss, differentiable in the constants; a mean over windows' ends."""
        losses, splits = len(scales), len(self.settings.splits)

        def each(value: Tensor) -> Tensor:  # (S, ...) for every loss
            return value.repeat(losses, *[1] * (value.ndim - 1))

        rows = {name: value.repeat_interleave(splits) for name, value in constants.items()}
        provided = {name: each(value) for name, value in self.provided.items()}
        factor = scales.repeat_interleave(splits)

        def objective(prediction: Tensor, target: Tensor, progress: Tensor) -> Tensor:
            inputs = {self.proxy.prediction: prediction, "target": target, "progress": progress, **provided}
            [value] = run(inputs, rows)
            return (value.reshape(-1) * factor)[:, None]

        x, y = each(self.train[0]), each(self.train[1])
        vx, vy = each(self.valid[0]), each(self.valid[1])
        start = {name: each(value) for name, value in self.start.items()}
        steps, window = self.settings.steps, self.settings.truncate or self.settings.steps
        rates = torch.full((steps,), self.rate)
        ends, last = [], 0
        walk = adapt(
            self.forward, start, objective, (x, y), rates, graph=True, truncate=self.settings.truncate
        )
        for step, parameters in enumerate(walk, 1):
            if step % window == 0 or step == steps:
                ends.append(self.risk(self.forward(parameters, vx), vy) * (step - last) / steps)
                last = step
        return torch.stack(ends).sum(0).reshape(losses, splits).mean(1)
