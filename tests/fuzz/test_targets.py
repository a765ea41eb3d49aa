"""Every reader meets made-up bytes and answers with data or with one of our errors; old findings stay mended.

The long form is `make fuzz`: the same targets under a fuzzer that is guided by coverage.
"""

import logging
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from targets import TARGETS, prepared
from watch import Escape, confined

FINDINGS = sorted((Path(__file__).parent / "findings").glob("*/*"))
# Derandomised: a run of the tests must not depend on luck.
CALM = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module", params=sorted(TARGETS))
def target(request):
    logging.disable(logging.WARNING)
    with prepared(request.param) as ready:
        yield ready
    logging.disable(logging.NOTSET)


@CALM
@given(data=st.binary(max_size=200))
def test_any_bytes_are_used_or_refused(target, data):
    assert target(data) in (True, False)


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_the_fuzzer_found_stays_mended(path):
    with prepared(path.parent.name) as target:
        assert target(path.read_bytes()) in (True, False)


def test_the_watch_sees_what_it_should(tmp_path):
    import pickle

    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    with confined(inside):
        (inside / "file").write_text("fine")
        (inside / "file").rename(inside / "other")
    for deed in (
        lambda: outside.write_text("x"),
        lambda: outside.mkdir(),
        lambda: (inside / "other").rename(outside),
        lambda: (inside / "link").symlink_to(inside) or (inside / ".." / "new").write_text("x"),
        lambda: pickle.loads(pickle.dumps(Path("x"))),
    ):
        with pytest.raises(Escape), confined(inside):
            deed()
    assert not outside.exists() and not (tmp_path / "new").exists()
