"""An embedding loss of a formula, with a miner of pytorch-metric-learning.

    python examples/metric_learning.py

Digits in four dimensions; the classes 7, 8 and 9 are met in the test only. Nothing is downloaded.
"""

from __future__ import annotations

import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.miners import TripletMarginMiner
from sklearn.datasets import load_digits
from torch import nn

import losssearch as ls
from losssearch.adapters.metric_learning import MetricLoss

FORMULA = "mean(where(same, d2, square(relu(margin - dist))), 'n m', alike + unlike)"


def nearest_is_of_the_class(e: torch.Tensor, y: torch.Tensor) -> float:
    distance = LpDistance()(e).fill_diagonal_(torch.inf)
    return (y[distance.argmin(1)] == y).float().mean().item()


def main() -> None:
    torch.set_num_threads(1)  # tensors this small lose time to more
    torch.manual_seed(0)
    x, y = (torch.tensor(part) for part in load_digits(return_X_y=True))
    x, old = x.float() / 16, y < 7
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    program = ls.parse(FORMULA, space="embedding", constants={"margin": 1.0})
    loss, miner = MetricLoss(program, normalize_embeddings=True), TripletMarginMiner(margin=0.3)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.003)
    print(f"untrained: {nearest_is_of_the_class(network(x[~old]), y[~old]):.3f}")
    for _ in range(150):
        chosen = torch.randint(int(old.sum()), (64,))
        e, labels = network(x[old][chosen]), y[old][chosen]
        optimiser.zero_grad()
        loss(e, labels, miner(e, labels)).backward()
        optimiser.step()
    print(f"{loss.formula}: {nearest_is_of_the_class(network(x[~old]), y[~old]):.3f}")


if __name__ == "__main__":
    main()
