"""Winograd's convolution is its formula, wherever it is used, and used only where it is meant to be."""

import pytest
import torch

from fromnoise.nn.fast import winograd as fast
from fromnoise.nn.fast.convolution import convolve
from fromnoise.nn.fast.kernels import library
from fromnoise.nn.fast.upsampling import upsample
from fromnoise.nn.fast.winograd import formula, tile_for, winograd

KERNEL = library(fast.SOURCE) is not None
needs_kernel = pytest.mark.skipif(not KERNEL, reason="no kernel can be built here: the library's convolution is used")
LAST = torch.channels_last
ERRORS = {2: 2e-6, 4: 2e-5}  # of float32 sums, by the size of tiles: large tiles add and subtract larger numbers

SHAPES = {  # images, channels in and out, height, width
    "whole tiles": (2, 16, 24, 8, 12),
    "tiles that reach over the border": (3, 8, 16, 7, 9),
    "less than a tile": (1, 24, 8, 1, 3),
}


def example(images, channels, out, height, width, dtype=torch.float32):
    torch.manual_seed(0)
    shapes = (images, channels, height, width), (out, channels, 3, 3)
    x, weight = (torch.randn(shape).to(dtype, memory_format=LAST) for shape in shapes)
    return x, weight, torch.randn(out).to(dtype)


def error(found, x, weight, bias, scale):
    truth = formula(x.double(), weight.double(), bias.double(), scale)
    assert found.shape == truth.shape and found.dtype == torch.float32
    return (found - truth).abs().max() / truth.abs().max()


@needs_kernel
@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_winograd_is_its_formula(shape, tile, scale):
    inputs = example(*shape)
    found = winograd(*inputs, tile, scale)
    assert error(found, *inputs, scale) < ERRORS[tile]
    assert found.is_contiguous(memory_format=LAST)


@needs_kernel
@pytest.mark.parametrize("tile", [2, 4])
def test_in_groups_and_blocks_it_is_the_same(tile, monkeypatch):
    """With room for few numbers the tiles are taken in several groups, and the channels in several blocks."""
    inputs = example(2, 16, 40, 9, 10)
    monkeypatch.setattr(fast, "ROOM", 16 * 36 * 16)
    assert error(winograd(*inputs, tile), *inputs, 1) < ERRORS[tile]


@pytest.fixture
def everything_is_large(monkeypatch):
    monkeypatch.setattr(fast, "LARGE", 0)


@needs_kernel
@torch.no_grad()
def test_both_layers_use_it(everything_is_large, monkeypatch):
    """A convolution and an upsampling give the formula's values by it, and as they are without it."""
    inputs, tiles = example(2, 16, 24, 34, 32), []

    def recorded(*arguments):
        tiles.append(arguments[3:])
        return winograd(*arguments)

    for module in ("convolution", "upsampling"):
        monkeypatch.setattr(f"fromnoise.nn.fast.{module}.winograd", recorded)
    ways = convolve(*inputs, padding=1), upsample(*inputs)
    for scale, found in enumerate(ways, start=1):
        assert error(found, *inputs, scale) < ERRORS[4]
    assert tiles == [(4,), (4, 2)]


@needs_kernel
@torch.no_grad()
def test_the_size_of_tiles_goes_by_the_positions(everything_is_large):
    def chosen(images, size, scale=1):
        return tile_for(*example(images, 8, 8, size, size), scale)

    assert [chosen(2, size) for size in (8, 16, 32, 64)] == [0, 2, 4, 4]
    assert chosen(2, 8, scale=2) == 2
    assert chosen(8, 8) == 2


@torch.no_grad()
def test_elsewhere_the_library_s_own_is_used(everything_is_large, monkeypatch):
    x, weight, bias = example(2, 16, 24, 32, 32)
    assert tile_for(x, weight, bias) == (4 if KERNEL else 0)
    assert tile_for(x, weight, None) == 0
    assert tile_for(x.contiguous(), weight, bias) == 0
    assert tile_for(x, weight.contiguous(), bias) == 0
    assert tile_for(x.bfloat16(), weight.bfloat16(), bias.bfloat16()) == 0
    assert tile_for(x.double(), weight.double(), bias.double()) == 0
    assert tile_for(x, weight[:, :, :1, :1].contiguous(memory_format=LAST), bias) == 0
    assert tile_for(*example(2, 12, 24, 32, 32)) == 0
    assert tile_for(*example(2, 16, 20, 32, 32)) == 0
    with torch.enable_grad():  # there is no gradient of it
        assert tile_for(x, weight, bias) == 0
    monkeypatch.setattr(fast, "library", lambda source: None)
    assert tile_for(x, weight, bias) == 0


@torch.no_grad()
def test_small_convolutions_keep_their_bits():
    """The widest of the digits' network, with the rows that it is shown at a time, and a wide one of few positions."""
    assert tile_for(*example(16, 128, 128, 7, 7)) == 0
    assert tile_for(*example(1, 1280, 1280, 8, 8)) == 0
