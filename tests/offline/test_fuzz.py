"""Whatever bytes a file has, the readers return finite rows or say what is wrong: no crash."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from offline_helpers import episodes_of, flat_columns, write_flat, write_minari

from rlsuite.errors import DataError
from rlsuite.offline.d4rl import read_d4rl
from rlsuite.offline.minari import read_minari

# Derandomised: a run of the suite must not depend on luck; the long test below draws new files each time.
CALM = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def usable_or_refused(read, path) -> bool:
    """Read; return whether it worked, having checked what came."""
    try:
        data = read(path)
    except DataError as error:
        assert str(path) in str(error)
        return False
    assert all(
        column.isfinite().all() for column in data.rows.values(True, True) if column.is_floating_point()
    )
    assert len(data.replay(batch_size=4).sample()) == 4
    return True


flips = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8)


def flipped(content: bytes, changes) -> bytes:
    damaged = bytearray(content)
    for place, value in changes:
        damaged[int(place * len(damaged))] = value
    return bytes(damaged)


@CALM
@given(changes=flips)
def test_flat_files_with_other_bytes(tmp_path, changes):
    path = tmp_path / "flat.hdf5"
    if not (tmp_path / "whole").exists():
        whole = write_flat(path, **flat_columns(12, terminals=[4], timeouts=[8])).read_bytes()
        (tmp_path / "whole").write_bytes(whole)
    path.write_bytes(flipped((tmp_path / "whole").read_bytes(), changes))
    usable_or_refused(read_d4rl, path)


@CALM
@given(changes=flips, cut=st.floats(0, 1))
def test_flat_files_of_other_lengths(tmp_path, changes, cut):
    path = tmp_path / "flat.hdf5"
    whole = write_flat(path, **flat_columns(12, terminals=[4], timeouts=[8])).read_bytes()
    path.write_bytes(flipped(whole, changes)[: int(cut * len(whole))])
    usable_or_refused(read_d4rl, path)
    path.unlink()


@CALM
@given(changes=flips)
def test_minari_files_with_other_bytes(tmp_path, changes):
    folder = tmp_path / "tests" / "toy-v0"
    if not folder.exists():
        write_minari(tmp_path, episodes_of([3, 2], keys=("observation", "desired_goal"), width=2))
        (tmp_path / "whole").write_bytes((folder / "data" / "main_data.hdf5").read_bytes())
    main = folder / "data" / "main_data.hdf5"
    main.write_bytes(flipped((tmp_path / "whole").read_bytes(), changes))
    usable_or_refused(read_minari, folder)


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**20),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)
space_texts = st.recursive(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["Box", "Dict", "Discrete", "Tuple", ""])},
        optional={
            "shape": st.one_of(values, st.just([3])),
            "dtype": st.one_of(values, st.just("float64")),
            "low": st.one_of(values, st.just([-1, -1, -1])),
            "high": values,
        },
    ),
    lambda inner: st.fixed_dictionaries(
        {"type": st.just("Dict"), "subspaces": st.dictionaries(st.text(max_size=4), inner, max_size=3)}
    ),
    max_leaves=4,
).map(json.dumps)
facts = st.dictionaries(
    st.sampled_from(
        [
            "total_steps",
            "total_episodes",
            "data_format",
            "observation_space",
            "action_space",
            "dataset_id",
            "env_spec",
            "ref_min_score",
            "ref_max_score",
            "rlsuite",
        ]
    ),
    st.one_of(values, space_texts),
    min_size=1,
    max_size=3,
)


@CALM
@given(changed=facts)
def test_metadata_that_say_anything(tmp_path, changed):
    folder = tmp_path / "tests" / "toy-v0"
    if not folder.exists():
        write_minari(tmp_path, episodes_of([3, 2]))
        (tmp_path / "whole").write_text((folder / "data" / "metadata.json").read_text())
    whole = json.loads((tmp_path / "whole").read_text())
    (folder / "data" / "metadata.json").write_text(json.dumps({**whole, **changed}))
    try:
        data = read_minari(folder)
    except DataError:
        return
    assert len(data.rows) == 5
    assert data.recipe == {} or isinstance(changed["rlsuite"], dict)


shapes = st.one_of(st.just((12,)), st.just((12, 2)), st.lists(st.integers(0, 13), max_size=3).map(tuple))
kinds = st.sampled_from(["f4", "f8", "f2", "i1", "i8", "u4", "?", "c8", "S3", "V4", [("a", "f4")]])


@CALM
@given(
    key=st.sampled_from(["observations", "actions", "rewards", "terminals", "timeouts", "next_observations"]),
    shape=shapes,
    kind=kinds,
    value=st.integers(0, 3),
)
def test_columns_of_any_shape_and_type(tmp_path, key, shape, kind, value):
    path = tmp_path / "flat.hdf5"
    path.unlink(missing_ok=True)
    write_flat(path, **flat_columns(12, terminals=[4], timeouts=[8], width=2))
    column = np.zeros(shape, kind)
    if column.dtype.kind in "fiub":
        column[...] = value
    with h5py.File(path, "a") as file:
        if key in file:
            del file[key]
        file[key] = column
    usable_or_refused(read_d4rl, path)


LONG_FUZZ = """
import random, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_fuzz import flipped, usable_or_refused
from rlsuite.offline.d4rl import read_d4rl
from rlsuite.offline.minari import read_minari
folder, seed = Path({folder!r}), {seed}
chance = random.Random(seed)
flat, main = folder / "flat.hdf5", folder / "tests" / "toy-v0" / "data" / "main_data.hdf5"
wholes = {{flat: flat.read_bytes(), main: main.read_bytes()}}
read = 0
for _ in range(4000):
    for path, whole in wholes.items():
        changes = [(chance.random(), chance.randrange(256)) for _ in range(chance.choice((1, 1, 2, 5, 20)))]
        path.write_bytes(flipped(whole, changes))
        reader, place = (read_d4rl, flat) if path == flat else (read_minari, main.parents[1])
        read += usable_or_refused(reader, place)
print("read", read)
"""


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_thousands_of_damaged_files(tmp_path, seed):
    """In a process of its own, so that a crash of the library is a failure and not the end of all tests."""
    write_flat(tmp_path / "flat.hdf5", **flat_columns(12, terminals=[4], timeouts=[8]))
    write_minari(tmp_path, episodes_of([3, 2], keys=("observation", "desired_goal"), width=2))
    code = LONG_FUZZ.format(tests=str(Path(__file__).parent), folder=str(tmp_path), seed=seed)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=550)
    assert result.returncode == 0, result.stderr[-2_000:]
    assert int(result.stdout.split()[-1]) > 100
