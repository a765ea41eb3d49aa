"""Plain programs of `simba_sac` and `dsac_flash`: one network per member, torch's batch norm and Adam, loops.

They begin with a copy of an agent's weights, draw from the same stream in the same order, and share no code
with the agents; see `references.py`.
"""

import math

import torch
from references import draw, softplus, tanh_action
from torch.nn import functional as F


class UnitNet:
    """One network: its parameters by the trunk's names, its running statistics, and its forward pass."""

    def __init__(self, network, name, blocks, member=None):
        self.name, self.blocks = name, blocks
        self.at = (lambda p: p.detach().clone()) if member is None else (lambda p: p.detach()[member].clone())
        self.weights = {key: self.at(p).requires_grad_() for key, p in network.trunk.named_parameters()}
        self.running = {key: self.at(b) for key, b in network.trunk.named_buffers()}

    @property
    def parameters(self):
        return list(self.weights.values())

    def norm(self, key, x, training, eps):
        state = self.running[f"{key}.mean"], self.running[f"{key}.var"]
        gain, shift = self.weights[f"{key}.weight"], self.weights[f"{key}.bias"]
        return F.batch_norm(x, *state, gain, shift, training, 0.01, eps)

    def linear(self, key, x):
        return F.linear(x, self.weights[f"{key}.weight"], self.weights.get(f"{key}.bias"))

    def __call__(self, x, training=False):
        w = self.weights
        if self.name == "flash":
            x = self.linear("stem", self.norm("entry", x, training, 1e-5))
            for k in range(self.blocks):
                y = F.relu(
                    self.norm(f"blocks.{k}.norms.0", self.linear(f"blocks.{k}.wide", x), training, 1e-5)
                )
                y = self.linear(f"blocks.{k}.narrow", y)
                x = x + F.relu(self.norm(f"blocks.{k}.norms.1", y, training, 1e-5))
            x = F.rms_norm(x, x.shape[-1:], w["last.weight"], 1e-6)
            return self.linear("head", x)
        if self.name == "xqc":
            x = self.norm("norms.0", x, training, 1e-3)
            for k in range(self.blocks + 1):
                x = F.relu(self.norm(f"norms.{k + 1}", self.linear(f"layers.{k}", x), training, 1e-3))
            return self.linear("head", x)
        width = w["stem_scale.weight"].shape[0]
        x = direction(F.pad(x, (0, 1), value=3.0))
        x = direction(w["stem_scale.weight"] * self.linear("stem", x))
        for k in range(self.blocks):
            y = F.relu(w[f"scales.{k}.weight"] * self.linear(f"widen.{k}", x)) + 1e-8
            y = direction(self.linear(f"narrow.{k}", y))
            x = direction(x + w[f"steps.{k}.weight"] * math.sqrt(width) / (self.blocks + 1) * (y - x))
        heads = []
        while f"heads.{len(heads)}.weight" in w:
            k = len(heads)
            heads.append(
                self.linear(f"heads.{k}", w[f"head_scales.{k}.weight"] * self.linear(f"head_layers.{k}", x))
            )
        return torch.cat(heads, -1)

    @torch.no_grad()
    def project(self):
        w = self.weights
        for key, p in w.items():
            if p.dim() == 2:
                p /= (p.pow(2).sum(1, keepdim=True) + 1e-8).sqrt()
            elif self.name == "flash" and key.endswith(".weight") and key != "last.weight":
                shift = w[key.replace(".weight", ".bias")]
                size = ((p.pow(2).sum() + shift.pow(2).sum() + 1e-8) / len(p)).sqrt()
                p /= size
                shift /= size
        if self.name == "flash":
            p = w["last.weight"]
            p /= ((p.pow(2).sum() + 1e-8) / len(p)).sqrt()


def direction(x):
    return x / (x.pow(2).sum(-1, keepdim=True) + 1e-8).sqrt()


class SimbaSAC:
    """FlashSAC, XQC and SimbaV2 with categorical critics, line by line."""

    def __init__(self, agent):
        self.c, self.k, self.scale = agent.config, 0, agent.reward_scale.scale.item()
        blocks = len(self.c.hidden) - 1
        self.actor = UnitNet(agent.actor, self.c.network, blocks)
        self.critics = [UnitNet(agent.critic, self.c.network, blocks, m) for m in range(2)]
        self.targets = [UnitNet(agent.target_critic, self.c.network, blocks, m) for m in range(2)]
        self.log_alpha = torch.full((1,), math.log(self.c.alpha_init), requires_grad=True)
        adam = torch.optim.Adam
        self.critic_adam = adam([p for net in self.critics for p in net.parameters], self.c.lr_critic)
        self.actor_adam = adam(self.actor.parameters, self.c.lr_actor)
        self.alpha_adam = adam([self.log_alpha], self.c.lr_alpha)
        actions = agent.spaces.action
        self.entropy = actions * math.log(self.c.entropy_std * math.sqrt(2 * math.pi * math.e))
        self.z = torch.linspace(-5, 5, 101)

    @property
    def joint(self):
        return self.c.network != "simbav2"

    def head(self, raw):
        mean, raw = raw.chunk(2, -1)
        log_std = raw.clamp(-10, 2) if self.c.actor_std == "clamp" else 6 * raw.tanh() - 4
        return mean, log_std.exp()

    def mean(self, output):
        return (output.softmax(-1) * self.z).sum(-1)

    def policy_step(self, rows, stream):
        alpha = self.log_alpha.detach().exp()
        if self.joint and self.c.joint_actor:
            raw = self.actor(torch.cat((rows.s, rows.s_next)), True)[: len(rows.s)]
        else:
            raw = self.actor(rows.s, True)
        mean, std = self.head(raw)
        action, log_prob = tanh_action(mean, std, draw(mean, stream))
        q = torch.minimum(*[self.mean(net(torch.cat((rows.s, action), -1))) for net in self.critics])
        descend(self.actor_adam, (alpha * log_prob - q).mean())
        descend(self.alpha_adam, self.log_alpha.exp() * (-log_prob.detach().mean() - self.entropy))
        self.actor.project()

    def critic_step(self, rows, stream):
        alpha = self.log_alpha.detach().exp()
        with torch.no_grad():
            mean, std = self.head(self.actor(rows.s_next))
            action, log_prob = tanh_action(mean, std, draw(mean, stream))
        now, later = torch.cat((rows.s, rows.a), -1), torch.cat((rows.s_next, action), -1)
        if self.joint:
            both, size = torch.cat((now, later)), len(now)
            with torch.no_grad():
                outputs = [net(both, True)[size:] for net in self.targets]
            current = [net(both, True)[:size] for net in self.critics]
        else:
            with torch.no_grad():
                outputs = [net(later) for net in self.targets]
            current = [net(now) for net in self.critics]
        loss = self.loss(current, outputs, rows, alpha * log_prob, stream)
        descend(self.critic_adam, loss)
        for net in self.critics:
            net.project()
        with torch.no_grad():
            for target, net in zip(self.targets, self.critics, strict=True):
                for old, new in zip(target.parameters, net.parameters, strict=True):
                    old.copy_((1 - self.c.tau) * old + self.c.tau * new)

    def loss(self, current, outputs, rows, entropy, stream):
        target = torch.zeros(len(rows.s), 101)
        for n in range(len(rows.s)):
            means = [self.mean(output[n]) for output in outputs]
            p = outputs[0 if means[0] <= means[1] else 1][n].softmax(-1)
            for k in range(101):
                discount = self.c.gamma * (1 - rows.d[n])
                atom = (rows.r[n] / self.scale + discount * (self.z[k] - entropy[n])).clamp(-5, 5)
                target[n] += p[k] * (1 - (atom - self.z).abs() / 0.1).clamp(min=0)
        return sum(-(target * output.log_softmax(-1)).sum(-1).mean() for output in current)

    def update(self, rows, stream):
        steps = [self.critic_step]
        if self.k % self.c.delay == 0:
            steps.insert(0 if self.c.order == "actor" else 1, self.policy_step)
        for step in steps:
            step(rows, stream)
        self.k += 1

    def pairs(self, agent):
        """(agent's tensor, ours) for every parameter, statistic and the temperature."""
        yield agent.log_alpha, self.log_alpha
        for network, nets in (
            (agent.actor, None),
            (agent.critic, self.critics),
            (agent.target_critic, self.targets),
        ):
            for kind in ("weights", "running"):
                named = (
                    network.trunk.named_parameters() if kind == "weights" else network.trunk.named_buffers()
                )
                for key, tensor in named:
                    if nets is None:
                        yield tensor, getattr(self.actor, kind)[key]
                    else:
                        yield tensor, torch.stack([getattr(net, kind)[key] for net in nets])


class DSACFlash(SimbaSAC):
    """The same with DSAC-T's two gradients, given outright, on returns in the environment's units."""

    def __init__(self, agent):
        super().__init__(agent)
        self.m = [None, None]

    def mean(self, output):
        return output[..., 0]

    def loss(self, current, outputs, rows, entropy, stream):
        c = self.scale
        mu = torch.stack([output[:, 0] for output in outputs]).detach()
        sigma = torch.stack([softplus(output[:, 1]) for output in outputs])
        z = draw(mu, stream).clamp(-3, 3)
        lower = mu[0] < mu[1]
        sample = torch.where(lower, mu[0] + sigma[0] * z[0], mu[1] + sigma[1] * z[1])
        discount = self.c.gamma * (1 - rows.d)
        y_q = rows.r + c * discount * (torch.where(lower, mu[0], mu[1]) - entropy)
        y_z = rows.r + c * discount * (sample - entropy)
        total = 0.0
        for index, output in enumerate(current):
            mean, std = c * output[:, 0], c * softplus(output[:, 1])
            with torch.no_grad():
                newest, before = std.mean(), self.m[index]
                m = self.m[index] = newest if before is None else 0.995 * before + 0.005 * newest
                clipped = mean + (y_z - mean).clamp(-3 * m, 3 * m)
                on_mean = -(m**2 + 0.1) * (y_q - mean) / (std**2 + 0.1)
                on_std = -(m**2 + 0.1) * ((clipped - mean) ** 2 - std**2) / (std**3 + 0.1)
            total = total + (on_mean * mean + on_std * std).mean() / c**2
        return total


def descend(adam, loss):
    """One step of torch's Adam for its own parameters alone."""
    parameters = [p for group in adam.param_groups for p in group["params"]]
    for p, gradient in zip(parameters, torch.autograd.grad(loss.sum(), parameters), strict=True):
        p.grad = gradient
    adam.step()
