"""A loss bound to the kernel for many small data sets gives what the reference gives."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from losssearch.execution.reference import loss_gradient
from losssearch.execution.rows import on_rows
from losssearch.language.formula import parse
from losssearch.spaces import load_space

SPACE = load_space("regression")
ALONE = [loss for loss in SPACE.seeds if not set(loss.requires) - {"progress"}]


def data(rows: int, samples: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(rows + samples)
    pred, target = torch.randn(2, rows, samples, generator=draw, dtype=torch.float64) * 3
    return {"pred": pred, "target": target, "progress": torch.tensor(0.5, dtype=torch.float64)}


@pytest.mark.parametrize("shape", [(7, 40), (1, 1)])
@pytest.mark.parametrize("loss", ALONE, ids=lambda loss: loss.name)
def test_it_equals_the_reference(loss, shape) -> None:
    reference = loss_gradient(loss.program, "pred", 2.5)
    bound = on_rows(reference, *shape)
    assert bound is not reference
    for inputs in (data(*shape), {**data(*shape), "pred": data(*shape)["target"]}):
        torch.testing.assert_close(bound(inputs), reference(inputs), rtol=1e-9, atol=1e-12)


def test_what_is_no_program_or_refused_is_called_as_it_is() -> None:
    def own(inputs: Mapping[str, Tensor]) -> Tensor:
        return inputs["pred"] - inputs["target"]

    assert on_rows(own, 3, 4) is own
    sorts = loss_gradient(parse("mean(sort_by(r, r, 'n') * pred, 'n')", SPACE.signature, {}), "pred")
    assert on_rows(sorts, 3, 4) is sorts
