"""Row 10: files that are cut short, or hold something other than they say, are refused by key and value."""

import json

import h5py
import numpy as np
import pytest
from offline.offline_helpers import episodes_of, flat_columns, write_flat, write_minari

from rlsuite.errors import ConfigError, DataError
from rlsuite.offline.d4rl import read_d4rl
from rlsuite.offline.hdf5 import opened
from rlsuite.offline.minari import read_minari


@pytest.fixture
def flat(tmp_path):
    return write_flat(tmp_path / "flat.hdf5", **flat_columns(50, terminals=[20], timeouts=[40]))


def replaced(path, key, values):
    with h5py.File(path, "a") as file:
        del file[key]
        file[key] = values
    return path


REFUSED = "damaged data sets refused"


@pytest.fixture
def refused(count):
    """Expect a DataError that names the file and `parts`, and leaves the file where it was, as it was."""

    def check(path, *parts):
        before = path.read_bytes()
        with pytest.raises(DataError) as caught:
            read_d4rl(path)
        message = str(caught.value)
        assert caught.value.exit_code == 3
        assert all(part in message for part in (str(path), *parts)), message
        assert path.read_bytes() == before
        count(REFUSED)

    return check


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_file_cut_short(flat, share, refused):
    content = flat.read_bytes()
    flat.write_bytes(content[: int(len(content) * share)])
    refused(flat, "damaged or cut short")


def test_a_web_page_is_no_data_set(tmp_path, refused):
    page = tmp_path / "page.hdf5"
    page.write_text("<!DOCTYPE html><html>please log in</html>")
    refused(page, "begins with b'<!DOCTYPE", "expected HDF5")
    (tmp_path / "empty.hdf5").write_bytes(b"")
    refused(tmp_path / "empty.hdf5", "b''")


@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "terminals"])
def test_a_missing_key(flat, key, refused):
    with h5py.File(flat, "a") as file:
        del file[key]
    refused(flat, f"{key}: missing", "found only")


@pytest.mark.parametrize("key", ["actions", "rewards", "terminals", "timeouts"])
def test_swapped_lengths(flat, key, refused):
    with h5py.File(flat) as file:
        short = file[key][:-3]
    refused(replaced(flat, key, short), key, "found shape [47", "expected [50")


@pytest.mark.parametrize(
    ("key", "value"), [("rewards", np.nan), ("observations", np.inf), ("actions", -np.inf)]
)
def test_numbers_that_are_not_finite(flat, key, value, refused):
    with h5py.File(flat, "a") as file:
        file[key][17] = value
    refused(flat, f"{key}: found {value}", "transition 17", "finite")


def test_numbers_too_large_for_float32(flat, refused):
    with h5py.File(flat) as file:
        wide = file["observations"][:].astype(np.float64)
    wide[3, 1] = 1e300
    refused(replaced(flat, "observations", wide), "observations: found inf in transition 3")


@pytest.mark.parametrize("flag", ["terminals", "timeouts"])
def test_flags_that_are_no_flags(flat, flag, refused):
    refused(replaced(flat, flag, np.arange(50)), f"{flag}: found 2", "true and false")


def test_links_to_other_files(flat, tmp_path, refused):
    other = write_flat(tmp_path / "other.hdf5", **flat_columns(50))
    with h5py.File(flat, "a") as file:
        del file["rewards"]
        file["rewards"] = h5py.ExternalLink(str(other), "rewards")
    refused(flat, "rewards: found ExternalLink", "other.hdf5", "in this file")
    with h5py.File(flat, "a") as file:
        del file["rewards"]
        file["rewards"] = h5py.SoftLink("/actions")
    refused(flat, "rewards: found SoftLink")


def test_values_kept_in_other_files(flat, tmp_path, refused):
    (tmp_path / "raw").write_bytes(bytes(200))
    with h5py.File(flat, "a") as file:
        del file["rewards"]
        file.create_dataset("rewards", (50,), "f4", external=[(str(tmp_path / "raw"), 0, 200)])
    refused(flat, "rewards: found values kept in other files")
    other = write_flat(tmp_path / "other.hdf5", **flat_columns(50))
    layout = h5py.VirtualLayout((50,), "f4")
    layout[:] = h5py.VirtualSource(str(other), "rewards", (50,))
    with h5py.File(flat, "a") as file:
        del file["rewards"]
        file.create_virtual_dataset("rewards", layout)
    refused(flat, "rewards: found values kept in other files")


def test_filters_that_are_plugins(flat, refused):
    unknown = 32_099  # no filter has this number
    with h5py.File(flat, "a") as file:
        del file["rewards"]
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((50,))
        plist.set_filter(unknown, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((50,))
        h5py.h5d.create(file.id, b"rewards", h5py.h5t.NATIVE_FLOAT, space, plist)
    refused(flat, "rewards: found filter 32099", "expected one of deflate")


@pytest.mark.parametrize(
    "values", [np.array([b"a"] * 50), np.zeros((50, 0)), np.zeros((50, 2, 2)), np.float32(1)]
)
def test_actions_that_are_no_vectors(flat, values, refused):
    refused(replaced(flat, "actions", values), "actions: found")


def test_a_group_where_an_array_should_be(flat, refused):
    with h5py.File(flat, "a") as file:
        del file["actions"]
        file.create_group("actions")
    refused(flat, "actions: found a group")


def test_nothing_but_zeros(flat, refused):
    with h5py.File(flat, "a") as file:
        file["observations"][:] = 0
    refused(flat, "observations: found only zeros")


def test_no_transition_at_all(tmp_path, refused):
    refused(write_flat(tmp_path / "one.hdf5", **flat_columns(1)), "no transition")


def test_more_rows_than_memory_are_refused_before_they_are_allocated(flat, refused):
    rows = 10**13
    with h5py.File(flat, "a") as file:
        for key in ("observations", "actions", "rewards", "terminals", "timeouts"):
            shape, kind = (rows, *file[key].shape[1:]), file[key].dtype
            del file[key]
            file.create_dataset(key, shape, kind, chunks=(1024, *shape[1:]))
    refused(flat, "GiB are free")


def test_no_such_file(tmp_path, count):
    with pytest.raises(DataError, match="cannot be read: No such file"), opened(tmp_path / "none.hdf5"):
        pass
    count(REFUSED)


def test_without_h5py_the_extra_is_named(flat, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"rlsuite\[offline\]"):
        read_d4rl(flat)


# Minari's layout -----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    return write_minari(tmp_path, episodes_of([4, 3, 5], keys=("observation", "desired_goal"), width=2))


def change(folder, **facts):
    path = folder / "data" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def edit(folder):
    return h5py.File(folder / "data" / "main_data.hdf5", "a")


def drop(key):
    def damage(folder):
        with edit(folder) as file:
            del file[key]

    return damage


def swap(key, values):
    def damage(folder):
        with edit(folder) as file:
            del file[key]
            file[key] = values

    return damage


BOX = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-1, -1], "high": [1, 1]}
DAMAGES = {
    "one episode less": (drop("episode_1"), "found 2 groups, expected 3 episodes"),
    "another number": (lambda f: edit(f).move("episode_1", "episode_7"), "episode_1: missing"),
    "actions missing": (drop("episode_1/actions"), "episode_1/actions: missing"),
    "an observation missing": (
        swap("episode_0/observations/observation", np.ones((4, 2))),
        "found shape [4, 2], expected [5, 2]",
    ),
    "a part missing": (
        drop("episode_2/observations/desired_goal"),
        "episode_2/observations/desired_goal: missing",
    ),
    "no group": (
        swap("episode_2/observations", np.ones((6, 4))),
        "episode_2/observations: missing, or no group",
    ),
    "rewards too long": (
        swap("episode_0/rewards", np.ones(5)),
        "episode_0/rewards: found shape [5], expected [4]",
    ),
    "a NaN": (swap("episode_1/rewards", np.array([0, np.nan, 0])), "rewards: found nan in transition 5"),
    "text": (swap("episode_1/rewards", np.array([b"x"] * 3)), "episode_1/rewards: found values of type"),
    "flags of text": (
        swap("episode_1/terminations", np.array([b"x"] * 3)),
        "terminations: found values of type",
    ),
    "an empty episode": (
        swap("episode_1/actions", np.ones((0, 2), "f4")),
        "episode_1/actions: found an episode of no steps",
    ),
    "an external link": (
        swap("episode_1/rewards", h5py.ExternalLink("/etc/hostname", "x")),
        "episode_1/rewards: found ExternalLink",
    ),
    "an external episode": (
        swap("episode_1", h5py.ExternalLink("/etc/hostname", "x")),
        "episode_1: found ExternalLink",
    ),
    "fewer steps": (lambda f: change(f, total_steps=11), "found more than 11 steps"),
    "more steps": (lambda f: change(f, total_steps=13), "found 12 steps in 3 episodes, expected 13"),
    "no number": (lambda f: change(f, total_steps="12"), "total_steps: found '12'"),
    "too many steps": (lambda f: change(f, total_steps=10**13), "GiB are free"),
    "another format": (lambda f: change(f, data_format="zarr"), "data_format: found 'zarr'"),
    "no space": (lambda f: change(f, observation_space=None), "observation_space: found NoneType"),
    "a space that is no JSON": (lambda f: change(f, observation_space="{"), "observation_space: not JSON"),
    "a discrete action": (
        lambda f: change(f, action_space=json.dumps({"type": "Discrete", "n": 3})),
        "'Discrete', expected Box",
    ),
    "pictures": (
        lambda f: change(f, observation_space=json.dumps({**BOX, "shape": [8, 8, 3]})),
        "shape [8, 8, 3]",
    ),
    "two actions": (
        lambda f: change(f, action_space=json.dumps({"type": "Dict", "subspaces": {"a": BOX, "b": BOX}})),
        "found 2 boxes, expected one",
    ),
    "a name with a slash": (
        lambda f: change(f, observation_space=json.dumps({"type": "Dict", "subspaces": {"../x": BOX}})),
        "part named '../x'",
    ),
    "metadata that is no JSON": (lambda f: (f / "data" / "metadata.json").write_text("{"), "not JSON"),
    "metadata that is a list": (lambda f: (f / "data" / "metadata.json").write_text("[]"), "found a list"),
    "references upside down": (lambda f: change(f, ref_min_score=3, ref_max_score=1), "ref_min_score = 3"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_minari_sets(folder, name, count):
    damage, expected = DAMAGES[name]
    damage(folder)
    with pytest.raises(DataError) as caught:
        read_minari(folder)
    assert expected in str(caught.value)
    assert str(folder) in str(caught.value) or "tests/toy-v0" in str(caught.value)
    count(REFUSED)


def test_a_main_file_cut_short(folder, count):
    main = folder / "data" / "main_data.hdf5"
    main.write_bytes(main.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"main_data.hdf5: damaged or cut short"):
        read_minari(folder)
    count(REFUSED)


def test_no_data_set_here(tmp_path, count):
    with pytest.raises(DataError, match=r"metadata.json: cannot be read"):
        read_minari(tmp_path)
    count(REFUSED)
