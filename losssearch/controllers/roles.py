"""Which names of a space tell how right a prediction is?

Made-up predictions take a small step down the gradient of the space's reference loss, which makes
them better. A name that rises wherever it moves tells of rightness, one that falls tells of
wrongness, and one whose size falls is a residual. Asked are names that hold a prediction against a target,
or, where several players learn, all of one player's predictions against each other. Takes a millisecond or
two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from losssearch.execution.reference import evaluate, loss_gradient
from losssearch.language.formula import parse
from losssearch.language.program import Program
from losssearch.language.signature import Input, Role, Signature

SIZES = {"n": 64, "c": 5}
OTHER_SIZE = 3


def rightness(signature: Signature, names: Iterable[str], reference: Program) -> dict[str, int]:
    """Name -> +1 if it rises as the prediction gets better, -1 if it falls, 2 if its size falls.

    Names that move in no one direction are left out.
    """
    before = _made_up(signature)
    after = dict(before)
    for prediction in signature.predictions:
        if prediction in reference.inputs:
            slope = loss_gradient(reference, prediction, plain=False)(before)
            after[prediction] = before[prediction] - 0.01 * slope / slope.abs().amax()
    found: dict[str, int] = {}
    for name in names:
        program = parse(name, signature, scalar=False)
        if not _compares(signature, program.inputs):
            continue
        old, new = evaluate(program, before), evaluate(program, after)
        for direction, moved in ((1, new - old), (-1, old - new), (2, old.abs() - new.abs())):
            if _share_above(moved) > 0.95:
                found[name] = direction
                break
    return found


def _compares(signature: Signature, inputs: frozenset[str]) -> bool:
    if len(signature.players) > 1:
        mine = [
            {n for n in signature.predictions if signature.inputs[n].player == player}
            for player in signature.players
        ]
        return any(predicted <= inputs for predicted in mine)
    roles = {signature.inputs[i].role for i in inputs}
    return Role.TARGET in roles and Role.PREDICTION in roles


def _share_above(moved: Tensor) -> float:
    """The share of what moves that moves up."""
    moves = moved.abs() > 1e-12
    return float((moved > 0)[moves].double().mean()) if bool(moves.any()) else 0.0


def _made_up(signature: Signature) -> Mapping[str, Tensor]:
    rng = np.random.default_rng(0)
    drawn = {}
    for spec in signature.inputs.values():
        axes = (signature.copies.get(a, a) for a in spec.axes)
        shape = tuple(SIZES.get(a, OTHER_SIZE) for a in axes)
        drawn[spec.name] = torch.as_tensor(_values(spec, shape, rng), dtype=torch.float64)
    return drawn


def _values(spec: Input, shape: tuple[int, ...], rng: np.random.Generator) -> object:
    if any(p.startswith(("simplex over", "one_hot over")) for p in spec.properties):
        last = shape[-1]
        if spec.role is Role.TARGET:
            return np.eye(last)[rng.integers(0, last, shape[:-1])]
        return rng.dirichlet(np.ones(last), shape[:-1])
    if spec.role is Role.MASK or (spec.role is Role.TARGET and (spec.low, spec.high) == (0, 1)):
        return rng.integers(0, 2, shape)
    return np.clip(rng.standard_normal(shape) * 2, max(spec.low, -1e9), min(spec.high, 1e9))
