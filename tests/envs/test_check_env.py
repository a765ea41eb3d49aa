"""`rlsuite check env`: every planted fault is one line that names the function; what is right has none."""

import importlib
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from rlsuite import extensions, registry
from rlsuite.envs.check import check_env

TEMPLATE = (Path(__file__).parents[2] / "examples" / "templates" / "task" / "my_slide.py").read_text()

OBSERVATION = 'torch.cat((fields["qpos"], fields["qvel"]), dim=-1)'
REWARD = "return torch.where(ended, 0.0, near - options.effort * action.square().sum(-1))"
INITIAL = "initial=ResetNoise(qpos=options.start, qvel=0.1)"
LOAD = "mujoco.MjModel.from_xml_string(MODEL)"
WRITING = ("    return torch.cat", '    fields["qvel"].clamp_(-0.01, 0.01)\n    return torch.cat')
BEFORE = (
    "observation=observation,",
    'observation=observation,\n        before=lambda fields: fields["qpos"],',
)
DRAWER = """

class Drawn(ResetNoise):
    def draw(self, rng, qpos0, qvel0):
        return super().draw(SOURCE, qpos0, qvel0)

    def sample(self, count, qpos0, qvel0, generator):
        start = super().sample(count, qpos0, qvel0, generator)
        return start._replace(qpos=start.qpos + SHIFT)


def build"""


def drawn(source, shift):
    """Return what makes initial states of another source, and of another distribution on a device."""
    return "\n\ndef build", DRAWER.replace("SOURCE", source).replace("SHIFT", shift)


ANY = "__import__('numpy').random.default_rng()"
FAULTS = {
    "flat": ("observation", "shape [16]", OBSERVATION, 'fields["qpos"][:, 0]'),
    "view": ("observation", "view of qpos", OBSERVATION, 'fields["qpos"]'),
    "narrow": ("observation", "float32", OBSERVATION, f"{OBSERVATION}.float()"),
    "writes": ("observation", "writes", *WRITING),
    "raises": ("observation", "KeyError: 'qvle'", OBSERVATION, 'fields["qpos"] + fields["qvle"]'),
    "wide": ("build.reward", "shape [16, 1]", REWARD, "return near.unsqueeze(-1)"),
    "draws": ("build.reward", "asked again", REWARD, "return near + torch.rand_like(near)"),
    "mixes": ("build.reward", "depends on the other envs", REWARD, "return near - near.mean()"),
    "number": ("terminated", "bool is wanted", ".abs() > EDGE", ".abs()"),
    "over": ("terminated", "initial state", ".abs() > EDGE", ".abs() < EDGE"),
    "before": ("build.<lambda>", "view of qpos", *BEFORE),
    "model": ("build.<lambda>", "same model", f"model=lambda: {LOAD}", f"model=lambda kept={LOAD}: kept"),
    "dt": ("build", "dt = 0.01 s", "dt=0.01 * SUBSTEPS", "dt=0.01"),
    "field": ("build", "no array speed", "packages=", 'fields=("qpos", "qvel", "speed"),\n        packages='),
    "source": ("Drawn.draw", "the same generator", *drawn(ANY, "0")),
    "twin": ("Drawn.sample", "distributed otherwise", *drawn("rng", "0.5")),
}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write a module, import it, and offer it as a task."""
    monkeypatch.setattr(extensions, "_registered", {})
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    names = []

    def offer(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        importlib.import_module(name)
        names.append(name)
        registry.register_task(f"Own{name}", name)
        return f"Own{name}"

    yield offer
    for name in names:
        del sys.modules[name]


def test_a_sound_task_and_environments_of_all_kinds_have_no_findings(own):
    for env_id in (own("sound", TEMPLATE), "Hopper-v4", "RiskyPointMass", "gym:Pendulum-v1"):
        assert check_env(env_id) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_task_is_one_line_that_names_the_function(own, fault):
    function, message, old, new = FAULTS[fault]
    assert TEMPLATE.count(old) == 1
    text = TEMPLATE.replace(old, new)
    if "Drawn" in new:
        text = text.replace(INITIAL, INITIAL.replace("ResetNoise", "Drawn"))
    (finding,) = check_env(own(f"fault{fault}", text))
    assert finding.function == f"fault{fault}.{function}"
    assert message in finding.message and "\n" not in str(finding)


TOY = '''
"""A walk on a line."""
from dataclasses import dataclass
import numpy as np
import torch
from rlsuite.envs.base import EnvFacts, Outcome, VectorEnv, take
from rlsuite.envs.seeding import WORDS, make_generators, pack_generators, unpack_generators

@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """None."""

class Env(VectorEnv):
    """A walk."""
    def __init__(self, env_id, arguments, num_envs, options):
        super().__init__(EnvFacts(env_id=env_id, engine_name="none", num_envs=num_envs, observation_size=1,
            action_low=np.array([-1.0]), action_high=np.array([1.0]), packages=(),
            max_episode_steps=options.max_episode_steps or 20), options)
        self._set_seed(options.seed)
        self.place, self.pace = np.zeros((num_envs, 1)), np.zeros((num_envs, 1))
    def _set_seed(self, seed):
        self._generators = make_generators(seed, self.num_envs)
    def _advance(self, action):
        old = self.place.copy()
        self.pace = 0.5 * self.pace + action
        self.place = self.place + self.pace
        reward = (self.place - old)[:, 0]
        terminated = np.abs(self.place[:, 0]) > 9
        return Outcome(self.place.copy(), reward, terminated)
    def _restart(self, mask):
        for index in np.flatnonzero(mask):
            self.place[index] = self._generators[index].uniform(-1, 1)
            self.pace[index] = 0
        return self.place.copy()
    def _own_state(self):
        return {"generators": pack_generators(self._generators), "place": torch.tensor(self.place),
                "pace": torch.tensor(self.pace)}
    def _load_own_state(self, state):
        self._generators = unpack_generators(take(state, "generators", (self.num_envs, WORDS)))
        self.place[:] = state["place"].numpy()
        self.pace[:] = state["pace"].numpy()
    def frame(self, index=0):
        raise NotImplementedError
'''

MOVE = "self.place = self.place + self.pace"
IN_PLACE = (MOVE, "self.place += self.pace")
LATE = "np.abs(self.place[:, 0]) > 9"
EARLY = "        self._restart(self.step_counts + 1 >= self.max_episode_steps)\n        return Outcome"
TOY_FAULTS = {
    "fresh": (
        "_advance",
        "later step overwrites",
        "place.copy(), reward, ",
        "place, reward, fresh=True, terminated=",
    ),
    "reward": ("_advance", "rewards (3, 1)", "(self.place - old)[:, 0]", "self.place - old"),
    "flag": ("_advance", "terminated is (3,) int64", LATE, f"({LATE}) * 1"),
    "mask": ("_restart", "not to be reset", "np.flatnonzero(mask)", "range(self.num_envs)"),
    "jump": ("_advance", "leaves something", "            self.pace[index] = 0\n", ""),
    "state": ("_advance", "restored in the middle", '        self.pace[:] = state["pace"].numpy()\n', ""),
    "alias": ("_own_state", "go on changing", "torch.tensor(self.place)", "torch.from_numpy(self.place)"),
    "reset": ("_advance", "must not reset", "        return Outcome", EARLY),
    "seed": ("_set_seed", "the same seed", "make_generators(seed, ", "make_generators(None, "),
    "neighbour": ("_advance", "not independent", "0.5 * self.pace", "0.5 * self.pace.mean()"),
}


def test_a_sound_environment_without_an_engine_has_no_findings(own):
    assert check_env(own("walk", TOY)) == []


@pytest.mark.parametrize("fault", TOY_FAULTS)
def test_a_fault_in_an_environment_is_one_line_that_names_the_function(own, fault):
    function, message, old, new = TOY_FAULTS[fault]
    assert TOY.count(old) == 1
    text = TOY.replace(old, new)
    if fault in ("fresh", "alias"):
        text = text.replace(*IN_PLACE)
    (finding,) = check_env(own(f"walk{fault}", text))
    assert finding.function == f"walk{fault}.Env.{function}"
    assert message in finding.message


class Sound(gymnasium.Env):
    observation_space = spaces.Box(-9, 9, (2,), np.float64)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    speed = 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.speed = self.np_random.uniform(-1, 1, 2), 0.0
        self.old = self.place[0]
        return self.place.copy(), {}

    def step(self, action):
        self.speed = 0.5 * self.speed + 0.1 * float(action[0])
        self.place = np.clip(self.place + self.speed, -9, 9)
        return self.place.copy(), self.speed, False, False, {}


class Alone(Sound):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class Elsewhere(Sound):
    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        return observation + np.random.rand(), info


class Jumps(Sound):
    """The first reward of an episode is the way from where the last one ended."""

    old = None

    def reset(self, *, seed=None, options=None):
        old, answer = self.old, super().reset(seed=seed)
        self.old = self.old if old is None else old
        return answer

    def step(self, action):
        observation, _, *rest = super().step(action)
        reward, self.old = observation[0] - self.old, observation[0]
        return observation, reward, *rest


class Four(Sound):
    def step(self, action):
        return super().step(action)[:4]


class Outside(Sound):
    def step(self, action):
        observation, *rest = super().step(action)
        return observation + 20, *rest


class Writes(Sound):
    def step(self, action):
        action *= 0.5
        return super().step(action)


class Reuses(Sound):
    def step(self, action):
        _, *rest = super().step(action)
        self.shown = getattr(self, "shown", self.place)
        self.shown[:] = self.place
        return self.shown, *rest


class Vague(Sound):
    def step(self, action):
        observation, reward, *_ = super().step(action)
        return observation, np.array([reward]), False, False, {}


class Unsure(Sound):
    def step(self, action):
        observation, reward, *_ = super().step(action)
        return observation, reward, 0, False, {}


class Breaks(Sound):
    def step(self, action):
        raise ZeroDivisionError("gear ratio")


GYM_FAULTS = {
    Alone: ("reset", "instead of (observation, info)"),
    Elsewhere: ("reset", "self.np_random"),
    Jumps: ("reset", "leaves something of it behind"),
    Four: ("step", "4 values"),
    Outside: ("step", "leaves its space"),
    Writes: ("step", "writes into the action"),
    Reuses: ("step", "overwrites the observation"),
    Vague: ("step", "one number is wanted"),
    Unsure: ("step", "terminated is 0: a bool"),
    Breaks: ("step", "ZeroDivisionError: gear ratio"),
}


@pytest.mark.parametrize("faulty", GYM_FAULTS)
def test_a_fault_in_a_gymnasium_environment_is_one_line_that_names_the_function(faulty):
    env_id = f"faulty/{faulty.__name__}-v0"
    gymnasium.register(env_id, faulty, max_episode_steps=50)
    try:
        (finding,) = check_env(f"gym:{env_id}")
    finally:
        del gymnasium.registry[env_id]
    function, message = GYM_FAULTS[faulty]
    assert finding.function == f"{__name__}.{faulty.__name__}.{function}"
    assert message in finding.message


def test_a_sound_gymnasium_environment_has_no_findings():
    gymnasium.register("faulty/Sound-v0", Sound, max_episode_steps=50)
    assert check_env("gym:faulty/Sound-v0") == []
