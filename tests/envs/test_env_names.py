"""What an environment's name means, and what a wrong one says."""

import subprocess
import sys

import gymnasium
import pytest
from gymnasium_tasks import NAMES

from rlsuite.envs.names import env_names, suite_tasks_by_name, tasks_by_name
from rlsuite.envs.tasks.base import load_task
from rlsuite.envs.tasks.dmc import base
from rlsuite.envs.tasks.dmc.base import import_suite, load_suite_task
from rlsuite.errors import ConfigError


@pytest.mark.parametrize(
    ("env_id", "made", "engine"),
    [
        ("HalfCheetah", "HalfCheetah-v5", "native"),
        ("HalfCheetah-v5", "HalfCheetah-v5", "native"),
        ("Walker2d-v4", "Walker2d-v4", "native"),
        ("RiskyPointMass", "RiskyPointMass", "none"),
        ("gym:Pendulum-v1", "gym:Pendulum-v1", "gym"),
        ("dmc:point_mass-easy", "dmc:point_mass-easy", "dmc"),
    ],
)
def test_names(make, env_id, made, engine):
    env = make(env_id)
    assert env.env_id == made
    assert env.engine_name == engine
    assert make(made).env_id == made  # the id makes the environment again


def test_gymnasiums_own_engine_on_a_task_of_ours(make):
    env = make("Hopper-v4", engine="gym")
    assert env.env_id == "gym:Hopper-v4"
    assert env.observation_spec["observation"].shape == (1, 11)


def test_dm_controls_own_environment_of_a_task_of_ours(make):
    env = make("dmc:cheetah-run", engine="dmc")
    assert env.engine_name == "dmc"
    assert env.env_id == "dmc:cheetah-run"


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("walker-walk", {}, 'Did you mean "dmc:walker-walk"'),
        ("HalfCheeta", {}, 'Did you mean "HalfCheetah"'),
        ("Pendulum-v1", {}, 'use "gym:Pendulum-v1"'),
        ("Pusher-v4", {}, "issues/950.*use Pusher-v5"),
        ("gym:Pusher-v4", {}, "mujoco<3"),
        ("HalfCheetah-v3", {}, 'Allowed: "HalfCheetah-v5", "HalfCheetah-v4"'),
        ("HalfCheetah", {"engine": "nativ"}, 'Did you mean "native"'),
        ("HalfCheetah", {"num_envs": 0}, "at least 1"),
        ("HalfCheetah", {"max_episode_steps": 0}, "at least 1"),
        ("gym:Pendulum-v1", {"engine": "native"}, "cannot run gym:Pendulum-v1"),
        ("HalfCheetah", {"engine": "dmc"}, "cannot run HalfCheetah"),
        (
            "dmc:cheetah-run",
            {"engine": "gym"},
            "cannot run dmc:cheetah-run; allowed: auto, dmc, native, warp",
        ),
        ("dmc:fish-swim", {"engine": "native"}, "cannot run dmc:fish-swim; allowed: auto, dmc"),
        ("gym:Pendulom-v1", {}, 'Did you mean "gym:Pendulum-v1"'),
        ("gym:CartPole-v1", {}, "continuous"),
        ("gym:no_such_module:X-v0", {}, "no_such_module"),
        ("dmc:cheetah-rum", {}, 'Did you mean "dmc:cheetah-run"'),
        ("dmc:cheetah", {}, "is not a dm_control task"),
        ("", {}, "is not an environment"),
    ],
)
def test_what_cannot_be_made_says_why(make, env_id, options, message):
    with pytest.raises(ConfigError, match=message):
        make(env_id, **options)


def test_a_missing_package_of_gymnasium_is_named(make):
    def needs_more(**_):
        raise gymnasium.error.DependencyNotInstalled("Box2D is not installed")

    gymnasium.register("Needy-v0", needs_more)
    try:
        with pytest.raises(ConfigError, match="Box2D is not installed"):
            make("gym:Needy-v0")
    finally:
        del gymnasium.registry["Needy-v0"]


@pytest.mark.parametrize("env_id", ["dmc:cheetah-run", "dmc:fish-swim"])
def test_a_missing_dm_control_says_how_to_get_it(make, monkeypatch, env_id):
    base._original.cache_clear()  # another test may have loaded it
    for name in [name for name in sys.modules if name.startswith("dm_control")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(ConfigError, match=r"rlsuite\[dmc\]"):
        make(env_id)


def test_pictures_must_be_asked_for_where_gymnasium_draws(make):
    env = make("gym:Pendulum-v1")
    env.reset()
    with pytest.raises(ConfigError, match="render=True"):
        env.frame()


def test_listing_names_loads_neither_torch_nor_mujoco():
    code = (
        "import sys; from rlsuite.envs.names import env_names; assert env_names();"
        "heavy = {'torch', 'mujoco', 'numpy', 'gymnasium'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_task_is_listed_with_a_summary_and_loads():
    listed = dict(env_names())
    assert set(NAMES) <= set(listed)
    assert all(summary for summary in listed.values())
    for name in tasks_by_name():
        for version in ("v5",) if name == "Pusher" else ("v5", "v4"):
            assert load_task(name, version).env_id == f"{name}-{version}"
    for name in suite_tasks_by_name():
        assert f"dmc:{name}" in listed
        assert load_suite_task(name).env_id == f"dmc:{name}"


def test_importing_dm_control_leaves_the_choice_of_opengl_alone(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    import_suite()
    assert "MUJOCO_GL" not in __import__("os").environ
