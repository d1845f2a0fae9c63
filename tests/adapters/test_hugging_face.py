"""With the real Trainer: micro-batches add up to one big batch, and the schedule moves."""

from __future__ import annotations

import os
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import losssearch as ls
from losssearch.adapters.hugging_face import ComputeLoss, progress_callback
from losssearch.errors import UsageError
from losssearch.execution.module import module_for
from losssearch.exporters.registry import export
from losssearch.exporters.sheet import Sheet

os.environ["HF_HUB_OFFLINE"] = "1"  # before the import: nothing is downloaded
transformers = pytest.importorskip(
    "transformers", reason="needs `pip install 'losssearch[frameworks]'`", exc_type=ImportError
)

EXAMPLES = Path(__file__).parents[2] / "examples"
SAMPLES, TOKENS, CLASSES, WORDS = 16, 6, 3, 11


def network(kind: str = "BertForTokenClassification") -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=TOKENS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        num_labels=CLASSES,
    )  # fmt: skip
    return getattr(transformers, kind)(config).double()


def sentences() -> list[dict[str, Tensor]]:
    """Of very different lengths, so that micro-batches have very different numbers of labels."""
    draw = torch.Generator().manual_seed(0)
    rows = []
    for i in range(SAMPLES):
        words = torch.randint(WORDS, (TOKENS,), generator=draw)
        labels = torch.randint(CLASSES, (TOKENS,), generator=draw)
        labels[1 + i % TOKENS :] = -100
        rows.append({"input_ids": words, "labels": labels})
    return rows


def trained(folder: Path, loss: Any, micro: int, batch: int = 8, **more: Any) -> dict[str, Tensor]:
    """Parameters after two steps of `batch` samples each, in micro-batches of `micro`."""
    model = more.pop("model", None) or network()
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=micro, gradient_accumulation_steps=batch // micro,
        max_steps=2, learning_rate=0.5, optim="sgd", lr_scheduler_type="constant", max_grad_norm=0.0,
        report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True, seed=0,
    )  # fmt: skip
    data = more.pop("data", None) or sentences()
    trainer = transformers.Trainer(model, arguments, train_dataset=data, compute_loss_func=loss, **more)
    trainer.train()
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def exported(folder: Path) -> Any:
    program = ls.parse("mean(-(1 - p_t)**g * log_pt, 'n')", constants={"g": 1.5})
    path = export(Sheet(program, "multiclass", name="found"), folder / "found.py", force=True)
    return runpy.run_path(str(path))["FoundLoss"]


@pytest.mark.parametrize("kind", ["classical", "weighted", "exported"])
def test_micro_batches_add_up_to_one_big_batch(kind: str, tmp_path: Path) -> None:
    losses = {
        "classical": lambda: ls.loss("focal", ignore_index=-100),
        "weighted": lambda: ls.loss(
            "cross_entropy", ignore_index=-100, weight=torch.tensor([0.2, 1.0, 5.0]).double()
        ),
        "exported": lambda: exported(tmp_path)(ignore_index=-100),
    }
    one = trained(tmp_path, ComputeLoss(losses[kind]()), micro=8)
    four = trained(tmp_path, ComputeLoss(losses[kind]()), micro=2)
    assert_same(one, four)


def test_the_mean_of_micro_batches_is_another_training(tmp_path: Path) -> None:
    """The mistake that the adapter is for; were they the same, the test above would show nothing."""
    loss = ls.loss("cross_entropy", ignore_index=-100)

    def mean(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        return loss(outputs["logits"].flatten(0, 1), labels.flatten())

    one, four = trained(tmp_path, mean, micro=8), trained(tmp_path, mean, micro=2)
    assert (one["classifier.weight"] - four["classifier.weight"]).abs().max() > 1e-3


def test_cross_entropy_trains_as_the_model_of_the_library_does(tmp_path: Path) -> None:
    """Their BertForTokenClassification divides by the labels of the whole batch too."""
    loss = ComputeLoss(ls.loss("cross_entropy", ignore_index=-100))
    ours, theirs = trained(tmp_path, loss, micro=8), trained(tmp_path, None, micro=8)
    assert_same(ours, theirs)


def test_the_schedule_reaches_the_loss(tmp_path: Path) -> None:
    seen = []

    class Watched(ComputeLoss):
        def __call__(self, *args: Any, **named: Any) -> Tensor:
            seen.append(self.loss.provided["progress"].item())
            return super().__call__(*args, **named)

    program = ls.parse("mean((1 + progress) * -log_pt, 'n')")
    loss = module_for(program, "multiclass", ignore_index=-100)
    trained(tmp_path, Watched(loss), micro=4, callbacks=[progress_callback(loss)])
    assert seen == [0, 0, 0.5, 0.5]


def test_the_example_learns(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "hugging_face_trainer.py"))["main"]()
    before, after = map(float, re.findall(r"(\d\.\d+) (?:before|after)", capsys.readouterr().out))
    assert after < before / 2


# Without a Trainer: what one call gives.


def outputs(*shape: int) -> dict[str, Tensor]:
    return {"logits": torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.double)}


def test_without_a_number_of_items_it_is_the_losss_own_mean() -> None:
    loss, out, labels = ls.loss("focal"), outputs(5, 3), torch.tensor([0, 1, 2, 0, 1])
    assert ComputeLoss(loss)(out, labels) == loss(out["logits"], labels)


def test_shifted_labels_are_those_of_the_next_position() -> None:
    out, labels = outputs(2, 4, 3), torch.tensor([[0, 1, 2, 0], [2, 2, -100, 1]])
    got = ComputeLoss(ls.loss("cross_entropy", ignore_index=-100), shift=True)(out, labels, 5)
    pairs = [(i, t) for i in range(2) for t in range(3) if labels[i, t + 1] != -100]
    by_hand = [-out["logits"][i, t].log_softmax(0)[labels[i, t + 1]] for i, t in pairs]
    torch.testing.assert_close(got, torch.stack(by_hand).sum() / 5)


def test_soft_labels_are_counted_by_sample_though_the_trainer_counts_numbers() -> None:
    out, labels = outputs(4, 3), torch.rand(4, 3, dtype=torch.double).softmax(1)
    loss = ls.loss("cross_entropy")
    got = ComputeLoss(loss)(out, labels, labels.ne(-100).sum())
    torch.testing.assert_close(got, loss(out["logits"], labels))


@pytest.mark.parametrize("name", ["binary/focal", "regression/huber"])
def test_one_number_a_sample_fits_labels_without_that_axis(name: str) -> None:
    space, _, short = name.partition("/")
    loss, out, labels = ls.loss(short, space=space), outputs(4, 1), torch.tensor([0.0, 1.0, 1.0, 0.0])
    got = ComputeLoss(loss)(out, labels, 4)
    torch.testing.assert_close(got, loss(out["logits"][:, 0], labels))


def test_a_loss_that_couples_samples_enters_with_its_share_of_the_labels() -> None:
    loss = module_for(ls.parse("1 - mean(p_t, 'n')**2"), "multiclass")
    assert loss.coupled
    out, labels = outputs(2, 3), torch.tensor([0, 1])
    assert ComputeLoss(loss)(out, labels, 8) == loss(out["logits"], labels) * 2 / 8


def test_a_plain_loss_of_torch_gets_the_same_share() -> None:
    out, labels = outputs(4, 3), torch.tensor([0, 1, -100, 2])
    got = ComputeLoss(torch.nn.CrossEntropyLoss())(out, labels, 12)
    torch.testing.assert_close(got, torch.nn.CrossEntropyLoss(reduction="sum")(out["logits"], labels) / 12)


def test_no_label_at_all_costs_nothing() -> None:
    out = outputs(2, 3)
    labels = torch.full((2,), -100)
    assert ComputeLoss(ls.loss("focal", ignore_index=-100))(out, labels, torch.tensor(0)) == 0


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(UsageError, match="ignores 255"):
        ComputeLoss(ls.loss("focal", ignore_index=255))
    compute = ComputeLoss(ls.loss("focal"))
    with pytest.raises(ValueError, match="no `labels`"):
        compute(outputs(2, 3), None)
    with pytest.raises(ValueError, match="'logits'"):
        compute({"scores": torch.zeros(2, 3)}, torch.zeros(2).long())
