"""Does it help to learn several times from each batch of losses, if no step strays too far?

Proximal policy optimisation with a small transformer: a value head guesses what an unfinished loss will earn,
and the ratio of new to old chances is clipped, so that a batch can be used for several steps. Learning
from a round of 96 proposals takes a tenth of a second or so.

Source:
    Schulman et al. 2017, arXiv:1707.06347, Eqs. (7) and (9); advantages as in Eq. (10), gamma = 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from losssearch.controllers.base import Start
from losssearch.controllers.lessons import rules_of
from losssearch.controllers.networks import Batch, NetworkController, entropy, log_chances
from losssearch.controllers.policies import TransformerPolicy, untaught
from losssearch.errors import UsageError
from losssearch.spaces import Space


@dataclass(frozen=True)
class PPOSettings:
    """How PPO learns.

    Args:
        rate: Of Adam.
        epochs: How often all lessons are gone through.
        lessons: In one step of Adam, at most.
        clip: The ratio of chances counts between 1 - clip and 1 + clip.
        value: Weight of the value head's squared error.
        entropy: Weight of the bonus.
        imitation: Weight of the log-likelihood, a word, of the best losses so far.
    """

    rate: float = 0.01
    epochs: int = 4
    lessons: int = 32
    clip: float = 0.5
    value: float = 0.05
    entropy: float = 0.003
    imitation: float = 0.2

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.epochs < 1 or self.lessons < 1 or self.clip <= 0:
            raise UsageError(
                "`rate > 0`, `epochs >= 1`, `lessons >= 1` and `clip > 0` must hold, but got "
                f"{self.rate}, {self.epochs}, {self.lessons} and {self.clip}."
            )


class PPO(NetworkController):
    """Clipped policy gradient with a transformer policy."""

    def __init__(
        self, space: Space, start: Start, seed: int = 0, settings: PPOSettings | None = None
    ) -> None:
        self.settings = settings or PPOSettings()
        policy = untaught(TransformerPolicy, rules_of(space), seed)
        super().__init__(space, start, seed, policy, self.settings.rate)

    def _study(self, batch: Batch, best: Batch | None) -> None:
        with torch.no_grad():  # the old policy is the one that begins with these lessons
            log_probs, values = self.policy(batch.views)
            old = log_chances(log_probs, batch)
            advantages = _advantages(batch, values)
        for _ in range(self.settings.epochs):
            for first in range(0, len(batch.words), self.settings.lessons):
                part = slice(first, first + self.settings.lessons)
                self._descend(self._loss(batch.rows(part), old[part], advantages[part], best))

    def _loss(self, batch: Batch, old: Tensor, advantages: Tensor, best: Batch | None) -> Tensor:
        """What PPO descends.

            L = -mean_it min(r_it A_it, clip(r_it, 1 - e, 1 + e) A_it) + c1 mean_it (V_it - R_i)^2 - c2 H
                - eta mean_jt log pi(a_jt | s_jt)
            r_it = pi(a_it | s_it) / pi_old(a_it | s_it),   A_it = R_i - V_old(s_it), brought to size 1

        over words t of lessons i and of the best losses j. The only reward comes at the end, so that the sum
        in Eq. (10) is R_i - V with gamma = 1.
        """
        s = self.settings
        log_probs, values = self.policy(batch.views)
        now = log_chances(log_probs, batch)
        ratio = (now - old).exp()
        gain = torch.minimum(ratio * advantages, ratio.clamp(1 - s.clip, 1 + s.clip) * advantages)
        missed = (values - batch.rewards.unsqueeze(-1)).square()
        loss = s.value * _mean(missed, batch) - _mean(gain, batch) - s.entropy * entropy(log_probs, batch)
        if best is not None:
            loss = loss - s.imitation * _mean(log_chances(self.policy(best.views)[0], best), best)
        return loss


def _advantages(batch: Batch, values: Tensor) -> Tensor:
    """R - V at each word, with mean 0 and mean square 1 over all words; shape (B, T)."""
    raw = batch.rewards.unsqueeze(-1) - values
    centred = raw - _mean(raw, batch)
    return centred / (_mean(centred.square(), batch).sqrt() + 1e-6)


def _mean(x: Tensor, batch: Batch) -> Tensor:
    """The mean over all words of a batch."""
    return (x * batch.there).sum() / batch.there.sum()
