"""Search for a loss with Optuna, in a training loop of your own; run it again to go on.

    python examples/optuna_study.py
    optuna-dashboard sqlite:///study.db

A third of the labels of the wine data is wrong. Each trial trains one network with one loss and one
learning rate; trials that do worse than half of the others are pruned on the way.
"""

from __future__ import annotations

import optuna
import torch
from own_task import model, noisy_wine

import losssearch as ls

EPOCHS = 30

x, y = noisy_wine()
x, y = torch.tensor((x - x.mean(0)) / x.std(0)).float(), torch.tensor(y)
fold = torch.arange(len(y)) % 3  # trains on fold 0, judges on fold 1; fold 2 is for an honest last look
sampler = ls.LossSearchSampler("multiclass", start=["cross_entropy", "gce", "mae"], seed=0)


def objective(trial: optuna.Trial) -> float:
    """The least validation error of one training."""
    loss = sampler.suggest(trial)
    rate = trial.suggest_float("rate", 0.001, 0.1, log=True)
    torch.manual_seed(0)
    network, error, best = model(), 1.0, 1.0
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    for epoch in range(EPOCHS):
        optimiser.zero_grad()
        loss(network(x[fold == 0]), y[fold == 0]).backward()
        optimiser.step()
        error = (network(x[fold == 1]).argmax(1) != y[fold == 1]).double().mean().item()
        best = min(best, error)
        trial.report(error, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return best


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="wine",
        storage="sqlite:///study.db",
        load_if_exists=True,
        sampler=sampler,
        pruner=optuna.pruners.MedianPruner(n_warmup_steps=10),
    )
    if not study.trials:  # a loss of one's own is tried first
        study.enqueue_trial({"rate": 0.01}, user_attrs=sampler.point("focal", gamma=1.0))
    study.optimize(objective, n_trials=30)
    print(study.best_value, study.best_trial.user_attrs["formula"], study.best_params)
