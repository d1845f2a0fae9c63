"""How is an embedding loss used as those of pytorch-metric-learning are?

    loss = MetricLoss(find("triplet", "embedding")[1].program)
    loss(embeddings, labels, miner(embeddings, labels))

Labels become the masks that the spaces "embedding" and "contrastive" speak of; what a miner left out is
masked like a sample with itself. A formula measures its own distances and takes its own mean, so there
is no `distance` and no `reducer` to choose: tests/adapters/test_metric_learning.py says which of theirs
each of our losses equals.
"""

from __future__ import annotations

from typing import Any

import torch
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.utils import common_functions, loss_and_miner_utils
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from losssearch.errors import UsageError
from losssearch.execution.reference import evaluate
from losssearch.language.canonical import candidate_key
from losssearch.language.program import Program

MASKS = frozenset({"same", "positive", "eye", "pick"})
LEARNT = frozenset({"weights", "label"})


class MetricLoss(BaseMetricLossFunction):  # type: ignore[misc]
    """A program of the space "embedding" or "contrastive", called with embeddings and labels.

    Args:
        program: What to compute.
        normalize_embeddings: Bring embeddings to length 1 first, as LpDistance of that library does
            unless told otherwise; the spaces take them as they are.
        num_classes, embedding_size: Sizes of `W`, one learnt embedding a class, (embedding_size,
            num_classes), for a loss such as ArcFace that reads `weights`.
        options: `embedding_regularizer` and `embedding_reg_weight` of the library.

    A miner's triplets count as their pairs: each anchor with all positives and all negatives that it
    was mined with. Half precision is computed in float32. A batch without a pair gives 0.

    Raises:
        UsageError: The program reads what labels do not give, or sizes of `W` are missing.
        ValueError: In a call: reference embeddings were given, or neither labels nor a miner's pairs, or
        a miner's pairs for a loss against learnt classes.
    """

    def __init__(
        self,
        program: Program,
        *,
        normalize_embeddings: bool = False,
        num_classes: int | None = None,
        embedding_size: int | None = None,
        **options: Any,
    ) -> None:
        if refused := sorted(set(options) - {"embedding_regularizer", "embedding_reg_weight"}):
            raise UsageError(f"The loss takes no {refused[0]!r}: its formula says what it measures.")
        super().__init__(**options)
        self.program, self.formula, self.key = program, program.text, candidate_key(program)
        self.normalize_embeddings = normalize_embeddings
        if len(predictions := program.signature.predictions) != 1:
            raise UsageError(f"The loss has one prediction, embeddings, but got {', '.join(predictions)}.")
        self._prediction = predictions[0]
        if unknown := sorted(program.inputs - MASKS - LEARNT - {self._prediction, "progress"}):
            raise UsageError(f"The loss reads {', '.join(unknown)}, which embeddings and labels do not give.")
        self.W: nn.Parameter | None = None
        if "weights" in program.inputs:
            if not num_classes or not embedding_size:
                raise UsageError("The loss learns one embedding a class: say num_classes and embedding_size.")
            self.W = nn.Parameter(torch.randn(embedding_size, num_classes))
        self.register_buffer("progress", torch.tensor(0.0) if "progress" in program.inputs else None)

    def set_progress(self, progress: float) -> None:
        """Say how much of the training is done, in [0, 1]; not every loss asks."""
        if not 0 <= progress <= 1:
            raise UsageError(f"`0 <= progress <= 1` must hold, but got {progress}.")
        if self.progress is not None:
            self.progress.fill_(progress)

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> dict[str, dict[str, Any]]:
        common_functions.ref_not_supported(embeddings, labels, ref_emb, ref_labels)
        e = embeddings.float() if embeddings.dtype in (torch.float16, torch.bfloat16) else embeddings
        e = normalize(e) if self.normalize_embeddings else e
        if self.W is None:
            inputs = self._pairs(e, labels, indices_tuple)
        else:
            inputs = self._classes(e, labels, indices_tuple)
        inputs[self._prediction] = e
        if self.progress is not None:
            inputs["progress"] = self.progress.to(e.dtype)
        value = evaluate(self.program, inputs).reshape(())
        return {"loss": {"losses": value, "indices": None, "reduction_type": "already_reduced"}}

    def _pairs(self, e: Tensor, labels: Tensor | None, mined: tuple[Tensor, ...] | None) -> dict[str, Tensor]:
        common_functions.labels_or_indices_tuple_required(labels, mined)
        anchor, positive, other, negative = loss_and_miner_utils.convert_to_pairs(mined, labels)
        alike = torch.zeros(len(e), len(e), dtype=torch.bool, device=e.device)
        unlike = alike.clone()
        alike[anchor, positive] = True
        unlike[other, negative] = True
        asked = alike | unlike
        return {"same": alike, "positive": alike, "pick": asked, "eye": ~asked}

    def _classes(
        self, e: Tensor, labels: Tensor | None, mined: tuple[Tensor, ...] | None
    ) -> dict[str, Tensor]:
        if labels is None or mined is not None or self.W is None:
            raise ValueError("A loss against learnt classes takes labels, and no pairs of a miner.")
        label = one_hot(labels.long(), self.W.shape[1]).to(e.dtype)
        return {"weights": self.W.to(e.dtype), "label": label}
