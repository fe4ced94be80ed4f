"""Images on disk: what is in the files, and that a failure leaves none."""

import stat

import numpy as np
import pytest
import torch
from PIL import Image

from fromnoise import pictures
from fromnoise.errors import UserError
from fromnoise.pictures import INFERNO, grid, overlay, save_array, save_folder, save_grid


@pytest.fixture
def images():
    """Five images of 4 by 6 pixels, ``(5, C, 4, 6)``, for C = 1 and 3."""
    generator = torch.Generator().manual_seed(0)
    return {c: torch.randint(0, 256, (5, c, 4, 6), generator=generator, dtype=torch.uint8) for c in (1, 3)}


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_grid(images, channels, mode):
    picture = grid(images[channels], columns=3)
    scale, padding = 56 // 4, pictures.PADDING
    assert picture.mode == mode
    assert picture.size == (3 * (6 * scale + padding) + padding, 2 * (4 * scale + padding) + padding)
    pixels = np.asarray(picture).reshape(picture.height, picture.width, channels).copy()
    for i, image in enumerate(images[channels]):
        top, left = (i // 3) * (4 * scale + padding) + padding, (i % 3) * (6 * scale + padding) + padding
        cell = pixels[top : top + 4 * scale, left : left + 6 * scale]
        assert (cell == image.permute(1, 2, 0).numpy().repeat(scale, 0).repeat(scale, 1)).all()
        cell[:] = 255
    assert (pixels == 255).all()  # all around is white


def test_large_images_keep_their_size():
    assert grid(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), columns=2).size == (2 * 66 + 2, 66 + 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_one_image_alone_has_its_own_size(channels):
    """What was drawn can be drawn over: there is no margin around it, and it is not enlarged."""
    image = torch.arange(channels * 28 * 24).reshape(1, channels, 28, 24).to(torch.uint8)
    pixels = np.asarray(grid(image, columns=1))
    assert np.array_equal(pixels.reshape(28, 24, channels), image[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("channels", [1, 3])
def test_overlay(images, channels):
    """Half grey, half colour: the colour of each quarter of the way from the least to the most, and between them."""
    image = images[channels][0]
    heat = torch.linspace(-1, 1, 9).repeat_interleave(3)[:24].view(4, 6)  # -1 to .75 by quarters, each three times
    picture = overlay(image, heat)
    assert (picture.dtype, picture.shape) == (torch.uint8, (3, 4, 6))
    grey = image.double().mean(0).flatten()
    for i in range(24):
        quarter = (i // 3) / 7 * 4
        low, high = (torch.tensor(INFERNO[k], dtype=torch.float64) for k in (int(quarter), min(int(quarter) + 1, 4)))
        expected = (grey[i] + low + (high - low) * (quarter % 1)) / 2
        torch.testing.assert_close(picture.flatten(1)[:, i].double(), expected, rtol=0, atol=0.51)


def test_overlay_of_any_map():
    """A smaller map is enlarged without steps; one that is the same everywhere is black."""
    image = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    rising = overlay(image, torch.tensor([[0.0, 1.0], [0.0, 1.0]]))[0, 0].int()
    assert rising[0] == 50 and rising[-1] == (100 + 252) // 2 and len(rising.unique()) > 4
    assert overlay(image, torch.full((2, 2), 0.3)).flatten(1).unique(dim=1).T.tolist() == [[50, 50, 52]]


def test_the_colours_are_matplotlibs():
    colours = pytest.importorskip("matplotlib").colormaps["inferno"]
    for i, colour in enumerate(INFERNO):
        assert colour == pytest.approx([255 * part for part in colours(i / 4)[:3]], abs=1.5)


def test_files_hold_the_images(images, tmp_path):
    labels = torch.tensor([3, 1, 4, 1, 5])
    for channels, batch in images.items():
        expected = batch.permute(0, 2, 3, 1).numpy()
        save_grid(tmp_path / "new" / "grid.png", batch, 3)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "grid.png")), np.asarray(grid(batch, 3)))

        save_array(tmp_path / "with.npz", batch, labels.tolist())
        save_array(tmp_path / "without.npz", batch, [])
        arrays = dict(np.load(tmp_path / "with.npz"))
        assert sorted(arrays) == ["images", "labels"]
        assert np.array_equal(arrays["images"], expected)
        assert arrays["images"].dtype == np.uint8
        assert np.array_equal(arrays["labels"], labels)
        assert sorted(np.load(tmp_path / "without.npz")) == ["images"]

        folder = tmp_path / f"folder-{channels}"
        names = ["00000-7.png", "00001-8.png", "00002-9.png", "00003-7.png", "00004-8.png"]
        save_folder(folder, batch, [7, 8, 9, 7, 8])
        assert listing(folder) == names
        for i in range(5):
            assert np.array_equal(np.asarray(Image.open(folder / names[i])).reshape(4, 6, channels), expected[i])
    assert listing(tmp_path) == ["folder-1", "folder-3", "new", "with.npz", "without.npz"]


def test_the_usual_permissions(images, tmp_path):
    (tmp_path / "usual").touch()
    save_grid(tmp_path / "grid.png", images[1], 3)
    assert stat.S_IMODE((tmp_path / "grid.png").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("kind", ["grid.png", "arrays.npz", "folder"])
def test_a_failure_halfway_leaves_everything_as_it_was(kind, failure, images, tmp_path, monkeypatch):
    """The file is begun and then fails, over an old file and where there is none."""
    begun = []

    def begin_and_fail(*arguments, **options):
        target = arguments[1] if isinstance(arguments[0], Image.Image) else arguments[0]
        if hasattr(target, "write"):
            target.write(b"half")
        else:
            target.write_bytes(b"half")
        begun.append(len([path for path in tmp_path.rglob("*") if path.is_file()]))
        raise failure

    monkeypatch.setattr(Image.Image, "save", begin_and_fail)
    monkeypatch.setattr(np, "savez_compressed", begin_and_fail)
    save = {
        "grid.png": lambda: save_grid(tmp_path / kind, images[1], 3),
        "arrays.npz": lambda: save_array(tmp_path / kind, images[1], []),
        "folder": lambda: save_folder(tmp_path / kind, images[1], []),
    }[kind]
    expected = UserError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match=f"^cannot write .*{kind}: No space left" if expected is UserError else None):
        save()
    assert begun == [1]
    assert listing(tmp_path) == []
    if kind != "folder":
        (tmp_path / kind).write_bytes(b"old")
        with pytest.raises(expected):
            save()
        assert begun == [1, 2]
        assert listing(tmp_path) == [kind]
        assert (tmp_path / kind).read_bytes() == b"old"
