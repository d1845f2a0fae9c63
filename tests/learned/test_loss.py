"""A learned loss is plain data: it survives the store, keeps the contract, and leaves as a file."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sqlalchemy import text
from torch.nn import functional as F

from losssearch.errors import ExportError, StoreError, UsageError
from losssearch.execution.plan import Run
from losssearch.execution.reference import loss_gradient
from losssearch.learned.audit.frozen import audit_loss
from losssearch.learned.loss import NETWORK, LearnedLoss
from losssearch.learned.network import fresh_weighting, fresh_weights
from losssearch.outcomes import Outcome
from losssearch.proxies.registry import load_proxy
from losssearch.spaces import load_space
from losssearch.store.learned import add_learned, all_learned, find_learned, read_back, written
from losssearch.store.store import Store
from losssearch.testing import check_loss


def weighting() -> LearnedLoss:
    draw = torch.Generator().manual_seed(0)
    arrays = {n: w + torch.randn(w.shape, generator=draw) for n, w in fresh_weighting(6, draw).items()}
    named = {NETWORK + n: w.numpy() for n, w in arrays.items()}
    return LearnedLoss("weights", "weighting", "multiclass", {"by_class": True}, named)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["curve", "digits", "weighting"])
def test_the_module_keeps_the_contract_of_a_drop_in_loss(
    which: str, curve_loss: LearnedLoss, digit_loss: LearnedLoss
) -> None:
    loss = {"curve": curve_loss, "digits": digit_loss, "weighting": weighting()}[which]
    report = check_loss(loss.module(), task=loss.space)
    assert report.passed, str(report)


def test_a_weighting_is_the_mean_of_weighted_cross_entropies() -> None:
    loss, count = weighting(), torch.tensor([5.0, 50.0, 10.0])
    module = loss.module(count=count)
    logits, label = torch.randn(8, 3, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 3
    cross = F.cross_entropy(logits, label, reduction="none")
    features = torch.stack([cross, (count / count.mean()).log()[label]], 1)
    w = loss.network
    hidden = torch.tanh(features @ w["first.weight"].T + w["first.bias"])
    share = torch.sigmoid(hidden @ w["last.weight"].T + w["last.bias"]).squeeze(1)
    assert torch.allclose(module(logits, label), (share * cross).mean(), atol=1e-6)


RUN = """
import runpy, sys
for path in sys.argv[1:]:
    names = runpy.run_path(path)
    names["main"]()
    loss = next(v for n, v in names.items() if n.startswith("Learned"))()
    x = names["torch"].tensor([[0.3, -1.2], [2.0, 0.1]])
    print(loss(x, x.flip(0) if loss.task == "regression" else names["torch"].tensor([1, 0])).item())
"""


def test_exported_files_run_with_torch_alone_and_say_the_same(
    curve_loss: LearnedLoss, digit_loss: LearnedLoss, tmp_path: Path
) -> None:
    evil = 'x"""\nimport os; os._exit(7)\n"""'
    losses = [curve_loss, digit_loss, weighting(), replace(weighting(), name=evil, evidence={"note": evil})]
    paths = [loss.export(tmp_path) for loss in losses]
    assert len(set(paths)) == 4
    done = subprocess.run(
        [sys.executable, "-I", "-c", RUN, *map(str, paths)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    x = torch.tensor([[0.3, -1.2], [2.0, 0.1]])
    printed = [float(line) for line in done.stdout.splitlines()[1::2]]
    wanted = [
        loss.module()(x, x.flip(0) if loss.space == "regression" else torch.tensor([1, 0])).item()
        for loss in losses
    ]
    assert printed == pytest.approx(wanted, rel=1e-6)
    for path in paths:
        assert "import losssearch" not in path.read_text()
    with pytest.raises(ExportError, match="the file exists"):
        curve_loss.export(tmp_path)


def test_the_store_gives_back_what_it_was_given(digit_loss: LearnedLoss, url: str) -> None:
    key = digit_loss.save(url)
    for reference in (digit_loss.name, key, key[:8]):
        found = LearnedLoss.load(reference, url)
        assert found.key == key == digit_loss.key
        assert found.evidence == json.loads(json.dumps(digit_loss.evidence))
        for name, array in digit_loss.arrays.items():
            assert np.array_equal(array, found.arrays[name])


def test_a_loss_is_stored_once_and_the_newest_of_a_name_is_meant(store: Store) -> None:
    first, second = weighting(), replace(weighting(), settings={"by_class": False})
    assert add_learned(store, first) == add_learned(store, first)
    assert [row.key for row in all_learned(store)] == [first.key]
    add_learned(store, second)
    assert find_learned(store, "weights").key == second.key != first.key
    with pytest.raises(UsageError, match=r"called 'weight'. There are weights."):
        find_learned(store, "weight")


def test_what_was_tampered_with_is_refused(store: Store) -> None:
    add_learned(store, weighting())
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE ls_learned SET settings = '{\"by_class\": false}'"))
    with pytest.raises(StoreError, match="its key is not that of its content"):
        all_learned(store)


@pytest.mark.parametrize(
    "broken",
    [
        {"shape": [2, 2], "float32": base64.b64encode(b"\0" * 12).decode()},
        {"shape": [-1], "float32": ""},
        {"shape": [10**9, 10**9], "float32": ""},
        {"shape": [1], "float32": "!!!!"},
        {"float32": ""},
    ],
)
def test_arrays_that_do_not_fit_their_shape_are_refused(broken: dict[str, object]) -> None:
    with pytest.raises(StoreError, match="array 'a'"):
        read_back({"a": broken})


def test_arrays_survive_as_text_to_the_last_bit() -> None:
    array = np.array([[1e-40, -0.0], [np.pi, 3e38]], np.float32)
    found = read_back(json.loads(json.dumps(written({"a": array, "b": np.float32(2.5).reshape(())}))))
    assert found["a"].tobytes() == array.tobytes()
    assert found["b"].shape == ()


def test_a_fresh_network_trains_a_proxy_exactly_as_its_classical_loss_does() -> None:
    draw = torch.Generator().manual_seed(0)
    arrays = {NETWORK + n: w.numpy() for n, w in fresh_weights("multiclass", 4, draw).items()}
    loss = LearnedLoss("fresh", "network", "multiclass", {}, arrays)
    proxy = load_proxy("digits-noisy")
    results = proxy.train([loss.gradient()], [Run(0, 0, 0.04, epochs=5)])
    assert loss.gradient().scale == pytest.approx(1, abs=1e-4)
    program = load_space("multiclass").losses["cross_entropy"].program
    peers = proxy.train([loss_gradient(program, "logits")], [Run(0, 0, 0.04, epochs=5)])
    assert results[0].outcome is Outcome.SCORED
    assert results[0].metric is not None
    assert peers[0].metric is not None
    assert abs(results[0].metric - peers[0].metric) <= 0.004  # two of 500 samples: rounding


def test_a_controller_is_no_module() -> None:
    loss = LearnedLoss("c", "controller", "multiclass", {}, {})
    with pytest.raises(UsageError, match="cannot be a module"):
        loss.module()


def test_a_learned_loss_is_audited_beside_formulas() -> None:
    """A fresh network is cross entropy: it must tie with it, split by split, and say so."""
    draw = torch.Generator().manual_seed(0)
    arrays = {NETWORK + n: w.numpy() for n, w in fresh_weights("multiclass", 4, draw).items()}
    loss = LearnedLoss("fresh", "network", "multiclass", {}, arrays)
    report = audit_loss(loss, "digits", peers=["cross_entropy"], splits=3, tuning=[0], grid=[(0.04, 0.0)])
    versus = report.line("cross_entropy").versus
    assert versus is not None
    assert abs(versus.difference) <= 0.002
    assert versus.low <= 0 <= versus.high
    with pytest.raises(UsageError, match="a loss for multiclass, but diabetes is regression"):
        audit_loss(loss, "diabetes")
    with pytest.raises(UsageError, match="no loss 'focus'"):
        audit_loss(loss, "digits", peers=["focus"])
