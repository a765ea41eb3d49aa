"""Blocks, published curves, and the tables and picture made of them."""

import csv
import math

import numpy as np
import pytest

from rlsuite.errors import ConfigError
from rlsuite.report.comparison import (
    Curves,
    Point,
    blocks,
    improvement,
    published_curves,
    report,
    sentence,
    summarize,
)

HEADER = "env,algorithm,seed,env_step,mean_return,mean_value_error,n_evaluations\n"


def evaluations(*returns, every=1_000, seed=None, error=0.5):
    for k, value in enumerate(returns, 1):
        record = {"step": k * every, "eval/return_mean": value, "eval/stac_value_error": error}
        yield record if seed is None else record | {"seed": seed}


def test_blocks_average_what_ended_in_them():
    found = blocks([*evaluations(*range(1, 21))])[None]
    assert found == {10_000: Point(5.5, 0.5, 10), 20_000: Point(15.5, 0.5, 10)}


def test_a_block_that_is_not_complete_does_not_count():
    assert list(blocks([*evaluations(*range(1, 20))])[None]) == [10_000]
    later = [*evaluations(*range(1, 20)), {"step": 20_000, "loss/critic": 1.0}]
    assert list(blocks(later)[None]) == [10_000, 20_000]


def test_seeds_of_one_run_are_kept_apart_and_episodes_are_counted():
    records = [*evaluations(1.0, 2.0, every=10_000, seed=3), *evaluations(5.0, 6.0, every=10_000, seed=4)]
    found = blocks(records, episodes=10)
    assert found[3][10_000] == Point(1.0, 0.5, 10) and found[4][20_000] == Point(6.0, 0.5, 10)


def test_a_run_from_before_the_value_error_has_none():
    (point,) = blocks([{"step": 10_000, "eval/return_mean": 1.0}])[None].values()
    assert math.isnan(point.value_error)


def published(folder, rows):
    path = folder / "published.csv"
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return path


def test_published_curves_by_seed(tmp_path):
    path = published(
        tmp_path,
        ["A-v4,STAC,1,10000,3.0,-1.0,10", "A-v4,STAC,2,10000,5.0,-3.0,10", "A-v4,SAC,1,10000,9,0,10"],
    )
    curves = published_curves(path, "A-v4", "STAC")
    np.testing.assert_array_equal(curves.returns([10_000]), [[3.0], [5.0]])
    assert curves.value_errors(10_000) == [-1.0, -3.0]
    with pytest.raises(ConfigError, match="no rows of STAC on B-v4"):
        published_curves(path, "B-v4", "STAC")


def test_one_seed_without_a_value_error_does_not_void_the_row(tmp_path):
    rows = ["A-v4,STAC,1,10000,3.0,nan,10", "A-v4,STAC,2,10000,5.0,-3.0,10", "A-v4,STAC,3,10000,5.0,-2.0,10"]
    row = summarize(published_curves(published(tmp_path, rows), "A-v4", "STAC"), "published", "A-v4", 10_000)
    assert (row["value_error"], row["value_error_seeds"], row["seeds"]) == (-2.5, 2, 3)
    assert "value error -2.50 (of 2 seeds)" in sentence(row)
    row = summarize(Curves("STAC", {1: {10_000: Point(3.0, math.nan, 10)}}), "published", "A-v4", 10_000)
    assert "value error not measured" in sentence(row)


def test_ours_is_compared_by_the_definition_of_the_published_file():
    record = {"step": 10_000, "eval/return_mean": 1.0, "eval/value_error": 7.0, "eval/stac_value_error": 2.0}
    assert blocks([record])[None][10_000].value_error == 2.0


def curves(name, *seeds):
    points = [{10_000 * (k + 1): Point(value, 0.25, 10) for k, value in enumerate(seed)} for seed in seeds]
    return Curves(name, dict(enumerate(points)))


def test_only_steps_that_every_seed_has_reached():
    assert curves("stac", [1.0, 2.0, 3.0], [1.0, 2.0]).steps() == [10_000, 20_000]


def test_improvement_is_read_at_the_step():
    better, worse = curves("a", [0.0, 9.0], [0.0, 8.0]), curves("b", [5.0, 1.0], [5.0, 2.0])
    assert improvement(better, worse, 20_000).startswith("P(a > b) = 1.00")
    assert improvement(better, worse, 10_000).startswith("P(a > b) = 0.00")


def test_report_writes_ours_and_statistics_of_theirs(tmp_path):
    ours, theirs = curves("stac", [1.0, 2.0], [3.0, 4.0]), curves("STAC", [7.0, 8.0, 9.0], [9.0, 10.0, 11.0])
    lines = report([(ours, theirs), (curves("sac", [0.0, 0.0]), None)], "A-v4", tmp_path)
    with (tmp_path / "summary.csv").open() as file:
        rows = {(row["runs"], row["who"]): row for row in csv.DictReader(file)}
    assert rows.keys() == {("ours", "stac"), ("ours", "sac"), ("published", "STAC")}
    stac, peer = rows["ours", "stac"], rows["published", "STAC"]
    assert (stac["env_step"], stac["seeds"], stac["mean"], stac["iqm"]) == ("20000", "2", "3.0", "3.0")
    assert (stac["low"], stac["high"], stac["value_error"]) == ("2.0", "4.0", "0.25")
    assert (peer["env_step"], peer["mean"]) == ("20000", "9.0")
    with (tmp_path / "curves.csv").open() as file:
        points = list(csv.DictReader(file))
    assert [(p["agent"], p["seed"], p["env_step"], p["mean_return"]) for p in points][:2] == [
        ("stac", "0", "10000", "1.0"),
        ("stac", "0", "20000", "2.0"),
    ]
    assert {p["agent"] for p in points} == {"stac", "sac"}  # published curves are drawn, not copied
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert any("P(stac > sac) = 1.00" in line for line in lines)


def test_published_runs_that_are_shorter_than_ours_are_drawn_and_not_compared(tmp_path):
    lines = report([(curves("stac", [1.0, 2.0]), curves("STAC", [7.0]))], "A-v4", tmp_path)
    assert not any(line.startswith("published") for line in lines)
