"""Plain programs of the agents' updates, written from the papers' equations without the agents' code.

Each program begins with a copy of an agent's weights and takes transitions `(s, a, r, s', d)` as tensors and
a random stream, from which it draws in the agent's order. Twins are two networks, every network has an Adam
of its own, and gradients come from autograd, or from the paper where it gives the gradient itself.
"""

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor

from rlsuite.blocks.mlp import LayerNorm, Linear


class Rows(NamedTuple):
    """Transitions."""

    s: Tensor
    a: Tensor
    r: Tensor
    s_next: Tensor
    d: Tensor


def rows_of(batch) -> Rows:
    """The transitions of a replayed batch."""
    after = batch["next"]
    reward, terminated = after["reward"].squeeze(-1), after["terminated"].squeeze(-1)
    return Rows(batch["observation"], batch["action"], reward, after["observation"], terminated.double())


# Networks


def relu(x):
    return x.clamp(min=0)


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def softplus(x):
    return torch.log1p((-x.abs()).exp()) + x.clamp(min=0)


class Net:
    """A perceptron: linear maps, an optional normalisation, an activation; the last map is linear.

    Args:
        trunk: layers whose weights are copied.
        member: which of stacked networks; None is a network without leading axes.
        activation: of the hidden layers.
    """

    def __init__(self, trunk, member=None, activation=relu):
        self.activation, self.layers = activation, []
        for layer in trunk:
            if isinstance(layer, Linear | LayerNorm):
                pair = [p.detach() if member is None else p.detach()[member] for p in layer.parameters()]
                pair = [p.clone().requires_grad_() for p in pair]
                self.layers.append((isinstance(layer, LayerNorm), *pair))

    @property
    def parameters(self):
        return [p for _, *pair in self.layers for p in pair]

    def __call__(self, x):
        for index, (norm, weight, bias) in enumerate(self.layers):
            if norm:
                centred = x - x.mean(-1, keepdim=True)
                x = centred / (centred**2).mean(-1, keepdim=True).add(1e-5).sqrt() * weight + bias
            else:
                x = x @ weight.T + bias
            following = self.layers[index + 1 : index + 2]
            if following and not following[0][0]:
                x = self.activation(x)
        return x


def twins(trunk, count=2, activation=relu):
    return [Net(trunk, member, activation) for member in range(count)]


def frozen(net):
    """A target: the same weights, without gradient."""
    target = copy.deepcopy(net)
    for p in target.parameters:
        p.requires_grad_(False)
    return target


def follow(target, net, tau):
    """theta' <- tau theta + (1 - tau) theta'."""
    for old, new in zip(target.parameters, net.parameters, strict=True):
        old.copy_(tau * new.detach() + (1 - tau) * old)


class Adam:
    """Algorithm 1 of Kingma and Ba (2015)."""

    def __init__(self, parameters, rate, eps=1e-8):
        self.parameters, self.rate, self.eps, self.t = list(parameters), rate, eps, 0
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]

    def descend(self, loss):
        self.step(torch.autograd.grad(loss, self.parameters))

    @torch.no_grad()
    def step(self, gradients):
        self.t += 1
        for p, g, m, v in zip(self.parameters, gradients, self.m, self.v, strict=True):
            m.copy_(0.9 * m + 0.1 * g)
            v.copy_(0.999 * v + 0.001 * g**2)
            m_hat, v_hat = m / (1 - 0.9**self.t), v / (1 - 0.999**self.t)
            p -= self.rate * m_hat / (v_hat.sqrt() + self.eps)


def draw(like, stream):
    return torch.empty(like.shape).normal_(generator=stream)


def normal_log_density(x, mean, std):
    return -((x - mean) ** 2) / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)


def tanh_action(mean, std, noise):
    """a = tanh(u), u ~ N(mean, std), and log N(u) - log(1 - tanh(u)^2), the latter -2 log cosh u."""
    u = mean + std * noise
    log_cosh = u.abs() + torch.log1p((-2 * u.abs()).exp()) - math.log(2)
    return u.tanh(), (normal_log_density(u, mean, std) + 2 * log_cosh).sum(-1)


# Programs


class SAC:
    """Haarnoja et al. 2018 (1812.05905), algorithm 1 with its equations 5, 7 and 18."""

    def __init__(self, agent):
        self.c = agent.config
        self.actor, self.critics = Net(agent.actor.trunk), twins(agent.critic.trunk)
        self.targets = [frozen(net) for net in self.critics]
        self.log_alpha = torch.full((1,), math.log(self.c.alpha_init), requires_grad=True)
        self.optimizers = [Adam(net.parameters, self.c.lr_critic) for net in self.critics]
        self.actor_adam = Adam(self.actor.parameters, self.c.lr_actor)
        self.alpha_adam = Adam([self.log_alpha], self.c.lr_alpha)

    def policy(self, s, stream):
        mean, raw = self.actor(s).chunk(2, -1)
        std = raw.clamp(-20, 2).exp() if self.c.actor_std == "exp" else softplus(raw.clamp(min=-5))
        return tanh_action(mean, std, draw(mean, stream))

    def update(self, rows, stream):
        alpha = self.log_alpha.detach().exp()
        with torch.no_grad():
            a_next, log_prob = self.policy(rows.s_next, stream)
            q_next = torch.minimum(*[value(net, rows.s_next, a_next) for net in self.targets])
            y = rows.r + self.c.gamma * (1 - rows.d) * (q_next - alpha * log_prob)
        for net, adam in zip(self.critics, self.optimizers, strict=True):
            adam.descend(self.c.critic_scale * ((value(net, rows.s, rows.a) - y) ** 2).mean())
        a, log_prob = self.policy(rows.s, stream)
        q = torch.minimum(*[value(net, rows.s, a) for net in self.critics])
        entropy_gap = log_prob.detach().mean() - rows.a.shape[-1]  # target entropy: minus the action's length
        self.actor_adam.descend((alpha * log_prob - q).mean())
        if self.c.alpha_step == "adam":
            self.alpha_adam.descend(-(self.log_alpha * entropy_gap).sum())
        else:  # the STAC paper's baseline: plain gradient descent on log alpha
            self.log_alpha.data += self.c.lr_alpha * entropy_gap
        for target, net in zip(self.targets, self.critics, strict=True):
            follow(target, net, self.c.tau)

    def pairs(self, agent):
        """The agent's networks beside these."""
        return [
            (agent.actor, self.actor), (agent.critic, self.critics), (agent.target_critic, self.targets),
            (agent.log_alpha, self.log_alpha),
        ]  # fmt: skip


def value(net, s, a):
    return net(torch.cat((s, a), -1)).squeeze(-1)


class TD3:
    """Fujimoto et al. 2018 (1802.09477), algorithm 1; critics may see actions in the environment's units."""

    def __init__(self, agent):
        self.c, self.k = agent.config, 0
        half = torch.tensor(agent.spaces.half_range)
        self.h = half if self.c.action_units == "env" else torch.ones(())
        self.actor, self.critics = Net(agent.actor.trunk), twins(agent.critic.trunk)
        self.target_actor, self.targets = frozen(self.actor), [frozen(net) for net in self.critics]
        self.optimizers = [Adam(net.parameters, self.c.lr_critic) for net in self.critics]
        self.actor_adam = Adam(self.actor.parameters, self.c.lr_actor)

    def actor_loss(self, rows):
        return -value(self.critics[0], rows.s, self.h * self.actor(rows.s).tanh()).mean()

    def update(self, rows, stream):
        self.k += 1
        with torch.no_grad():
            a_next = self.target_actor(rows.s_next).tanh()
            noise = (self.c.target_noise * draw(a_next, stream)).clamp(
                -self.c.target_noise_clip, self.c.target_noise_clip
            )
            a_next = (a_next + noise).clamp(-1, 1)
            q_next = torch.minimum(*[value(net, rows.s_next, self.h * a_next) for net in self.targets])
            y = rows.r + self.c.gamma * (1 - rows.d) * q_next
        for net, adam in zip(self.critics, self.optimizers, strict=True):
            adam.descend(((value(net, rows.s, self.h * rows.a) - y) ** 2).mean())
        if self.k % self.c.delay == 0:
            self.actor_adam.descend(self.actor_loss(rows))
            for target, net in zip(self.targets, self.critics, strict=True):
                follow(target, net, self.c.tau)
            follow(self.target_actor, self.actor, self.c.tau)

    def pairs(self, agent):
        return [
            (agent.actor, self.actor), (agent.critic, self.critics),
            (agent.target_actor, self.target_actor), (agent.target_critic, self.targets),
        ]  # fmt: skip


class TD3BC(TD3):
    """Fujimoto and Gu 2021 (2106.06860), equations 3 to 5, on states in deviations from the data's mean."""

    def __init__(self, agent):
        super().__init__(agent)
        self.mean, self.std = agent.normalizer.mean.clone(), agent.normalizer.std.clone()

    def update(self, rows, stream):
        s, s_next = ((state - self.mean) / self.std for state in (rows.s, rows.s_next))
        super().update(rows._replace(s=s, s_next=s_next), stream)

    def actor_loss(self, rows):
        action = self.actor(rows.s).tanh()
        q = value(self.critics[0], rows.s, action)
        weight = self.c.alpha / q.detach().abs().mean()
        return -(weight * q).mean() + ((action - rows.a) ** 2).mean()


class DSACT:
    """Duan et al. 2023 (2310.05858): three refinements, with the gradients of the critics given outright.

    Actions reach the critics in the environment's units, and log-densities are of these. The actor's gradient
    is taken before the critics step. `clips` counts what the clip of the sampled target and the bounds of the
    release's weights changed.
    """

    def __init__(self, agent):
        self.c, self.k, self.clips = agent.config, 0, 0
        self.h, self.center = torch.tensor(agent.spaces.half_range), torch.tensor(agent.spaces.center)
        self.actor = Net(agent.actor.trunk, activation=gelu)
        self.critics = twins(agent.critic.trunk, activation=gelu)
        self.target_actor, self.targets = frozen(self.actor), [frozen(net) for net in self.critics]
        self.log_alpha = torch.full((1,), math.log(self.c.alpha_init), requires_grad=True)
        self.m = [None, None]
        self.optimizers = [Adam(net.parameters, self.c.lr_critic) for net in self.critics]
        self.actor_adam = Adam(self.actor.parameters, self.c.lr_actor)
        self.alpha_adam = Adam([self.log_alpha], self.c.lr_alpha)

    def policy(self, actor, s, stream):
        mean, log_std = actor(s).chunk(2, -1)
        action, log_prob = tanh_action(mean, log_std.clamp(-20, 0.5).exp(), draw(mean, stream))
        return self.center + self.h * action, log_prob - self.h.log().sum()

    def returns(self, net, s, a):
        mu, rho = net(torch.cat((s, a), -1)).unbind(-1)
        return mu, softplus(rho)

    def slopes(self, mu, sigma, y_q, c, m):
        """dL/dmu and dL/dsigma of every sample."""
        if self.c.critic_loss == "paper":
            scale = m**2 + 0.1
            return (
                -scale * (y_q - mu) / (sigma**2 + 0.1),
                -scale * ((c - mu) ** 2 - sigma**2) / (sigma**3 + 0.1),
            )
        weight = m**2 / (sigma**2 + 0.1)
        bounded = weight.clamp(0.1, 10)
        error = (c - mu).abs()
        huber = torch.where(error <= 50, 0.5 * error**2, 50 * (error - 25))
        self.clips += int((weight != bounded).sum() + (error > 50).sum() + ((y_q - mu).abs() > 50).sum())
        return -bounded * (y_q - mu).clamp(-50, 50), bounded * (sigma**2 - huber) / (sigma + 0.1)

    def update(self, rows, stream):
        alpha, actions = self.log_alpha.detach().exp(), self.center + self.h * rows.a
        with torch.no_grad():
            a_next, log_prob = self.policy(self.target_actor, rows.s_next, stream)
            first, second = (self.returns(net, rows.s_next, a_next) for net in self.targets)
            z = draw(torch.stack((first[0], second[0])), stream).clamp(-3, 3)
            lower = first[0] < second[0]
            mu_next = torch.where(lower, first[0], second[0])
            z_next = torch.where(lower, first[0] + first[1] * z[0], second[0] + second[1] * z[1])
            bootstrap = (1 - rows.d) * self.c.gamma
            y_q = rows.r + bootstrap * (mu_next - alpha * log_prob)
            y_z = rows.r + bootstrap * (z_next - alpha * log_prob)
        gradients = []
        for index, net in enumerate(self.critics):
            mu, sigma = self.returns(net, rows.s, actions)
            with torch.no_grad():
                newest, before, rate = sigma.mean(), self.m[index], self.c.tau_spread
                m = self.m[index] = newest if before is None else (1 - rate) * before + rate * newest
                bound = 3 * m
                c = mu + (y_z - mu).clamp(-bound, bound)
                self.clips += int((c - y_z).abs().gt(1e-9).sum())
                slopes = [slope / len(mu) for slope in self.slopes(mu, sigma, y_q, c, m)]
            gradients.append(torch.autograd.grad((mu, sigma), net.parameters, slopes))
        if self.k % self.c.delay == 0:
            a, log_prob = self.policy(self.actor, rows.s, stream)
            q = torch.minimum(*[self.returns(net, rows.s, a)[0] for net in self.critics])
            entropy_gap = log_prob.detach().mean() - rows.a.shape[-1]
            self.actor_adam.descend((alpha * log_prob - q).mean())
            self.alpha_adam.descend(-(self.log_alpha * entropy_gap).sum())
        for adam, gradient in zip(self.optimizers, gradients, strict=True):
            adam.step(gradient)
        if self.k % self.c.delay == 0:
            for target, net in zip(self.targets, self.critics, strict=True):
                follow(target, net, self.c.tau)
            follow(self.target_actor, self.actor, self.c.tau)
        self.k += 1

    def pairs(self, agent):
        return [
            (agent.actor, self.actor), (agent.critic, self.critics),
            (agent.target_actor, self.target_actor), (agent.target_critic, self.targets),
            (agent.log_alpha, self.log_alpha), (agent.spread, torch.stack(self.m)),
        ]  # fmt: skip


class STAC:
    """Özalp 2026 (2601.00737): a Gaussian critic fitted by likelihood, pessimism beta sigma; no dropout.

    Linear, norm, activation. The temperature is alpha <- alpha exp(lr alpha (target entropy - entropy)).
    """

    def __init__(self, agent):
        self.c, self.k, self.alpha = agent.config, 0, agent.config.alpha_init
        self.actor, self.critics = Net(agent.actor.trunk), twins(agent.critic.trunk, self.c.critics)
        self.targets = [frozen(net) for net in self.critics]
        self.optimizers = [Adam(net.parameters, self.c.lr_critic) for net in self.critics]
        self.actor_adam = Adam(self.actor.parameters, self.c.lr_actor)

    def policy(self, s, stream):
        mean, rho = self.actor(s).chunk(2, -1)
        return tanh_action(mean, softplus(rho.clamp(min=-5)), draw(mean, stream))

    def returns(self, net, s, a):
        mu, rho = net(torch.cat((s, a), -1)).unbind(-1)
        return mu, softplus(rho.clamp(min=-5))

    def pessimistic(self, nets, s, a):
        """The lowest mu - beta sigma."""
        lower = []
        for net in nets:
            mu, sigma = self.returns(net, s, a)
            lower.append(mu - self.c.beta * sigma)
        return torch.stack(lower).min(0).values

    def update(self, rows, stream):
        with torch.no_grad():
            a_next, log_prob = self.policy(rows.s_next, stream)
            worth = self.pessimistic(self.targets, rows.s_next, a_next) - self.alpha * log_prob
            y = rows.r + self.c.gamma * (1 - rows.d) * worth
        for net, adam, target in zip(self.critics, self.optimizers, self.targets, strict=True):
            adam.descend(-normal_log_density(y, *self.returns(net, rows.s, rows.a)).mean())
            follow(target, net, self.c.tau)
        self.k += 1
        if self.k % self.c.delay:
            return
        a, log_prob = self.policy(rows.s, stream)
        self.actor_adam.descend((self.alpha * log_prob - self.pessimistic(self.critics, rows.s, a)).mean())
        entropy, wanted = -log_prob.detach().mean().item(), -rows.a.shape[-1]
        self.alpha *= math.exp(self.c.lr_alpha * self.alpha * (wanted - entropy))

    def pairs(self, agent):
        return [
            (agent.actor, self.actor), (agent.critic, self.critics), (agent.target_critic, self.targets),
            (agent.log_alpha, torch.tensor([self.alpha]).log()),
        ]  # fmt: skip


class IQL:
    """Kostrikov et al. 2021 (2110.06169), equations 5 to 7, in the order of the authors' code.

    V steps first; the policy and the critics read the new one; then the target critics follow. The actor's
    rate falls along half a cosine and is a single-precision number.
    """

    def __init__(self, agent):
        self.c, self.k = agent.config, 0
        self.actor, self.critics = Net(agent.actor.trunk), twins(agent.critic.trunk)
        self.v, self.targets = Net(agent.value.trunk), [frozen(net) for net in self.critics]
        self.log_std = agent.actor.log_std.detach().clone().requires_grad_()
        self.optimizers = [Adam(net.parameters, self.c.lr_critic) for net in self.critics]
        self.v_adam = Adam(self.v.parameters, self.c.lr_value)
        self.actor_adam = Adam([*self.actor.parameters, self.log_std], 0.0)

    def update(self, rows, stream):
        with torch.no_grad():
            q = torch.minimum(*[value(net, rows.s, rows.a) for net in self.targets])
        u = q - self.v(rows.s).squeeze(-1)
        self.v_adam.descend(((self.c.expectile - (u < 0).double()).abs() * u**2).mean())
        with torch.no_grad():
            advantage = q - self.v(rows.s).squeeze(-1)
            weight = (self.c.beta * advantage).exp().clamp(max=self.c.max_weight)
            y = rows.r + self.c.gamma * (1 - rows.d) * self.v(rows.s_next).squeeze(-1)
        std = self.log_std.clamp(self.c.log_std_min, 2).exp()
        log_prob = normal_log_density(rows.a, self.actor(rows.s).tanh(), std).sum(-1)
        share = min(self.k / self.c.actor_lr_decay, 1.0)
        rate = torch.tensor(0.5 * self.c.lr_actor * (1 + math.cos(math.pi * share)))
        self.actor_adam.rate = rate.float().item()
        self.actor_adam.descend(-(weight * log_prob).mean())
        for net, adam, target in zip(self.critics, self.optimizers, self.targets, strict=True):
            adam.descend(((value(net, rows.s, rows.a) - y) ** 2).mean())
            follow(target, net, self.c.tau)
        self.k += 1

    def pairs(self, agent):
        return [
            (agent.actor.trunk, self.actor), (agent.actor.log_std, self.log_std), (agent.value, self.v),
            (agent.critic, self.critics), (agent.target_critic, self.targets),
        ]  # fmt: skip


class BC:
    """Regression of the data's actions on their states, by squared error or by likelihood."""

    def __init__(self, agent):
        self.c, self.actor = agent.config, Net(agent.actor.trunk)
        self.mean, self.std = agent.normalizer.mean.clone(), agent.normalizer.std.clone()
        self.log_std = None
        if self.c.loss == "likelihood":
            self.log_std = agent.actor.log_std.detach().clone().requires_grad_()
        learnt = self.actor.parameters if self.log_std is None else [*self.actor.parameters, self.log_std]
        self.adam = Adam(learnt, self.c.lr_actor)

    def update(self, rows, stream):
        mean = self.actor((rows.s - self.mean) / self.std).tanh()
        if self.log_std is None:
            self.adam.descend(((mean - rows.a) ** 2).mean())
        else:
            std = self.log_std.clamp(-5, 2).exp()
            self.adam.descend(-normal_log_density(rows.a, mean, std).sum(-1).mean())

    def pairs(self, agent):
        pairs = [(agent.actor.trunk, self.actor)]
        return pairs if self.log_std is None else [*pairs, (agent.actor.log_std, self.log_std)]


class QRDQN:
    """Dabney et al. 2018 (1710.10044), equations 9, 10 and 13; the target follows by Polyak averaging.

    Actions are one of A; the greatest entry of a row's action says which.
    """

    def __init__(self, agent):
        self.c, self.shape = agent.config, agent.critic.shape[:2]
        self.net = Net([*agent.critic.trunk, *agent.critic.head])
        self.target = frozen(self.net)
        self.adam = Adam(self.net.parameters, self.c.lr_critic, self.c.adam_eps)

    def quantiles(self, net, s):
        """Quantiles by action, [N, A, K]."""
        return net(s).unflatten(-1, self.shape)

    def update(self, rows, stream):
        each, count = torch.arange(len(rows.r)), self.c.quantiles
        with torch.no_grad():
            theta_next = self.quantiles(self.target, rows.s_next)
            best = theta_next.mean(-1).argmax(-1)
            bootstrap = self.c.gamma * (1 - rows.d)
            y = rows.r[:, None] + bootstrap[:, None] * theta_next[each, best]
        theta = self.quantiles(self.net, rows.s)[each, rows.a.argmax(-1)]
        loss = torch.zeros(())
        for i in range(count):
            u = y - theta[:, i : i + 1]
            size, kappa = u.abs(), self.c.kappa
            huber = torch.where(size <= kappa, 0.5 * u**2, kappa * (size - 0.5 * kappa))
            level = (2 * i + 1) / (2 * count)
            loss = loss + ((level - (u < 0).double()).abs() * huber / kappa).mean(1).mean(0)
        self.adam.descend(loss)
        follow(self.target, self.net, self.c.tau)

    def pairs(self, agent):
        def layers(network):
            return torch.nn.ModuleList([network.trunk, network.head])

        return [(layers(agent.critic), self.net), (layers(agent.target_critic), self.target)]
