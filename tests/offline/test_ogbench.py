"""OGBench's files: what its own loader makes of them, rewards of every task, recordings made here, tables."""

import numpy as np
import pytest
import torch

from rlsuite.agents.base import WindowShape
from rlsuite.bench.ogbench import over_tasks, tasks_in
from rlsuite.cli.main import run
from rlsuite.envs.ogbench_names import Name
from rlsuite.errors import ConfigError, DataError
from rlsuite.offline.load import environment_of, load_dataset
from rlsuite.offline.names import recipe
from rlsuite.offline.ogbench_make import make
from rlsuite.offline.ogbench_record import ArmBehaviour, MazeBehaviour, Plan, plan_of, visible
from rlsuite.offline.transforms import DataOptions, transformed
from rlsuite.runs.metrics import read_metrics
from rlsuite.runs.runfolder import RunFolder
from rlsuite.training.offline import windows

NAVIGATE = "ogbench/pointmaze-medium-navigate"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A folder with three episodes of 1,000 transitions, and one for validation."""
    out = tmp_path_factory.mktemp("ogbench")
    chosen = recipe(NAVIGATE)
    make(plan_of(chosen, 3_000, 0), chosen, out)
    return out


@pytest.fixture
def here(recorded, monkeypatch):
    monkeypatch.setenv("OGBENCH_DATASET_DIR", str(recorded))
    return recorded


@pytest.mark.parametrize("task", [0, 2, 5])
def test_ogbenchs_own_loader_reads_the_same(here, task):
    """Observations, successors, actions, rewards, masks and ends, to the bit, for a single task."""
    from ogbench.utils import make_env_and_datasets

    name = Name("pointmaze-medium", "navigate", task)
    env, theirs, validation = make_env_and_datasets(name.dataset.partition("/")[2], dataset_dir=str(here))
    ours = load_dataset(name.dataset)
    rows = ours.rows
    assert np.array_equal(rows["observation"], theirs["observations"])
    assert np.array_equal(rows["next", "observation"], theirs["next_observations"])
    assert np.array_equal(rows["action"], theirs["actions"])
    assert np.array_equal(rows["next", "reward"].squeeze(-1), theirs["rewards"])
    assert np.array_equal(rows["next", "terminated"].squeeze(-1), theirs["masks"] == 0)
    assert np.array_equal(ours.episodes[:, 1] - 1, np.flatnonzero(theirs["terminals"]))
    assert ours.env == name._replace(dataset_type="").env_id
    assert len(validation["observations"]) == 1_000
    assert 0 < (theirs["masks"] == 0).sum() < 3_000
    env.close()


def test_masks_and_terminals_are_told_apart(here):
    """A solved state terminates wherever it stands; an episode is a whole recording."""
    data = load_dataset(f"{NAVIGATE}-v0")
    terminated, truncated = (data.rows["next", key].squeeze(-1) for key in ("terminated", "truncated"))
    assert data.lengths().tolist() == [1_000] * 3
    assert terminated[:999].any()
    last = data.episodes[:, 1] - 1
    assert torch.equal(truncated.nonzero().squeeze(-1), last[~terminated[last]])
    assert (data.rows["next", "reward"].squeeze(-1)[terminated] == 0).all()


def test_the_tasks_of_ids_files_and_environments(here):
    goals = {}
    for task in (1, 5):
        by_id = load_dataset(f"{NAVIGATE}-singletask-task{task}-v0")
        by_env = load_dataset(f"{NAVIGATE}-v0", env=f"ogbench:pointmaze-medium-singletask-task{task}-v0")
        assert torch.equal(by_id.rows["next", "reward"], by_env.rows["next", "reward"])
        goals[task] = by_id.rows["next", "reward"]
    assert not torch.equal(goals[1], goals[5])
    file = str(here / "pointmaze-medium-navigate-v0.npz")
    assert (
        environment_of(file) == environment_of(f"{NAVIGATE}-v0") == "ogbench:pointmaze-medium-singletask-v0"
    )
    assert torch.equal(
        load_dataset(file, env="none").rows["next", "reward"], goals[1]
    )  # the default task is 1
    with pytest.raises(ConfigError, match="draws another goal for every episode"):
        load_dataset(file, env="ogbench:pointmaze-medium-v0")
    with pytest.raises(ConfigError, match="data of pointmaze-medium have no rewards of ogbench:cube-single"):
        load_dataset(file, env="ogbench:cube-single-singletask-v0")


def test_returns_and_windows_end_where_the_task_is_solved(here):
    data = load_dataset(f"{NAVIGATE}-v0")
    solved = data.rows["next", "terminated"].squeeze(-1)
    ready = transformed(data, DataOptions(return_gamma=0.5, next_action=True))
    returns = ready.rows["return"].squeeze(-1)
    at = solved.nonzero().squeeze(-1)[:3]
    assert returns[at].tolist() == [0.0] * 3
    before = int(at[0]) - 1
    assert returns[before].item() == -1.0
    assert returns[before - 1].item() == pytest.approx(-1.5)
    assert (ready.rows["next", "action"][at] == 0).all()
    starts = windows(data, WindowShape(horizon=5, short=False), 4).starts
    assert not solved[starts.unsqueeze(-1) + torch.arange(4)].any()
    assert solved[starts + 4].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"terminals": np.zeros(4, bool)}, "the last row is none"),
        ({"terminals": np.array([0, 0, 1, 1], bool)}, "two in a row"),
        ({"actions": np.zeros((3, 2))}, "actions: found 3 rows, expected 4"),
        ({"observations": np.full((4, 2), np.nan)}, "found nan in transition"),
        ({"qpos": np.zeros((2, 2))}, "give no rewards of ogbench:pointmaze-medium-singletask-v0"),
        ({"observations": np.array([{}] * 4)}, "observations:"),
    ],
)
def test_damaged_files_are_refused(tmp_path, change, message):
    columns = {
        "observations": np.ones((4, 2)),
        "actions": np.zeros((4, 2)),
        "terminals": np.array([0, 0, 0, 1], bool),
        "qpos": np.zeros((4, 2)),
    }
    path = tmp_path / "pointmaze-medium-navigate-v0.npz"
    np.savez(path, **{**columns, **change})
    with pytest.raises(DataError, match=message):
        load_dataset(str(path))


def test_a_file_that_is_no_archive_or_says_nothing_of_itself(tmp_path):
    (tmp_path / "scene-play-v0.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="no file of OGBench's"):
        load_dataset(str(tmp_path / "scene-play-v0.npz"))
    np.savez(tmp_path / "mine.npz", observations=np.zeros((1, 2)))
    with pytest.raises(DataError, match="does not say which environment of OGBench it is of"):
        load_dataset(str(tmp_path / "mine.npz"))


def test_the_number_of_processes_and_a_break_change_nothing(tmp_path, recorded, monkeypatch):
    """Two processes, and a making that stopped after its first chunk: the same bytes of every column."""
    monkeypatch.setattr("rlsuite.offline.ogbench_make.CHUNK_ROWS", 1)
    chosen = recipe(NAVIGATE)
    plan = plan_of(chosen, 3_000, 0)

    def stopping(steps):
        if steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(plan, chosen, tmp_path, tell=stopping)
    assert not list(tmp_path.glob("*.npz"))
    with pytest.raises(ConfigError, match="half of another making"):
        make(plan_of(chosen, 2_000, 0), chosen, tmp_path)
    told = []
    make(plan, chosen, tmp_path, jobs=2, tell=told.append)
    assert told == [2_000, 3_000, 4_000]  # the first chunk was there
    for name in ("pointmaze-medium-navigate-v0.npz", "pointmaze-medium-navigate-v0-val.npz"):
        with np.load(tmp_path / name) as again, np.load(recorded / name) as once:
            for key in ("observations", "actions", "terminals", "qpos", "qvel"):
                assert again[key].tobytes() == once[key].tobytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "pointmaze-medium-navigate-v0-val.npz",
        "pointmaze-medium-navigate-v0.npz",
    ]
    with pytest.raises(ConfigError, match="exists already"):
        make(plan, chosen, tmp_path)


def test_a_run_is_scored_by_success(here, tmp_path, capsys):
    """By id alone it is evaluated on the default task; its return of -5 is no score."""
    words = f"train bc --dataset {NAVIGATE}-v0 --steps 2 --eval-every 2 --eval-episodes 3 --threads 1"
    words += f" --batch-size 8 --compile off --env-option max_episode_steps=5 --out {tmp_path / 'run'}"
    assert run(words.split()) == 0
    (last,) = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "eval/score" in line]
    assert (last["eval/return_mean"], last["eval/success"], last["eval/score"]) == (-5.0, 0.0, 0.0)
    capsys.readouterr()
    assert run(["eval", str(tmp_path / "run"), "--episodes", "4"]) == 0
    assert "success 0 of 4 episodes" in capsys.readouterr().out
    train = RunFolder.open(tmp_path / "run").config()["train"]
    assert train["env"] == "ogbench:pointmaze-medium-singletask-v0"


def short(env: str, dataset_type: str, rows: int) -> Plan:
    plan = plan_of(recipe(f"ogbench/{env}-{dataset_type}"), 1, 0)
    return Plan(
        env=env,
        dataset_type=dataset_type,
        episodes=1,
        rows=rows,
        noise=plan.noise,
        random_actions=plan.random_actions,
        seed=0,
    )


def test_plans_are_ogbenchs():
    sizes = {
        "pointmaze-medium-navigate": (1000, 1001, 0.5, 0),
        "pointmaze-giant-navigate": (500, 2001, 0.5, 0),
        "pointmaze-large-stitch": (5000, 201, 0.5, 0),
        "cube-single-play": (1000, 1001, 0.1, 0),
        "cube-double-noisy": (1000, 1001, 0.1, 0.1),
        "puzzle-4x5-noisy": (3000, 1001, 0.1, 0.2),
    }
    for name, expected in sizes.items():
        plan = plan_of(recipe(f"ogbench/{name}"), None, 0)
        assert (plan.episodes, plan.rows, plan.noise, plan.random_actions) == expected


def test_a_stitching_episode_ends_near_four_cells_away_and_exploring_holds_a_direction():
    behaviour = MazeBehaviour(short("pointmaze-medium", "stitch", 201))
    maze = behaviour.env
    for number in range(3):
        places = behaviour.episode(number)["observations"]
        _, distances = maze.get_oracle_subgoal(places[0], places[0])
        assert distances[maze.xy_to_ij(places[-1])] in (3, 4, 5)
    behaviour.close()
    exploring = MazeBehaviour(short("pointmaze-medium", "explore", 31))
    actions = exploring.episode(0)["actions"]
    exploring.close()
    assert actions.shape == (31, 2)
    assert np.abs(actions).max() == 1.0


@pytest.mark.parametrize(
    ("env", "dataset_type"), [("cube-single", "play"), ("puzzle-3x3", "noisy"), ("scene", "play")]
)
def test_an_arm_pursues_its_targets(env, dataset_type):
    """Its oracle moves something: a cube, a button, a drawer or a window; the same for the same number."""
    behaviour = ArmBehaviour(short(env, dataset_type, 110))
    behaviour.episode(1)
    table = behaviour.episode(0)
    moved = np.ptp(table["qpos"][:, 14:], axis=0).max()
    behaviour.close()
    assert moved > 0.01
    assert table["terminals"].tolist() == [False] * 109 + [True]
    fresh = ArmBehaviour(short(env, dataset_type, 110))
    again = fresh.episode(0)
    fresh.close()
    assert all(again[key].tobytes() == table[key].tobytes() for key in table)


def test_scenes_cube_is_visible_or_in_the_drawer():
    assert visible(np.array([[0.4, 0.0, 0.02], [0.4, -0.31, 0.07]]))
    assert not visible(np.array([[0.4, 0.29, 0.02]]))
    assert not visible(np.array([[0.4, -0.3, 0.05]]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ogbench/antmaze-medium-navigate", "trained walker that its package does not bring"),
        (
            "ogbench/cube-single-play-singletask-task1-v0",
            "one file for all tasks: .* ogbench/cube-single-play",
        ),
        ("ogbench/cube-single-navigate", "is not a data set that can be made"),
    ],
)
def test_what_cannot_be_made_says_why(name, message):
    with pytest.raises(ConfigError, match=message):
        recipe(name)


def test_an_id_without_a_task_is_five_rows_and_their_mean():
    names = tasks_in(f"{NAVIGATE}-v0")
    assert names == tuple(f"{NAVIGATE}-singletask-task{task}-v0" for task in range(1, 6))
    assert tasks_in(names[0]) == (names[0],)
    assert tasks_in("hopper-medium-v2") == ("hopper-medium-v2",)
    facts = {
        "data": "made here",
        "agent": "bc",
        "preset": "default",
        "updates": 9,
        "seeds": 1,
        "episodes": 50,
    }
    rows = [
        {
            "dataset": name.replace("/", "-"),
            **facts,
            "score": 10.0 * number,
            "score_std": 1.0,
            "return_mean": -100.0,
            "return_std": 0.0,
            "late_score": 10.0,
            "late_score_std": 0.0,
            "late_return": -100.0,
            "late_return_std": 0.0,
            "late_evaluations": 1,
            "q_drift": 0.1,
        }
        for number, name in enumerate(names)
    ]
    (mean,) = over_tasks(rows)
    assert (mean["dataset"], mean["score"]) == ("ogbench-pointmaze-medium-navigate-v0, 5 tasks", 20.0)
    assert mean["score_std"] == pytest.approx(15.811388)
    assert np.isnan(mean["q_drift"])
    assert over_tasks(rows[:4]) == []
