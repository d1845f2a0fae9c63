"""The hard cases of every family can be written, and are right in value and gradient.

Each formula stands beside a second way: torch's own function, or a loop.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from losssearch.errors import FormulaError
from losssearch.execution.reference import compiled, evaluate
from losssearch.language.formula import parse
from losssearch.language.signature import Input, Role, Signature
from tests.language.programs import slopes

Data = dict[str, Tensor]


def signature(axes: str, copies: Mapping[str, str], **roles: str) -> Signature:
    """Inputs by role: `prediction="e: n c, d: n"`."""
    inputs = {}
    for role, text in roles.items():
        for one in filter(None, text.split(",")):
            name, _, own = one.partition(":")
            inputs[name.strip()] = Input(name.strip(), tuple(own.split()), Role(role))
    return Signature(tuple(axes.split()), inputs, copies)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def agrees(
    text: str, space: Signature, data: Data, second_way: Callable[[Data], Tensor], **constants: float
) -> None:
    """Value, autograd's gradient and the derivative program's, in everything that is differentiated."""
    program = parse(text, space, constants)
    wrt = tuple(n for n in space.differentiable if n in program.inputs)
    mine, other = (
        {k: v.clone().requires_grad_() if k in wrt else v for k, v in data.items()} for _ in range(2)
    )
    value, expected = compiled(program)(mine)[0], second_way(other)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    own = torch.autograd.grad(value, [mine[n] for n in wrt], allow_unused=True)
    wanted = torch.autograd.grad(expected, [other[n] for n in wrt], allow_unused=True)
    for n, slope, want, derived in zip(wrt, own, wanted, slopes(program, data, wrt), strict=True):
        want = torch.zeros_like(data[n]) if want is None else want
        slope = torch.zeros_like(data[n]) if slope is None else slope
        torch.testing.assert_close(slope, want, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(derived, want, rtol=1e-9, atol=1e-12)


# Classification over positions, with weights and positions that are ignored.

DENSE = signature(
    "n c s", {}, prediction="logits: n c s", target="target: n c s", mask="valid: n s",
    provided="weight: c, count: c",
)  # fmt: skip
LOG_P = "log_p = log_softmax(logits, 'c'); p = exp(log_p);"


def dense(n: int = 3, c: int = 4, s: int = 5) -> Data:
    labels = normal(n, c, s, seed=1).argmax(1)
    return {
        "logits": normal(n, c, s),
        "target": F.one_hot(labels, c).transpose(1, 2).double(),
        "valid": normal(n, s, seed=2) > -0.5,
        "weight": normal(c, seed=3).exp(),
        "count": torch.tensor([900.0, 50, 7, 1], dtype=torch.float64)[:c],
    }


def labels_of(x: Data) -> Tensor:
    return x["target"].argmax(1).masked_fill(~x["valid"], -100)


def test_cross_entropy_with_weights_and_ignored_positions() -> None:
    agrees(
        f"{LOG_P} mean(-sum(target * log_p, 'c'), 'n s', valid * sum(target * weight, 'c'))",
        DENSE, dense(), lambda x: F.cross_entropy(x["logits"], labels_of(x), x["weight"]),
    )  # fmt: skip


def test_label_smoothing_has_two_numerators_over_one_denominator() -> None:
    agrees(
        f"{LOG_P} wy = valid * sum(target * weight, 'c');"
        "(1 - e) * mean(-sum(target * log_p, 'c'), 'n s', wy)"
        " + e / C * sum(-sum(weight * log_p, 'c'), 'n s', valid) / sum(wy, 'n s')",
        DENSE, dense(),
        lambda x: F.cross_entropy(x["logits"], labels_of(x), x["weight"], label_smoothing=0.2),
        e=0.2,
    )  # fmt: skip


def test_class_balanced_weights() -> None:
    def second_way(x: Data) -> Tensor:
        weight = (1 - 0.99) / (1 - 0.99 ** x["count"])
        return F.cross_entropy(x["logits"], labels_of(x), weight)

    agrees(
        f"{LOG_P} w = (1 - b) / (1 - b**count);"
        "mean(-sum(target * log_p, 'c'), 'n s', valid * sum(target * w, 'c'))",
        DENSE, dense(), second_way, b=0.99,
    )  # fmt: skip


@pytest.mark.parametrize(("within", "across"), [("s", "n c"), ("n s", "c")])
def test_dice_of_each_image_or_of_the_batch(within: str, across: str) -> None:
    def second_way(x: Data) -> Tensor:
        p, t = x["logits"].softmax(1), x["target"]
        dims = (2,) if within == "s" else (0, 2)
        return (1 - (2 * (p * t).sum(dims) + 0.5) / (p.sum(dims) + t.sum(dims) + 0.5)).mean()

    agrees(
        f"{LOG_P} mean(1 - (2 * sum(p * target, '{within}') + e)"
        f" / (sum(p, '{within}') + sum(target, '{within}') + e), '{across}')",
        DENSE, dense(), second_way, e=0.5,
    )  # fmt: skip


FLAT = signature("n c", {}, prediction="logits: n c", target="target: n c")
LOVASZ = (
    "p = softmax(logits, 'c'); e = abs(target - p); ts = sort_by(target, e, 'n'); G = sum(target, 'n');"
    "j = 1 - (G - cumsum(ts, 'n')) / (G + cumsum(1 - ts, 'n'));"
    "mean(dot(sort_by(e, e, 'n'), detach(diff(j, 'n')), 'n'), 'c', any(target, 'n'))"
)


def lovasz(x: Data) -> Tensor:
    """Sum over the errors, largest first, of what each mistake adds to the Jaccard loss of the mistakes."""
    p, values = x["logits"].softmax(1), []
    for c in range(p.shape[1]):
        own = {i for i in range(len(p)) if x["target"][i, c] > 0}
        if not own:
            continue
        error = [1 - p[i, c] if i in own else p[i, c] for i in range(len(p))]
        mistakes: set[int] = set()
        total, before = p.new_zeros(()), 0.0
        for i in sorted(range(len(p)), key=lambda i: -float(error[i].detach())):
            mistakes.add(i)
            now = 1 - len(own - mistakes) / len(own | mistakes)
            total, before = total + error[i] * (now - before), now
        values.append(total)
    return torch.stack(values).mean()


@pytest.mark.parametrize("n", [1, 2, 9])
def test_lovasz_softmax(n: int) -> None:
    labels = normal(n, 3, seed=4).argmax(1) % 2  # the last class is absent
    data = {"logits": 2 * normal(n, 3), "target": F.one_hot(labels, 3).double()}
    agrees(LOVASZ, FLAT, data, lovasz)


def test_lovasz_softmax_without_any_label_is_nothing() -> None:
    data = {"logits": normal(4, 3), "target": torch.zeros(4, 3, dtype=torch.float64)}
    assert evaluate(parse(LOVASZ, FLAT), data) == 0


# Pairs and triplets of embeddings.

PAIRS = signature(
    "n m k c", {"m": "n", "k": "n"}, prediction="e: n c, a: n c, b: n c", target="y: n", mask="same: n m",
)  # fmt: skip
DISTANCE = "d = sqrt(maximum(sum(square(e - like(e, m='n')), 'c'), 1e-12));"
MASKS = "i = cumsum(y == y, 'n'); pos = same * (1 - (i == like(i, m='n'))); neg = 1 - same;"


def embeddings(n: int = 6, seed: int = 0) -> Data:
    y = torch.tensor([0, 1, 0, 2, 1, 0], dtype=torch.float64)[:n]
    return {
        "e": normal(n, 3, seed=seed), "a": normal(n, 3, seed=5), "b": normal(n, 3, seed=6),
        "y": y, "same": y[:, None] == y,
    }  # fmt: skip


def plain(value: Tensor) -> float:
    return float(value.detach())


def distance(x: Data, i: int, j: int) -> Tensor:
    return (x["e"][i] - x["e"][j]).square().sum().sqrt()


def others(x: Data, i: int) -> tuple[list[int], list[int]]:
    indices = range(len(x["y"]))
    same = [j for j in indices if j != i and x["y"][j] == x["y"][i]]
    return same, [j for j in indices if x["y"][j] != x["y"][i]]


def batch_hard(x: Data) -> Tensor:
    values = []
    for i in range(len(x["y"])):
        pos, neg = others(x, i)
        if pos and neg:
            far = max((distance(x, i, j) for j in pos), key=plain)
            near = min((distance(x, i, j) for j in neg), key=plain)
            values.append((far - near + 0.3).clamp(min=0))
    return torch.stack(values).mean() if values else 0 * x["e"].sum()


def semi_hard(x: Data) -> Tensor:
    """Against the nearest negative that is farther than the positive; pairs without one are left out."""
    values = []
    for i in range(len(x["y"])):
        pos, neg = others(x, i)
        for j in pos:
            d = distance(x, i, j)
            beyond = [distance(x, i, k) for k in neg if distance(x, i, k) > d]
            if beyond:
                values.append((d - min(beyond, key=plain) + 0.9).clamp(min=0))
    return torch.stack(values).mean()


BATCH_HARD = (
    f"{DISTANCE} {MASKS}"
    "mean(relu(max(d, 'm', pos) - min(d, 'm', neg) + margin), 'n', any(pos, 'm') * any(neg, 'm'))"
)
SEMI_HARD = (
    f"{DISTANCE} {MASKS} ok = like(neg, k='m') * (like(d, k='m') > d);"
    "mean(relu(d - min(like(d, k='m'), 'k', ok) + margin), 'n m', pos * any(ok, 'k'))"
)


def test_a_position_along_an_axis_is_a_cumulative_sum_of_ones() -> None:
    program = parse("cumsum(y == y, 'n')", PAIRS, scalar=False)
    assert compiled(program)(embeddings())[0].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("n", [6, 3, 1])
def test_triplets_with_the_hardest_of_the_batch(n: int) -> None:
    agrees(BATCH_HARD, PAIRS, embeddings(n), batch_hard, margin=0.3)


@pytest.mark.parametrize("seed", range(3))
def test_triplets_with_semi_hard_negatives(seed: int) -> None:
    agrees(SEMI_HARD, PAIRS, embeddings(seed=seed), semi_hard, margin=0.9)


@pytest.mark.parametrize("text", [BATCH_HARD, SEMI_HARD])
def test_an_empty_batch_of_embeddings_is_nothing(text: str) -> None:
    program = parse(text, PAIRS, {"margin": 0.3})
    assert evaluate(program, embeddings(0)) == 0
    assert slopes(program, embeddings(0), ("e",))[0].shape == (0, 3)


def test_info_nce() -> None:
    def second_way(x: Data) -> Tensor:
        sims = F.normalize(x["a"], dim=1) @ F.normalize(x["b"], dim=1).T
        return F.cross_entropy(sims / 0.5, torch.arange(len(sims)))

    agrees(
        "ua = a / sqrt(sum(square(a), 'c')); ub = b / sqrt(sum(square(b), 'c'));"
        "z = dot(ua, like(ub, m='n'), 'c') / tau;"
        "mean(logsumexp(z, 'm') - dot(ua, ub, 'c') / tau, 'n')",
        PAIRS, embeddings(), second_way, tau=0.5,
    )  # fmt: skip


def test_supervised_contrastive() -> None:
    def second_way(x: Data) -> Tensor:
        u, values = F.normalize(x["e"], dim=1), []
        for i in range(len(u)):
            pos, neg = others(x, i)
            if pos:
                rest = torch.stack([u[i] @ u[j] / 0.2 for j in pos + neg])
                own = [u[i] @ u[j] / 0.2 - torch.logsumexp(rest, 0) for j in pos]
                values.append(-torch.stack(own).mean())
        return torch.stack(values).mean()

    agrees(
        f"{MASKS} u = e / sqrt(sum(square(e), 'c')); z = dot(u, like(u, m='n'), 'c') / tau;"
        "mean(logsumexp(z, 'm', 1 - (i == like(i, m='n'))) - mean(z, 'm', pos), 'n', any(pos, 'm'))",
        PAIRS, embeddings(), second_way, tau=0.2,
    )  # fmt: skip


ARC = signature("n c d", {}, prediction="e: n d", parameter="W: c d", target="target: n c")


def test_arc_face_with_the_weights_of_the_last_layer() -> None:
    labels = torch.tensor([0, 2, 1, 2])
    data = {"e": normal(4, 5), "W": normal(3, 5, seed=7), "target": F.one_hot(labels, 3).double()}

    def second_way(x: Data) -> Tensor:
        cos = F.normalize(x["e"], dim=1) @ F.normalize(x["W"], dim=1).T
        moved = torch.cos(torch.acos(cos) + 0.3)
        return F.cross_entropy(8 * torch.where(x["target"] > 0, moved, cos), labels)

    agrees(
        "cos_t = dot(e / sqrt(sum(square(e), 'd')), W / sqrt(sum(square(W), 'd')), 'd');"
        "moved = cos_t * cos(m) - sqrt(1 - square(cos_t)) * sin(m);"
        "z = s * (cos_t + target * (moved - cos_t)); mean(-dot(target, log_softmax(z, 'c'), 'c'), 'n')",
        ARC, data, second_way, m=0.3, s=8.0,
    )  # fmt: skip


# What generates: samples, pairs of losses, gradient norms, features.

ELBO = signature(
    "n k z c", {}, prediction="mu: n z, log_var: n z, logits: n k c", target="x: n c", noise="eps: n k z"
)


def test_evidence_lower_bound_over_several_samples() -> None:
    def second_way(x: Data) -> Tensor:
        q = torch.distributions.Normal(x["mu"], (x["log_var"] / 2).exp())
        prior = torch.distributions.Normal(torch.zeros_like(x["mu"]), torch.ones_like(x["mu"]))
        kl = torch.distributions.kl_divergence(q, prior).sum(1)
        wanted = x["x"][:, None].expand_as(x["logits"])
        bce = F.binary_cross_entropy_with_logits(x["logits"], wanted, reduction="none")
        return (bce.sum(2).mean(1) + 2 * kl).mean()

    data = {"mu": normal(3, 2), "log_var": normal(3, 2, seed=1), "logits": normal(3, 4, 5, seed=2)}
    data["x"] = (normal(3, 5, seed=3) > 0).double()
    agrees(
        "reconstruction = mean(sum(softplus(logits) - x * logits, 'c'), 'k');"
        "kl = sum(exp(log_var) + square(mu) - 1 - log_var, 'z') / 2; mean(reconstruction + beta * kl, 'n')",
        ELBO, data, second_way, beta=2.0,
    )  # fmt: skip


def test_noise_comes_in_as_an_input() -> None:
    data = {"mu": normal(3, 2), "log_var": normal(3, 2, seed=1), "eps": normal(3, 4, 2, seed=2)}
    agrees(
        "mean(square(mu + exp(log_var / 2) * eps), 'n k z')", ELBO, data,
        lambda x: (x["mu"][:, None] + (x["log_var"] / 2).exp()[:, None] * x["eps"]).square().mean(),
    )  # fmt: skip


GAN = signature("n m", {}, prediction="d_real: n, d_fake: m", provided="grad_norm: n")


def test_both_sides_of_a_gan_and_the_gradient_penalty() -> None:
    data = {"d_real": normal(4), "d_fake": normal(5, seed=1), "grad_norm": normal(4, seed=2).abs()}
    bce = F.binary_cross_entropy_with_logits
    agrees(
        "mean(softplus(-d_real), 'n') + mean(softplus(d_fake), 'm')", GAN, data,
        lambda x: bce(x["d_real"], torch.ones(4).double()) + bce(x["d_fake"], torch.zeros(5).double()),
    )  # fmt: skip
    agrees("mean(softplus(-d_fake), 'm')", GAN, data, lambda x: bce(x["d_fake"], torch.ones(5).double()))
    agrees(
        "mean(d_fake, 'm') - mean(d_real, 'n') + 10 * mean(square(grad_norm - 1), 'n')", GAN, data,
        lambda x: x["d_fake"].mean() - x["d_real"].mean() + 10 * (x["grad_norm"] - 1).square().mean(),
    )  # fmt: skip


def test_a_gradient_penalty_reaches_the_critic_through_a_live_graph() -> None:
    weight, x = normal(3).requires_grad_(), normal(4, 3, seed=1).requires_grad_()
    critic = (x @ weight).tanh()
    [inner] = torch.autograd.grad(critic.sum(), x, create_graph=True)
    data = {"d_real": critic, "d_fake": normal(2), "grad_norm": inner.norm(dim=1)}
    value = evaluate(parse("mean(square(grad_norm - 1), 'n')", GAN), data)
    [ours] = torch.autograd.grad(value, weight, retain_graph=True)
    [wanted] = torch.autograd.grad((inner.norm(dim=1) - 1).square().mean(), weight)
    torch.testing.assert_close(ours, wanted)


STYLE = signature("n c d s", {"d": "c"}, prediction="a: n c s", target="b: n c s")


def test_gram_matrices() -> None:
    def second_way(x: Data) -> Tensor:
        grams = [torch.stack([f @ f.T / f.shape[1] for f in x[name]]) for name in "ab"]
        return F.mse_loss(*grams)

    agrees(
        "g = dot(a, like(a, d='c'), 's') / S; h = dot(b, like(b, d='c'), 's') / S;"
        "mean(square(g - h), 'n c d')",
        STYLE, {"a": normal(2, 3, 5), "b": normal(2, 3, 5, seed=1)}, second_way,
    )  # fmt: skip


PICTURE = signature("n h w", {}, prediction="x: n h w")


def test_total_variation_leaves_the_first_row_and_column_out() -> None:
    def second_way(x: Data) -> Tensor:
        across = (x["x"][:, :, 1:] - x["x"][:, :, :-1]).abs().mean()
        return across + (x["x"][:, 1:] - x["x"][:, :-1]).abs().mean()

    agrees(
        "mean(abs(diff(x, 'w')), 'n h w', cumsum(x == x, 'w') > 1)"
        " + mean(abs(diff(x, 'h')), 'n h w', cumsum(x == x, 'h') > 1)",
        PICTURE, {"x": normal(2, 4, 5)}, second_way,
    )  # fmt: skip


# Tasks, preferences, parameters.


def test_uncertainty_weighting_with_one_learnable_variance_a_task() -> None:
    space = signature("n l", {}, prediction="error: n l", parameter="log_var: l")
    data = {"error": normal(4, 3).square(), "log_var": normal(3, seed=1)}
    agrees(
        "t = mean(error, 'n'); sum(exp(-log_var) * t + log_var, 'l') / 2", space, data,
        lambda x: sum(
            x["error"][:, i].mean() / (2 * x["log_var"][i].exp()) + x["log_var"][i] / 2 for i in range(3)
        ),
    )  # fmt: skip


TOKENS = signature(
    "n s", {}, prediction="won: n s, lost: n s", provided="ref_won: n s, ref_lost: n s",
    mask="in_won: n s, in_lost: n s",
)  # fmt: skip


def test_direct_preference_optimisation_sums_over_the_tokens_that_are_there() -> None:
    data = {k: normal(3, 4, seed=i) for i, k in enumerate(("won", "lost", "ref_won", "ref_lost"))}
    data |= {k: normal(3, 4, seed=9 + i) > -0.5 for i, k in enumerate(("in_won", "in_lost"))}

    def second_way(x: Data) -> Tensor:
        values = []
        for i in range(3):
            own = [
                sum(x[k][i, s] - x[f"ref_{k}"][i, s] for s in range(4) if x[f"in_{k}"][i, s])
                for k in ("won", "lost")
            ]
            values.append(-F.logsigmoid(0.1 * (own[0] - own[1])))
        return torch.stack(values).mean()

    agrees(
        "w = sum(won - ref_won, 's', in_won); l = sum(lost - ref_lost, 's', in_lost);"
        "mean(softplus(-beta * (w - l)), 'n')",
        TOKENS, data, second_way, beta=0.1,
    )  # fmt: skip


def test_a_penalty_on_all_parameters() -> None:
    space = signature("n w", {}, prediction="x: n", parameter="params: w")
    agrees(
        "sum(square(params), 'w')", space, {"x": normal(2), "params": normal(7)},
        lambda x: x["params"].square().sum() + 0 * x["params"].sum(),
    )  # fmt: skip


def test_sizes_of_copied_axes_are_sizes_of_the_original() -> None:
    program = parse("N * M * K + 0 * sum(e, 'n c')", PAIRS)
    assert evaluate(program, embeddings()) == 6**3


def test_a_cubic_value_is_a_type_error_where_the_space_does_not_allow_it() -> None:
    allowed = ("", "n", "m", "n c", "m c", "n m", "n m c")
    narrow = Signature(PAIRS.axes, PAIRS.inputs, PAIRS.copies, frozenset(map(PAIRS.axes_of, allowed)))
    parse(BATCH_HARD, narrow, {"margin": 0.1})
    with pytest.raises(FormulaError, match="which this space does not allow"):
        parse(SEMI_HARD, narrow, {"margin": 0.1})


def test_ties_of_a_masked_maximum_share_the_gradient() -> None:
    program = parse("sum(max(e, 'n', y > 0), 'c')", PAIRS)
    data = {"e": torch.ones(3, 2, dtype=torch.float64), "y": torch.tensor([1.0, 1.0, 0.0])}
    assert slopes(program, data, ("e",))[0].tolist() == [[0.5, 0.5], [0.5, 0.5], [0, 0]]


def test_the_pairs_of_a_batch_are_all_pairs() -> None:
    values = [float(a * b) for a, b in itertools.product(normal(4).tolist(), repeat=2)]
    space = signature("n m", {"m": "n"}, prediction="x: n")
    program = parse("mean(x * like(x, m='n'), 'n m')", space)
    assert float(evaluate(program, {"x": normal(4)})) == pytest.approx(math.fsum(values) / 16)
