"""Somebody takes over while an agent learns: a controller of a pendulum, or a trained policy.

    python examples/interventions.py --out runs/interventions
    python examples/interventions.py --out runs/interventions --expert runs/expert

Without an expert's run the helper is `Upright`, a controller written below: put your own device in its place.
The agent never sees the task's reward: it is -1 where an intervention begins and 0 elsewhere (RLIF, Luo et
al. 2024, arXiv 2311.12996), so that it learns to act in a way that nobody has to interrupt.
"""

import argparse
import math

import gymnasium
import numpy as np
import torch
from torch import Tensor

import rlsuite


class Upright(rlsuite.Intervention):
    """Takes over where a pendulum (cos, sin, speed of its angle) is driven against its own energy.

    Below the top it swings up, towards the energy of standing there; near the top it holds.
    """

    def __init__(self, tolerance: float = 0.7) -> None:
        super().__init__(steps=3, hand_back=True)
        self.tolerance = tolerance

    def take(self, observation: Tensor, action: Tensor, luck: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the policy's torque is far from the controller's, and the controller's torque."""
        cosine, sine, speed = observation.unbind(-1)
        angle = torch.atan2(sine, cosine)
        energy = speed.square() / 6 + 5 * (cosine - 1)  # 0 at rest on top; length, mass 1, gravity 10
        swing = torch.where(speed * energy > 0, -1.0, 1.0)
        hold = (-8 * angle - 2 * speed).clamp(-1, 1)
        torque = torch.where(angle.abs() < math.pi / 6, hold, swing)
        return (torque - action[:, 0]).abs() > self.tolerance, torque.unsqueeze(-1)


def helper_return(episodes: int = 20) -> float:
    """Return what `Upright` brings when it acts alone: the mean of the task's own returns."""
    env, helper, returns = gymnasium.make("Pendulum-v1"), Upright(), []
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        returns.append(0.0)
        ended = False
        while not ended:
            seen = torch.as_tensor(observation, dtype=torch.float32).unsqueeze(0)
            _, torque = helper.take(seen, torch.zeros(1, 1), torch.zeros(1))
            observation, reward, _, ended, _ = env.step(2 * np.asarray(torque[0]))  # torques are in [-2, 2]
            returns[-1] += float(reward)
    return sum(returns) / episodes


def main() -> None:
    """Train with interventions; print how often they were needed and what policy and helper bring alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", required=True, help="run folder, new")
    parser.add_argument("--expert", help="run folder of a trained policy of gym:Pendulum-v1 (sac, stac)")
    parser.add_argument("--steps", type=int, default=4_000, help="env steps")
    parser.add_argument("--tolerance", type=float, default=0.7, help="distance of torques in [-1, 1]")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    helper = f"interventions:Upright,tolerance={args.tolerance}"
    who = f"rlsuite:Expert,run='{args.expert}',delta=1.0" if args.expert else helper
    run = rlsuite.train(
        "sac",
        "gym:Pendulum-v1",
        out=args.out,
        steps=args.steps,
        warmup_steps=args.steps // 10,
        log_every=max(1, args.steps // 10),
        eval_every=max(1, args.steps // 10),
        eval_episodes=20,
        threads=1,
        seed=args.seed,
        intervention=who,
        agent_options={"hidden": (64, 64), "lr_critic": 1e-3, "lr_actor": 1e-3, "alpha_init": 0.1},
    )
    for record in run.records:
        if "intervention/share" in record:
            share, begun = record["intervention/share"], record["intervention/begun"]
            returned = record.get("eval/return_mean")
            shown = "" if returned is None else f", evaluation return {returned:,.0f}"
            print(f"step {record['step']:>6,}: {share:.0%} taken over, {begun:.0f} interventions{shown}")
    if not args.expert:
        print(f"the helper alone: {helper_return():,.0f}")


if __name__ == "__main__":
    main()
