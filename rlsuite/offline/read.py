"""Any data set by its place: a legacy D4RL file, or a Minari folder."""

from pathlib import Path

from rlsuite.errors import ConfigError
from rlsuite.offline.d4rl import read_d4rl
from rlsuite.offline.data import OfflineData
from rlsuite.offline.minari import env_of, is_minari, read_metadata, read_minari


def environment_of(name: str) -> str | None:
    """Return the environment that a data set names, without reading its rows; None where it names none.

    Raises:
        ConfigError: there is no such file or folder.
        DataError: what it says of itself is damaged.
    """
    path = _place(name)
    if path.is_file():
        return None
    return env_of(read_metadata(path / "data" if (path / "data").is_dir() else path))


def read_data(name: str) -> OfflineData:
    """Read the data set `name`.

    Raises:
        ConfigError: there is no such file or folder.
        DataError: it is damaged.
    """
    path = _place(name)
    return read_d4rl(path) if path.is_file() else read_minari(path)


def _place(name: str) -> Path:
    path = Path(name)
    if path.is_file() or (path.is_dir() and is_minari(path)):
        return path
    raise ConfigError(f'no data set "{name}": name a D4RL file or a Minari folder')
