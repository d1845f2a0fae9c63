"""A loss in the Trainer of Hugging Face, with gradients gathered over micro-batches.

    python examples/hugging_face_trainer.py

A tiny untrained BERT learns which words of a made-up vocabulary are names: few are. Nothing is downloaded.
"""

from __future__ import annotations

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers

import losssearch as ls
from losssearch.adapters.hugging_face import ComputeLoss, progress_callback

WORDS, LENGTH = 20, 8


def sentences(count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Sentences of two to eight words; what is behind the end is padding, with the label -100."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        words = torch.randint(1, WORDS, (LENGTH,), generator=draw)
        words[torch.randint(2, LENGTH + 1, (), generator=draw) :] = 0
        names = words % 7 == 0
        rows.append(
            {
                "input_ids": words,
                "attention_mask": words.sign(),
                "labels": names.long().where(words > 0, -100),
            }
        )
    return rows


def main() -> None:
    torch.set_num_threads(1)  # tensors this small lose time to more
    transformers.set_seed(0)
    transformers.logging.set_verbosity_error()
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=LENGTH, num_labels=2,
    )  # fmt: skip
    loss = ls.loss("focal", ignore_index=-100)  # or a found one: result.best.module(ignore_index=-100)
    with tempfile.TemporaryDirectory() as folder:
        trainer = transformers.Trainer(
            transformers.BertForTokenClassification(config),
            transformers.TrainingArguments(
                output_dir=folder, per_device_train_batch_size=16, gradient_accumulation_steps=2,
                max_steps=80, learning_rate=5e-3, per_device_eval_batch_size=200, report_to=[],
                save_strategy="no", logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
            ),
            train_dataset=sentences(1000, seed=0),
            eval_dataset=sentences(200, seed=1),
            compute_loss_func=ComputeLoss(loss),
            callbacks=[progress_callback(loss)],  # for losses that read `progress`; others do not mind
        )  # fmt: skip
        trainer.remove_callback(transformers.PrinterCallback)
        before = trainer.evaluate()["eval_loss"]
        trainer.train()
        print(f"{loss.formula}: {before:.4f} before, {trainer.evaluate()['eval_loss']:.4f} after training")


if __name__ == "__main__":
    main()
