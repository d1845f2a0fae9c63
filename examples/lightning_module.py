"""A loss with a schedule in Lightning: the callback moves it, the checkpoint keeps it.

    python examples/lightning_module.py

Digits of which 40 % have a wrong label. The loss begins as cross entropy and becomes one that gives up
on samples it finds hopeless.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import losssearch as ls
from losssearch.adapters.lightning import LossProgress
from losssearch.execution.module import module_for


class Digits(pl.LightningModule):
    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        self.loss = loss  # a submodule as any other: its constants and `progress` are in the state dict

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
        return self.loss(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.005)


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*does not have many workers")
    torch.set_num_threads(1)  # tensors this small lose time to more
    pl.seed_everything(0, verbose=False)
    x, y = (torch.tensor(part) for part in load_digits(return_X_y=True))
    x = x.float() / 16
    wrong = torch.rand(len(y)) < 0.4
    train = TensorDataset(x[:1200], y.where(~wrong, torch.randint(10, y.shape))[:1200])
    formula = "mean((1 - progress) * -log_pt + progress * (1 - p_t), 'n')"
    for name, loss in {
        "cross entropy": ls.loss("cross_entropy"),
        "towards MAE": module_for(ls.parse(formula), "multiclass"),
    }.items():
        model = Digits(loss)
        with tempfile.TemporaryDirectory() as folder:
            trainer = pl.Trainer(
                max_epochs=20, callbacks=[LossProgress()], logger=False, enable_checkpointing=False,
                enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
            )  # fmt: skip
            trainer.fit(model, DataLoader(train, batch_size=64, shuffle=True))
            trainer.save_checkpoint(Path(folder) / "last.ckpt")
            saved = torch.load(Path(folder) / "last.ckpt", weights_only=True)
        right = (model.network(x[1200:]).argmax(1) == y[1200:]).float().mean()
        print(f"{name}: {right:.3f} right, kept: {saved['callbacks']['LossProgress']['loss']['formula']}")


if __name__ == "__main__":
    main()
