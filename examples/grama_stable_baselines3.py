"""Neuron resets in stable-baselines3's SAC: three lines between making the model and training it.

python examples/grama_stable_baselines3.py
"""

import torch
from stable_baselines3 import SAC

from rlsuite.plugins.grama import GraMa


def main(steps: int = 10_000, tau: float = 0.0, period: int = 1000) -> GraMa:
    """Train on Pendulum; the critics' inactive neurons are reset every `period` updates."""
    model = SAC("MlpPolicy", "Pendulum-v1", learning_starts=100, seed=0, device="cpu")

    example = (torch.zeros(2, 3), torch.zeros(2, 1))  # observation, action
    reset = GraMa(tau=tau, period=period).attach(model.critic, model.critic.optimizer, example=example)
    reset.follow(model.critic.optimizer)

    print(reset.summary())
    model.learn(steps)
    for layer, count in reset.resets.items():
        print(f"{layer}: {count} neurons reset in {reset.count} updates")
    return reset


if __name__ == "__main__":
    main()
