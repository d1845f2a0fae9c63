"""How does a network choose the next word of a loss?

It sees each state of a derivation as three words (the parent and which of its arguments this is, the sibling
to the left, the word written last) and a few numbers, and reads all states of an episode so far: with an
LSTM as in ENAS, or with a small transformer that never looks ahead. Its logits are added to the log-weights
of an untaught writer, so that before any lesson it writes as the grammar's weights say; words that are not
legal have no chance.

Networks are small on purpose: a search gives them a few thousand lessons. A row of a batch depends on no
other row: to the last bit, as long as the shape of the batch is the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losssearch.controllers.derivation import Context, Rules

FLOOR = 0.2  # the share of an untaught writer, mixed into every choice, so that no lesson drives a word out
_NEVER = -1e9  # a logit of what is not legal; finite, so that its share of the entropy is 0 and not nan

Seen = Sequence[tuple[Context, Sequence[int]]]


@dataclass(frozen=True)
class Views:
    """What a network sees of B episodes with up to T states each; states past an episode's end are empty.

    Args:
        words: Shape (3, B, T); place, sibling and the word before, as in `Context`.
        numbers: Shape (B, T, `numbers_of(rules)`); in [0, 1].
        offsets: Shape (B, T, words); log-weights of the untaught writer, -1e9 where a word is not legal.
    """

    words: Tensor
    numbers: Tensor
    offsets: Tensor

    def __getitem__(self, rows: slice) -> Views:
        return Views(self.words[:, rows], self.numbers[rows], self.offsets[rows])


def numbers_of(rules: Rules) -> int:
    """How many numbers a context has: each need, wish, levels, room, and 1."""
    return _needs(rules) + 4


def _needs(rules: Rules) -> int:
    """Prediction and target, and the predictions of each further player."""
    return max(2, rules.root.need.bit_length())


class Eye:
    """Turns states into arrays of a fixed shape, one state at a time."""

    def __init__(self, rules: Rules, rows: int) -> None:
        self.rules = rules
        alphabet = rules.alphabet
        length, count = rules.nodes, len(alphabet)
        self._weights = np.array(
            [alphabet.weights(*kind) for kind in ((False, False), (False, True), (True, False))], np.float32
        )
        self.words = np.zeros((3, rows, length), np.int64)
        self.numbers = np.zeros((rows, length, numbers_of(rules)), np.float32)
        self.offsets = np.full((rows, length, count), _NEVER, np.float32)

    def see(self, row: int, t: int, context: Context, legal: Sequence[int]) -> None:
        place, _, sibling, before, need, wish, levels, room = context
        nodes, depth = self.rules.nodes, self.rules.root.levels
        self.words[:, row, t] = place, sibling, before
        needs = (need >> k & 1 for k in range(_needs(self.rules)))
        self.numbers[row, t] = *needs, wish, levels / depth, room / nodes, 1.0
        columns = list(legal)
        self.offsets[row, t, columns] = self._weights[2 if place == 0 else int(wish), columns]

    def views(self) -> Views:
        arrays = (self.words, self.numbers, self.offsets)
        return Views(*(torch.from_numpy(array) for array in arrays))


def views_of(rules: Rules, episodes: Sequence[Seen]) -> Views:
    """The views of whole episodes."""
    eye = Eye(rules, len(episodes))
    for row, seen in enumerate(episodes):
        for t, (context, legal) in enumerate(seen):
            eye.see(row, t, context, legal)
    return eye.views()


class Policy(nn.Module):
    """A distribution over the next word, and a guess at what the episode will earn.

        pi(a | s) = (1 - f) softmax(logits(s) + w(s))_a + f softmax(w(s))_a

    with w the untaught writer's log-weights and f = FLOOR.
    """

    def __init__(self, rules: Rules, width: int) -> None:
        super().__init__()
        count = len(rules.alphabet)
        self.places = nn.Embedding(rules.alphabet.places[-1], width)
        self.siblings = nn.Embedding(1 + count, width)
        self.befores = nn.Embedding(1 + count, width)
        self.numbers = nn.Linear(numbers_of(rules), width, bias=False)
        self.choice = nn.Linear(width, count)
        self.value = nn.Linear(width, 1)

    def forward(self, views: Views) -> tuple[Tensor, Tensor]:
        """log pi, shape (B, T, words), and guesses, shape (B, T)."""
        place, sibling, before = views.words
        x = self.places(place) + self.siblings(sibling) + self.befores(before) + self.numbers(views.numbers)
        memory = self.read(x)
        taught = (self.choice(memory) + views.offsets).log_softmax(-1) + math.log(1 - FLOOR)
        untaught = views.offsets.log_softmax(-1) + math.log(FLOOR)
        return torch.logaddexp(taught, untaught), self.value(memory).squeeze(-1)

    def read(self, x: Tensor) -> Tensor:
        """What is remembered at each state of the states up to it, shape (B, T, width) as `x`."""
        raise NotImplementedError


class LSTMPolicy(Policy):
    """One LSTM layer over the states.

    Source:
        Pham et al. 2018, arXiv:1802.03268, Sec. 2.2, where it has 100 units; Hochreiter & Schmidhuber 1997.
    """

    def __init__(self, rules: Rules, width: int = 32) -> None:
        super().__init__(rules, width)
        self.memory = nn.LSTM(width, width, batch_first=True)

    def read(self, x: Tensor) -> Tensor:
        found: Tensor = self.memory(x)[0]
        return found


class TransformerPolicy(Policy):
    """Blocks of causal self-attention and a two-layer network, each behind a layer norm and a way around it.

    Source:
        Vaswani et al. 2017, arXiv:1706.03762, Eq. (1); Xiong et al. 2020, arXiv:2002.04745 (norm first).
    """

    def __init__(self, rules: Rules, width: int = 24, heads: int = 3, layers: int = 2) -> None:
        super().__init__(rules, width)
        self.positions = nn.Embedding(rules.nodes, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def read(self, x: Tensor) -> Tensor:
        x = x + self.positions.weight[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        found: Tensor = self.norm(x)
        return found


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.asks = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        shape = (rows, length, 3, self.heads, width // self.heads)
        query, key, value = self.asks(self.before(x)).view(shape).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.mix(attended.transpose(1, 2).reshape(rows, length, width))
        out: Tensor = x + self.narrow(F.gelu(self.wide(self.between(x))))
        return out


def untaught(make: type[LSTMPolicy] | type[TransformerPolicy], rules: Rules, seed: int) -> Policy:
    """A new policy, which writes as the grammar's weights say; torch's own random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = make(rules)
        for table in (policy.places, policy.siblings, policy.befores):
            nn.init.normal_(table.weight, std=0.3)
        for head in (policy.choice, policy.value):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
    return policy


@contextmanager
def one_thread() -> Iterator[None]:
    """Small tensors lose time to a second thread, and sums would depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
