"""A policy is a distribution over legal words, sees no future and no neighbour, and learns by its formula."""

from __future__ import annotations

import itertools
import json
import math
import random

import numpy as np
import pytest
import torch

from losssearch.controllers.derivation import Derivation, Rules, rewritten
from losssearch.controllers.lessons import Lesson, rules_of
from losssearch.controllers.networks import NetworkController
from losssearch.controllers.policies import FLOOR, LSTMPolicy, Policy, TransformerPolicy, untaught, views_of
from losssearch.controllers.ppo import PPO, PPOSettings, _advantages
from losssearch.controllers.q_learning import QLearning, QSettings
from losssearch.controllers.registry import make_controller
from losssearch.controllers.reinforce import Reinforce, ReinforceSettings
from losssearch.controllers.rollouts import BLOCK, rolled_out
from losssearch.errors import UsageError
from losssearch.spaces import load_space

SPACE = load_space("regression")
RULES = rules_of(SPACE)
KINDS = [LSTMPolicy, TransformerPolicy]


def shaken(make: type[LSTMPolicy] | type[TransformerPolicy]) -> Policy:
    """A policy that has moved away from its beginning."""
    policy = untaught(make, RULES, 0)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=rng)
    return policy


def some_lessons(count: int, seed: int = 0, rules: Rules = RULES) -> list[Lesson]:
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        derivation = Derivation(rules)
        while legal := derivation.legal():
            derivation.write(rng.choice(legal))
        found.append(Lesson(tuple(derivation.written), rng.uniform(-1, 1)))
    return found


@pytest.mark.parametrize("make", KINDS)
def test_only_legal_words_have_a_chance(make: type[LSTMPolicy] | type[TransformerPolicy]) -> None:
    episodes = [rewritten(RULES, one.words) for one in some_lessons(20)]
    with torch.no_grad():
        chances = shaken(make)(views_of(RULES, episodes))[0].exp()
    for row, seen in enumerate(episodes):
        for t, (_, legal) in enumerate(seen):
            assert float(chances[row, t, list(legal)].sum()) == pytest.approx(1, abs=1e-5)
            assert float(chances[row, t].sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("make", KINDS)
def test_a_new_policy_writes_as_the_weights_say_and_no_lesson_drives_a_word_out(
    make: type[LSTMPolicy] | type[TransformerPolicy],
) -> None:
    episodes = [rewritten(RULES, one.words) for one in some_lessons(10)]
    views = views_of(RULES, episodes)
    with torch.no_grad():
        new, old = untaught(make, RULES, 0)(views)[0].exp(), shaken(make)(views)[0].exp()
    for row, seen in enumerate(episodes):
        for t, (context, legal) in enumerate(seen):
            weights = RULES.alphabet.weights(context.place == 0, context.wish)
            total = sum(math.exp(weights[word]) for word in legal)
            for word in legal:
                share = math.exp(weights[word]) / total
                assert float(new[row, t, word]) == pytest.approx(share, rel=1e-4)
                assert float(old[row, t, word]) >= FLOOR * share * (1 - 1e-4)


@pytest.mark.parametrize("make", KINDS)
def test_a_policy_sees_no_later_state(make: type[LSTMPolicy] | type[TransformerPolicy]) -> None:
    lesson = max(some_lessons(20), key=lambda one: len(one.words))
    seen = rewritten(RULES, lesson.words)
    policy = shaken(make)
    with torch.no_grad():
        whole = policy(views_of(RULES, [seen]))[0]
        part = policy(views_of(RULES, [seen[:4]]))[0]
    assert torch.equal(whole[:, :4], part[:, :4])
    assert not torch.equal(whole[:, 4], part[:, 4])


@pytest.mark.parametrize("make", KINDS)
def test_a_proposal_is_the_same_whoever_is_written_beside_it(
    make: type[LSTMPolicy] | type[TransformerPolicy],
) -> None:
    policy = shaken(make)
    block = range(BLOCK, 2 * BLOCK)
    together = rolled_out(RULES, policy, 7, block)
    for number in (BLOCK, BLOCK + 5, 2 * BLOCK - 1):
        alone = rolled_out(RULES, policy, 7, [number])[number]
        assert alone.program() == together[number].program()
    again = rolled_out(RULES, policy, 7, block, attempt=1)
    assert sum(again[n].written != together[n].written for n in block) > BLOCK / 2


def test_a_new_policy_leaves_torchs_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    untaught(LSTMPolicy, RULES, 3)
    assert torch.equal(before, torch.random.get_rng_state())


# The losses, a second way: one word after the other.


def log_softmax(logits: np.ndarray) -> np.ndarray:
    top = logits - logits.max()
    return np.asarray(top - np.log(np.exp(top).sum()))


def chances_of(policy: Policy, lesson: Lesson) -> tuple[np.ndarray, np.ndarray]:
    """Log-chances of all words at each state, and the values."""
    with torch.no_grad():
        log_probs, values = policy(views_of(RULES, [rewritten(RULES, lesson.words)]))
    length = len(lesson.words)
    return log_probs[0, :length].double().numpy(), values[0, :length].double().numpy()


def entropy_of(rows: list[np.ndarray]) -> float:
    states = np.concatenate(rows)
    return float(np.mean(-(np.exp(states) * states).sum(1)))


def test_the_loss_of_reinforce_is_its_formula() -> None:
    settings = ReinforceSettings(entropy=0.3, imitation=0.7)
    controller = Reinforce(SPACE, [], 0, settings)
    controller.policy = shaken(LSTMPolicy)
    lessons, best = some_lessons(5), some_lessons(3, seed=9)
    baseline = 0.2
    loss = controller._loss(controller._batch(lessons), baseline, controller._batch(best))
    expected = 0.0
    for lesson in lessons:
        rows, _ = chances_of(controller.policy, lesson)
        taken = sum(rows[t, word] for t, word in enumerate(lesson.words))
        expected -= (lesson.reward - baseline) * taken / len(lessons)
    expected -= settings.entropy * entropy_of([chances_of(controller.policy, one)[0] for one in lessons])
    for lesson in best:
        rows, _ = chances_of(controller.policy, lesson)
        expected -= settings.imitation * sum(rows[t, w] for t, w in enumerate(lesson.words)) / len(best)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


def test_the_loss_of_ppo_is_its_formula() -> None:
    settings = PPOSettings(clip=0.1, entropy=0.3, imitation=0.7, value=0.4)
    controller = PPO(SPACE, [], 0, settings)
    controller.policy = shaken(TransformerPolicy)
    before = untaught(TransformerPolicy, RULES, 0)
    lessons, best = some_lessons(5), some_lessons(3, seed=9)
    batch = controller._batch(lessons)
    with torch.no_grad():
        log_probs, values = before(batch.views)
    old = log_probs.gather(-1, batch.words.unsqueeze(-1)).squeeze(-1) * batch.there
    loss = controller._loss(batch, old, _advantages(batch, values), controller._batch(best))

    raw = [lesson.reward - value for lesson in lessons for value in chances_of(before, lesson)[1]]
    advantages = iter((np.array(raw) - np.mean(raw)) / np.std(raw))
    gains, missed, clipped = [], [], 0
    for lesson in lessons:
        now, guesses = chances_of(controller.policy, lesson)
        was, _ = chances_of(before, lesson)
        for t, word in enumerate(lesson.words):
            ratio, advantage = math.exp(now[t, word] - was[t, word]), float(next(advantages))
            held = min(max(ratio, 0.9), 1.1)
            clipped += held * advantage < ratio * advantage
            gains.append(min(ratio * advantage, held * advantage))
            missed.append((guesses[t] - lesson.reward) ** 2)
    known = [chances_of(controller.policy, one)[0][t, w] for one in best for t, w in enumerate(one.words)]
    entropy = entropy_of([chances_of(controller.policy, one)[0] for one in lessons])
    expected = -np.mean(gains) + 0.4 * np.mean(missed) - 0.3 * entropy - 0.7 * np.mean(known)
    assert clipped > 0
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("earned", [0.0, 0.6, 1.0])
def test_the_table_of_q_learning_is_its_formula(earned: float) -> None:
    controller = QLearning(SPACE, [], 0, QSettings(earned=earned, rate=0.25))
    table: dict[tuple[object, int], list[float]] = {}
    for lesson in some_lessons(40):
        seen = rewritten(RULES, lesson.words)
        keys = [(c.place, c.above, c.sibling, c.need) for c, _ in seen]
        target = lesson.reward
        for t in reversed(range(len(seen))):
            value, count = table.get((keys[t], lesson.words[t]), [0.0, 0])
            rate = max(0.25, 1 / (count + 1))
            table[keys[t], lesson.words[t]] = [(1 - rate) * value + rate * target, count + 1]
            best = max(table.get((keys[t], word), [0.0, 0])[0] for word in seen[t][1])
            target = earned * target + (1 - earned) * best
        controller._practise([lesson])
    for lesson in some_lessons(40):
        for (context, _), word in zip(rewritten(RULES, lesson.words), lesson.words, strict=True):
            key = (context.place, context.above, context.sibling, context.need)
            assert controller.value(context, word) == pytest.approx(table[key, word][0], abs=1e-4)


# Names and state.


@pytest.mark.parametrize(("name", "cls"), [("reinforce", Reinforce), ("ppo", PPO), ("q_learning", QLearning)])
def test_they_are_found_by_name(name: str, cls: type[NetworkController]) -> None:
    assert type(make_controller(name, SPACE, [], 0)) is cls


@pytest.mark.parametrize(("make", "rounds"), [(Reinforce, 2), (PPO, 2), (QLearning, 15)])
def test_the_state_of_a_long_search_is_a_few_hundred_kilobytes(
    make: type[NetworkController], rounds: int
) -> None:
    controller = make(load_space("multiclass"), [], 0)
    for seed in range(rounds):
        controller._practise(some_lessons(96, seed, controller.rules))
    assert len(json.dumps(controller.state(), allow_nan=False)) < 400_000


@pytest.mark.parametrize("make", [Reinforce, PPO])
@pytest.mark.parametrize("damage", ["short", "nan", "alphabet"])
def test_damaged_weights_are_refused(make: type[NetworkController], damage: str) -> None:
    controller = make(SPACE, [], 0)
    state = controller.state()
    if damage == "short":
        state["weights"] = state["weights"][:-8]
    elif damage == "nan":
        state["weights"] = "AADAfw==" + state["weights"][8:]
    else:
        state["words"] = [*state["words"][:-1], "sinc"]
    with pytest.raises(UsageError, match="does not fit"):
        make(SPACE, [], 0).restore(state)


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        (ReinforceSettings, {"rate": 0.0}),
        (ReinforceSettings, {"decay": 1.0}),
        (PPOSettings, {"clip": 0.0}),
        (PPOSettings, {"epochs": 0}),
        (QSettings, {"rate": 0.0}),
        (QSettings, {"first": 0.1, "last": 0.5}),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: type, values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="must hold"):
        settings(**values)


def test_epsilon_falls_from_first_to_last() -> None:
    settings = QSettings(first=0.8, last=0.2, decay=10)
    found = [settings.epsilon(n) for n in (0, 10, 1000)]
    assert found == pytest.approx([0.8, 0.2 + 0.6 / math.e, 0.2])
    assert all(a > b for a, b in itertools.pairwise(found))
