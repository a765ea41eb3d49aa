"""Random streams: named, independent, saved and restored."""

import json

import pytest
import torch

from rlsuite.errors import ConfigError, DataError
from rlsuite.training import rng
from rlsuite.training.rng import STREAM_NAMES, Streams


def draw(streams: Streams, name: str) -> list[float]:
    return [*torch.rand(3, generator=streams.torch(name)).tolist(), *streams.numpy(name).random(3).tolist()]


def test_same_seed_same_numbers_and_every_stream_its_own() -> None:
    drawn = [tuple(draw(Streams(7), name)) for name in STREAM_NAMES]
    assert drawn == [tuple(draw(Streams(7), name)) for name in STREAM_NAMES]
    assert len(set(drawn)) == len(STREAM_NAMES)
    assert len({Streams(7).seed(name) for name in STREAM_NAMES}) == len(STREAM_NAMES)
    assert draw(Streams(7), "act") != draw(Streams(8), "act")


def test_torch_and_numpy_of_one_name_are_unlike() -> None:
    streams = Streams(0)
    assert not set(torch.rand(100, generator=streams.torch("env"), dtype=torch.float64).tolist()) & set(
        streams.numpy("env").random(100).tolist()
    )


def test_order_of_first_use_and_new_names_shift_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, backward = Streams(3), Streams(3)
    first = {name: draw(forward, name) for name in STREAM_NAMES}
    second = {name: draw(backward, name) for name in reversed(STREAM_NAMES)}
    assert first == second
    monkeypatch.setattr(rng, "STREAM_NAMES", ("brand_new", *STREAM_NAMES))
    more = Streams(3)
    draw(more, "brand_new")
    assert {name: draw(more, name) for name in STREAM_NAMES} == first


def test_numbers_stay_the_same_from_release_to_release() -> None:
    # Written down at the first release: a change here breaks the exact resume of every older run.
    streams = Streams(42)
    assert (streams.seed("env"), streams.seed("eval")) == (1395766537, 1716400984)
    assert torch.rand(1, generator=streams.torch("act")).item() == pytest.approx(
        0.09991323947906494, abs=1e-7
    )


def test_environment_seeds_fit_31_bits() -> None:
    assert all(0 <= Streams(seed).seed("env") < 2**31 for seed in range(200))


def test_a_generator_is_created_once() -> None:
    streams = Streams(0)
    assert streams.torch("act") is streams.torch("act")
    assert streams.numpy("env") is streams.numpy("env")


@pytest.mark.parametrize("ask_before_loading", [True, False])
def test_state_survives_json_and_goes_on(ask_before_loading: bool) -> None:
    streams = Streams(5)
    for name in ("act", "env"):
        draw(streams, name)
    state = json.loads(json.dumps(streams.state_dict()))
    expected = {name: draw(streams, name) for name in STREAM_NAMES}
    resumed = Streams(5)
    held = resumed.torch("act") if ask_before_loading else None
    resumed.load_state_dict(state)
    assert {name: draw(resumed, name) for name in STREAM_NAMES} == expected
    assert held is None or held is resumed.torch("act")


def test_a_state_nobody_asked_for_is_not_lost_by_saving_again() -> None:
    streams = Streams(5)
    draw(streams, "plugin")
    resumed = Streams(5)
    resumed.load_state_dict(streams.state_dict())
    assert resumed.state_dict()["torch"] == streams.state_dict()["torch"]


def test_state_of_another_device_is_reseeded_not_replayed(caplog: pytest.LogCaptureFixture) -> None:
    streams = Streams(5)
    from_the_start = torch.rand(4, generator=Streams(5).torch("act"))
    torch.rand(4, generator=streams.torch("act"))
    state = streams.state_dict()
    state["torch"]["act"]["device"] = "cuda"
    first, again = Streams(5), Streams(5)
    first.load_state_dict(state)
    again.load_state_dict(state)
    numbers = torch.rand(4, generator=first.torch("act"))
    assert torch.equal(numbers, torch.rand(4, generator=again.torch("act")))
    assert not torch.equal(numbers, from_the_start)
    assert 'random stream "act" was saved on cuda' in caplog.text


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.pop("torch"),
        lambda state: state.update(seed="6"),
        lambda state: state.update(seed="six"),
        lambda state: state["torch"]["act"].update(state="not base64!"),
        lambda state: state["torch"]["act"].update(state="AAAA"),
        lambda state: state["torch"].update(nobody=state["torch"]["act"]),
        lambda state: state["numpy"]["env"].pop("inc"),
        lambda state: state["numpy"]["env"].update(state="-1"),
        lambda state: state.update(numpy=[1, 2]),
    ],
)
def test_a_spoilt_state_is_refused(spoil) -> None:
    streams = Streams(5)
    draw(streams, "act")
    draw(streams, "env")
    state = streams.state_dict()
    spoil(state)
    resumed = Streams(5)
    resumed.torch("act")
    with pytest.raises(DataError):
        resumed.load_state_dict(state)


def test_wrong_names_seeds_and_devices_are_refused() -> None:
    with pytest.raises(ConfigError, match="seed = -1"):
        Streams(-1)
    with pytest.raises(ValueError, match='"acting" is not a random stream'):
        Streams(0).torch("acting")
    streams = Streams(0)
    streams.torch("act")
    with pytest.raises(ValueError, match="lives on cpu"):
        streams.torch("act", device="cuda")
