"""A proposer as a user may write one: formulas drawn by chance from what the request describes."""

import json
import random
import sys

UNARY = ["abs", "square", "log", "tanh"]


def body(draw, leaves, depth):
    kind = draw.random()
    if depth == 0 or kind < 0.2:
        return draw.choice(leaves)
    if kind < 0.6:
        return f"{draw.choice(UNARY)}({body(draw, leaves, depth - 1)})"
    return f"({body(draw, leaves, depth - 1)} {draw.choice('+*')} {body(draw, leaves, depth - 1)})"


request = json.load(sys.stdin)
draw = random.Random(request["seed"] * 1_000_003 + request["number"])
multiclass = "p_t(n)" in request["language"]
leaves = ["p_t", "log_pt", "margin", "1", "a"] if multiclass else ["r", "1"]
print("Here are my losses:")
for _ in range(request["count"]):
    formula = f"mean({body(draw, leaves, 3)}, 'n')"
    constants = {"a": [round(draw.uniform(0, 3), 3), 0, 5]} if " a" in formula or "(a" in formula else {}
    print(json.dumps({"formula": formula, "constants": constants}))
print("mean(__import__('os').system('true'), 'n')")
print('{"formula": "mean(p_t')
