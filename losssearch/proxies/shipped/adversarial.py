"""How do two players learn from one loss?

In one step: the discriminator's scores hold what was made as a constant, and the generator's score of what it
made goes through a discriminator whose weights are constants. So the slopes of one loss teach each player by
its own scores alone, both at once. Real and made samples are as many. The length of the gradient on lines
between them is always there, since a model does not know what a loss reads; it costs another pass through the
discriminator, and a loss that reads it takes about a quarter longer to train.

Adam remembers no slope here (beta_1 = 0), since the other player turns them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from losssearch.proxies.structured import Task

NOISE = 8  # components of what the generator starts from
BETAS = (0.0, 0.99)  # Karras et al. 2018, arXiv:1710.10196, App. A.1


class Players(nn.Module):
    """A generator of samples, and a discriminator that gives each sample a score.

    Args:
        generator: From noise (samples, NOISE) to samples.
        components: Of a sample.
        width: Of the discriminator's two hidden layers.
    """

    def __init__(self, generator: nn.Module, components: int, width: int) -> None:
        super().__init__()
        self.generator = generator
        self.discriminator = nn.Sequential(
            nn.Linear(components, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2),
            nn.Linear(width, 1), nn.Flatten(0),
        )  # fmt: skip

    def forward(self, shown: Tensor) -> dict[str, Tensor]:
        """Scores of rows that hold a real sample, noise, and a share in [0, 1], as `Play` shows them."""
        real, noise, share = shown.split([shown.shape[1] - NOISE - 1, NOISE, 1], dim=1)
        made = self.generator(noise)
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        d_real, d_fake = self.discriminator(torch.cat([real, made.detach()])).split(len(real))
        return {
            "d_real": d_real,
            "d_fake": d_fake,
            "g_real": d_real.detach(),
            "g_fake": torch.func.functional_call(self.discriminator, frozen, (made,)),
            "grad_norm": self._steepness(torch.lerp(real, made.detach(), share)),
        }

    def _steepness(self, samples: Tensor) -> Tensor:
        """Length of the score's gradient in each sample; its graph lives."""
        samples.requires_grad_()
        [slope] = torch.autograd.grad(self.discriminator(samples).sum(), samples, create_graph=True)
        return (slope.square().sum(1) + 1e-12).sqrt()  # a root of 0 has no slope


class Play(Task):
    """Real samples beside fresh noise; targets are told to no loss."""

    def batch(self, x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        noise = torch.randn(len(x), NOISE, generator=draw)
        return torch.cat([x, noise, torch.rand(len(x), 1, generator=draw)], dim=1), {}


def samples(model: nn.Module, count: int, seed: int) -> Tensor:
    """What the generator makes of noise that hangs on the seed alone: (count, components)."""
    noise = torch.randn(count, NOISE, generator=torch.Generator().manual_seed(seed))
    made: Tensor = cast(Players, model).generator(noise)
    return made
