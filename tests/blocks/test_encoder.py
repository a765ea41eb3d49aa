"""The encoder of pictures: shifts, independent networks, what is refused."""

import pytest
import torch

from rlsuite.agents.base import make_generators
from rlsuite.blocks.encoder import EncoderFields, PixelEncoder
from rlsuite.blocks.noise import Noise
from rlsuite.errors import ConfigError

PIXELS = (20, 16, 3, 2)
SIZE = 20 * 16 * 3 * 2
FIELDS = EncoderFields(encoder="cnn", encoder_channels=(4, 6), encoder_features=5, random_shift=2)


def pictures(*shape):
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (*shape, SIZE), generator=g, dtype=torch.uint8)


def test_features_of_bytes_and_of_floats_are_the_same():
    encoder = PixelEncoder(PIXELS, FIELDS)
    rows = pictures(7)
    assert encoder(rows).shape == (7, 5)
    assert torch.equal(encoder(rows), encoder(rows.float()))


def test_convolutions_are_those_of_torch():
    encoder = PixelEncoder(PIXELS, FIELDS)
    maps = pictures(3).view(3, 2, 20, 16, 3).permute(0, 1, 4, 2, 3).reshape(3, 6, 20, 16) / 255 - 0.5
    for layer in encoder.convolutions:
        maps = torch.nn.functional.conv2d(maps, layer.weight, layer.bias, stride=2).relu()
    expected = encoder.norm(encoder.linear(maps.flatten(1))).tanh()
    assert torch.allclose(encoder(pictures(3)), expected, atol=1e-6)


def test_networks_of_several_seeds_are_those_of_each():
    lead = (2,)
    sources = {name: tuple(torch.Generator().manual_seed(s) for s in (1, 2)) for name in ("init", "learn")}
    both = PixelEncoder(PIXELS, FIELDS, lead=lead, generator=sources["init"])
    rows = pictures(2, 4)
    seen, shifted = both(rows), both(rows, Noise(sources["learn"]))
    for seed in range(2):
        init, learn = (torch.Generator().manual_seed(seed + 1) for _ in range(2))
        one = PixelEncoder(PIXELS, FIELDS, generator=init)
        assert torch.allclose(one(rows[seed]), seen[seed], atol=1e-6)
        assert torch.allclose(one(rows[seed], Noise(learn)), shifted[seed], atol=1e-6)


def test_shifts_move_all_frames_of_a_row_together_and_repeat_the_edge():
    encoder = PixelEncoder(PIXELS, FIELDS)
    shown = pictures(200).view(200, 2, 20, 16, 3)
    moved = encoder.shifted(shown, Noise(torch.Generator().manual_seed(0)))
    wide = torch.nn.functional.pad(
        shown.permute(0, 1, 4, 2, 3).flatten(1, 2).float(), (2,) * 4, mode="replicate"
    )
    places = set()
    for row in range(200):
        fits = [
            (down, right)
            for down in range(5)
            for right in range(5)
            if torch.equal(
                wide[row, :, down : down + 20, right : right + 16],
                moved[row].permute(0, 3, 1, 2).flatten(0, 1).float(),
            )
        ]
        assert len(fits) == 1
        places.update(fits)
    assert len(places) == 25


def test_pictures_too_small_are_refused():
    with pytest.raises(ConfigError, match="3 convolutions: too many for pictures of 8 x 8"):
        PixelEncoder((8, 8, 3, 1), EncoderFields(encoder="cnn"), generator=make_generators(0)["init"])
