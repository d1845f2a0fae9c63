"""How does a model adapt to a task, so that one can differentiate through it?

    theta_{k+1} = theta_k - rate_k * grad mean_i loss(f(x_i; theta_k), y_i)

Many tasks at once: every parameter has a leading task axis, the model runs under `vmap`, and since no task
reads another's parameters, one gradient of the summed loss is the gradient of each. With `graph` the
steps stay differentiable in start, rates and whatever the loss depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

Parameters = dict[str, Tensor]
#: Prediction, target and progress to one number a sample; (tasks, samples).
Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
Forward = Callable[[Parameters, Tensor], Tensor]


def side_by_side(model: nn.Module) -> Forward:
    """The model as a function of stacked parameters and inputs (tasks, samples, ...)."""

    def call(parameters: Mapping[str, Tensor], x: Tensor) -> Any:
        return functional_call(model, dict(parameters), (x,))

    run: Forward = vmap(call, randomness="different")
    return run


def starts(start: Mapping[str, Tensor], tasks: int) -> Parameters:
    """The same start for every task."""
    return {name: value.expand(tasks, *value.shape) for name, value in start.items()}


def adapt(
    forward: Forward,
    parameters: Parameters,
    objective: Objective,
    support: tuple[Tensor, Tensor],
    rates: Tensor,
    *,
    graph: bool = False,
    truncate: int | None = None,
) -> Iterator[Parameters]:
    """Gradient descent on the support set, all tasks at once.

    Args:
        forward: See `side_by_side`.
        parameters: Of every task, with a leading task axis.
        objective: Gives each sample's loss; the step descends their mean.
        support: Features and targets.
        rates: Learning rate of each step, shape (steps,) or (steps, tasks).
        graph: Whether later derivatives may pass through the steps.
        truncate: Cut the graph before every so many steps: cheaper and calmer gradients, but blind to
            what a step does later than that (short-horizon bias). None never cuts.

    Yields:
        The parameters after each step.
    """
    x, y = support
    steps = len(rates)
    parameters = {n: v if v.requires_grad else v.detach().requires_grad_() for n, v in parameters.items()}
    for step in range(steps):
        if not graph or (truncate is not None and step and step % truncate == 0):
            parameters = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        progress = torch.tensor(step / steps)
        total = objective(forward(parameters, x), y, progress).mean(-1).sum()
        slopes = torch.autograd.grad(total, list(parameters.values()), create_graph=graph)
        parameters = {
            name: value - _column(rates[step], value) * slope
            for (name, value), slope in zip(parameters.items(), slopes, strict=True)
        }
        yield parameters


def _column(rate: Tensor, like: Tensor) -> Tensor:
    """A rate for all tasks, or one a task, shaped to multiply a stacked parameter."""
    return rate if rate.ndim == 0 else rate.reshape(-1, *[1] * (like.ndim - 1))
