"""Small decision processes with known answers, in rationals."""

from fractions import Fraction

from rlsuite.returns.mdp import build

HALF = Fraction(1, 2)

MDP_A = build(
    {
        "s0": [[(HALF, 4, "s1"), (HALF, 0, "s1")]],
        "s1": [(1, "end"), [(HALF, 5, "end"), (HALF, -2, "end")]],
    }
)
MDP_B = build({"s": [(-1, "s"), (1, "s")]})
MDP_C = build({t: [[(HALF, 0, t + 1), (HALF, 3, t + 1)], (1, t + 1)] for t in range(3)})
MDP_D = build(
    {
        0: [(1, 1), [(HALF, 3, 0), (HALF, -2, 2)]],
        1: [(0, 0), [(HALF, 2, 2), (HALF, 0, 1)]],
        2: [(-1, 0), [(HALF, 1, 0), (HALF, -3, 2)]],
    }
)
COUNTER = build({"s0": [(0, "s1")], "s1": [(1, "end"), (2, "end")]})
SAFE, RISKY = 0, 1
