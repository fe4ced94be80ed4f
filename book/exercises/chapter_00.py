"""Checks of chapter 0."""

import torch

from exercises import Function, Wrong, exercise, expect, refuse, values


@exercise
def pixels_to_unit(answer: Function) -> None:
    pixels = torch.tensor([0, 51, 128, 129, 255], dtype=torch.uint8)
    got, exact = answer(pixels.clone()), pixels.double()
    if torch.is_tensor(got) and got.dtype == torch.uint8:
        raise Wrong("uint8 numbers cannot be negative and wrap around; make floats of them first, with .float()")
    overflow = "a product or difference was taken in uint8 and wrapped around; make floats of the pixels first"
    refuse(
        got,
        [
            (exact / 255, "that is 0 to 1; stretch it to twice the length and shift it down by 1"),
            (exact / 255 - 1, "that is -1 to 0; stretch it to twice the length"),
            (exact / 128 - 1, "255 becomes 0.992 and not 1: divide by half of 255, not by half of 256"),
            ((2 * pixels) / 255 - 1, overflow),
            ((2 * pixels - 255) / 255, overflow),
            ((pixels - 128) / 127.5, overflow),
        ],
    )
    expect(got, exact / 127.5 - 1, "0 must become -1 and 255 must become 1, with a straight line between")
    batch = pixels.reshape(1, 1, 1, 5)
    expect(answer(batch), batch.double() / 127.5 - 1, "right for a list of pixels, but not for a batch of pictures")


@exercise
def noise_of_variance(answer: Function) -> None:
    noise = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    for variance in (0.25, 9.0, 0.01, 1.0, 0.0):
        got = answer(noise.clone(), variance)
        if 0 < variance != 1:
            refuse(
                got,
                [
                    (variance * noise, "that has the variance squared: a factor is squared when the variance is taken"),
                    (noise / variance**0.5, "multiply by the root of the variance, do not divide by it"),
                    (noise + variance**0.5, "adding a number moves the mean and leaves the variance"),
                    (noise + variance, "adding a number moves the mean and leaves the variance"),
                ],
            )
        hint = "multiply the noise by the number whose square is the variance, and add nothing"
        expect(got, variance**0.5 * noise, f"wrong for the variance {variance}: {hint}", tolerance=1e-5)


@exercise
def scale_each(answer: Function) -> None:
    generator = torch.Generator().manual_seed(2)
    for shape in ((3, 1, 2, 3), (3, 3, 3, 3), (2, 5), (4,), (2, 3, 2)):
        images, factors = torch.randn(shape, generator=generator), torch.randn(shape[0], generator=generator)
        truth = torch.stack([image * factor for image, factor in zip(images, factors, strict=True)])
        got = answer(images.clone(), factors.clone())
        if shape == (3, 3, 3, 3):
            refuse(got, [(factors * images, "the factors ran along the width: shape them (B, 1, 1, 1)")])
        if (value := values(got)) is not None and value.shape != truth.shape:
            raise Wrong(f"of images of the shape {shape} it made {tuple(value.shape)}; give the factors as many axes")
        expect(got, truth, f"wrong for images of the shape {shape}: picture i times factor i, and nothing else")


@exercise
def expected_square(answer: Function) -> None:
    for mean, variance, c, d in ((-0.7, 0.4, 1.5, 0.3), (0.0, 1.0, 2.0, 3.0), (2.0, 0.0, -1.0, 0.5)):
        got, centre = answer(mean, variance, c, d), c * mean + d
        if mean and variance:
            refuse(
                got,
                [
                    (centre**2, "that is the square of the mean; the variance comes on top"),
                    (c**2 * variance, "that is the variance of c x + d; the square of its mean comes on top"),
                    (centre**2 + c * variance, "a factor is squared when the variance is taken"),
                    (c**2 * (mean**2 + variance) + d**2, "the mixed term 2 c d E[x] is missing"),
                    (c**2 * (mean**2 + variance) + d, "d has to be squared, and the mixed term 2 c d E[x] is missing"),
                ],
            )
        hint = "E[y^2] = Var(y) + E[y]^2 holds for y = c x + d, too; what are its mean and its variance?"
        expect(got, centre**2 + c**2 * variance, hint)
