"""Digits and tables: no search sees an audit row, noise is where it belongs, known errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from losssearch.execution.plan import MLP, Floats, Run
from losssearch.proxies.registry import load_proxy

TRAINED = [
    "digits",
    "digits-noisy",
    "digits-imbalanced",
    "breast-cancer",
    "breast-cancer-noisy",
    "diabetes",
    "diabetes-outliers",
]


def rows(x: Floats) -> set[bytes]:
    return {row.tobytes() for row in np.round(x.astype(np.float64), 3)}


def softmax_gradient(inputs: dict[str, Tensor]) -> Tensor:
    logits = inputs["logits"]
    return (torch.softmax(logits, -1) - inputs["target"]) / logits.shape[-2]


@pytest.mark.parametrize("name", ["digits", "digits-noisy", "digits-imbalanced"])
def test_audit_tests_share_no_image_with_any_search(name: str) -> None:
    proxy = load_proxy(name)
    searched: set[bytes] = set()
    for seed in range(12):
        split = proxy.split(seed, "raw", "search")
        assert split.test is None
        searched |= rows(split.train[0]) | rows(split.valid[0])
    for seed in range(12):
        split = proxy.split(seed, "raw", "audit")
        assert split.test is not None
        tested = rows(split.test[0])
        assert not tested & searched
        assert not tested & (rows(split.train[0]) | rows(split.valid[0]))
        assert (len(split.train[0]), len(split.test[0])) == proxy.sizes


@pytest.mark.parametrize("name", TRAINED)
def test_parts_of_a_split_do_not_overlap_and_have_the_promised_sizes(name: str) -> None:
    proxy = load_proxy(name)
    for stage in ("search", "audit"):
        split = proxy.split(3, "default", "audit" if stage == "audit" else "search")
        parts = [split.train, split.valid] + ([split.test] if split.test else [])
        images = [{row.tobytes() for row in x} for x, _ in parts]
        assert sum(map(len, images)) == len(set.union(*images))
        assert all(np.isfinite(x).all() and np.isfinite(y).all() for x, y in parts)
        if stage == "audit":
            assert (len(parts[0][0]), len(parts[2][0])) == proxy.sizes


def test_noise_spoils_training_and_validation_but_not_the_audit_test() -> None:
    clean, noisy = load_proxy("digits"), load_proxy("digits-noisy")
    shares = np.zeros(3)
    for seed in range(10):
        a, b = clean.split(seed, "raw", "audit"), noisy.split(seed, "raw", "audit")
        assert a.test is not None
        assert b.test is not None
        pairs = [(a.train, b.train), (a.valid, b.valid), (a.test, b.test)]
        for i, ((x, y), (u, v)) in enumerate(pairs):
            assert np.array_equal(x, u)
            shares[i] += float((y.argmax(1) != v.argmax(1)).mean()) / 10
    # 3,000 labels at least: a standard error of .009
    assert shares == pytest.approx([0.4, 0.4, 0.0], abs=0.03)
    assert shares[2] == 0


def test_the_long_tail_is_fifty_to_one_and_provided_to_the_loss() -> None:
    split = load_proxy("digits-imbalanced").split(0)
    count = split.provided["count"]
    assert count.max() / count.min() == 50
    assert np.array_equal(np.sort(count), np.sort(split.train[1].sum(0)))
    assert split.provided["prior"].sum() == pytest.approx(1, abs=1e-6)
    assert (split.valid[1].sum(0) == 16).all()


def test_conditions_change_what_they_name() -> None:
    proxy = load_proxy("digits-noisy")
    setting = proxy.setting("raw+wide+he+adam+long")
    assert setting.model == MLP((256,), "he")
    assert (setting.optimiser, setting.epochs) == ("adam", 100)
    assert proxy.split(0, "raw").train[0].max() == 1
    assert abs(float(proxy.split(0).train[0].mean())) < 1e-4
    same = proxy.split(0, "wide").train[1] == proxy.split(0).train[1]
    assert same.all()


def test_cross_entropy_reaches_its_known_errors_on_clean_and_noisy_digits() -> None:
    """Clean .03 at most, noisy about .088 (20 audit splits, spread of one split about .02)."""
    errors = {}
    for name, rate in (("digits", 0.1), ("digits-noisy", 0.01)):
        runs = [Run(0, split, rate, stage="audit") for split in range(12)]
        found = [r.metric for r in load_proxy(name).train([softmax_gradient], runs)]
        errors[name] = np.mean([m for m in found if m is not None])
    assert errors["digits"] < 0.04
    assert errors["digits-noisy"] == pytest.approx(0.088, abs=0.02)


def test_prior_is_balanced_accuracys_remedy_on_the_long_tail() -> None:
    def adjusted(inputs: dict[str, Tensor]) -> Tensor:
        shifted = inputs["logits"] + inputs["prior"].log().unsqueeze(-2)
        return softmax_gradient({**inputs, "logits": shifted})

    runs = [Run(loss, split, 0.1) for loss in (0, 1) for split in range(8)]
    found = load_proxy("digits-imbalanced").train([softmax_gradient, adjusted], runs)
    plain, remedy = (np.mean([r.metric or 0 for r in found[i : i + 8]]) for i in (0, 8))
    assert remedy < plain - 0.03


def test_a_squared_error_suffers_from_outliers_more_than_an_absolute_one() -> None:
    def squares(inputs: dict[str, Tensor]) -> Tensor:
        return 2 * (inputs["pred"] - inputs["target"]) / inputs["pred"].shape[-1]

    def absolute(inputs: dict[str, Tensor]) -> Tensor:
        return torch.sign(inputs["pred"] - inputs["target"]) / inputs["pred"].shape[-1]

    proxy = load_proxy("diabetes-outliers")
    rates = (0.001, 0.003, 0.01)
    runs = [Run(loss, s, rate) for loss in (0, 1) for rate in rates for s in range(8)]
    found = [r.metric or np.inf for r in proxy.train([squares, absolute], runs)]
    table = np.reshape(found, (2, len(rates), 8)).mean(-1).min(-1)
    assert table[1] < table[0] - 10
    assert 45 < table[1] < 65  # in the unit of the target, whose deviation is 77
