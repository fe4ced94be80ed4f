"""Folders as people have them: every image on disk is read, refused or named."""

import gzip
import inspect
import io
import json
import os
import pickle
import random
import struct
import sys
import zipfile
import zlib

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from fromnoise import terminal
from fromnoise.data.images import load_images
from fromnoise.data.listing import list_files
from fromnoise.data.table import SPLITS
from fromnoise.errors import UserError


@pytest.fixture(autouse=True)
def own_notes(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    terminal.warn.cache_clear()


def png(value, size=(4, 4), mode="L"):
    file = io.BytesIO()
    Image.new(mode, size, value).save(file, "PNG")
    return file.getvalue()


def write(folder, names):
    """Files with these contents; a number is an image of that grey."""
    for name, content in names.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(content) if isinstance(content, int) else content)
    return folder


def zipped(**names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, value in names.items():
            archive.writestr(name.replace("__", "/") + ".png", png(value))
    return file.getvalue()


def load(source, split="train", **options):
    return load_images(str(source), split, **{"channels": 1, "size": 4, **options})


def greys(images):
    return images.pixels[:, 0, 0, 0].tolist()


def everything(source, **options):
    """The greys of all images and the class of each, over the splits."""
    found = {}
    for split in ("train", "test"):
        images = load(source, split, **options)
        names = images.class_names if images.labels is not None else None
        labels = [None] * len(images) if names is None else [names[label] for label in images.labels]
        found |= dict(zip(greys(images), labels, strict=True))
    return found


def notes(capfd):
    return capfd.readouterr().err.splitlines()


def refused(source, *words, **options):
    with pytest.raises(UserError) as caught:
        load(source, **options)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 500
    for word in words:
        assert word in line, line


# which images there are, and of which split and class each is


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ({"car/1.png": 1, "plane/2.png": 2, "train/3.png": 3}, {1: "car", 2: "plane", 3: "train"}),
        ({"dev/1.png": 1, "val/2.png": 2, "ops/3.png": 3}, {1: "dev", 2: "val", 3: "ops"}),
        ({"cat/1.png": 1, "cat/test/2.png": 2, "dog/old/very/3.PNG": 3}, {1: "cat", 2: "cat", 3: "dog"}),
        ({"around/all/cat/1.png": 1, "around/all/dog/2.png": 2}, {1: "cat", 2: "dog"}),
        ({"Train/cat/1.png": 1, "TEST/dog/2.png": 2}, {1: "cat", 2: "dog"}),
        ({"x/training/cat/1.png": 1, "x/Validation/dog/2.png": 2}, {1: "cat", 2: "dog"}),
        ({"cat.zip": zipped(a=1), "dog.zip": zipped(a=2)}, {1: "cat", 2: "dog"}),
        ({"one.zip": zipped(cat__a=1), "two.zip": zipped(dog__a=2)}, {1: "cat", 2: "dog"}),
        ({"train.zip": zipped(cat__a=1), "test.zip": zipped(test__dog__a=2)}, {1: "cat", 2: "dog"}),
    ],
)
def test_every_image_has_the_class_of_its_folder(tmp_path, names, classes):
    assert everything(write(tmp_path / "data", names), labelled=True) == classes
    assert list(everything(tmp_path / "data")) == list(everything(tmp_path / "data", labelled=True))


@pytest.mark.parametrize(
    ("names", "train", "test"),
    [
        ({"Train/1.png": 1, "Test/2.png": 2}, [1], [2]),
        ({"1.png": 1, "stress.png": 2, "test/3.png": 3}, [1, 2], [3]),
        ({"train/1.png": 1, "dev/2.png": 2}, [1], [2]),
        ({"train.zip": zipped(a=1), "val.zip": zipped(a=2)}, [1], [2]),
    ],
)
def test_splits_are_folders_that_are_called_so(tmp_path, names, train, test):
    write(tmp_path / "data", names)
    assert (greys(load(tmp_path / "data")), greys(load(tmp_path / "data", "test"))) == (train, test)
    refused(tmp_path / "data", "no column of classes: its columns are image:", labelled=True)


def test_a_word_in_a_name_is_no_split(tmp_path):
    folder = write(tmp_path / "data", {f"{name}.png": i for i, name in enumerate(("stress-test", "train", "dev_1"))})
    assert sorted(everything(folder)) == [0, 1, 2]


def test_nothing_is_left_out_without_a_word(tmp_path, capfd):
    """Random trees: what is read and what is named is all that there is."""
    draw = random.Random(0)
    folders = ["", "cat/", "train/", "test/", "Val/", ".hidden/", "dog/deep/", "__MACOSX/", "x/test/"]
    for trial in range(30):
        chosen = draw.sample(folders, draw.randint(1, 4))
        names = {f"{draw.choice(chosen)}{i}.png": i for i in range(1, 9)}
        folder = write(tmp_path / str(trial), names)
        try:
            read = everything(folder)
        except UserError as error:
            read = {}
            assert str(folder) in str(error)
        lines = notes(capfd)
        splits, files = ([line for line in lines if ("read: split" in line) == split] for split in (True, False))
        left = [name for name, value in names.items() if value not in read]
        if read and left:
            left = [
                name
                for name in left
                if not any(SPLITS.get(name.split("/")[0].lower(), name.split("/")[0]) in line for line in splits)
            ]
            listed = [line.partition("not read: ")[2].partition(" and ") for line in files if "not read: " in line]
            assert sum(
                len(first.split(", ")) + int(more.split()[0] if more else 0) for first, _, more in listed
            ) == len(left)


def test_links_are_followed_once(tmp_path, capfd):
    write(tmp_path, {"elsewhere/1.png": 1, "data/dog/2.png": 2, "data/dog/3.png": 3})
    (tmp_path / "data/cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/dog/round").symlink_to(tmp_path / "data")
    (tmp_path / "data/twice").symlink_to(tmp_path / "elsewhere")
    assert everything(tmp_path / "data", labelled=True) == {1: "cat", 2: "dog", 3: "dog"}
    assert "dog/round" in (words := capfd.readouterr().err) and "twice" in words and words.count("\n") == 1


def test_a_folder_nested_without_end(tmp_path):
    """The walk is no recursion."""
    deep = tmp_path.joinpath(*"d" * 200)
    deep.mkdir(parents=True)
    write(tmp_path, {"1.png": 1, "2.png": 2})
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 150)
    try:
        files, _ = list_files(tmp_path)
    finally:
        sys.setrecursionlimit(before)
    assert [file.path.name for file in files] == ["1.png", "2.png"]


@pytest.mark.parametrize("name", ["set[1]", "a::b", "what?", "all*", "{x}", "ä b"])
@pytest.mark.parametrize("kind", ["images", "parquet", "saved"])
def test_a_path_is_a_path(tmp_path, name, kind):
    features = datasets.Features({"image": datasets.Image()})
    for folder, value in ((tmp_path / name, 11), (tmp_path / "set1", 99), (tmp_path / "all", 98)):
        rows = {"image": [{"bytes": png(value), "path": None}] * 2}
        if kind == "images":
            write(folder, {"1.png": value, "2.png": value})
            continue
        dataset = datasets.Dataset.from_dict(rows, features=features)
        folder.mkdir()
        dataset.to_parquet(io_path := str(tmp_path / "rows.parquet")) if kind == "parquet" else None
        os.replace(io_path, folder / "train.parquet") if kind == "parquet" else None
        if kind == "saved":
            dataset.save_to_disk(tmp_path / "saved")
            folder.rmdir()
            os.replace(tmp_path / "saved", folder)
    assert greys(load(tmp_path / name)) == greys(load(tmp_path / name, "test")) == [11]


def test_one_image_in_two_places_is_refused(tmp_path):
    refused(write(tmp_path, {"p.zip": zipped(a=1), "p/a.png": 1, "p/b.png": 2}), "p.zip/a.png", "the same image")


@pytest.mark.parametrize("name", [".", "/a.png", "./cat/a.png", "..\\a.png"])
def test_odd_names_in_a_zip(tmp_path, name, capfd):
    """They are read, or named, and lead to no file outside."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for value, member in enumerate((name, "b.png", "c.png")):
            archive.writestr(member, png(value))
    write(tmp_path, {"a.png": 9, "data/p.zip": file.getvalue()})
    assert sorted({0, *everything(tmp_path / "data")}) == [0, 1, 2]
    assert name.endswith("/a.png") or "not read: p.zip" in capfd.readouterr().err


@pytest.mark.parametrize("damage", ["cut", "locked"])
def test_a_damaged_zip(tmp_path, damage):
    content = zipped(a=1, b=2)
    content = content[:-30] if damage == "cut" else content.replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1")
    refused(write(tmp_path / "data", {"p.zip": content}), "cannot read", "p.zip")


# metadata


def metadata(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_metadata_belongs_to_its_images(tmp_path):
    table = b"\xef\xbb\xbffile_name,kind,digit\nsub/1.png,cat,7\n2.png,dog,5\n3.png,,5\n"
    write(tmp_path, {"metadata.csv": table, "sub/1.png": 1, "2.png": 2, "3.png": 3})
    found = everything(tmp_path, labelled=True, label_column="digit")
    assert found == {1: "7", 2: "5", 3: "5"}
    refused(tmp_path, "3.png", "label None is no class", labelled=True, label_column="kind")
    assert sorted(everything(tmp_path)) == [1, 2, 3]


def test_metadata_with_fewer_or_more_rows_than_images(tmp_path):
    names = {f"{i}.png": i for i in range(4)}
    fewer = metadata(*({"file_name": f"{i}.png", "label": i} for i in range(3)))
    folder = write(tmp_path / "fewer", names | {"metadata.jsonl": fewer})
    assert sorted(everything(folder)) == [0, 1, 2, 3]
    refused(folder, "3.png", "label None", labelled=True)
    more = metadata(*({"file_name": f"{i}.png", "label": i} for i in range(5)))
    refused(write(tmp_path / "more", names | {"metadata.jsonl": more}), "metadata.jsonl names 4.png")
    refused(write(tmp_path / "bad", names | {"metadata.jsonl": b"{"}), "metadata.jsonl cannot be read")


def test_metadata_names_images_from_where_it_lies(tmp_path, monkeypatch):
    """However the folder is named, in a zip that counts as one, and by a whole path."""
    rows = metadata({"file_name": "../1.png", "label": 1}, {"file_name": "./2.png", "label": 2})
    folder = write(tmp_path / "a" / "p", {"sub/metadata.jsonl": rows, "1.png": 1, "sub/2.png": 2})
    monkeypatch.chdir(tmp_path / "a")
    for name in (folder, folder / "sub" / "..", "p", "../a/p", "./p"):
        assert everything(name, labelled=True) == {1: "1", 2: "2"}
    for name in ("photos/1.png", "photos.zip/1.png"):
        place = tmp_path / name.replace("/", "-")
        write(place, {"metadata.jsonl": metadata({"file_name": name, "label": 3}, {"file_name": "0.png", "label": 4})})
        write(place, {"0.png": 0})
        with zipfile.ZipFile(place / "photos.zip", "w") as archive:
            archive.write(folder / "1.png", "1.png")
        assert everything(place, labelled=True) == {0: "4", 1: "3"}
    whole = {"file_name": str(folder / "1.png"), "label": 1}, {"file_name": "2.png", "label": 2}
    (folder / "sub" / "metadata.jsonl").write_bytes(metadata(*whole))
    assert everything(folder, labelled=True) == {1: "1", 2: "2"}


def test_metadata_that_names_a_format_that_is_not_read(tmp_path):
    rows = metadata({"file_name": "1.heic", "label": 1}, {"file_name": "2.png", "label": 2})
    folder = write(tmp_path / "p", {"metadata.jsonl": rows, "1.heic": b"ftypheic", "2.png": 2})
    refused(folder, "names 1.heic, which is no image that can be read: save it as PNG or JPEG")


# labels


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([1, 2, 3], ("1", "2", "3")),
        ([10**9, 0, 7], ("0", "7", "1000000000")),
        ([10, 9, 9], ("9", "10")),
        (["dog", "cat", "cat"], ("cat", "dog")),
        ([True, False, True], ("False", "True")),
    ],
)
def test_classes_are_numbered_from_0_over_all_splits(tmp_path, labels, names):
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(3)], "kind": labels}
    saved = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    datasets.DatasetDict({"train": saved.select([0]), "test": saved.select([1, 2])}).save_to_disk(tmp_path / "saved")
    train, test = (load(tmp_path / "saved", s, labelled=True, label_column="kind") for s in ("train", "test"))
    assert train.class_names == test.class_names == names
    assert [names[i] for part in (train, test) for i in part.labels] == [str(label) for label in labels]
    assert train.labels.dtype == torch.int64


def test_labels_are_compared_by_name():
    images = load("digits", size=8, labelled=True)
    turned = images.with_classes("9876543210")
    assert torch.equal(turned.labels, 9 - images.labels) and turned.class_names == tuple("9876543210")
    with pytest.raises(UserError, match="there is no class 9 among 0, 1, 2"):
        images.with_classes("012345678")


def test_several_datasets_in_a_folder(tmp_path):
    for i, name in enumerate(("small", "large")):
        rows = {"image": [{"bytes": png(i), "path": None}] * 2}
        (tmp_path / name).mkdir()
        for split in ("train", "test"):
            datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image()})).to_parquet(
                tmp_path / name / f"{split}-00000-of-00001.parquet"
            )
    refused(tmp_path, "several datasets", "--data.configuration: large, small")
    refused(tmp_path, "--data.configuration: large, small", configuration="other")
    assert greys(load(tmp_path, configuration="large")) == [1, 1] and len(load(tmp_path / "small")) == 2


# official files


def idx(array):
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_the_files_of_mnist(tmp_path, ending):
    pack = gzip.compress if ending else bytes
    images, labels = np.arange(96, dtype=np.uint8).reshape(6, 4, 4), np.array([5, 0, 4, 1, 9, 2], np.uint8)
    files = {f"raw/train-images-idx3-ubyte{ending}": images[:4], f"raw/train-labels-idx1-ubyte{ending}": labels[:4]}
    files |= {f"raw/t10k-images.idx3-ubyte{ending}": images[4:], f"raw/t10k-labels.idx1-ubyte{ending}": labels[4:]}
    folder = write(tmp_path / "mnist", {name: pack(idx(array)) for name, array in files.items()})
    train, test = load(folder, labelled=True), load(folder, "test", labelled=True)
    assert np.array_equal(torch.cat([train.pixels, test.pixels])[:, 0], images)
    assert train.class_names == ("0", "1", "2", "4", "5", "9") and train.labels.tolist() == [4, 0, 3, 1]
    assert load(folder, size=8, channels=3, resize="crop").pixels.shape == (4, 3, 8, 8)
    name = f"raw/train-labels-idx1-ubyte{ending}"
    refused(write(folder, {name: pack(idx(labels))}), "4 images, and 6 labels")
    refused(write(folder, {name: pack(idx(labels)[:-1])}), "not a complete idx file")
    refused(write(folder, {name: b"\x1f\x8b nonsense"}), "cannot be unpacked" if ending else "not a complete")


def test_the_files_of_cifar(tmp_path):
    records = np.random.default_rng(0).integers(0, 10, (6, 3073), np.uint8)
    names = [f"kind{i}" for i in range(10)]
    files = {"data_batch_1.bin": records[:2].tobytes(), "data_batch_2.bin": records[2:4].tobytes()}
    files |= {"test_batch.bin": records[4:].tobytes(), "batches.meta.txt": "\n".join([*names, ""]).encode()}
    folder = write(tmp_path / "cifar-10-batches-bin", files)
    train, test = (load(folder, s, channels=3, size=32, labelled=True) for s in ("train", "test"))
    assert np.array_equal(torch.cat([train.pixels, test.pixels]).reshape(6, -1), records[:, 1:])
    assert torch.cat([train.labels, test.labels]).tolist() == records[:, 0].tolist()
    assert train.class_names == tuple(names)
    refused(write(folder, {"data_batch_2.bin": b"cut"}), "data_batch_2.bin is no complete file", channels=3, size=32)


def test_a_pickle_is_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was opened",))

    folder = write(tmp_path / "cifar-10-batches-py", {"data_batch_1": pickle.dumps(Bomb())})
    refused(folder, "data_batch_1", "pickles never", "CIFAR-10 (binary", "MNIST (idx)", "parquet", "zips", "PNG")


# one image


def picture(tmp_path, content, **options):
    write(tmp_path / "data", {f"test/0.{options.pop('ending', 'png')}": content})
    return load(tmp_path / "data", "test", **{"channels": 3, **options}).pixels[0]


def encoded(image, kind="PNG", **options):
    image.save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(("width", "height"), [(400, 300), (2, 4), (2, 50), (4, 6)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_images_of_any_size_are_resized_and_cropped_to_the_middle(tmp_path, width, height, kind, capfd):
    """A picture that is bright in its middle square and dark beside it comes out bright all over."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    array = np.zeros((height, width, 3), np.uint8)
    array[top : top + side, left : left + side] = 255
    pixels = picture(tmp_path, encoded(Image.fromarray(array), kind), resize="crop")
    assert pixels.shape == (3, 4, 4) and pixels[:, 1:-1, 1:-1].min() >= 230
    assert "1 of 1 images resized, the shorter side to 4 pixels, and cropped to the middle" in capfd.readouterr().err


def test_resizing_averages_and_leaves_alone_what_fits(tmp_path, capfd):
    stripes = np.tile(np.array([0, 255], np.uint8), (400, 200))
    assert (picture(tmp_path, encoded(Image.fromarray(stripes)), resize="crop").float() - 127.5).abs().max() <= 4
    fits = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    capfd.readouterr()
    pixels = picture(tmp_path, encoded(Image.fromarray(fits)), resize="crop")
    assert np.array_equal(pixels.permute(1, 2, 0), fits) and capfd.readouterr().err == ""


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_the_background(tmp_path, mode):
    image = Image.new("RGBA", (4, 4), (200, 200, 200, 0)).convert(mode)
    content = encoded(image, transparency=0) if mode == "P" else encoded(image)
    assert picture(tmp_path, content)[:, 0, 0].tolist() == [255, 255, 255]
    assert picture(tmp_path, content, background="#0a0b0c")[:, 0, 0].tolist() == [10, 11, 12]
    assert picture(tmp_path, encoded(Image.new("RGBA", (4, 4), (1, 2, 3, 255))))[:, 0, 0].tolist() == [1, 2, 3]
    refused(tmp_path / "data", "data.background", "'nonsense'", background="nonsense")


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_formats_that_are_not_named_are_not_opened(tmp_path, ending, monkeypatch):
    """EPS, which would start Ghostscript, under the name of another."""
    monkeypatch.setattr("PIL.EpsImagePlugin.EpsImageFile._open", lambda self: pytest.fail("opened"))
    with pytest.raises(UserError, match=rf"0\.{ending} cannot be read as an image"):
        picture(tmp_path, encoded(Image.new("RGB", (4, 4)), "EPS"), ending=ending)


def test_a_bomb_is_one_line_and_a_large_photograph_none(tmp_path, monkeypatch):
    bomb = bytearray(png(0))
    bomb[16:24] = struct.pack(">2I", 60_000, 60_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    with pytest.raises(UserError, match="0.png has 3433 megapixels, more than 256: make it smaller"):
        picture(tmp_path, bytes(bomb), resize="crop")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # Pillow's own limit is lower than what phones take
    assert picture(tmp_path, encoded(Image.new("RGB", (40, 40), "white"), "JPEG"), resize="crop").min() == 255
    assert Image.MAX_IMAGE_PIXELS == 50


@pytest.mark.parametrize("name", ["1.png", "1.zip", "1.parquet", "metadata.csv", "train-images-idx3-ubyte"])
@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_a_pipe_or_a_device_hangs_nothing(tmp_path, name, kind, capfd):
    folder = write(tmp_path / "data", {"a.png": 1, "b.png": 2})
    os.mkfifo(folder / name) if kind == "fifo" else (folder / name).symlink_to("/dev/zero")
    try:
        everything(folder)
    except UserError as error:
        assert name in str(error)
    else:
        assert name in capfd.readouterr().err


def test_only_the_small_images_are_in_memory(tmp_path, monkeypatch):
    """A JPEG is decoded at an eighth of its size."""
    sizes = []
    transposed = Image.Image.copy
    monkeypatch.setattr(Image.Image, "copy", lambda self: (sizes.append(self.size), transposed(self))[1])
    picture(tmp_path, encoded(Image.new("RGB", (4000, 3000)), "JPEG"), resize="crop")
    assert sizes and max(sizes) == (500, 375)
