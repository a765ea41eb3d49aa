"""Early episode stopping in stable-baselines3's SAC, through Gymnasium's vector environments."""

import gymnasium
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import VecEnv

from rlsuite.plugins.least import LEAST, LEASTConfig
from rlsuite.plugins.wrappers import LEASTVectorEnv


class Worlds(VecEnv):
    """A Gymnasium vector environment in SAME_STEP mode, as stable-baselines3 wants it."""

    def __init__(self, env):
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.env, self.actions = env, None

    def reset(self):
        return self.env.reset(seed=0)[0]

    def step_async(self, actions):
        self.actions = actions

    def step_wait(self):
        obs, reward, terminated, truncated, infos = self.env.step(self.actions)
        rows = [{"TimeLimit.truncated": bool(cut)} for cut in truncated & ~terminated]
        for world in (terminated | truncated).nonzero()[0]:
            rows[world]["terminal_observation"] = infos["final_obs"][world]
        return obs, reward, terminated | truncated, rows

    get_attr = env_is_wrapped = lambda self, *_, **__: [None] * self.num_envs
    close = env_method = set_attr = lambda *_, **__: None


def main(steps=20_000, updates=8, **fields):
    least = LEAST(2, 200, steps, LEASTConfig(**fields))

    def evaluate(obs, action, reward, following, terminated):
        obs, following, reward = (torch.as_tensor(x).float() for x in (obs, following, reward))
        action = torch.as_tensor(model.policy.scale_action(action))
        with torch.no_grad():
            q = torch.cat(model.critic(obs, action), -1)
            next_action, log_prob = model.actor.action_log_prob(following)
            q2 = torch.cat(model.critic_target(following, next_action), -1).amin(-1)
            soft = q2 - model.log_ent_coef.exp() * log_prob
            target = reward + model.gamma * ~torch.as_tensor(terminated) * soft
        return q.amin(-1), (q - target[:, None]).square().mean(-1)

    worlds = gymnasium.make_vec("Pendulum-v1", 2, vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED})
    env = Worlds(LEASTVectorEnv(worlds, least, evaluate))
    model = SAC("MlpPolicy", env, train_freq=8, gradient_steps=updates, seed=0, device="cpu")
    model.learn(steps)
    return least


if __name__ == "__main__":
    print(f"{int(main().stops)} episodes stopped")
