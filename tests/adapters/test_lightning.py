"""With the real Trainer of Lightning: the schedule moves, and the checkpoint has all of a loss."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import losssearch as ls
from losssearch.errors import UsageError
from losssearch.execution.module import module_for

lightning = pytest.importorskip(
    "lightning.pytorch", reason="needs `pip install 'losssearch[frameworks]'`", exc_type=ImportError
)
from losssearch.adapters.lightning import LossProgress  # noqa: E402
from losssearch.adapters.monai import SegmentationLoss  # noqa: E402

FADING = "mean((1 - p_t)**(g * (1 - progress)) * -log_pt, 'n')"


class Classifier(lightning.LightningModule):
    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.loss, self.seen = nn.Linear(4, 3), loss, []

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        self.seen.append(getattr(self.loss, "provided", {}).get("progress", torch.tensor(-1.0)).item())
        value: Tensor = self.loss(self.layer(batch[0]), batch[1])
        return value

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fading(g: float = 2.0, **options: Any) -> nn.Module:
    return module_for(ls.parse(FADING, constants={"g": (2.0, 0.0, 5.0)}), "multiclass", g=g, **options)


def fit(model: nn.Module, folder: Path, callbacks: Any = (), checkpoint: Any = None, **more: Any) -> Any:
    draw = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(8, 4, generator=draw), torch.randint(3, (8,), generator=draw))
    trainer = lightning.Trainer(
        default_root_dir=folder, callbacks=list(callbacks), accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        **({"max_epochs": 2} | more),
    )  # fmt: skip
    trainer.fit(model, DataLoader(data, batch_size=2), ckpt_path=checkpoint)
    return trainer


pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*are using `nn.Module.*", "ignore:.*Checkpoint directory"
)


def test_progress_is_the_share_of_steps_done(tmp_path: Path) -> None:
    model = Classifier(fading())
    fit(model, tmp_path, [LossProgress()])
    assert model.seen == [step / 8 for step in range(8)]


def test_batches_that_wait_for_one_step_share_its_progress(tmp_path: Path) -> None:
    model = Classifier(fading())
    fit(model, tmp_path, [LossProgress()], accumulate_grad_batches=2)
    assert model.seen == [step / 4 for step in range(4) for _ in range(2)]


def test_the_checkpoint_has_constants_schedule_and_what_was_learned(tmp_path: Path) -> None:
    trainer = fit(Classifier(fading(g=3.0)), tmp_path, [LossProgress()], max_epochs=1)
    trainer.save_checkpoint(tmp_path / "fixed.ckpt")
    saved = torch.load(tmp_path / "fixed.ckpt", weights_only=True)
    assert saved["state_dict"]["loss.progress"] == 0.75
    (told,) = [state["loss"] for name, state in saved["callbacks"].items() if "LossProgress" in name]
    assert told["constants"] == {"g": 3.0}
    assert told["formula"] == FADING

    model = Classifier(fading(learnable=True))
    fit(model, tmp_path, [LossProgress()]).save_checkpoint(tmp_path / "learned.ckpt")
    saved = torch.load(tmp_path / "learned.ckpt", weights_only=True)
    fresh = Classifier(fading(learnable=True))
    fresh.load_state_dict(saved["state_dict"])
    assert model.loss.constants == fresh.loss.constants != {"g": 2.0}


def test_going_on_from_a_checkpoint_is_one_training(tmp_path: Path) -> None:
    whole, half, rest = (Classifier(fading()) for _ in range(3))
    fit(whole, tmp_path, [LossProgress()])
    trainer = fit(half, tmp_path, [LossProgress(), Stop(4)])
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    fit(rest, tmp_path, [LossProgress()], tmp_path / "half.ckpt")
    assert half.seen + rest.seen == whole.seen
    assert torch.equal(rest.layer.weight, whole.layer.weight)


class Stop(lightning.Callback):
    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.steps


def test_a_checkpoint_of_other_constants_is_refused(tmp_path: Path) -> None:
    trainer = fit(Classifier(fading(g=3.0)), tmp_path, [LossProgress()], max_epochs=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(UsageError, match=r"with \{'g': 3.0\}, but here it is .* with \{'g': 1.0\}"):
        fit(Classifier(fading(g=1.0)), tmp_path, [LossProgress()], tmp_path / "a.ckpt")
    trainer = fit(Classifier(ls.loss("focal")), tmp_path, [LossProgress()], max_epochs=1)
    trainer.save_checkpoint(tmp_path / "b.ckpt")
    with pytest.raises(UsageError, match="here it is no loss"):
        fit(Classifier(nn.CrossEntropyLoss()), tmp_path, [LossProgress()], tmp_path / "b.ckpt")


def test_losses_of_the_other_adapters_are_found_too(tmp_path: Path) -> None:
    model = Classifier(ls.loss("focal"))
    program = ls.parse("mean(progress * ce, 'n')", space="segmentation")
    model.second = SegmentationLoss(program)
    callback = LossProgress()
    fit(model, tmp_path, [callback])
    assert model.second.progress == 7 / 8
    assert callback.state_dict()["second"]["formula"] == program.text
    assert "constants" in callback.state_dict()["loss"]


def test_a_training_without_an_end_has_no_progress(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="max_epochs"):
        fit(Classifier(fading()), tmp_path, [LossProgress()], max_epochs=-1, max_time="00:00:01:00")


def test_a_loss_that_reads_no_progress_needs_no_callback(tmp_path: Path) -> None:
    one, two = Classifier(ls.loss("focal")), Classifier(ls.loss("focal"))
    fit(one, tmp_path)
    fit(two, tmp_path, [LossProgress()])
    assert torch.equal(one.layer.weight, two.layer.weight)


def test_the_example_keeps_its_loss(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "lightning_module.py"))["main"]()
    plain, moved = capsys.readouterr().out.splitlines()
    assert float(plain.split()[2]) > 0.8 < float(moved.split()[2])
    assert "progress" in moved
