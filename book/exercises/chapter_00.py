"""Checks of chapter 0."""

import torch

from exercises import Function, Wrong, exercise, expect


@exercise
def pixels_to_unit(answer: Function) -> None:
    pixels = torch.tensor([0, 51, 128, 255], dtype=torch.uint8)
    got = answer(pixels)
    if torch.is_tensor(got) and got.dtype == torch.uint8:
        raise Wrong("uint8 numbers cannot be negative and wrap around; make floats of them first, with .float()")
    if torch.is_tensor(got) and torch.allclose(got, pixels / 255):
        raise Wrong("that is 0 to 1; stretch it to twice the length and shift it down by 1")
    expect(got, pixels.double() / 127.5 - 1, "0 must become -1 and 255 must become 1, with a straight line between")


@exercise
def noise_of_variance(answer: Function) -> None:
    noise = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    got = answer(noise, 0.25)
    if torch.is_tensor(got) and torch.allclose(got, 0.25 * noise):
        raise Wrong("that has the variance 0.25 squared, 0.0625: a factor is squared when the variance is taken")
    expect(got, 0.5 * noise, "multiply the noise by the number whose square is the variance, and add nothing")
