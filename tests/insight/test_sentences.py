"""Each sentence is said of losses for which it holds, not of others, and its number is right."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest

from losssearch.insight.sentences import FROM_FACTS, SENTENCES, Basis

SCHEDULED = "mean(-log_pt * (1 + progress * (1 - p_t)), 'n')"
COUPLED = "mean(-log_pt, 'n') * mean(1 - p_t, 'n')"

#: sentence -> losses of which it is said, losses of which it is not.
SAID: dict[str, tuple[list[str], list[str]]] = {
    "same": (
        ["kl", "binary/logistic", "binary/weighted_bce", "expectile"],
        ["cross_entropy", "focal", "huber", "binary/asymmetric", "expectile(tau=0.6)"],
    ),
    "like_reference": (
        ["focal", "label_smoothing", "binary/hinge", "huber", "tukey"],
        ["kl", "mae", "binary/savage", "regression/mae", "binary/exponential"],
    ),
    "fades": (
        ["focal", "brier", "binary/savage"],
        ["cross_entropy", "mae", "gce", "binary/hinge", "label_smoothing", "huber"],
    ),
    "pulls": (
        ["focal", "mae", "regression/mae", "binary/hinge"],
        ["cross_entropy", "label_smoothing", "mse"],
    ),
    "stops": (
        ["binary/hinge", "binary/squared_hinge", "crammer_singer"],
        ["cross_entropy", "focal(gamma=5)", "binary/savage", "tukey"],
    ),
    "pushes_back": (
        ["label_smoothing", "baikal", "ngl"],
        ["cross_entropy", "focal", "gce", "binary/hinge", "mse"],
    ),
    "bounded": (
        ["cross_entropy", "mae", "binary/hinge", "regression/mae", "log_cosh"],
        ["mse", "focal", "binary/exponential", "baikal"],
    ),
    "levels_off": (
        ["focal", "crammer_singer", "huber"],
        ["cross_entropy", "gce", "mse", "binary/squared_hinge", "cauchy"],
    ),
    "grows": (
        ["mse", "binary/exponential", "binary/squared_hinge", "baikal"],
        ["cross_entropy", "huber", "regression/mae", "gce"],
    ),
    "gives_up": (
        ["mae", "gce", "brier", "binary/savage", "cauchy", "tukey", "welsch"],
        ["cross_entropy", "focal", "binary/hinge", "huber", "mse", "baikal"],
    ),
    "bounded_value": (
        ["mae", "gce", "brier", "binary/savage", "tukey", "welsch"],
        ["cross_entropy", "focal", "huber", "cauchy"],
    ),
    "sides": (
        ["binary/focal", "binary/asymmetric", "pinball(tau=0.9)", "expectile(tau=0.2)"],
        ["binary/bce", "binary/hinge", "pinball", "mse", "focal"],
    ),
    "target_matters": (["poisson_nll", "msle"], ["mse", "huber", "pinball", "cross_entropy"]),
    "convex": (
        ["cross_entropy", "binary/hinge", "mse", "focal", "cauchy"],
        ["poly1", "barron"],  # not decided
    ),
    "monotone": (["cross_entropy", "gce", "ngl"], ["focal", "mse"]),
    "kinks": (
        ["binary/hinge", "crammer_singer", "regression/mae", "pinball"],
        ["cross_entropy", "huber", "binary/squared_hinge", "mse", "mae"],
    ),
    "smooth": (["cross_entropy", "mse", "binary/savage"], ["binary/hinge", "regression/mae", "huber"]),
    "adapts": ([SCHEDULED], ["cross_entropy", "mse", COUPLED]),
    "assumes": (["ldam", "gaussian_nll", SCHEDULED], ["cross_entropy", "binary/hinge", "mse"]),
    "detached": (["distance_weighted", "binary/distance_weighted"], ["cross_entropy", "focal", "mse"]),
    "coupled": ([COUPLED, "l1_regulariser"], ["cross_entropy", "focal", "mse"]),
}  # fmt: skip


def names(explain, loss: str) -> dict[str, dict[str, float]]:
    return {s.name: dict(s.numbers) for s in explain(loss).sentences}


def text(explain, loss: str, name: str) -> str:
    (found,) = [s.text for s in explain(loss).sentences if s.name == name]
    return str(found)


def test_every_sentence_is_shown_on_losses_with_it_and_without_it() -> None:
    assert set(SAID) == set(SENTENCES)
    assert all(said and unsaid for said, unsaid in SAID.values())


@pytest.mark.parametrize("name", SAID)
def test_a_sentence_is_said_where_it_holds_and_nowhere_else(explain, name: str) -> None:
    said, unsaid = SAID[name]
    for loss in said:
        assert name in names(explain, loss), loss
    for loss in unsaid:
        assert name not in names(explain, loss), loss


def test_every_sentence_says_what_it_rests_on(explain) -> None:
    for loss in ("focal", "cross_entropy", "huber", "ngl", "binary/asymmetric", COUPLED):
        found = explain(loss)
        assert [s.name for s in found.sentences] == [n for n in SENTENCES if n in names(explain, loss)]
        for s in found.sentences:
            assert s.text.endswith(".")
            assert "nan" not in s.text
            assert "inf " not in s.text
            if s.basis is Basis.REFUTED:
                assert found.to_dict()["counterexamples"][s.name]
            elif s.basis is Basis.MEASURED:
                assert s.numbers
        json.dumps(found.to_dict()["explanation"])


# The numbers, a second way.


def bisect(f: Callable[[float], float], low: float, high: float) -> float:
    """Where f changes its sign."""
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if (f(middle) > 0) == (f(low) > 0) else (low, middle)
    return low


def logit(p: float, others: int = 9) -> float:
    return math.log(p / (1 - p) * others)


def test_focal_fades_where_its_closed_form_does(explain) -> None:
    def against(p: float) -> float:  # to cross entropy
        return (1 - p) ** 2 * (1 - 2 * p * math.log(p) / (1 - p))

    begin = logit(bisect(lambda p: against(p) / against(0.5) - 0.1, 0.5, 0.999))
    assert names(explain, "focal")["fades"]["begin"] == pytest.approx(begin, abs=0.06)  # the grid
    end = logit(bisect(lambda p: against(p) - 0.75, 0.2, 0.9))
    assert names(explain, "focal")["like_reference"]["end"] == pytest.approx(end, abs=0.06)
    assert names(explain, "focal")["like_reference"]["factor"] == pytest.approx(0.25, rel=1e-6)
    assert "up to p = 0.41 its gradient is 0.25 times cross entropy's" in text(
        explain, "focal", "like_reference"
    )


def test_mae_gives_up_where_2p_times_1_less_p_is_a_tenth_of_a_half(explain) -> None:
    found = names(explain, "mae")["gives_up"]
    assert found["end"] == pytest.approx(logit(bisect(lambda p: 2 * p * (1 - p) - 0.05, 1e-6, 0.4)), abs=0.06)
    assert found["peak_at"] == pytest.approx(logit(0.5), abs=0.06)
    assert names(explain, "mae")["bounded_value"]["value"] == pytest.approx(2, rel=1e-6)


def test_huber_is_half_of_squares_until_a_quarter_is_lost(explain) -> None:
    found = names(explain, "huber")["like_reference"]
    assert found["factor"] == pytest.approx(0.5)
    assert found["end"] == pytest.approx(4 / 3, rel=0.03)  # min(r, 1) / 2r = 3/8
    assert names(explain, "huber")["levels_off"]["level"] == pytest.approx(1)


def test_squares_grow_with_the_error_and_absolutes_do_not(explain) -> None:
    found = names(explain, "mse")["grows"]
    assert (found["near"], found["end"]) == pytest.approx((20, 200))
    found = names(explain, "binary/squared_hinge")["grows"]
    assert found["near"] == pytest.approx(2 * (1 + math.log(99)))
    assert found["end"] == pytest.approx(2 * (1 + 30))


def test_hinge_stops_and_jumps_at_a_margin_of_one(explain) -> None:
    found = names(explain, "binary/hinge")
    assert found["kinks"] == {"place_0": pytest.approx(1)}
    assert found["stops"]["begin"] == pytest.approx(1, abs=0.06)
    assert "from -1 to 0" in text(explain, "binary/hinge", "kinks")
    assert names(explain, "crammer_singer(width=3)")["kinks"] == {"place_0": pytest.approx(3)}


def test_label_smoothing_turns_round_at_its_own_soft_label(explain) -> None:
    begin = names(explain, "label_smoothing")["pushes_back"]["begin"]
    assert begin == pytest.approx(logit(0.91), abs=0.06)


def test_sides_are_told_with_the_stronger_first(explain) -> None:
    assert names(explain, "binary/focal")["sides"]["ratio"] == pytest.approx(0.25 / 0.75)
    assert "A negative pulls 3 times as hard as a positive" in text(explain, "binary/focal", "sides")
    assert names(explain, "pinball(tau=0.9)")["sides"]["ratio"] == pytest.approx(0.1 / 0.9)
    assert "An underestimate pulls 9 times" in text(explain, "pinball(tau=0.9)", "sides")


def test_a_loss_that_differs_by_a_factor_a_side_says_both(explain) -> None:
    found = names(explain, "binary/weighted_bce(positive_weight=7)")["same"]
    assert (found["factor"], found["on_negatives"]) == pytest.approx((7, 1))
    assert "7 times that of bce on positives and 1 times on negatives" in text(
        explain, "binary/weighted_bce(positive_weight=7)", "same"
    )


def test_a_schedule_is_told_with_both_ends(explain) -> None:
    """-(1 + progress (1 - p)) log p, at p = .1 differentiated by hand: dp/dz = p (1 - p)."""
    p = 0.1
    end = (1 - p) * p * (math.log(p) - (2 - p) / p)
    found = names(explain, SCHEDULED)["adapts"]
    assert (found["start"], found["end"]) == pytest.approx((p - 1, end))


def test_a_refuted_fact_brings_inputs_that_refute_it(explain) -> None:
    """Focal is above its chord between the two given predictions, by a dumb calculation."""
    example = explain("focal").to_dict()["counterexamples"]["convex"]

    def loss(logits: list[list[float]], target: list[list[float]]) -> float:
        total = 0.0
        for z, t in zip(logits, target, strict=True):
            p = sum(math.exp(a) * b for a, b in zip(z, t, strict=True)) / sum(map(math.exp, z))
            total -= 0.25 * (1 - p) ** 2 * math.log(p)
        return total / len(logits)

    left, right = example["inputs"]["logits"], example["other"]["logits"]
    middle = [[(a + b) / 2 for a, b in zip(x, y, strict=True)] for x, y in zip(left, right, strict=True)]
    target = example["inputs"]["target"]
    assert len(middle) == 1  # one sample is enough
    assert loss(middle, target) == pytest.approx(example["middle"])
    assert loss(middle, target) > (loss(left, target) + loss(right, target)) / 2


def test_without_a_profile_only_facts_are_told(explain) -> None:
    found = explain("l2_regulariser")
    assert found.no_profile
    assert {s.name for s in found.sentences} <= set(FROM_FACTS)
    assert found.table == []
    assert found.weights == {}
    assert found.no_profile in str(found)


def test_the_page_holds_sentences_and_both_tables(explain) -> None:
    page = str(explain("focal", against=["gce"]))
    assert "- Its gradient fades on samples that are right: beyond p = 0.86" in page
    assert "gradient ratio" in page
    assert "effective number" in page
    assert max(len(line) for line in page.splitlines()) <= 110
    rows = explain("focal", against=["gce"]).table
    assert [row["p"] for row in rows][4] == 0.5
    assert rows[4]["gradient_ratio"] == pytest.approx(0.25 * 0.5966, rel=3e-4)
