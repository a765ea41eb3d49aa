"""Diffusion and flow policies put to use: plans in real time, and two denoisers together.

    python examples/deploy_diffusion.py realtime              # a diffusion policy, 20 steps against 3
    python examples/deploy_diffusion.py realtime --model flow
    python examples/deploy_diffusion.py compose

Policies of plans of eight actions are learnt from a few noisy walks through StitchMaze, on one core.
`realtime`: every env step a new plan, of which one action is taken. The whole sampler from noise is compared
with `real_time_plans`: the last plan a row later, and the last few steps alone. `compose`: the predictions of
both, weighted, for shares from 0 to 1; what is best is found by trying.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from rlsuite.blocks.deployment import Parent, Predict, Step, composed, real_time_plans
from rlsuite.blocks.diffusion import Denoiser, implied_noise, make_schedule, noised
from rlsuite.envs.make import make_env
from rlsuite.offline.stitch import ENV, SHORTCUT, Waypoints, walk

ROWS, ACTIONS = 8, 2  # of a plan
STEPS = 20  # of the sampler
AGAIN = 3  # of them, in real time
ENVS = 100  # episodes of an evaluation, at once
JUMP = 0.3  # of the state in a step, in its numbers: the rest of the plan is of another place
SCHEDULE = make_schedule(STEPS, "cosine")


def walks(count: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return places `[N, 2]` of noisy walks to the goal, and the eight actions that followed, `[N, 16]`."""
    env = make_env(ENV, count, seed=seed)
    played = walk(env, Waypoints(SHORTCUT, count), noise, np.random.default_rng(seed))
    env.close()
    places, plans = [], []
    for seen, acted, _ in played:
        padded = np.concatenate([acted, np.repeat(acted[-1:], ROWS - 1, 0)])
        plans += [padded[index : index + ROWS].ravel() for index in range(len(acted))]
        places.append(seen[:-1])
    return torch.tensor(np.concatenate(places)).float(), torch.tensor(np.stack(plans)).float()


def learn(data: tuple[Tensor, Tensor], model: str, updates: int, seed: int) -> Denoiser:
    """Return a network that predicts clean plans (diffusion), or velocities from noise to plan (flow)."""
    places, plans = data
    generator = torch.Generator().manual_seed(seed)
    net = Denoiser(2, ROWS * ACTIONS, (128, 64), 64, generator=generator)
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(updates):
        row = torch.randint(len(places), (128,), generator=generator)
        plan, noise = plans[row], torch.randn(128, ROWS * ACTIONS, generator=generator)
        when = torch.randint(1, STEPS + 1, (128,), generator=generator)
        if model == "flow":
            done = (1 - when / STEPS).unsqueeze(-1)  # of the way from noise to plan
            noisy, wanted = (1 - done) * noise + done * plan, plan - noise
        else:
            noisy, wanted = noised(SCHEDULE, plan, when, noise), plan
        predicted = net(noisy.unsqueeze(-2), when, net.contexts(places[row])).squeeze(-2)
        loss = mse_loss(predicted, wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net


def predictor(net: Denoiser, place: Tensor) -> Predict:
    """Return what a network says of plans `[B, T, A]` at places `[B, 2]`."""
    predict = net.predictor(place)
    return lambda plan, when: (
        predict(plan.flatten(-2).unsqueeze(-2), when).squeeze(-2).unflatten(-1, (ROWS, ACTIONS))
    )


def sampler(predict: Predict, model: str) -> Step:
    """Return a step of DDIM, or of Euler's method along a flow."""

    def denoise(plan: Tensor, when: int) -> Tensor:
        clean, kept = predict(plan, when), SCHEDULE.kept[when - 1]
        return kept.sqrt() * clean + (1 - kept).sqrt() * implied_noise(SCHEDULE, plan, clean, when)

    return (lambda plan, when: plan + predict(plan, when) / STEPS) if model == "flow" else denoise


@torch.no_grad()
def evaluate(policy: Callable[[Tensor], Step], again: int, seed: int = 0) -> tuple[float, float, float]:
    """Return the share of episodes that reach the goal, their mean steps, and ms of planning an env step."""
    env, generator = make_env(ENV, ENVS, seed=seed), torch.Generator().manual_seed(seed)
    td = env.reset()
    last, before = torch.zeros(ENVS, ROWS, ACTIONS), td["observation"]
    new, running = torch.ones(ENVS, dtype=torch.bool), torch.ones(ENVS, dtype=torch.bool)
    length, solved, spent = torch.zeros(ENVS), torch.zeros(ENVS, dtype=torch.bool), 0.0
    for _ in range(int(env.max_episode_steps or 0)):
        place = td["observation"]
        begun = time.perf_counter()
        new = new | ((place - before).norm(dim=-1) > JUMP) if again < STEPS else torch.ones_like(new)
        noise = torch.randn(last.shape, generator=generator)
        last = real_time_plans(policy(place), last, noise, new=new, steps=STEPS, again=again, limit=2.0)
        spent += time.perf_counter() - begun
        td["action"] = last[:, 0].clamp(-1, 1)
        step = env.step(td)
        length += running
        solved |= running & step["next", "terminated"].squeeze(-1)
        running &= ~step["next", "done"].squeeze(-1)
        new, before = step["next", "done"].squeeze(-1), place
        td = env.maybe_reset(env.step_mdp(step))
    env.close()
    return float(solved.float().mean()), float(length.mean()), 1e3 * spent / int(env.max_episode_steps or 1)


def realtime(model: str, updates: int) -> None:
    net = learn(walks(20, 0.5, seed=1), model, updates, seed=0)
    for again in (STEPS, AGAIN, 1):
        success, steps, ms = evaluate(lambda place: sampler(predictor(net, place), model), again)
        print(f"{model}, {again:2d} steps: success {success:.2f}, {steps:.1f} env steps, {ms:.1f} ms a plan")


def compose(updates: int) -> None:
    nets = [learn(walks(1, 0.8, seed=seed), "diffusion", updates, seed) for seed in (1, 2)]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):

        def policy(place: Tensor, share: float = share) -> Step:
            parents = [Parent(predictor(net, place), SCHEDULE.kept) for net in nets]
            return sampler(composed(parents, (share, 1 - share)), "diffusion")

        success, steps, _ = evaluate(policy, STEPS)
        print(f"share of the first {share:.2f}: success {success:.2f}, {steps:.1f} env steps")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("realtime", "compose"))
    parser.add_argument("--model", choices=("diffusion", "flow"), default="diffusion", help="of realtime")
    parser.add_argument("--updates", type=int, default=1_000)
    args = parser.parse_args()
    if args.part == "realtime":
        realtime(args.model, args.updates)
    else:
        compose(args.updates)


if __name__ == "__main__":
    main()
