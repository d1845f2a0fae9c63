"""Which losses make a policy better by what people prefer, without leading it astray?

A toy policy over 12 answers to a question of 6 numbers. A reward that nobody sees is fixed. For each question
two answers are drawn from the policy as it begins; which of them is preferred follows Bradley & Terry's law
of their rewards, and a quarter of the preferences is turned round. The error is how much of the reward that
the best answers would win over the first policy is missed on fresh questions. Every split draws its own
questions and first policy. One training takes about a third of a second of one core.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from losssearch.execution.plan import Floats, Setting, Split, Stage
from losssearch.proxies.base import Proxy, Rung, generator, seed_of
from losssearch.proxies.structured import Task

PAIRS = {"train": 512, "valid": 500, "test": 2000}
ANSWERS, QUESTION = 12, 6
TURNED = 0.25  # share of the preferences that are wrong; none under "clean"
SHARPNESS = 2.0  # of the preferences: their log odds are so many times the difference of rewards
_PLACES = slice(QUESTION, QUESTION + 2 * ANSWERS)


class Policy(nn.Module):
    """Log probabilities of the chosen and the rejected answer, now and as the policy began.

    It is shown questions, then the two answers, one-hot. The policy as it began is a frozen copy.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.answers = nn.Sequential(
            nn.Linear(QUESTION, width),
            nn.Tanh(),
            nn.Linear(width, width),
            nn.Tanh(),
            nn.Linear(width, ANSWERS),
        )
        self.first = copy.deepcopy(self.answers).requires_grad_(False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        question, places = x[:, :QUESTION], x[:, _PLACES].unflatten(1, (2, ANSWERS))
        now, first = self.log_p(question), self.log_p_first(question)
        up, down = ((log.unsqueeze(1) * places).sum(2) for log in (now, first))
        return {
            "chosen": up[:, 0],
            "rejected": up[:, 1],
            "ref_chosen": down[:, 0],
            "ref_rejected": down[:, 1],
        }

    def log_p(self, question: Tensor) -> Tensor:
        """Of every answer, (questions, answers)."""
        return torch.log_softmax(self.answers(question), -1)

    def log_p_first(self, question: Tensor) -> Tensor:
        """The same as the policy began."""
        return torch.log_softmax(self.first(question), -1)


class WidePolicy(Policy):
    def __init__(self) -> None:
        super().__init__(width=128)


class Reward(Task):
    """Targets are the rewards of all answers, (questions, answers); no loss is told them."""

    def batch(self, x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        return x, {}

    def errors(self, model: nn.Module, split: Split, x: Tensor, y: Tensor) -> Mapping[str, float]:
        if not isinstance(model, Policy):
            raise TypeError(f"a Policy is judged here, not a {type(model).__name__}")
        question = x[:, :QUESTION]
        now, first = model.log_p(question).double(), model.log_p_first(question).double()
        return {"missed": missed(now, first, y.double()), "drift": drift(now, first)}


def missed(now: Tensor, first: Tensor, reward: Tensor) -> float:
    """Share of the reward to be won that was not.

        (sum of best reward - E_now reward) / (sum of best reward - E_first reward)

    Args:
        now, first: Log probabilities (questions, answers) of the policy, and as it began.
        reward: Of every answer.

    Returns:
        0 for a policy that always gives the best answer, 1 for the first policy, more for a worse one.
    """
    best = reward.amax(1)
    lost = [float((best - (log.exp() * reward).sum(1)).sum()) for log in (now, first)]
    return lost[0] / lost[1]


def drift(now: Tensor, first: Tensor) -> float:
    """Mean over questions of KL(now || first), in nats; log probabilities (questions, answers)."""
    return float((now.exp() * (now - first)).sum(1).mean())


@lru_cache(maxsize=1)
def _law() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights of the reward, the same in every split."""
    draw = generator("answers", "law")
    return draw.normal(size=(QUESTION, ANSWERS)), draw.normal(size=(QUESTION, ANSWERS))


def _pairs(
    draw: np.random.Generator, count: int, policy: Callable[[Tensor], Tensor], turned: float
) -> tuple[Floats, Floats]:
    """Questions with the two answers (count, 30), and rewards (count, 12)."""
    question = draw.normal(size=(count, QUESTION))
    linear, bent = _law()
    reward = np.tanh(question @ linear / 2) + np.sin(question @ bent / 1.5)
    with torch.no_grad():
        p = policy(torch.as_tensor(question, dtype=torch.float32)).double().exp().numpy()
    drawn = draw.gumbel(size=p.shape) + np.log(p)  # its two greatest are drawn without replacement
    pair = np.argsort(-drawn, axis=1)[:, :2]
    gap = np.take_along_axis(reward, pair, 1) @ [1.0, -1.0]
    second = draw.random(count) > 1 / (1 + np.exp(-SHARPNESS * gap))
    second ^= draw.random(count) < turned
    pair[second] = pair[second, ::-1]
    places = np.eye(ANSWERS)[pair].reshape(count, -1)
    return np.concatenate([question, places], 1).astype(np.float32), reward.astype(np.float32)


@lru_cache(maxsize=32)
def _split(seed: int, condition: str, stage: Stage) -> Split:
    turned = 0.0 if "clean" in condition.split("+") else TURNED
    begin = seed_of("answers", stage, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(begin)  # as the trainer will
        first = (WidePolicy if "wide" in condition.split("+") else Policy)()
    parts = [
        _pairs(generator("answers", stage, seed, part), count, first.log_p, turned)
        for part, count in PAIRS.items()
        if part != "test" or stage == "audit"
    ]
    return Split(begin, *parts)


def answers() -> Proxy:
    """A toy policy and preferences, a quarter of which are wrong."""
    return Proxy(
        name="answers",
        title="Preferences over the answers of a toy policy, a quarter of them wrong",
        space="preference",
        metric="missed",
        guards=("drift",),
        draw=_split,
        default=Setting(
            model=Policy,
            optimiser="adam",
            batch=64,
            epochs=40,
            evaluate_every=5,
            rates=(0.003, 0.01, 0.001),
        ),
        changes={"wide": {"model": WidePolicy}, "clean": {}},
        second="wide",
        rungs=(
            Rung(tuple(range(2)), 1, epochs=20),
            Rung(tuple(range(2, 6)), 2),
            Rung(tuple(range(6, 14)), 3, ("default", "wide")),
        ),
        task=Reward(),
        sizes=(PAIRS["train"], 0),  # every split draws its own questions, so that they are independent
    )


PROXIES: Mapping[str, Callable[[], Proxy]] = {"answers": answers}
