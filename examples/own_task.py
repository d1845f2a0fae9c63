"""Your own task, in one function: losssearch trains it, or your own loop does.

    losssearch run multiclass --proxy examples/own_task.py:wine --candidates 200 --name wine
    losssearch run multiclass --proxy examples/own_task.py:loop --candidates 50 --name loop

The first form is fast: losssearch trains many losses at once and keeps a third of the data for the
audit. The second takes any training whatever, one loss at a time, and trusts you to keep data for it.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_wine
from torch import nn

import losssearch as ls


def noisy_wine():
    """Features and classes; a third of the labels is drawn anew."""
    rng = np.random.default_rng(0)
    x, y = load_wine(return_X_y=True)
    return x, np.where(rng.random(len(y)) < 1 / 3, rng.integers(0, 3, len(y)), y)


def model():
    return nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 3))


def wine():
    """Data, model, metric, budget."""
    return ls.task(data=noisy_wine, model=model, metric="accuracy", budget=10, batch=32, name="wine")


@ls.blackbox(space="multiclass", better="higher", budget=10)
def loop(loss, budget, seed, device):
    """Your own loop: a loss module goes in, a number comes out. Audit seeds start at 1,000,000."""
    torch.manual_seed(seed)
    x, y = noisy_wine()
    x, y = torch.tensor((x - x.mean(0)) / x.std(0)).float().to(device), torch.tensor(y).to(device)
    audit = seed >= 1_000_000
    fold = torch.arange(len(y), device=device) % 3  # fold 2 is for the audit alone
    train, test = (fold != 2, fold == 2) if audit else (fold == 0, fold == 1)
    network = model().to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(5 * budget):
        optimiser.zero_grad()
        loss(network(x[train]), y[train]).backward()
        optimiser.step()
    return (network(x[test]).argmax(1) == y[test]).double().mean().item()
