"""How are many losses written at once, and yet each as if it had been written alone?

Proposals are written in blocks of 32 with consecutive numbers: one forward pass chooses the next word of all.
Which row a proposal has in its block, the shape of the batch, and its random stream are given by its number,
so that it is the same however many are asked for, and after any restart. A block of 32 takes some 20 to
40 ms, most of it in the network, which reads each episode again from its beginning at every word.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from losssearch.controllers.derivation import Derivation, Rules
from losssearch.controllers.policies import Eye, Policy, one_thread
from losssearch.language.draws import Draws

BLOCK = 32
HEAT = 0.15  # added to the temperature with each attempt at the same number


def rolled_out(
    rules: Rules, policy: Policy, seed: int, numbers: Sequence[int], attempt: int = 0
) -> dict[int, Derivation]:
    """Complete derivations drawn from a policy.

    Args:
        rules: Of the space.
        policy: Chooses the words.
        seed: Together with its number and the attempt it gives a proposal its own random stream.
        numbers: Of proposals of one block: number // BLOCK is the same for all.
        attempt: Later attempts at a number are drawn hotter, since the cooler ones gave what was known.
    """
    eye = Eye(rules, BLOCK)
    views = eye.views()  # sees what `eye` will see
    derivations = {number: Derivation(rules) for number in numbers}
    draws = {number: Draws.counted(seed, number, attempt) for number in numbers}
    temperature = 1.0 + HEAT * attempt
    with one_thread(), torch.inference_mode():
        for t in range(rules.nodes):
            open_ = {n: one for n, one in derivations.items() if one.body is None}
            if not open_:
                break
            legal = {n: one.legal() for n, one in open_.items()}
            for number, one in open_.items():
                eye.see(number % BLOCK, t, one.context(), legal[number])
            chances = (policy(views)[0][:, t] / temperature).exp().double().numpy()
            for number, one in open_.items():
                choices = legal[number]
                totals = chances[number % BLOCK, choices].cumsum().tolist()
                one.write(choices[draws[number].weighted(totals)], draws[number].uniform())
    return derivations
