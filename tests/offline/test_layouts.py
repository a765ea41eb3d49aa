"""What we write, Minari reads; and a data set is the same in every layout."""

import json

import h5py
import minari
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.dataset._storages.arrow_storage import ArrowStorage, ParquetStorage
from offline_helpers import box, episodes_of, metadata_of, shared

from rlsuite.errors import ConfigError, DataError
from rlsuite.offline.collect import episodes_of_data, first_steps
from rlsuite.offline.d4rl import read_d4rl
from rlsuite.offline.make import convert
from rlsuite.offline.minari import read_minari
from rlsuite.offline.spaces import nested_json
from rlsuite.offline.write import D4RLWriter, MinariWriter, Recorded, RecordedSpaces
from rlsuite.runs.files import FileLayer

KEYS = ("observation", "achieved_goal", "desired_goal")


def spaces_of(episode) -> RecordedSpaces:
    seen = episode["observations"]
    shown = (
        nested_json({(key,): box(part.shape[1]) for key, part in seen.items()})
        if isinstance(seen, dict)
        else box(3)
    )
    return RecordedSpaces(observation=shown, action=box(episode["actions"].shape[1], "float32", -1.0, 1.0))


def write(root, episodes, name="tests/ours-v0"):
    with MinariWriter(root, name, spaces_of(episodes[0])) as writer:
        for episode in episodes:
            writer.add(Recorded(**episode))
        return writer.finish({"rlsuite": {"recipe": "none"}})


def same_rows(one, other):
    left, right = one.rows.flatten_keys("/"), other.rows.flatten_keys("/")
    assert set(left.keys()) == set(right.keys())
    for key in left.keys():  # noqa: SIM118  a TensorDict iterates over rows
        assert torch.equal(left[key], right[key]), key
    assert torch.equal(one.episodes, other.episodes)


@pytest.mark.parametrize("keys", [(), KEYS])
def test_minari_reads_what_we_write(tmp_path, monkeypatch, keys):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    episodes = episodes_of([4, 6, 1, 3, 2, 5, 1, 1, 2, 3, 4, 2], keys=keys)
    write(tmp_path, episodes)
    theirs = minari.load_dataset("tests/ours-v0")
    assert (theirs.total_steps, theirs.total_episodes) == (34, 12)
    assert list(minari.list_local_datasets()) == ["tests/ours-v0"]
    for ours, loaded in zip(episodes, theirs.iterate_episodes(), strict=True):
        for name in ("actions", "rewards", "terminations", "truncations"):
            assert np.array_equal(getattr(loaded, name), ours[name]), name
        if keys:
            assert all(np.array_equal(loaded.observations[key], ours["observations"][key]) for key in keys)
        else:
            assert np.array_equal(loaded.observations, ours["observations"])
    for facts, episode in zip(theirs.storage.get_episode_metadata(range(12)), episodes, strict=True):
        assert facts["rewards_sum"] == pytest.approx(episode["rewards"].sum())
        assert facts["total_steps"] == len(episode["rewards"])


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
@pytest.mark.parametrize("form", ["hdf5", "arrow", "parquet"])
@pytest.mark.parametrize("keys", [(), KEYS])
def test_we_read_what_minari_writes(tmp_path, monkeypatch, form, keys):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    episodes = episodes_of([4, 6, 1, 3, 2, 5, 1, 1, 2, 3, 4, 2], keys=keys)
    vector = spaces.Box(-10, 10, (3,), np.float64)
    minari.create_dataset_from_buffers(
        "tests/theirs-v0",
        [EpisodeBuffer(**episode) for episode in episodes],
        observation_space=spaces.Dict(dict.fromkeys(keys, vector)) if keys else vector,
        action_space=spaces.Box(-1, 1, (2,), np.float32),
        data_format=form,
    )
    found = read_minari(tmp_path / "tests" / "theirs-v0")
    write(tmp_path / "ours", episodes)
    same_rows(found, read_minari(tmp_path / "ours" / "tests" / "ours-v0"))
    assert found.lengths().tolist() == [4, 6, 1, 3, 2, 5, 1, 1, 2, 3, 4, 2]


@pytest.mark.parametrize("keys", [(), KEYS])
def test_both_layouts_give_identical_transitions(tmp_path, keys):
    data = read_minari(write(tmp_path, episodes_of([4, 6, 1, 3], keys=keys)), keys=KEYS if keys else None)
    convert(data, tmp_path / "flat.hdf5", layout="d4rl", name="", keys=KEYS if keys else ("observation",))
    flat = read_d4rl(tmp_path / "flat.hdf5")
    same_rows(data, flat)
    convert(flat, tmp_path / "again", layout="minari", name="tests/again-v0", keys=())
    same_rows(data, read_minari(tmp_path / "again" / "tests" / "again-v0"))


def test_goals_go_to_infos_in_the_flat_layout(tmp_path):
    data = read_minari(write(tmp_path, episodes_of([4, 6], keys=KEYS)), keys=("observation", "desired_goal"))
    convert(data, tmp_path / "flat.hdf5", layout="d4rl", name="", keys=("observation",))
    flat = read_d4rl(tmp_path / "flat.hdf5", keys=("observations", "infos/goal"))
    assert torch.equal(flat.rows["observation"], data.rows["observation"])
    convert(flat, tmp_path / "back", layout="minari", name="tests/back-v0", keys=())
    back = read_minari(tmp_path / "back" / "tests" / "back-v0")
    assert [part.key for part in back.parts] == ["observation", "desired_goal"]
    assert torch.equal(back.rows["observation"], data.rows["observation"])


def test_actions_of_other_ranges_survive_both_layouts(tmp_path):
    episodes = episodes_of([4, 3])
    for episode in episodes:
        episode["actions"] *= 0.4
    shown = RecordedSpaces(observation=box(3), action=box(2, "float32", -0.4, 0.4))
    with MinariWriter(tmp_path, "tests/scaled-v0", shown) as writer:
        for episode in episodes:
            writer.add(Recorded(**episode))
        folder = writer.finish({})
    data = read_minari(folder)
    assert data.rows["action"].numpy() == pytest.approx(
        np.concatenate([e["actions"] for e in episodes]) / 0.4, abs=1e-6
    )
    convert(data, tmp_path / "flat.hdf5", layout="d4rl", name="", keys=())
    assert torch.allclose(read_d4rl(tmp_path / "flat.hdf5").rows["action"], data.rows["action"], atol=1e-6)
    with h5py.File(tmp_path / "flat.hdf5") as file:
        assert np.abs(file["actions"][:]).max() <= 0.4 + 1e-6


def test_human_demonstrations_in_both_layouts(tmp_path):
    flat = read_d4rl(shared("d4rl/door-human-v1.hdf5"))
    convert(flat, tmp_path, layout="minari", name="tests/door-v0", keys=())
    same_rows(flat, read_minari(tmp_path / "tests" / "door-v0"))


def test_columnar_files_that_are_damaged(tmp_path):
    episodes = episodes_of([3, 2])
    vector, action = spaces.Box(-10, 10, (3,), np.float64), spaces.Box(-1, 1, (2,), np.float32)
    for kind in (ArrowStorage, ParquetStorage):
        folder = tmp_path / kind.FORMAT
        folder.mkdir()
        storage = kind.new(folder, vector, action, data_format=kind.FORMAT)
        storage.update_episodes([EpisodeBuffer(id=i, **episode) for i, episode in enumerate(episodes)])
        facts = metadata_of(episodes, data_format=kind.FORMAT)
        (folder / "metadata.json").write_text(json.dumps(facts))
        assert read_minari(folder).lengths().tolist() == [3, 2]
        part = next((folder / "1").glob(f"*.{kind.FORMAT}"))
        whole = part.read_bytes()
        part.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=rf"{part.name}: damaged or cut short"):
            read_minari(folder)
        part.unlink()
        with pytest.raises(DataError, match=rf"found 0 .{kind.FORMAT} files, expected one"):
            read_minari(folder)
        outside = tmp_path / f"outside.{kind.FORMAT}"
        outside.write_bytes(whole)
        part.symlink_to(outside)
        with pytest.raises(DataError, match="a link out of the data set"):
            read_minari(folder)
        part.unlink()
        part.write_bytes(whole)
        facts["observation_space"] = json.dumps(box(4))
        (folder / "metadata.json").write_text(json.dumps(facts))
        with pytest.raises(DataError, match="expected lists of 4 numbers"):
            read_minari(folder)


def test_an_existing_data_set_is_never_overwritten(tmp_path):
    episodes = episodes_of([3])
    folder = write(tmp_path, episodes)
    before = (folder / "data" / "main_data.hdf5").read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        write(tmp_path, episodes)
    assert (folder / "data" / "main_data.hdf5").read_bytes() == before


class FullDisk(FileLayer):
    """Refuses the operation that it is told to."""

    def __init__(self, what: str) -> None:
        def refuse(*_):
            raise OSError(28, "No space left on device")

        setattr(self, what, refuse)


@pytest.mark.parametrize(("layout", "what"), [("minari", "write"), ("minari", "rename"), ("d4rl", "rename")])
def test_a_full_disk_leaves_nothing(tmp_path, layout, what):
    episodes = episodes_of([3])
    target = tmp_path / "tests" / "ours-v0" if layout == "minari" else tmp_path / "ours.hdf5"
    disk = FullDisk(what)
    writer = (
        MinariWriter(tmp_path, "tests/ours-v0", spaces_of(episodes[0]), fs=disk)
        if layout == "minari"
        else D4RLWriter(target, spaces_of(episodes[0]), fs=disk)
    )
    with pytest.raises(ConfigError, match=r"No space left.*nothing is left of it"), writer:
        writer.add(Recorded(**episodes[0]))
        writer.finish({})
    assert not target.exists()
    assert not list(tmp_path.rglob(".stage-*"))


def test_an_interrupted_recording_leaves_nothing(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        MinariWriter(tmp_path, "tests/ours-v0", RecordedSpaces(observation=box(3), action=box(2))),
    ):
        raise KeyboardInterrupt
    assert not (tmp_path / "tests" / "ours-v0").exists()
    assert not list(tmp_path.rglob(".stage-*"))


def test_the_first_steps_of_episodes_are_cut_to_fit(tmp_path):
    data = read_minari(write(tmp_path, episodes_of([4, 6, 3], keys=KEYS)))
    cut = list(first_steps(episodes_of_data(data), 7))
    assert [len(episode) for episode in cut] == [4, 3]
    assert cut[1].truncations.tolist() == [False, False, True]
    assert not cut[1].whole
    assert all(len(part) == 4 for part in cut[1].observations.values())
    assert [len(episode) for episode in first_steps(episodes_of_data(data), 10)] == [4, 6]
