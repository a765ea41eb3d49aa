"""Row 11: downloads from a server on loopback: broken off, resumed, a web page, wrong bytes, no network."""

import hashlib
import http.server
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from offline.offline_helpers import episodes_of, flat_columns, write_flat, write_minari

from rlsuite.errors import ConfigError, DataError
from rlsuite.offline import download, load, names
from rlsuite.offline.download import fetch, fetch_known
from rlsuite.offline.hdf5 import SIGNATURE
from rlsuite.offline.load import load_dataset
from rlsuite.offline.names import KnownSet


@dataclass
class Server:
    """What the server sends: files by name, and after how many bytes it hangs up."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    kind: str = "application/octet-stream"
    cut: list[int] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    tag: str = '"one"'
    ignores_ranges: bool = False


@pytest.fixture
def server():
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            asked = self.headers.get("Range", "")
            state.ranges.append(asked)
            body = state.files.get(self.path.lstrip("/"))
            if body is None:
                self.send_error(404)
                return
            start = 0
            fresh = self.headers.get("If-Range") in (None, state.tag)
            if asked and fresh and not state.ignores_ranges:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(body):
                    self.send_error(416)
                    return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Type", state.kind)
            self.send_header("Content-Length", str(len(body) - start))
            self.send_header("ETag", state.tag)
            self.end_headers()
            stop = start + state.cut.pop(0) if state.cut else len(body)
            self.wfile.write(body[start:stop])

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{httpd.server_port}"
    yield state
    httpd.shutdown()
    httpd.server_close()


CONTENT = SIGNATURE + bytes(range(256)) * 400
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def get(server, target, **options):
    server.files.setdefault("set.hdf5", CONTENT)
    options = {"size": len(CONTENT), "sha256": DIGEST, "begins": SIGNATURE, **options}
    fetch(f"{server.address}/set.hdf5", target, **options)


def nothing_but(folder: Path, *wanted: str) -> bool:
    return sorted(path.name for path in folder.iterdir()) == sorted(wanted)


def test_a_whole_file_arrives_and_is_not_fetched_twice(server, tmp_path):
    target = tmp_path / "set.hdf5"
    get(server, target)
    assert target.read_bytes() == CONTENT
    assert nothing_but(tmp_path, "set.hdf5")
    get(server, target)
    assert len(server.ranges) == 1


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path, count):
    target = tmp_path / "set.hdf5"
    server.cut = [1_000, 5_000]
    get(server, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges == ["", "bytes=1000-", "bytes=6000-"]
    count("broken downloads that arrived after all")


def test_a_later_call_goes_on_too(server, tmp_path, count):
    target = tmp_path / "set.hdf5"
    server.cut = [1_000] * download.ATTEMPTS
    with pytest.raises(
        DataError, match=rf"broken off after {1000 * download.ATTEMPTS:,} of .* to go on"
    ) as caught:
        get(server, target)
    assert caught.value.exit_code == 3
    assert not target.exists()
    get(server, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges[-1] == f"bytes={1000 * download.ATTEMPTS}-"
    assert nothing_but(tmp_path, "set.hdf5")
    count("broken downloads that arrived after all")


def test_a_server_without_ranges_starts_over(server, tmp_path, count):
    server.cut, server.ignores_ranges = [1_000], True
    get(server, tmp_path / "set.hdf5")
    assert (tmp_path / "set.hdf5").read_bytes() == CONTENT
    count("broken downloads that arrived after all")


def test_a_file_that_changed_in_between_is_fetched_anew(server, tmp_path, count):
    server.cut = [1_000] * download.ATTEMPTS
    with pytest.raises(DataError, match="broken off"):
        get(server, tmp_path / "set.hdf5")
    newer = SIGNATURE + bytes(len(CONTENT) - len(SIGNATURE))
    server.files["set.hdf5"], server.tag = newer, '"two"'
    get(server, tmp_path / "set.hdf5", sha256=hashlib.sha256(newer).hexdigest())
    assert (tmp_path / "set.hdf5").read_bytes() == newer
    count("broken downloads that arrived after all")


def test_a_longer_partial_file_is_thrown_away(server, tmp_path, count):
    (tmp_path / "set.hdf5.part").write_bytes(bytes(2 * len(CONTENT)))
    get(server, tmp_path / "set.hdf5")
    assert (tmp_path / "set.hdf5").read_bytes() == CONTENT
    count("broken downloads that arrived after all")


def test_a_web_page_with_status_200_is_refused(server, tmp_path, count):
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(DataError, match=r"found a web page .*, expected a data file"):
        get(server, tmp_path / "set.hdf5")
    # ... also when it says that it is something else
    server.kind, server.files["set.hdf5"] = "application/octet-stream", b"<html>log in</html>"
    with pytest.raises(DataError, match="found 19 bytes, expected 102,408, the registry's size"):
        get(server, tmp_path / "set.hdf5")
    with pytest.raises(DataError, match=r"begins with b'<html>log in</ht', expected .*HDF.*kept aside as"):
        get(server, tmp_path / "set.hdf5", size=None)
    assert not (tmp_path / "set.hdf5").exists()
    assert (tmp_path / "set.hdf5.bad-1").read_bytes() == b"<html>log in</html>"
    count("bad downloads refused", 3)


def test_wrong_bytes_are_kept_aside(server, tmp_path, count):
    target = tmp_path / "set.hdf5"
    server.files["set.hdf5"] = CONTENT[:-1] + b"x"
    for number in (1, 2):
        with pytest.raises(
            DataError, match=rf"found SHA-256 .*expected SHA-256 {DIGEST}; kept .*bad-{number}"
        ):
            get(server, target)
    assert nothing_but(tmp_path, "set.hdf5.bad-1", "set.hdf5.bad-2")
    server.files["set.hdf5"] = CONTENT
    get(server, target)
    assert target.read_bytes() == CONTENT
    count("bad downloads refused", 2)


def test_more_bytes_than_allowed_are_not_taken(server, tmp_path, count):
    with pytest.raises(DataError, match="found 102,408 bytes, expected 50,000, the limit"):
        get(server, tmp_path / "set.hdf5", size=None, limit=50_000)
    assert nothing_but(tmp_path)
    count("bad downloads refused")


def test_without_a_network_the_way_out_is_named(tmp_path, count):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(
        DataError, match=rf"127.0.0.1 cannot be used .*fetch http://127.0.0.1:{port}/x.*--dataset FILE"
    ):
        fetch(f"http://127.0.0.1:{port}/x", tmp_path / "x", sha256=DIGEST)
    assert nothing_but(tmp_path)
    count("bad downloads refused")


def test_a_missing_file_says_what_the_server_said(server, tmp_path, count):
    with pytest.raises(DataError, match=r"the server answers 404.*--dataset FILE"):
        fetch(f"{server.address}/none", tmp_path / "none", sha256=DIGEST)
    count("bad downloads refused")


def test_without_a_digest_only_https(server, tmp_path, count):
    with pytest.raises(DataError, match="must be HTTPS"):
        get(server, tmp_path / "set.hdf5", sha256=None)
    assert server.ranges == []
    assert all(known.url.startswith("https://") for known in names.known_sets().values())
    count("bad downloads refused")


def test_two_downloads_of_one_file_do_not_mix(server, tmp_path, count):
    part = tmp_path / "set.hdf5.part"
    with download._alone(part), pytest.raises(ConfigError, match=r"another process is downloading set\.hdf5"):
        get(server, tmp_path / "set.hdf5")
    count("bad downloads refused")


@pytest.fixture
def known(server, tmp_path, monkeypatch):
    """Register a D4RL set that the server has; its folder is of this test."""
    content = write_flat(tmp_path / "made.hdf5", **flat_columns(50, timeouts=[30])).read_bytes()
    server.files["set-v0.hdf5"] = content
    entry = KnownSet(
        name="toy-v0",
        layout="d4rl",
        env="HalfCheetah-v4",
        url=f"{server.address}/set-v0.hdf5",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    known = {**names.known_sets(), "toy-v0": entry}
    monkeypatch.setattr("rlsuite.offline.locate.known_sets", lambda: known)
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    return entry


def test_an_id_is_fetched_and_read(known, server, tmp_path, count):
    server.cut = [1_000]
    with pytest.raises(ConfigError, match="downloads are off"):
        load_dataset("toy-v0", download=False)
    data = load_dataset("toy-v0")
    assert (len(data.rows), data.name, data.env, data.reference.source) == (
        48,
        "toy-v0",
        "HalfCheetah-v4",
        "d4rl",
    )
    load_dataset("toy-v0", download=False)
    assert len(server.ranges) == 2
    count("broken downloads that arrived after all")


def test_a_file_cut_short_in_the_cache_is_kept_aside_and_fetched_again(known, tmp_path, count):
    load_dataset("toy-v0")
    cached = tmp_path / "d4rl" / "set-v0.hdf5"
    cached.write_bytes(cached.read_bytes()[:500])
    with pytest.raises(DataError, match=r"found 500 bytes, expected .*kept aside as .*bad-1"):
        load_dataset("toy-v0")
    assert (tmp_path / "d4rl" / "set-v0.hdf5.bad-1").stat().st_size == 500
    assert len(load_dataset("toy-v0").rows) == 48
    count("broken downloads that arrived after all")


def test_a_file_that_the_user_names_is_never_moved(known, tmp_path):
    own = tmp_path / "set-v0.hdf5"
    own.write_bytes(b"cut")
    with pytest.raises(DataError, match="expected HDF5"):
        load_dataset(str(own))
    assert own.read_bytes() == b"cut"


@pytest.fixture
def minari_set(server, tmp_path, monkeypatch):
    folder = write_minari(tmp_path / "made", episodes_of([3, 4]))
    for name in ("metadata.json", "main_data.hdf5"):
        server.files[f"toy/data/{name}"] = (folder / "data" / name).read_bytes()
    monkeypatch.setattr(download, "urlsplit", lambda url: _Secure(url))
    return KnownSet(name="tests/toy-v0", layout="minari", env=None, url=f"{server.address}/toy/data")


class _Secure:
    """Lets loopback pass for HTTPS: a Minari set has no digest."""

    scheme, hostname = "https", "127.0.0.1"

    def __init__(self, url):
        pass


def test_a_minari_set_is_there_only_when_it_is_complete(minari_set, server, tmp_path, count):
    target = tmp_path / "root" / "tests" / "toy-v0"
    server.cut = [10_000, 500, 500, 500]  # metadata whole, the data broken off
    with pytest.raises(DataError, match="broken off"):
        fetch_known(minari_set, target)
    assert not target.exists()
    fetch_known(minari_set, target)
    located = load.Located(target, minari_set)
    assert len(load.read(load.ready(located)).rows) == 7
    assert not list(target.parent.glob(".download-*"))
    count("broken downloads that arrived after all")


def test_columnar_sets_are_left_to_minari(minari_set, server, tmp_path, count):
    whole = server.files["toy/data/metadata.json"]
    server.files["toy/data/metadata.json"] = whole.replace(b'"hdf5"', b'"arrow"')
    with pytest.raises(DataError, match="minari download tests/toy-v0"):
        fetch_known(minari_set, tmp_path / "root" / "toy")
    count("bad downloads refused")
