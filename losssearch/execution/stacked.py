"""How do many small models learn side by side?

All models of a block stand on a grid of K slots x S splits and are stored in stacked tensors. A
slot holds the same loss and learning rate on every split; all slots of a split see the same batch
and start from the same weights.

`StackedMLP` is the fast path. Hidden activations are kept transposed, (features, samples), so that
the first layer of all K models of a split is one product with their common batch, every other layer
one batched product, nothing is copied, and SGD's momentum is accumulated by the product itself.
`StackedModules` takes any `torch.nn.Module` through `vmap`, and one model after the other where
that is impossible (it says why).

Products of different sizes may be summed in another order by the BLAS: a model's last bits can
depend on how many slots stand beside it, never on what its neighbours contain.
"""

from __future__ import annotations

import copy
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from losssearch.errors import ProxyError
from losssearch.execution.plan import MLP, Setting
from losssearch.execution.products import Products, casting

_LOG = logging.getLogger(__name__)
_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8


class Learners(ABC):
    """K x S models with one optimiser; K slots share the batches of each of S splits.

    Attributes:
        repeats: Whether every step launches the same, so that a GPU can record it.
    """

    repeats = False

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Predictions in training mode, kept for `learn`.

        Args:
            x: Shape (S, n, ...).

        Returns:
            Shape (K, S, n, c), laid out in memory as (S, K, c, n): losses work on long rows of
            samples. A buffer: valid until the next call.
        """

    @abstractmethod
    def learn(self, gradient: Tensor) -> None:
        """One optimiser step, from dL/dprediction of shape (K, S, n, c)."""

    @abstractmethod
    def predict(self, x: Tensor) -> Tensor:
        """Predictions of shape (K, S, n, c) in evaluation mode."""

    @abstractmethod
    def finite(self) -> Tensor:
        """Which models have finite parameters only, shape (K, S)."""


class _Clock:
    """How far Adam's averages are from what they estimate; the device counts, so that it can be recorded."""

    def __init__(self, device: torch.device) -> None:
        self._betas = torch.tensor([_BETA1, _BETA2], dtype=torch.float64, device=device)
        self._powers = torch.ones_like(self._betas)
        self.first = self.second = self._powers[0]

    def tick(self) -> None:
        """One more step: `first` corrects the mean of slopes, `second` the root of the mean of squares."""
        left = 1 - self._powers.mul_(self._betas)
        self.first, self.second = 1 / left[0], torch.rsqrt(left[1])


class _Parameter:
    """One stacked parameter of shape (*grid, ...), its optimiser state, and rates a model."""

    def __init__(self, value: Tensor, rate: Tensor, decay: Tensor, adam: bool) -> None:
        extra = (1,) * (value.dim() - rate.dim())
        self.value = value
        self.velocity = torch.zeros_like(value)
        self.gradient = torch.empty_like(value) if adam else self.velocity
        self.square = torch.zeros_like(value) if adam else self.velocity
        self.rate = rate.reshape(rate.shape + extra)
        self.decay = decay.reshape(decay.shape + extra) if bool((decay != 0).any()) else None
        self.pull = None if self.decay is None else self.decay * self.rate

    def sgd(self) -> None:
        """Moves by the velocity, which holds the rate already."""
        if self.pull is not None:
            self.velocity.addcmul_(self.value, self.pull)
        self.value.sub_(self.velocity)

    def adam(self, clock: _Clock) -> None:
        if self.decay is not None:
            self.gradient.addcmul_(self.value, self.decay)
        self.velocity.lerp_(self.gradient, 1 - _BETA1)
        self.square.mul_(_BETA2).addcmul_(self.gradient, self.gradient, value=1 - _BETA2)
        move = torch.sqrt(self.square, out=self.gradient)
        move.mul_(clock.second).add_(_EPS)
        torch.div(self.velocity, move, out=move)
        self.value.addcmul_(move, self.rate * clock.first, value=-1)


def initial_weights(model: MLP, features: int, outputs: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Weights (out, in) and biases (out,) of each layer, drawn as `torch.nn.Linear` draws them.

    Returns:
        One pair a layer. "default": both uniform on +-1/sqrt(in). "he": weights N(0, 2/in), biases
        zero.
    """
    draw = torch.Generator().manual_seed(seed)
    layers = []
    sizes = (features, *model.hidden, outputs)
    for i, o in pairwise(sizes):
        if model.init == "he":
            weight = torch.randn(o, i, generator=draw) * math.sqrt(2 / i)
            bias = torch.zeros(o)
        else:
            weight = (torch.rand(o, i, generator=draw) * 2 - 1) / math.sqrt(i)
            bias = (torch.rand(o, generator=draw) * 2 - 1) / math.sqrt(i)
        layers.append((weight, bias))
    return layers


class StackedMLP(Learners):
    """The fast path: K x S multilayer perceptrons."""

    repeats = True

    def __init__(
        self,
        model: MLP,
        setting: Setting,
        seeds: Sequence[int],
        features: int,
        outputs: int,
        rate: Tensor,
        decay: Tensor,
    ) -> None:
        self.slots, self.splits, self.outputs = rate.shape[0], rate.shape[1], outputs
        self._adam, self._momentum = setting.optimiser == "adam", setting.momentum
        self._clock, self._products = _Clock(rate.device), Products(setting.precision, rate.device)
        rate, decay = rate.T.contiguous(), decay.T.contiguous()  # stored split by split: (S, K)
        starts = [initial_weights(model, features, outputs, seed) for seed in seeds]
        self._weights: list[_Parameter] = []
        self._biases: list[_Parameter] = []
        for layer in range(len(starts[0])):
            weight = torch.stack([start[layer][0] for start in starts])
            bias = torch.stack([start[layer][1] for start in starts]).unsqueeze(-1)
            if layer == 0:  # the input carries a column of ones
                weight, bias = torch.cat([weight, bias], -1), bias[:, :0]
            for store, value in ((self._weights, weight), (self._biases, bias)):
                stacked = value.unsqueeze(1).repeat(1, self.slots, 1, 1).to(rate.device)
                store.append(_Parameter(stacked, rate, decay, self._adam))
        self._rate = rate[:, :, None, None]
        self._sizes = (*model.hidden, outputs)
        self._buffers: dict[int, list[Tensor]] = {}
        self._x = rate
        self._hidden: list[Tensor] = []

    def _run(self, x: Tensor, buffers: Sequence[Tensor]) -> list[Tensor]:
        """Activations of every layer, (R, features, n); the last holds the raw predictions."""
        grid = self.slots * self.splits
        n = x.shape[1]
        first = self._weights[0].value.view(self.splits, -1, x.shape[-1])
        self._products.multiply(first, x.transpose(1, 2), buffers[0].view(self.splits, -1, n))
        found = [buffers[0]]
        for layer in range(1, len(self._sizes)):
            below = found[-1].clamp_min_(0)
            weight, bias = self._weights[layer].value, self._biases[layer].value
            self._products.add(
                bias.view(grid, -1, 1), weight.view(grid, *weight.shape[2:]), below, buffers[layer]
            )
            found.append(buffers[layer])
        return found

    def _make_buffers(self, n: int) -> list[Tensor]:
        grid = self.slots * self.splits
        return [self._rate.new_empty(grid, size, n) for size in self._sizes]

    def _on_grid(self, raw: Tensor) -> Tensor:
        """(R, c, n), split by split, seen as (K, S, n, c)."""
        return raw.view(self.splits, self.slots, self.outputs, -1).permute(1, 0, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        if n not in self._buffers:
            self._buffers = {n: [*self._make_buffers(n), *self._make_buffers(n)]}
        buffers = self._buffers[n]
        depth = len(self._sizes)
        self._x = x
        self._hidden = self._run(x, buffers[:depth])
        return self._on_grid(self._hidden[-1])

    def learn(self, gradient: Tensor) -> None:
        depth, n, grid = len(self._sizes), self._x.shape[1], self.slots * self.splits
        if self._adam:
            self._clock.tick()
        spare = self._buffers[n][depth:]
        up = spare[-1]
        on_grid = up.view(self.splits, self.slots, self.outputs, n)
        seen = gradient.permute(1, 0, 3, 2)
        if self._adam:
            on_grid.copy_(seen)
        else:  # the rate goes in here, where it is cheapest: the velocity is then the step itself
            torch.mul(seen, self._rate, out=on_grid)
        for layer in range(depth - 1, 0, -1):
            below, weight, bias = self._hidden[layer - 1], self._weights[layer], self._biases[layer]
            shape = (grid, *weight.value.shape[2:])
            down = self._products.multiply(weight.value.view(shape).transpose(1, 2), up, spare[layer - 1])
            torch.ops.aten.threshold_backward.grad_input(down, below, 0, grad_input=down)
            self._move(weight, up, below.transpose(1, 2), shape)
            total = up.sum(-1).view(bias.value.shape)
            if self._adam:
                bias.gradient.copy_(total)
                bias.adam(self._clock)
            else:
                bias.velocity.mul_(self._momentum).add_(total)
                bias.sgd()
            up = down
        shape = (self.splits, self.slots * self._sizes[0], self._x.shape[-1])
        self._move(self._weights[0], up.view(self.splits, -1, n), self._x, shape)

    def _move(self, weight: _Parameter, left: Tensor, right: Tensor, shape: Sequence[int]) -> None:
        if self._adam:
            self._products.multiply(left, right, weight.gradient.view(shape))
            weight.adam(self._clock)
        else:
            self._products.accumulate(weight.velocity.view(shape), left, right, self._momentum)
            weight.sgd()

    def predict(self, x: Tensor) -> Tensor:
        return self._on_grid(self._run(x, self._make_buffers(x.shape[1]))[-1])

    def finite(self) -> Tensor:
        good = torch.ones(self.splits, self.slots, dtype=torch.bool, device=self._rate.device)
        for parameter in (*self._weights, *self._biases):
            good &= torch.isfinite(parameter.value).flatten(2).all(-1)
        return good.T


class StackedModules(Learners):
    """K x S copies of any module, through `vmap` where that works.

    `why_loop` tells why the models run one after the other, or is empty. Modules that draw random
    numbers (dropout) get others when their neighbours change.
    """

    def __init__(
        self,
        make: Callable[[], nn.Module],
        setting: Setting,
        seeds: Sequence[int],
        outputs: int,
        rate: Tensor,
        decay: Tensor,
    ) -> None:
        self.slots, self.splits, self.outputs = rate.shape[0], rate.shape[1], outputs
        self._adam, self._momentum = setting.optimiser == "adam", setting.momentum
        self._clock, self._precision = _Clock(rate.device), setting.precision
        starts = []
        for seed in seeds:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                starts.append(make().to(rate.device))
        self._base = starts[0]
        self._models = [copy.deepcopy(start) for _ in range(self.slots) for start in starts]
        state, self._state_buffers = torch.func.stack_module_state(self._models)
        grid = rate.flatten(), decay.flatten()
        self._parameters = {
            name: _Parameter(value.detach().requires_grad_(), *grid, self._adam)
            for name, value in state.items()
        }
        self.why_loop = _why_loop(self._base)
        if self.why_loop:
            _LOG.warning("models are trained one after the other: %s", self.why_loop)
        self._out = rate

    def _call(self, x: Tensor, training: bool) -> Tensor:
        for model in (self._base, *self._models):
            model.train(training)
        each = x.expand(self.slots, *x.shape).flatten(0, 1)
        values = {name: parameter.value for name, parameter in self._parameters.items()}

        def one(state: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            found: Tensor = torch.func.functional_call(self._base, (state, buffers), (x,))
            return found

        with casting(self._precision, x.device):
            if self.why_loop:
                outs = []
                for i, model in enumerate(self._models):
                    mine = {name: value[i] for name, value in values.items()}
                    outs.append(torch.func.functional_call(model, mine, (each[i],)))
                out = torch.stack(outs)
            else:
                many = torch.func.vmap(one, randomness="different")
                out = many(values, self._state_buffers, each)
        n, shape = x.shape[1], tuple(out.shape[1:])
        fitting = [(n, self.outputs), *[(n,)][: self.outputs == 1]]
        if shape not in fitting:
            wanted = " or ".join(map(str, fitting))
            raise ProxyError(f"the model answers {n} samples by a tensor {shape}, and not {wanted}.")
        return out.float().reshape(self.slots, self.splits, n, self.outputs)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            self._out = self._call(x, training=True)
        return self._out.detach().permute(1, 0, 3, 2).contiguous().permute(1, 0, 3, 2)

    def learn(self, gradient: Tensor) -> None:
        if self._adam:
            self._clock.tick()
        parameters = list(self._parameters.values())
        # One layout whatever the block's size: a product of another layout rounds otherwise.
        found = torch.autograd.grad(self._out, [p.value for p in parameters], gradient.contiguous())
        for parameter, slope in zip(parameters, found, strict=True):
            if self._adam:
                parameter.gradient.copy_(slope)
                parameter.adam(self._clock)
            else:
                parameter.velocity.mul_(self._momentum).addcmul_(slope, parameter.rate)
                parameter.sgd()

    def predict(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self._call(x, training=False)

    def finite(self) -> Tensor:
        good = torch.ones(self.slots * self.splits, dtype=torch.bool, device=self._out.device)
        for parameter in self._parameters.values():
            good &= torch.isfinite(parameter.value).flatten(1).all(-1)
        return good.view(self.slots, self.splits)


def _why_loop(module: nn.Module) -> str:
    """The reason why copies of `module` cannot be run by `vmap`, or an empty text."""
    for name, part in module.named_modules():
        if getattr(part, "running_mean", None) is not None:
            return f"{name or 'the model'} ({type(part).__name__}) updates running statistics"
        if isinstance(part, nn.RNNBase):
            return f"{name or 'the model'} ({type(part).__name__}) is recurrent"
    return ""
