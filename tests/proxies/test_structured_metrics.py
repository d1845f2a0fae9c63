"""Every metric of the structured proxies, computed a second, dumber way."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score, jaccard_score, r2_score
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from losssearch.proxies.registry import load_proxy
from losssearch.proxies.shipped import contrastive, sharpening
from losssearch.proxies.shipped.boxes import ap_error, iou
from losssearch.proxies.shipped.coded import negative_log_likelihood
from losssearch.proxies.shipped.contrastive import alignment, probe_error, uniformity, view
from losssearch.proxies.shipped.embedding import map_r_error, recall_error
from losssearch.proxies.shipped.judges import judge
from losssearch.proxies.shipped.made import classes_missed
from losssearch.proxies.shipped.multitask import slant, stroke_width, unexplained
from losssearch.proxies.shipped.ordinal import deal
from losssearch.proxies.shipped.preference import drift, missed
from losssearch.proxies.shipped.ranking import ndcg_error, reciprocal_error, swapped
from losssearch.proxies.shipped.ring import energy, modes_missed, stray
from losssearch.proxies.shipped.segmentation import boundary_error, miou_error
from losssearch.proxies.shipped.sharpening import Sharpener, Sharpening, psnr, roughness

RNG = np.random.default_rng(7)


def ranked(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    score = rng.normal(size=(30, 14)).round(1)  # with ties
    grade = rng.integers(0, 5, (30, 14)) * (rng.random((30, 14)) < 0.4)
    grade[0] = 0  # a query without a relevant document
    valid = np.arange(14) < rng.integers(2, 15, (30, 1))
    return torch.tensor(score), torch.tensor(grade, dtype=torch.float64), torch.tensor(valid)


@pytest.mark.parametrize("seed", [0, 1])
def test_ranking_errors_equal_those_of_lists(seed: int) -> None:
    score, grade, valid = ranked(seed)
    ndcg, reciprocal, right, pairs = [], [], 0.0, 0
    for s, g, v in zip(score.tolist(), grade.tolist(), valid.tolist(), strict=True):
        documents = [(a, b) for a, b, there in zip(s, g, v, strict=True) if there]
        listed = [b for _, b in sorted(documents, key=lambda d: -d[0])]
        ideal = sorted((b for _, b in documents), reverse=True)
        for (a, b), (c, d) in itertools.combinations(documents, 2):
            if b != d:
                pairs += 1
                right += 0.5 if a == c else float((a > c) == (b > d))
        if max(ideal) == 0:
            continue
        found, best = (
            sum((2**b - 1) / math.log2(i + 2) for i, b in enumerate(row[:10])) for row in (listed, ideal)
        )
        ndcg.append(found / best)
        reciprocal.append(1 / (listed.index(max(listed)) + 1))
    assert ndcg_error(score, grade, valid) == pytest.approx(1 - np.mean(ndcg), abs=1e-12)
    assert reciprocal_error(score, grade, valid) == pytest.approx(1 - np.mean(reciprocal), abs=1e-12)
    assert swapped(score, grade, valid) == pytest.approx(1 - right / pairs, abs=1e-12)


def test_the_right_order_costs_nothing_and_a_single_document_neither() -> None:
    _, grade, valid = ranked(2)
    for error in (ndcg_error, reciprocal_error, swapped):
        assert error(grade, grade, valid) == pytest.approx(0, abs=1e-12)
    one = torch.ones(1, 1)
    assert ndcg_error(one, one, one.bool()) == 0


def test_scores_that_are_not_finite_give_no_error_at_all() -> None:
    score, grade, valid = ranked(3)
    score[2, 0] = torch.nan
    for error in (ndcg_error, reciprocal_error, swapped):
        assert math.isnan(error(score, grade, valid))
    e, label = torch.full((4, 2), torch.inf), torch.tensor([0, 0, 1, 1])
    assert math.isnan(recall_error(e, label))
    assert math.isnan(map_r_error(e, label))


def test_mean_iou_equals_sklearns_jaccard() -> None:
    found, truth = RNG.integers(0, 4, (6, 256)), RNG.integers(0, 4, (6, 256))
    valid = RNG.random((6, 256)) < 0.9
    expected = 1 - jaccard_score(truth[valid], found[valid], average="macro")
    assert miou_error(*map(torch.tensor, (found, truth, valid))) == pytest.approx(expected, abs=1e-12)


def outline(mask: set[tuple[int, int]], side: int) -> set[tuple[int, int]]:
    inside = range(side)
    return {
        (y, x)
        for y, x in mask
        for a, b in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1))
        if a in inside and b in inside and (a, b) not in mask
    }


def test_boundary_f1_equals_that_of_sets_of_pixels() -> None:
    side, classes = 9, 3
    label = RNG.integers(0, classes, (2, 4, 3, 3)).repeat(3, -1).repeat(3, -2)  # patches
    label[0][RNG.random(label[0].shape) < 0.15] = 0
    masks = [torch.tensor(one)[:, None] == torch.arange(classes)[:, None, None] for one in label]
    scores = []
    for k in range(1, classes):
        counts = np.zeros(4)
        for pictures in zip(*label, strict=True):
            a, b = (outline({(int(y), int(x)) for y, x in np.argwhere(p == k)}, side) for p in pictures)
            for i, (one, two) in enumerate(((a, b), (b, a))):
                near = [any(max(abs(y - v), abs(x - w)) <= 1 for v, w in two) for y, x in one]
                counts[2 * i : 2 * i + 2] += sum(near), len(near)
        precision, recall = counts[0] / counts[1], counts[2] / counts[3]
        scores.append(2 * precision * recall / (precision + recall))
    assert boundary_error(*masks) == pytest.approx(1 - np.mean(scores), abs=1e-6)
    assert boundary_error(masks[1], masks[1]) == 0
    assert boundary_error(masks[1], torch.zeros_like(masks[1])) == 1


def test_iou_counts_unit_squares() -> None:
    a, b = RNG.integers(0, 6, (2, 40, 4))
    for one, two in zip(a, b, strict=True):
        squares = [
            {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])} for box in (one, two)
        ]
        union = squares[0] | squares[1]
        expected = len(squares[0] & squares[1]) / len(union) if union else 0.0
        found = iou(torch.tensor(one, dtype=torch.float64), torch.tensor(two, dtype=torch.float64))
        assert float(found) == pytest.approx(expected, abs=1e-9)


def test_average_precision_equals_sklearns_on_greedily_matched_detections() -> None:
    scenes, anchors, classes = 5, 6, 3
    truth = RNG.uniform(0, 6, (scenes, anchors, 2))
    truth = np.concatenate([truth, truth + RNG.uniform(2, 5, truth.shape)], -1)
    boxes = truth[:, RNG.permutation(anchors)] + 0.4 * RNG.normal(size=truth.shape)
    boxes[:, 1] = boxes[:, 0]  # found twice
    logits, label = RNG.normal(size=(scenes, anchors, classes)), RNG.integers(0, classes, (scenes, anchors))
    logits += 2 * np.eye(classes)[label]
    pos = RNG.random((scenes, anchors)) < 0.7
    taken, hits = set(), []
    detections = [(logits[s, a].max(), s, a) for s in range(scenes) for a in range(anchors)]
    for confidence, s, a in sorted(detections, reverse=True):
        best, which = 0.0, None
        for o in range(anchors):
            overlap = float(iou(torch.tensor(boxes[s, a]), torch.tensor(truth[s, o])))
            fits = pos[s, o] and label[s, o] == logits[s, a].argmax() and overlap >= 0.5
            if fits and (s, o) not in taken and overlap > best:
                best, which = overlap, (s, o)
        hits.append((confidence, which is not None))
        taken.add(which)
    right = [hit for _, hit in hits]
    assert 0 < sum(right) < pos.sum()
    expected = average_precision_score(right, [c for c, _ in hits]) * sum(right) / pos.sum()
    found = ap_error(*map(torch.tensor, (boxes, logits, truth, label, pos)))
    assert found == pytest.approx(1 - expected, abs=1e-12)


def test_retrieval_errors_equal_those_of_sorted_neighbours() -> None:
    e, label = RNG.normal(size=(40, 5)), RNG.integers(0, 4, 40)
    e += 1.5 * np.eye(5)[label]
    order = NearestNeighbors(n_neighbors=40, metric="cosine").fit(e).kneighbors(e)[1]
    first, precisions = [], []
    for i, neighbours in enumerate(order):
        alike = [label[j] == label[i] for j in neighbours if j != i]
        r = sum(alike)
        first.append(alike[0])
        precisions.append(sum(sum(alike[: k + 1]) / (k + 1) for k in range(r) if alike[k]) / r)
    assert recall_error(torch.tensor(e), torch.tensor(label)) == pytest.approx(1 - np.mean(first), abs=1e-12)
    found = map_r_error(torch.tensor(e), torch.tensor(label))
    assert found == pytest.approx(1 - np.mean(precisions), abs=1e-12)


def test_embeddings_that_all_coincide_are_told_apart_no_better_than_by_chance() -> None:
    label = torch.tensor([0] * 10 + [1] * 10 + [2] * 10)
    assert recall_error(torch.ones(30, 3).double(), label) == pytest.approx(1 - 9 / 29)


def test_missed_reward_and_drift_of_policies_written_out() -> None:
    now, first = RNG.dirichlet(np.ones(4), (2, 7))
    reward = RNG.normal(size=(7, 4))
    won = possible = 0.0
    for p, q, r in zip(now, first, reward, strict=True):
        won += sum(a * c for a, c in zip(p, r, strict=True)) - sum(b * c for b, c in zip(q, r, strict=True))
        possible += max(r) - sum(b * c for b, c in zip(q, r, strict=True))
    logs = [torch.tensor(np.log(p)) for p in (now, first)]
    assert missed(*logs, torch.tensor(reward)) == pytest.approx(1 - won / possible)
    assert missed(logs[1], logs[1], torch.tensor(reward)) == 1
    assert drift(*logs) == pytest.approx(np.mean(entropy(now, first, axis=1)))


def test_the_probe_equals_sklearns_ridge() -> None:
    labels, truth = RNG.integers(0, 3, 90), RNG.integers(0, 3, 60)
    x, z = (RNG.normal(size=(len(y), 4)) + 0.6 * np.eye(4)[y] for y in (labels, truth))
    strength = 1e-2 * np.square(x - x.mean(0)).mean() * len(x)
    model = Ridge(alpha=strength).fit(x, np.eye(3)[labels])
    expected = np.mean(model.predict(z).argmax(1) != truth)
    hot = [torch.tensor(np.eye(3)[y]) for y in (labels, truth)]
    assert probe_error(torch.tensor(x), hot[0], torch.tensor(z), hot[1]) == pytest.approx(expected)
    assert 0 < expected < 0.67


def test_alignment_and_uniformity_are_means_over_pairs() -> None:
    one, two = RNG.normal(size=(2, 9, 4))
    one, two = (e / np.linalg.norm(e, axis=1, keepdims=True) for e in (one, two))
    apart = [sum((a - b) ** 2 for a, b in zip(u, v, strict=True)) for u, v in zip(one, two, strict=True)]
    assert alignment(torch.tensor(one), torch.tensor(two)) == pytest.approx(np.mean(apart))
    close = [math.exp(-2 * float(np.sum((u - v) ** 2))) for u, v in itertools.combinations(one, 2)]
    assert uniformity(torch.tensor(one)) == pytest.approx(math.log(np.mean(close)))
    assert uniformity(torch.ones(5, 3) / math.sqrt(3)) == 0


def test_a_view_is_the_image_moved_by_a_pixel_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "NOISE", 0.0)
    x = RNG.uniform(0.1, 1, (20, 8, 8))
    found = view(torch.tensor(x).flatten(1), torch.Generator().manual_seed(0)).numpy().reshape(x.shape)
    steps: list[Any] = []
    for image, seen in zip(x, found, strict=True):
        for down, along in itertools.product((-1, 0, 1), repeat=2):
            moved = np.zeros_like(image)
            for y, c in itertools.product(range(8), repeat=2):
                if 0 <= y - down < 8 and 0 <= c - along < 8:
                    moved[y, c] = image[y - down, c - along]
            strength = seen.sum() / moved.sum()
            if np.allclose(seen, strength * moved, atol=1e-6) and 0.7 <= strength <= 1.3:
                steps.append((down, along))
    assert len(steps) == 20
    assert len(set(steps)) > 3


def test_psnr_of_known_errors() -> None:
    truth = torch.rand(5, 64, generator=torch.Generator().manual_seed(0))
    for off, decibels in ((1.0, 0.0), (0.1, 20.0), (0.01, 40.0)):
        assert psnr(truth + off, truth) == pytest.approx(decibels, abs=1e-3)
        assert psnr(truth - off, truth) == pytest.approx(decibels, abs=1e-3)
    assert psnr(truth, truth) == pytest.approx(120)


def test_roughness_is_the_mean_step_between_neighbours() -> None:
    images = RNG.random((3, 8, 8))
    steps = [
        np.mean([abs(image[y + a, x + b] - image[y, x]) for y in range(8 - a) for x in range(8 - b)])
        for a, b in ((1, 0), (0, 1))
        for image in images
    ]
    assert roughness(torch.tensor(images).flatten(1)) == pytest.approx(sum(steps) / 3)
    board = torch.tensor(np.indices((8, 8)).sum(0) % 2).double()
    assert roughness(board.flatten().unsqueeze(0)) == 2


def test_small_pictures_are_means_of_four_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpening, "NOISE", 0.0)
    draw: Any = sharpening._split.__wrapped__
    small, full = draw(0, "default", "search").valid
    for image, y in zip(small[:20].reshape(-1, 4, 4), full[:20, :64].reshape(-1, 8, 8), strict=True):
        for i, j in itertools.product(range(4), repeat=2):
            assert image[i, j] == pytest.approx(y[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean(), abs=1e-6)


def test_losses_of_pictures_are_told_nothing_of_the_digit_and_look_through_another_judge_than_marks() -> None:
    task, draw = Sharpening(), torch.Generator().manual_seed(0)
    x, y = torch.rand(6, 16), torch.rand(6, 65)
    other = torch.cat([y[:, :64], y[:, 64:] + 1], 1)
    one, two = (task.batch(x, target, draw)[1] for target in (y, other))
    assert all(torch.equal(one[name], two[name]) for name in one)
    given = Sharpener()(x)
    near, deep = judge(sharpening._SEEN_BY).layers(given["pixels_x"].flatten(1))
    assert torch.equal(given["f"], near.flatten(2))
    assert torch.equal(given["f_deep"], deep.flatten(2))
    marks = judge(sharpening._READ_BY)
    assert not torch.equal(marks.near.weight, judge(sharpening._SEEN_BY).near.weight)


def bar(width: float, shear: float = 0.0, first: float = 3.0) -> Any:
    """A bar over all rows, whose left edge moves by `shear` columns a row up; a pixel holds its share."""
    image = np.zeros((8, 8))
    for y, x in itertools.product(range(8), repeat=2):
        left = first + shear * (3.5 - y)
        image[y, x] = max(0.0, min(x + 1, left + width) - max(x, left))
    return image.reshape(1, 64)


@pytest.mark.parametrize("shear", [-0.5, -0.2, 0.0, 0.25, 0.6])
def test_the_slant_of_a_sheared_bar_is_its_shear(shear: float) -> None:
    for width in (1.0, 2.0):
        assert slant(bar(width, shear)) == pytest.approx([shear], abs=1e-9)
    assert slant(3 * bar(1.0, shear)) == pytest.approx([shear], abs=1e-9)  # however strong the ink


def test_what_has_no_rows_or_no_ink_has_no_slant_and_no_width() -> None:
    line = np.zeros((1, 8, 8))
    line[0, 4, 1:7] = 1
    assert slant(line.reshape(1, 64)) == 0
    assert stroke_width(line.reshape(1, 64)) == pytest.approx([1])
    blank = np.zeros((1, 64))
    assert slant(blank) == stroke_width(blank) == 0


@pytest.mark.parametrize("width", [1, 2, 3])
def test_the_width_of_a_bar_is_its_width_standing_or_lying_and_so_is_an_angles(width: int) -> None:
    standing = bar(width)
    lying = standing.reshape(8, 8).T.reshape(1, 64)
    assert stroke_width(np.concatenate([standing, lying])) == pytest.approx([width, width])
    angle = np.zeros((8, 8))
    angle[:, :width] = angle[8 - width :, :] = 1
    assert stroke_width(angle.reshape(1, 64)) == pytest.approx([width])


def test_what_is_left_unexplained_is_one_less_r_squared_and_never_more_than_one() -> None:
    truth = RNG.normal(2, 3, 50)
    found = truth + RNG.normal(size=50)
    given = [torch.tensor(v) for v in (found, truth)]
    assert unexplained(*given) == pytest.approx(1 - r2_score(truth, found))
    assert unexplained(given[1], given[1]) == 0
    assert unexplained(-given[0], given[1]) == 1
    assert math.isnan(unexplained(given[0] / 0, given[1]))


def test_lists_are_of_ten_to_twenty_different_samples() -> None:
    rows, there = deal(500, 60, torch.Generator().manual_seed(0))
    lists = [r[t > 0].tolist() for r, t in zip(rows, there, strict=True)]
    assert {len(one) for one in lists} == set(range(10, 21))
    assert all(len(set(one)) == len(one) for one in lists)
    assert np.mean([len(one) for one in lists]) == pytest.approx(15, abs=0.5)
    assert {i for one in lists for i in one} == set(range(60))


# What was made.


def test_the_energy_distance_is_that_of_all_pairs() -> None:
    a, b = torch.tensor(RNG.normal(size=(5, 2))), torch.tensor(RNG.normal(1.0, 2.0, size=(7, 2)))

    def apart(one: Tensor, two: Tensor) -> float:
        return float(np.mean([math.dist(p, q) for p in one.tolist() for q in two.tolist()]))

    assert energy(a, b) == pytest.approx(2 * apart(a, b) - apart(a, a) - apart(b, b), abs=1e-12)
    assert energy(a, a) == pytest.approx(0, abs=1e-12)
    assert energy(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])) == pytest.approx(10)


def points(seed: int) -> Tensor:
    return torch.as_tensor(load_proxy("ring").split(seed).valid[0])


def test_neither_one_cloud_nor_a_blur_passes_for_the_ring() -> None:
    real, other = points(0), points(1)
    one = real[real[:, 0] > 0.7 + 0.15 * abs(real[:, 1])]  # what lies to the right
    blur = real + 0.3 * torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    assert energy(real, other) < 0.006
    assert energy(one, other) > 0.5
    assert energy(blur, other) > 3 * energy(real, other)


def test_modes_are_missed_that_get_less_than_a_tenth_of_their_due() -> None:
    where = [(math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)) for k in range(8)]

    def cloud(*counts: int, beside: int = 0) -> Tensor:
        rows = [list(p) for p, count in zip(where, counts, strict=False) for _ in range(count)]
        return torch.tensor(rows + [[5.0, 0.0]] * beside)

    assert (modes_missed(cloud(*[10] * 8)), stray(cloud(*[10] * 8))) == (0, 0)
    assert modes_missed(cloud(30, 30, 20)) == 5 / 8
    assert modes_missed(cloud(394, 394, 12)) == 5 / 8  # 12 of 800: more than a tenth of 100
    assert modes_missed(cloud(396, 396, 8)) == 6 / 8
    assert (modes_missed(cloud(beside=8)), stray(cloud(beside=8))) == (1, 1)
    assert stray(cloud(*[10] * 8, beside=20)) == 20 / 100
    assert stray(points(0)) < 0.02  # of real points e^-4.5, or .011, lie beyond three deviations


def test_classes_count_as_made_only_where_they_can_be_read() -> None:
    hot = torch.eye(4, dtype=torch.float64)
    even = hot.repeat(10, 1)
    assert classes_missed(even) == 0
    assert classes_missed(hot[:2].repeat(20, 1)) == 2 / 4
    assert classes_missed(0.8 * even + 0.05) == 1  # all at .85
    assert classes_missed(torch.cat([hot[0].expand(399, 4), hot[1:]])) == 3 / 4  # one of 402 each


# The likelihood of a code of one component: the prior times Bernoulli's, summed on a fine grid.

LOGITS = torch.tensor([[1.5, -2.0, 0.7], [0.2, 0.5, -1.0]], dtype=torch.float64)  # slope and offset a pixel
IMAGES = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 1]], dtype=torch.float64)


def decode(z: Tensor) -> Tensor:
    return z * LOGITS[0] + LOGITS[1]


def exact_nll() -> float:
    z = np.linspace(-9, 9, 20001)
    p = 1 / (1 + np.exp(-(z[:, None] * LOGITS[0].numpy() + LOGITS[1].numpy())))
    prior = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    return float(
        np.mean([-math.log((prior * np.where(x > 0, p, 1 - p).prod(1)).sum()) for x in IMAGES.numpy()])
    )


def bound(k: int, seed: int, mu: float = 0.3, log_var: float = -0.5) -> float:
    noise = torch.randn(k, 3, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shape = torch.ones(3, 1, dtype=torch.float64)
    return negative_log_likelihood(IMAGES, mu * shape, log_var * shape, noise, decode)


def test_with_many_draws_the_bound_is_the_likelihood() -> None:
    exact = exact_nll()
    for mu, log_var in ((0.3, -0.5), (0.0, 0.0), (-0.5, 0.4)):
        assert bound(200_000, 0, mu, log_var) == pytest.approx(exact, abs=0.01)


def test_with_few_draws_it_lies_above_and_falls_with_their_number() -> None:
    few, some = (np.mean([bound(k, seed) for seed in range(400)]) for k in (1, 10))
    assert few > some + 0.05
    assert some > exact_nll()


def test_a_decoder_that_ignores_the_code_has_the_likelihood_of_its_pixels() -> None:
    logits = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    zero, noise = torch.zeros(3, 1), torch.randn(4, 3, 1, generator=torch.Generator().manual_seed(0))
    found = negative_log_likelihood(IMAGES, zero, zero, noise, lambda z: logits.expand(*z.shape[:-1], 3))
    pixels = torch.nn.functional.binary_cross_entropy_with_logits(logits.expand(3, 3), IMAGES)
    assert found == pytest.approx(3 * float(pixels), abs=1e-6)
