"""Neuron resets in a single-file SAC in CleanRL's manner (fixed temperature, for brevity)."""

import copy

import gymnasium
import torch
from torch import nn, optim

from rlsuite.plugins.grama import GraMa

GAMMA, TAU, ALPHA, BATCH, START = 0.99, 0.005, 0.1, 128, 200


def mlp(i, o):
    return nn.Sequential(nn.Linear(i, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, o))


def sample(actor, obs):
    mean, log_std = actor(obs).chunk(2, -1)
    raw = (normal := torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())).rsample()
    return raw.tanh(), (normal.log_prob(raw) - torch.log(1 - raw.tanh() ** 2 + 1e-6)).sum(-1)


def main(steps=10_000, tau=0.0, period=1000):
    torch.manual_seed(0)
    env = gymnasium.make("Pendulum-v1")
    actor, critics = mlp(3, 2), nn.ModuleList([mlp(4, 1), mlp(4, 1)])
    actor_opt, critic_opt = optim.Adam(actor.parameters()), optim.Adam(critics.parameters())
    targets, reset = copy.deepcopy(critics), GraMa(tau=tau, period=period)
    for index, critic in enumerate(critics):  # one optimiser over both networks
        reset.attach(critic, critic_opt, name=f"critic{index}.")
    rows, obs = torch.zeros(steps, 9), env.reset(seed=0)[0]
    for step in range(steps):
        action = sample(actor, torch.as_tensor(obs))[0].detach()
        following, reward, terminated, truncated, _ = env.step(action.numpy() * 2)
        rows[step] = torch.tensor([*obs, *action.tolist(), reward / 10, *following, terminated])
        obs = env.reset()[0] if terminated or truncated else following
        if step >= START:
            s, a, r, s2, end = rows[torch.randint(step + 1, (BATCH,))].split([3, 1, 1, 3, 1], -1)
            with torch.no_grad():
                a2, log_prob = sample(actor, s2)
                q2 = torch.min(*(q(torch.cat((s2, a2), -1)) for q in targets)) - ALPHA * log_prob[:, None]
            y = r + GAMMA * (1 - end) * q2
            loss = sum((q(torch.cat((s, a), -1)) - y).square().mean() for q in critics)
            critic_opt.zero_grad()
            loss.backward()
            critic_opt.step()
            reset.step()  # before the actor's loss reaches the critics' gradients
            a, log_prob = sample(actor, s)
            loss = (ALPHA * log_prob - torch.min(*(q(torch.cat((s, a), -1)) for q in critics))[:, 0]).mean()
            actor_opt.zero_grad()
            loss.backward()
            actor_opt.step()
            torch._foreach_lerp_([p.data for p in targets.parameters()], list(critics.parameters()), TAU)
    return reset


if __name__ == "__main__":
    print(main().resets)
