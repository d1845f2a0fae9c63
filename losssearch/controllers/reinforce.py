"""Does an LSTM that writes losses get better if good ones are made more likely?

REINFORCE as ENAS uses it: the policy draws losses, and each word of a loss becomes more or less likely by how
much the loss's reward exceeds a moving average; a bonus for entropy keeps the policy from settling too early.
Learning from a round of 96 proposals takes some tens of milliseconds.

Source:
    Williams 1992, Machine Learning 8, Sec. 5, Theorem 2 (episodic REINFORCE); Pham et al. 2018,
    arXiv:1802.03268, Sec. 2.2 for the moving-average baseline, Sec. 3.1 for the bonus for entropy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from losssearch.controllers.base import Start
from losssearch.controllers.lessons import rules_of
from losssearch.controllers.networks import Batch, NetworkController, entropy, log_chances
from losssearch.controllers.policies import LSTMPolicy, untaught
from losssearch.errors import UsageError
from losssearch.spaces import Space


@dataclass(frozen=True)
class ReinforceSettings:
    """How REINFORCE learns.

    Args:
        rate: Of Adam.
        lessons: In one step of Adam, at most.
        decay: Of the moving baseline, a step, in [0, 1).
        entropy: Weight of the bonus.
        imitation: Weight of the log-likelihood of the best losses so far.
    """

    rate: float = 0.02
    lessons: int = 16
    decay: float = 0.9
    entropy: float = 0.05
    imitation: float = 0.1

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.lessons < 1 or not 0 <= self.decay < 1:
            raise UsageError(
                "`rate > 0`, `lessons >= 1` and `0 <= decay < 1` must hold, but got "
                f"{self.rate}, {self.lessons} and {self.decay}."
            )


class Reinforce(NetworkController):
    """Policy gradient with an LSTM policy."""

    def __init__(
        self, space: Space, start: Start, seed: int = 0, settings: ReinforceSettings | None = None
    ) -> None:
        self.settings = settings or ReinforceSettings()
        super().__init__(space, start, seed, untaught(LSTMPolicy, rules_of(space), seed), self.settings.rate)
        self.baseline: float | None = None

    def _study(self, batch: Batch, best: Batch | None) -> None:
        for first in range(0, len(batch.words), self.settings.lessons):
            part = batch.rows(slice(first, first + self.settings.lessons))
            now = float(part.rewards.mean())
            baseline = now if self.baseline is None else self.baseline
            self._descend(self._loss(part, baseline, best))
            self.baseline = self.settings.decay * baseline + (1 - self.settings.decay) * now

    def _loss(self, batch: Batch, baseline: float, best: Batch | None) -> Tensor:
        """What falls as the expected reward rises; its gradient is the estimate of REINFORCE.

            L = -mean_i (R_i - b) sum_t log pi(a_it | s_it) - beta H - eta mean_j sum_t log pi(a_jt | s_jt)

        over lessons i and the best losses j; after the step b <- lambda b + (1 - lambda) mean_i R_i.
        """
        log_probs, _ = self.policy(batch.views)
        likelihood = (batch.rewards - baseline) * log_chances(log_probs, batch).sum(-1)
        loss: Tensor = -likelihood.mean() - self.settings.entropy * entropy(log_probs, batch)
        if best is not None:
            known = log_chances(self.policy(best.views)[0], best).sum(-1)
            loss = loss - self.settings.imitation * known.mean()
        return loss

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "baseline": self.baseline}

    def _restore(self, state: Mapping[str, Any]) -> None:
        super()._restore(state)
        self.baseline = None if state["baseline"] is None else float(state["baseline"])
