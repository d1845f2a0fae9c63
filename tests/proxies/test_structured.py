"""The structured trainer: right slopes, no luck from units or neighbours, outcomes as usual."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from losssearch.errors import ProxyError
from losssearch.execution.plan import Run, Split
from losssearch.execution.reference import evaluate
from losssearch.language.formula import parse
from losssearch.outcomes import Outcome
from losssearch.proxies.base import Proxy
from losssearch.proxies.registry import load_proxy
from losssearch.proxies.shipped import embedding
from losssearch.proxies.shipped.adversarial import NOISE
from losssearch.proxies.structured import Slopes, Task
from losssearch.proxies.training import train
from losssearch.screening.probes import stratified
from losssearch.spaces import load_space

TASKS = [
    "queries", "shapes", "scenes", "digits-unseen", "answers", "digits-views", "ring", "digits-made",
    "digits-coded", "digits-sharpened", "digits-tasks", "digits-ranked",
]  # fmt: skip


def slopes_of(space: str, formula: str) -> Slopes:
    """Of a classical loss, or of a formula without constants."""
    shipped = load_space(space)
    known = shipped.losses.get(formula)
    return Slopes(known.program if known else parse(formula, shipped.signature, {}))


@pytest.mark.parametrize(
    ("space", "loss"),
    [
        ("boxes", "focal_iou"),
        ("boxes", "giou"),
        ("preference", "dpo"),
        ("vae", "beta_vae"),
        ("embedding", "cos_face"),
        ("gan", "wgan_gp"),
        ("preference", "mean(chosen - 2 * rejected, 'n')"),
    ],
)
def test_slopes_in_every_input_are_those_of_autograd(space: str, loss: str) -> None:
    slopes = slopes_of(space, loss)
    shipped = load_space(space)
    program = shipped.losses[loss].program if loss in shipped.losses else parse(loss, shipped.signature, {})
    first = {name: value[3] for name, value in stratified(shipped.signature).inputs.items()}
    found = slopes(first)
    assert set(found) == set(program.inputs) & set(shipped.signature.differentiable)
    alive = {name: first[name].clone().requires_grad_() for name in found}
    evaluate(program, {**first, **alive}).backward()  # type: ignore[no-untyped-call]
    for name, slope in found.items():
        assert slope.shape == first[name].shape
        torch.testing.assert_close(slope, alive[name].grad, rtol=1e-9, atol=1e-12)


def test_a_factor_of_the_loss_changes_nothing() -> None:
    one, many = (slopes_of("ranking", f"mean({k} * relu(1 - gap), 'n s k', pair)") for k in (1, 4096))
    runs = [Run(loss, 0, 0.01, 0.01, epochs=4) for loss in (0, 1)]
    first, second = load_proxy("queries").train([one, many], runs)
    assert first.metrics == second.metrics
    assert first.curve == second.curve


def test_a_run_gives_the_same_alone_and_beside_others() -> None:
    proxy = load_proxy("digits-views")  # with augmentations
    losses = [slopes_of("contrastive", name) for name in ("nt_xent", "sup_con")]
    runs = [Run(loss, split, 0.003, epochs=1) for split in (0, 1) for loss in (0, 1)]
    together = proxy.train(losses, runs)
    alone = [proxy.train(losses, [run])[0] for run in reversed(runs)]
    assert [r.metrics for r in together] == [r.metrics for r in reversed(alone)]
    assert len({r.metric for r in together}) > 1


@pytest.mark.parametrize("name", TASKS)
def test_a_search_run_holds_every_guard_and_an_audit_run_the_test_error_too(name: str) -> None:
    proxy = load_proxy(name)
    loss = Slopes(load_space(proxy.space).losses[proxy.reference].program)
    rate = proxy.setting().rates[0]
    step = proxy.setting().evaluate_every
    runs = [Run(0, 0, rate, epochs=2 * step), Run(0, 0, rate, epochs=2 * step, stage="audit")]
    search, audit = proxy.train([loss], runs)
    assert set(search.metrics) == {proxy.metric, *proxy.guards}
    assert set(audit.metrics) == {proxy.metric, *proxy.guards, "valid", "early_stopped"}
    for result in (search, audit):
        assert result.outcome is Outcome.SCORED
        assert [epoch for epoch, _ in result.curve] == [step, 2 * step]
        assert result.metric == result.metrics[proxy.metric] == result.curve[-1][1]
        assert all(np.isfinite(v) for v in result.metrics.values())
    assert audit.metrics["early_stopped"] in [error for _, error in audit.curve]


@pytest.mark.parametrize("name", TASKS)
def test_every_loss_that_a_search_may_start_from_is_told_what_it_asks_for(name: str) -> None:
    proxy = load_proxy(name)
    for loss in load_space(proxy.space).seeds:
        assert set(loss.requires) <= proxy.given, loss.name


@pytest.mark.parametrize("name", TASKS)
def test_search_and_audit_share_no_data_and_neither_do_parts_of_a_split(name: str) -> None:
    proxy = load_proxy(name)
    searched = [part for seed in range(4) for part in (proxy.split(seed).train, proxy.split(seed).valid)]
    audits = [proxy.split(seed, stage="audit") for seed in range(3)]
    seen = {sample.tobytes() for x, _ in searched for sample in x}
    for split in audits:
        assert split.test is not None
        tested = {sample.tobytes() for sample in split.test[0]}
        assert not tested & seen
        assert not tested & {s.tobytes() for x, _ in (split.train, split.valid) for s in x}
        assert len(split.train[0]) == proxy.sizes[0]
        assert len(split.test[0]) == proxy.sizes[1] or proxy.sizes[1] == 0
        assert not {s.tobytes() for s in split.train[0]} & {s.tobytes() for s in split.valid[0]}


def test_without_their_noise_unseen_digits_are_of_other_images_and_other_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedding, "NOISE", 0.0)
    monkeypatch.setattr(embedding, "WRONG", 0.0)
    draw: Any = embedding._split.__wrapped__
    seen: set[bytes] = set()
    for seed in range(6):
        split: Split = draw(seed, "default", "search")
        seen |= {s.tobytes() for x, _ in (split.train, split.valid) for s in x}
        assert not (split.train[1].sum(0) * split.valid[1].sum(0)).any()
    for seed in range(6):
        split = draw(seed, "default", "audit")
        assert split.test is not None
        assert not {s.tobytes() for s in split.test[0]} & seen
        assert not (split.train[1].sum(0) * split.test[1].sum(0)).any()


def test_no_small_picture_of_the_audit_is_of_an_image_that_a_search_sees() -> None:
    """The small ones differ by their noise in any case."""
    proxy = load_proxy("digits-sharpened")
    parts = [part for seed in range(6) for part in (proxy.split(seed).train, proxy.split(seed).valid)]
    seen = {image.tobytes() for _, y in parts for image in y[:, :64]}
    for seed in range(3):
        split = proxy.split(seed, stage="audit")
        assert split.test is not None
        assert not {image.tobytes() for image in split.test[1][:, :64]} & seen
        taught = {image.tobytes() for image in split.train[1][:, :64]}
        assert not {image.tobytes() for image in split.valid[1][:, :64]} & taught


@pytest.mark.parametrize("name", ["queries", "shapes", "scenes", "digits-tasks", "digits-ranked"])
def test_labels_are_spoilt_in_training_and_validation_but_not_in_the_audits_test(name: str) -> None:
    proxy = load_proxy(name)
    spoilt, clean = (proxy.split(0, condition, "audit") for condition in ("default", "clean"))
    assert spoilt.test is not None
    assert clean.test is not None
    pairs = [(spoilt.train, clean.train), (spoilt.valid, clean.valid), (spoilt.test, clean.test)]
    for one, two in pairs:
        assert np.array_equal(one[0], two[0])
    assert [np.array_equal(one[1], two[1]) for one, two in pairs] == [False, False, True]


def test_as_many_labels_are_spoilt_as_promised() -> None:
    """A few thousand labels or pairs each: a standard error of .02 at most."""
    parts = {
        name: [load_proxy(name).split(0, condition).train for condition in ("default", "clean")]
        for name in ("queries", "shapes", "answers", "digits-tasks", "digits-ranked")
    }
    (_, found), (_, right) = parts["queries"]
    there = right[..., 1] > 0
    assert (found != right)[there][:, 0].mean() == pytest.approx(
        0.25 * 0.8, abs=0.04
    )  # a fifth by luck right
    (_, found), (_, right) = parts["shapes"]
    assert (found.sum(1) == 0).mean() == pytest.approx(0.05, abs=0.01)
    moved = [(a[:, v] != b[:, v]).any() for a, b in zip(found, right, strict=True) for v in [a.sum(0) > 0]]
    assert np.mean(moved) == pytest.approx(0.25, abs=0.15)
    (found, _), (right, _) = parts["answers"]
    assert (found != right).any(1).mean() == pytest.approx(0.25, abs=0.06)
    (_, found), (_, right) = parts["digits-tasks"]
    assert (found[:, :10] != right[:, :10]).any(1).mean() == pytest.approx(0.1 * 0.9, abs=0.035)
    assert (found - right)[:, 10:].std(0) == pytest.approx([0.5, 1.5], rel=0.1)
    (_, found), (_, right) = parts["digits-ranked"]
    assert (found != right).mean() == pytest.approx(0.25 * 0.8, abs=0.05)


def test_the_error_of_several_tasks_counts_each_as_the_loss_is_told() -> None:
    proxy = load_proxy("digits-tasks")
    loss = slopes_of("multitask", "weighted_sum")
    orders = set()
    for split in range(6):
        weight = proxy.split(split).provided["weight"]
        orders.add(tuple(weight))
        assert sorted(weight) == [0.5, 1, 2]
        (result,) = proxy.train([loss], [Run(0, split, 0.003, epochs=4)])
        each = [result.metrics[name] for name in proxy.guards]
        assert result.metric == pytest.approx(np.average(each, weights=weight))
    assert len(orders) > 2  # a formula cannot take the weights for constants


def test_class_embeddings_are_learnt_beside_the_network() -> None:
    proxy = load_proxy("digits-unseen")
    loss = slopes_of("embedding", "cos_face")
    assert loss.names == ("e", "weights")
    (result,) = proxy.train([loss], [Run(0, 0, 0.001, epochs=4)])
    assert result.outcome is Outcome.SCORED


class Spoilt(Task):
    """A task whose error is nan."""

    def batch(self, x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        return x, {"rel": y[..., 0], "valid": y[..., 1] > 0}

    def errors(self, model: nn.Module, split: Split, x: Tensor, y: Tensor) -> Mapping[str, float]:
        return dict.fromkeys(("ndcg_error", "reciprocal_error", "swapped"), float("nan"))


@pytest.mark.parametrize("name", ["ring", "digits-made"])
def test_each_player_is_taught_by_a_loss_of_its_own_written_out(name: str) -> None:
    """One batch: the weights' slopes are those of two losses in plain torch, one a player.

    So are they where the pair's value is computed and sent back by torch, as a person would train.
    """
    proxy = load_proxy(name)
    model: Any = proxy.setting().model()
    x, y = (torch.as_tensor(part[:40]) for part in proxy.split(0).train)
    assert proxy.task is not None
    shown, _ = proxy.task.batch(x, y, torch.Generator().manual_seed(0))
    given = model(shown)
    assert torch.equal(given["g_real"], given["d_real"])
    torch.testing.assert_close(given["g_fake"], given["d_fake"])
    slopes = slopes_of("gan", "gan_non_saturating")
    found = slopes({name: value.detach() for name, value in given.items()})
    torch.autograd.backward([given[n] for n in found], list(found.values()))
    ours = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    value = evaluate(load_space("gan").losses["gan_non_saturating"].program, model(shown))
    value.backward()  # type: ignore[no-untyped-call]
    persons = [p.grad.clone() for p in model.parameters()]

    made = model.generator(shown[:, x.shape[1] : -1])
    score, bce = model.discriminator, nn.functional.binary_cross_entropy_with_logits
    real, fake = torch.ones(len(x)), torch.zeros(len(x))
    makes = torch.autograd.grad(bce(score(made), real), [*model.generator.parameters()])
    tells = torch.autograd.grad(
        bce(score(x), real) + bce(score(made.detach()), fake), [*model.discriminator.parameters()]
    )
    for mine, person, written in zip(ours, persons, [*makes, *tells], strict=True):
        torch.testing.assert_close(mine, written, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(person, written, rtol=1e-4, atol=1e-6)


def test_the_length_of_the_scores_gradient_is_that_of_small_steps() -> None:
    model: Any = load_proxy("ring").setting().model().double()
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.randn(6, NOISE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    share = torch.full((6, 1), 0.25, dtype=torch.float64)
    found = model(torch.cat([x, noise, share], 1))["grad_norm"]
    between = x + 0.25 * (model.generator(noise) - x)
    step = 1e-6 * torch.eye(2, dtype=torch.float64)
    score = model.discriminator
    slope = torch.stack([(score(between + s) - score(between - s)) / 2e-6 for s in step], 1)
    torch.testing.assert_close(found, slope.norm(dim=1), rtol=1e-5, atol=1e-8)


def test_whatever_goes_wrong_is_an_outcome() -> None:
    proxy: Proxy = load_proxy("queries")
    good = slopes_of("ranking", "pairwise_hinge")

    class Crash(Slopes):
        def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            raise RuntimeError("boom")

    crash = Crash(load_space("ranking").losses["list_net"].program)
    runs = [Run(1, 0, 0.01, epochs=1), Run(0, 0, 1e30, epochs=1), Run(0, 0, 0.01, epochs=1)]
    failed, diverged, scored = proxy.train([good, crash], runs)
    assert (failed.outcome, failed.detail) == (Outcome.FAILED, "RuntimeError: boom")
    assert diverged.outcome is Outcome.DIVERGED
    assert scored.outcome is Outcome.SCORED
    (invalid,) = replace(proxy, task=Spoilt()).train([good], runs[2:])
    assert invalid.outcome is Outcome.INVALID
    assert all(r.seconds > 0 for r in (failed, diverged, scored, invalid))


def test_a_loss_without_slopes_leaves_the_model_as_it_began() -> None:
    constant = slopes_of("ranking", "mean(square(rel), 'n s', valid)")
    assert constant.names == ()
    short, long = load_proxy("queries").train([constant], [Run(0, 0, 0.01, epochs=n) for n in (1, 3)])
    assert short.metric == long.metric


def test_an_optimiser_that_hangs_on_the_unit_of_a_loss_is_refused() -> None:
    proxy = load_proxy("queries")
    with pytest.raises(ProxyError, match="trained by Adam"):
        replace(proxy, default=replace(proxy.default, optimiser="sgd")).train(
            [slopes_of("ranking", "list_net")], [Run(0, 0, 0.01)]
        )


def test_a_job_is_plain_data_both_ways() -> None:
    job = {
        "proxy": "scenes",
        "space": "boxes",
        "losses": [
            {
                "formula": "mean(1 - iou + w * cls, 'n s', pos)",
                "constants": {"w": [0.5, 0, 1]},
                "scale": 0.0,  # flat on the probes: no matter
            }
        ],
        "runs": [{"loss": 0, "split": 0, "rate": 0.003, "epochs": 2}],
    }
    answer = json.loads(json.dumps(train(json.loads(json.dumps(job)))))
    assert answer["runs"][0]["outcome"] == "SCORED"
    assert set(answer["runs"][0]["metrics"]) == {"iou_error", "class_error", "ap_error"}


RUNAWAY = "mean(softplus(-gap) + softplus(g_fake), 'n m')"  # the generator helps the discriminator

CONTESTS = [
    ("queries", "pairwise_hinge", "mean(relu(gap), 'n s k', pair)", 0.1),  # pairs the wrong way round
    ("shapes", "ce_dice", "mean(dot(p, -log_p, 'c'), 'n s', valid)", 0.1),  # sure of anything
    ("scenes", "iou", "mean(cls, 'n s', pos)", 0.05),  # no word about places
    ("digits-unseen", "contrastive", "mean(d2, 'n m', same)", 0.1),  # nothing pushes: all coincide
    ("answers", "dpo", "mean(-chosen - rejected, 'n')", 0.2),  # likes both answers
    ("ring", "lsgan", RUNAWAY, 1.0),
    ("digits-made", "lsgan", RUNAWAY, 500.0),
    ("digits-coded", "elbo", "mean(misfit, 'n')", 50.0),  # no word about the code
    ("digits-views", "nt_xent", "mean(square(1 - cosine), 'n m', positive)", 0.03),  # nothing pushes
    ("digits-sharpened", "perceptual_layers", "mean(rough, 'n')", 0.3),  # blank paper is smoothest
    ("digits-tasks", "uncertainty_weighting", "min(losses, 'l')", 0.1),  # drops all tasks but the easiest
    ("digits-ranked", "pairwise_logistic", "mean(relu(gap), 'n s k', pair)", 0.2),  # the wrong way round
]


@pytest.mark.parametrize(("name", "classical", "broken", "gap"), CONTESTS)
def test_the_loss_of_the_field_beats_a_broken_one(name: str, classical: str, broken: str, gap: float) -> None:
    proxy = load_proxy(name)
    losses = [slopes_of(proxy.space, text) for text in (classical, broken)]
    rate = proxy.setting().rates[0]
    found = proxy.train(losses, [Run(loss, split, rate) for split in (0, 1) for loss in (0, 1)])
    for good, bad in zip(found[::2], found[1::2], strict=True):  # on each split
        assert good.metric is not None
        assert bad.metric is not None
        assert good.metric < bad.metric - gap


def test_a_collapsed_representation_shows_in_a_guard() -> None:
    proxy = load_proxy("digits-views")
    losses = [slopes_of("contrastive", text) for row in CONTESTS if row[0] == proxy.name for text in row[1:3]]
    good, collapsed = proxy.train(losses, [Run(0, 0, 0.003, epochs=8), Run(1, 0, 0.003, epochs=8)])
    assert collapsed.metrics["uniformity"] > -0.2 > good.metrics["uniformity"]
    assert collapsed.metrics["alignment"] < good.metrics["alignment"]  # alone it would win
