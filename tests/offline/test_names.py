"""Names of data sets: known ones, paths, and tricks with paths; refused before any file is touched."""

import re

import pytest
from offline_helpers import episodes_of, flat_columns, write_flat, write_minari

from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError, DataError
from rlsuite.offline import names
from rlsuite.offline.load import load_dataset
from rlsuite.offline.locate import local_sets, locate
from rlsuite.offline.names import check_name, known_sets, recipe, recipes
from rlsuite.offline.scores import find_d4rl_reference


def test_every_d4rl_set_has_references_an_address_and_a_limit():
    for known in known_sets().values():
        check_name(known.name)
        if known.layout == "d4rl":
            assert find_d4rl_reference(known.name) is not None, known.name
            assert known.max_episode_steps is not None
            assert known.url.endswith(".hdf5")
    digests = {known.sha256 for known in known_sets().values() if known.sha256}
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)
    assert len(digests) == len(names._digests())  # every digest belongs to a set


def test_known_facts():
    door = known_sets()["door-human-v1"]
    assert (door.size, door.sha256[:8], door.max_episode_steps) == (3_121_206, "f9691288", 200)
    umaze = known_sets()["D4RL/pointmaze/umaze-v2"]
    assert umaze.url.endswith("farama-minari/D4RL/resolve/main/pointmaze/umaze-v2/data")
    assert umaze.env == "gym:gymnasium_robotics:PointMaze_UMaze-v3"


@pytest.mark.parametrize("name", ["halfcheetah-medium-v2", "hopper-medium-v2", "D4RL/pointmaze/umaze-v2"])
def test_the_environment_of_a_known_set_can_be_made(name):
    make_env(known_sets()[name].env).close()


def test_every_recipe_can_be_looked_up():
    assert recipe("pointmaze/umaze-dense").env.endswith("PointMaze_UMazeDense-v3")
    assert recipe("hopper/medium-expert").dataset_id == "rlsuite/hopper/medium-expert-v0"
    for known in recipes().values():
        check_name(known.dataset_id)
    with pytest.raises(ConfigError, match='Did you mean "pointmaze/umaze"'):
        recipe("pointmaze/umaz")


@pytest.mark.parametrize("name", ["/no/such/file.hdf5", "../none.hdf5", "./none", "none.hdf5"])
def test_paths_to_nothing(roots, name):
    with pytest.raises(ConfigError, match="there is no such file"):
        locate(name)


def test_the_nearest_file_is_named(roots):
    write_flat(roots / "hopper.hdf5", **flat_columns(5))
    with pytest.raises(ConfigError, match=r'Did you mean "hopper.hdf5"\?'):
        locate("hoper.hdf5")


def test_file_folder_and_id_mean_the_same_set(roots):
    folder = write_minari(roots / "minari", episodes_of([3, 2]))
    inner = folder / "data" / "main_data.hdf5"
    for name in ("tests/toy-v0", str(folder), str(folder / "data"), str(inner), "./minari/tests/toy-v0"):
        data = load_dataset(name)
        assert (len(data.rows), data.name) == (5, "tests/toy-v0")
    assert list(local_sets(roots / "minari")) == ["tests/toy-v0"]


def test_a_folder_below_the_working_folder_is_found_where_no_id_is(roots):
    write_minari(roots / "here", episodes_of([3]))
    assert len(load_dataset("here/tests/toy-v0").rows) == 3


def test_unknown_ids_name_the_nearest(roots):
    with pytest.raises(ConfigError, match=r'Did you mean "hopper-medium-v2"\?.*rlsuite list datasets'):
        locate("hopper-medum-v2")
    with pytest.raises(ConfigError, match="make it with rlsuite data make pointmaze/umaze"):
        locate("rlsuite/pointmaze/umaze-v0")


def test_a_folder_without_a_data_set(roots):
    (roots / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"a folder without data/metadata\.json"):
        load_dataset("./empty")


def test_a_d4rl_file_by_its_usual_name_brings_limit_env_and_references(roots):
    columns = flat_columns(500)
    columns.pop("timeouts")
    path = write_flat(roots / "door-v0_demos_clipped.hdf5", **columns)
    data = load_dataset(str(path))
    assert (data.name, data.reference.low) == ("door-human-v0", -56.512833)
    assert data.lengths().tolist() == [199, 199, 99]  # 200 steps each, the last of each without a successor
    with pytest.raises(DataError, match="max_episode_steps"):
        load_dataset(str(path.rename(roots / "own.hdf5")))
