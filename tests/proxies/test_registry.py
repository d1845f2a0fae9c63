"""Proxies by name, and a user's own: what works and what the errors say."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from losssearch import blackbox, task
from losssearch.errors import ProxyError
from losssearch.execution.plan import Run
from losssearch.outcomes import Outcome
from losssearch.proxies.base import Proxy
from losssearch.proxies.registry import exact, load_proxy, proxy_names

TASK = """
import numpy as np
from losssearch import blackbox, task

def mine():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 4))
    return task(data=(x, (x[:, 0] > 0).astype(int)), space="binary", budget=2, batch=16)

def train(loss, budget, seed, device):
    return 0.25 + 0.001 * seed

@blackbox(space="regression", better="higher", budget=3)
def score(loss, budget, seed, device):
    return 0.1 * budget

def wrong():
    return 3

def greedy(data):
    return None

def broken():
    raise RuntimeError("no data")

number = 7
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(TASK)
    return path


@pytest.mark.parametrize("name", proxy_names())
def test_every_built_in_keeps_the_contract(name: str) -> None:
    proxy = load_proxy(name)
    assert proxy.name == name
    assert len(proxy.protocol.hash) == 16
    assert proxy.protocol.hash == load_proxy(name).protocol.hash
    assert len(proxy.conditions) >= 2
    assert proxy.second in proxy.conditions
    splits = [len(rung.splits) for rung in proxy.rungs]
    assert len(splits) >= 3
    assert splits == sorted(splits)
    used = [split for rung in proxy.rungs for split in rung.splits]
    assert len(used) == len(set(used))
    last = proxy.runs(len(splits) - 1, [0])
    shares = Counter(condition for _, condition in {(run.split, run.condition) for run in last})
    assert sum(shares.values()) == splits[-1]
    assert shares["default"] >= shares[proxy.second] >= splits[-1] / 3
    assert proxy.guards
    for stage in ("search", "audit"):
        split = proxy.split(0, "default", "audit" if stage == "audit" else "search")
        again = proxy.split(0, "default", "audit" if stage == "audit" else "search")
        assert np.array_equal(split.train[0], again.train[0])


def test_protocols_differ_between_proxies() -> None:
    assert len({load_proxy(name).protocol.hash for name in proxy_names()}) == len(proxy_names())


def test_a_tasks_protocol_is_the_same_in_every_process_and_follows_the_data(file: Path) -> None:
    code = (
        "import numpy as np; from torch import nn; from losssearch import task;"
        "x = np.arange({n}.0).reshape(-1, 2); y = np.arange(len(x)) % 2;"
        "print(task(data=(x, y), model=lambda: nn.Linear(2, 2)).protocol.hash)"
    )
    first, again, other = (
        subprocess.run(
            [sys.executable, "-c", code.format(n=n)], check=True, capture_output=True, text=True
        ).stdout
        for n in (40, 40, 44)
    )
    assert first == again != other


def test_listing_proxies_loads_neither_torch_nor_data_sets() -> None:
    code = (
        "import sys; from losssearch.proxies.registry import proxy_names; proxy_names();"
        "assert not {'torch', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_users_task_is_loaded_from_its_file_and_trained(file: Path) -> None:
    proxy = load_proxy(f"{file}:mine")
    audit = proxy.split(0, stage="audit")
    assert audit.test is not None
    assert (len(audit.train[0]), len(audit.test[0])) == proxy.sizes
    split = proxy.split(0)
    assert set(split.provided) == {"prior", "count_pos", "count_neg"}

    def gradient(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        assert inputs["prior"].shape == inputs["logit"].shape[:1]
        return (torch.sigmoid(inputs["logit"]) - inputs["target"]) / inputs["logit"].shape[-1]

    results = proxy.train([gradient], [Run(0, 0, 0.1), Run(0, 0, 0.1, stage="audit")])
    assert [r.outcome for r in results] == [Outcome.SCORED] * 2
    assert results[0].metric is not None
    assert results[0].metric < 0.5


def test_a_train_function_is_a_black_box(file: Path) -> None:
    proxy = load_proxy(f"{file}:train")
    assert proxy.takes == "module"
    assert proxy.train([None], [Run(0, 5, 1.0)])[0].metric == pytest.approx(0.255)


def test_a_score_that_should_rise_is_stored_as_an_error(file: Path) -> None:
    proxy = load_proxy(f"{file}:score")
    assert proxy.space == "regression"
    assert proxy.train([None], [Run(0, 5, 1.0)])[0].metric == pytest.approx(0.7)


def test_a_black_box_that_fails_is_an_outcome() -> None:
    @blackbox(space="binary")
    def bad(loss: object, budget: int, seed: int, device: str) -> float:
        if seed == 0:
            raise ValueError("no luck")
        return float("nan")

    results = bad.train([None], [Run(0, 0, 1.0), Run(0, 1, 1.0)])
    assert [r.outcome for r in results] == [Outcome.FAILED, Outcome.INVALID]
    assert results[0].detail == "ValueError: no luck"


def test_a_users_module_and_metric_are_trained_and_measured() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(60, 5)), rng.integers(0, 3, 60)

    def half(prediction: np.ndarray, target: np.ndarray) -> float:
        assert prediction.shape == (len(target), 3)
        return 0.5

    proxy = task(data=lambda: (x, y), model=lambda: nn.Linear(5, 3), metric=half, better="higher", budget=1)

    def gradient(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.softmax(inputs["logits"], -1) - inputs["target"]

    (result,) = proxy.train([gradient], [Run(0, 0, 0.1)])
    assert result.metrics == {"half": 0.5}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digit", "Did you mean 'digits'"),
        ("quux", "path/to/file.py:function"),
        ("nowhere.py:f", "there is no file"),
        ("no_such_module_at_all:f", "cannot import"),
        ("FILE:absent", "has no function 'absent'"),
        ("FILE:wrong", "returned a int"),
        ("FILE:greedy", "needs the arguments data"),
        ("FILE:broken", "RuntimeError: no data"),
        ("FILE:number", "is a int, not a function"),
    ],
)
def test_a_bad_name_says_what_and_where(file: Path, name: str, words: str) -> None:
    with pytest.raises(ProxyError, match=words):
        load_proxy(name.replace("FILE", str(file)))


X, Y = np.zeros((20, 3)), np.arange(20) % 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"data": (X, Y), "space": "ranking"}, "space='ranking' is unknown"),
        ({"data": (X, Y[:5])}, "do not fit"),
        ({"data": (X[:5], Y[:5])}, "too few"),
        ({"data": (X, ["cat"] * 20)}, "not numbers"),
        ({"data": (X * np.nan, Y)}, "nan or inf"),
        ({"data": (X, Y + 0.5)}, "class numbers"),
        ({"data": (X, Y + 1), "space": "binary"}, "0 and 1"),
        ({"data": (X, Y), "metric": "f1"}, "no metric is called 'f1'"),
        ({"data": (X, Y), "budget": 0}, "budget >= 1"),
        ({"data": (X, Y), "rates": (-1.0,)}, "positive"),
        ({"data": (X, Y), "model": 3}, "makes a torch.nn.Module"),
        ({"data": X}, r"\(X, y\)"),
        ({"data": (X, Y), "optimiser": "lion"}, "'sgd' or 'adam'"),
        ({"data": (X, Y), "better": "up"}, "'lower' or 'higher'"),
    ],
)
def test_a_bad_task_says_what_to_do(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ProxyError, match=words):
        task(**arguments)  # type: ignore[arg-type]


def test_an_unknown_condition_names_the_known_ones() -> None:
    proxy: Proxy = load_proxy("digits")
    with pytest.raises(ProxyError, match="raw, wide"):
        proxy.split(0, "raw+upside-down")


def test_a_proxy_at_another_precision_is_another_proxy(file: Path) -> None:
    for name in ("digits-noisy", f"{file}:mine"):
        plain, rounded = load_proxy(name), load_proxy(f"{name}@bf16")
        assert {rounded.setting(c).precision for c in rounded.conditions} == {"bf16"}
        assert plain.setting().precision == "fp32"
        assert rounded.protocol.hash != plain.protocol.hash
        assert rounded.name == f"{plain.name}@bf16"
    assert load_proxy(exact("digits-noisy@bf16")) is load_proxy(exact("digits-noisy"))
    assert load_proxy("digits@fp32") is load_proxy("digits")
    assert load_proxy(exact("ring")) is load_proxy("ring")
    with pytest.raises(ProxyError, match="@tf32 is one too many"):
        load_proxy("digits@bf16@tf32")
    with pytest.raises(ProxyError, match="ring is not trained as a population"):
        load_proxy("ring@bf16")
    with pytest.raises(ProxyError, match="no proxy is called 'digits@fp16'"):
        load_proxy("digits@fp16")
