import os
import pathlib
import re
import subprocess
import sys

import datasets
import huggingface_hub.utils.logging as hub_logging
import numpy as np
import pytest
import torch
from datasets.exceptions import DatasetNotFoundError
from PIL import Image
from pyarrow import parquet

from fromnoise.data import images as module
from fromnoise.data.images import Images, from_pixels, load_images, to_pixels
from fromnoise.data.table import Table
from fromnoise.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def load(source, split="train", **options):
    return load_images(str(source), split, **{"channels": 1, "size": 4, **options})


def refusal(*key_words, source, **options):
    """The one line with which ``source`` is refused, which must hold every key word."""
    with pytest.raises(UserError) as error:
        load(source, **options)
    message = str(error.value)
    assert "\n" not in message
    for word in key_words:
        assert str(word) in message, message


def save_image(path, value=0, size=(4, 4), mode="L", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path, **options)
    return path


def save_parquet(folder, features=None, **splits):
    """A folder in the hub's layout, with one parquet file of ``splits[name]`` columns for each split."""
    (folder / "data").mkdir(parents=True)
    for name, columns in splits.items():
        dataset = datasets.Dataset.from_dict(columns, features=features and datasets.Features(features))
        dataset.to_parquet(folder / "data" / f"{name}-00000-of-00001.parquet")
    return folder


def encoded(folder, *values, **options):
    return [
        {"bytes": save_image(folder / f"{value}.png", value, **options).read_bytes(), "path": f"{value}.png"}
        for value in values
    ]


@pytest.fixture
def cats_and_dogs(tmp_path):
    return save_parquet(
        tmp_path / "pets",
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])},
        train={"img": encoded(tmp_path / "source", 0, 100, 255), "label": [0, 1, 0]},
        test={"img": encoded(tmp_path / "source", 7), "label": [1]},
    )


# numbers


def test_the_256_pixel_values_survive_the_round_trip():
    pixels = torch.arange(256, dtype=torch.uint8)
    images = from_pixels(pixels)
    assert images.dtype == torch.float32
    assert torch.equal(images, torch.arange(256) / 127.5 - 1)
    assert (images.min(), images.max()) == (-1, 1)
    assert torch.equal(to_pixels(images), pixels)


def test_pixels_are_rounded_and_clipped():
    assert to_pixels(torch.tensor([-9.0, -1 + 0.4 / 127.5, -1 + 0.6 / 127.5, 1.01])).tolist() == [0, 0, 1, 255]


def test_a_batch_is_float_images_and_their_labels():
    pixels = torch.arange(12, dtype=torch.uint8).reshape(3, 1, 2, 2)
    images, labels = Images(pixels, torch.tensor([5, 6, 7])).batch(torch.tensor([2, 0]))
    assert torch.equal(images, from_pixels(pixels[[2, 0]]))
    assert labels.tolist() == [7, 5]
    images, labels = Images(pixels).batch(torch.tensor([1]))
    assert images.shape == (1, 1, 2, 2) and labels is None
    assert len(Images(pixels)) == 3


# digits


def test_digits_need_no_download():
    train = load("digits", size=8, labelled=True)
    test = load("digits", "test", size=8, labelled=True)
    assert (train.pixels.shape, test.pixels.shape) == ((1500, 1, 8, 8), (297, 1, 8, 8))
    assert train.pixels.dtype == torch.uint8 and (train.pixels.min(), train.pixels.max()) == (0, 255)
    assert train.labels.dtype == torch.int64 and train.labels.unique().tolist() == list(range(10))
    assert train.class_names == tuple("0123456789")

    from sklearn.datasets import load_digits

    expected = torch.from_numpy(load_digits().images) * 255 / 16
    assert (torch.cat([train.pixels, test.pixels])[:, 0] - expected).abs().max() <= 0.5
    assert torch.equal(torch.cat([train.labels, test.labels]), torch.from_numpy(load_digits().target))


def test_digits_in_colour_and_without_labels():
    grey, colour = load("digits", size=8), load("digits", size=8, channels=3)
    assert torch.equal(colour.pixels, grey.pixels.repeat(1, 3, 1, 1))
    assert grey.labels is None and grey.class_names is None
    assert colour.batch(torch.tensor([3, 1]))[0].shape == (2, 3, 8, 8)


def test_digits_have_one_size_and_two_splits():
    refusal("digits", "8x8", "28x28", source="digits", size=28)
    refusal("digits", "'extra'", "train, test", source="digits", size=8, split="extra")


# folders


def test_parquet_in_the_layout_of_the_hub(cats_and_dogs):
    train, test = load(cats_and_dogs, labelled=True), load(cats_and_dogs, "test", labelled=True)
    assert train.pixels.dtype == torch.uint8 and train.pixels.shape == (3, 1, 4, 4)
    assert train.pixels[:, 0, 0, 0].tolist() == [0, 100, 255] and test.pixels[:, 0, 0, 0].tolist() == [7]
    assert train.labels.dtype == torch.int64 and train.labels.tolist() == [0, 1, 0] and test.labels.tolist() == [1]
    assert train.class_names == ("cat", "dog")
    assert load(cats_and_dogs).labels is None and load(cats_and_dogs).class_names is None


def test_pixels_keep_their_places_and_channels(tmp_path):
    expected = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), np.uint8)
    (tmp_path / "images").mkdir()
    for index, array in enumerate(expected):
        Image.fromarray(array).save(tmp_path / "images" / f"{index:02}.png")
    loaded = [load(tmp_path / "images", split, channels=3).pixels for split in ("train", "test")]
    keys = {pixels.permute(1, 2, 0).numpy().tobytes() for part in loaded for pixels in part}
    assert keys == {array.tobytes() for array in expected}


def test_images_are_converted_to_the_wanted_channels(tmp_path):
    folder = save_image(tmp_path / "colour" / "train" / "0.png", (255, 0, 0), mode="RGB").parent.parent
    save_image(folder / "test" / "0.png", 50)
    assert load(folder).pixels[0, :, 0, 0].tolist() == [76]  # the luma of red
    assert load(folder, channels=3).pixels[0, :, 0, 0].tolist() == [255, 0, 0]
    assert load(folder, "test", channels=3).pixels[0, :, 0, 0].tolist() == [50, 50, 50]
    refusal("1 channel", "3", "not 4", source=folder, channels=4)


@pytest.mark.parametrize("stored", ["test", "validation"])
def test_image_folder_with_classes_and_splits(tmp_path, stored):
    for split, offset in (("train", 0), (stored, 100)):
        for label, name in enumerate(("cat", "dog")):
            save_image(tmp_path / "tree" / split / name / "1.png", offset + label)
    for split, offset in (("train", 0), ("test", 100), ("validation", 100)):
        images = load(tmp_path / "tree", split, labelled=True)
        assert images.class_names == ("cat", "dog")
        assert images.labels.tolist() == [0, 1] and images.pixels[:, 0, 0, 0].tolist() == [offset, offset + 1]


def test_images_beside_as_many_captions(tmp_path):
    for index in range(3):
        save_image(tmp_path / "captioned" / f"{index}.png", index).with_suffix(".txt").write_text("a square")
    assert len(load(tmp_path / "captioned")) == 2


def test_a_folder_that_changes_is_read_again(tmp_path):
    for index in range(3):
        save_image(tmp_path / "growing" / f"{index}.png")
    assert len(load(tmp_path / "growing")) == 2
    save_image(tmp_path / "growing" / "3.png")
    assert len(load(tmp_path / "growing")) == 3


def test_images_are_upright(tmp_path):
    array = np.zeros((4, 4), np.uint8)
    array[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    for index in range(2):
        save_image(tmp_path / "phone" / f"{index}.png")
        Image.fromarray(array).save(tmp_path / "phone" / f"{index}.png", exif=exif)
    assert load(tmp_path / "phone").pixels[0, 0, :, 0].tolist() == [0, 0, 0, 255]


def test_a_photograph_whose_camera_wrote_nonsense_is_read(tmp_path):
    save_image(tmp_path / "phone" / "0.png")
    for index in (1, 2, 3):
        photograph = Image.fromarray(np.full((4, 4), 77, np.uint8))
        photograph.save(tmp_path / "phone" / f"{index}.jpg", exif=b"Exif\0\0nonsense", dpi=(72, 72))
    assert load(tmp_path / "phone").pixels[-1].unique().tolist() == [77]


def test_what_save_to_disk_wrote(tmp_path):
    columns = {"image": encoded(tmp_path / "source", *range(4))}
    dataset = datasets.Dataset.from_dict(columns, features=datasets.Features({"image": datasets.Image()}))
    dataset.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": dataset, "test": dataset.select([2])}).save_to_disk(tmp_path / "dict")
    assert len(load(tmp_path / "one")) == 3
    assert len(load(tmp_path / "dict")) == 4 and load(tmp_path / "dict", "test").pixels[0, 0, 0, 0] == 2


# splits


def test_train_and_the_images_kept_from_it_never_overlap(tmp_path):
    columns = {"image": encoded(tmp_path / "source", *range(100))}
    folder = save_parquet(tmp_path / "whole", {"image": datasets.Image()}, train=columns)
    train, test = ([*load(folder, split).pixels[:, 0, 0, 0].tolist()] for split in ("train", "test"))
    assert (len(train), len(test)) == (95, 5) and sorted(train + test) == list(range(100))
    assert train == sorted(train) and test == sorted(test)
    assert load(folder, "test").pixels[:, 0, 0, 0].tolist() == test  # the same every time


@pytest.mark.parametrize(("total", "kept"), [(2, 1), (19, 1), (40, 2), (60_000, 3000), (1_000_000, 5000)])
def test_how_many_images_are_kept(total, kept):
    splits = {"train": Table({}, total, lambda name: (), lambda name, row: None)}
    (_, train), (_, test) = (module.choose_rows("x", split, splits) for split in ("train", "test"))
    assert len(test) == kept and sorted([*train, *test]) == list(range(total))


def test_splits_by_name():
    sizes = {"train": 9, "validation": 3, "test": 2, "extra": 4}
    splits = {name: Table({}, rows, lambda name: (), lambda name, row: None) for name, rows in sizes.items()}
    assert [module.choose_rows("x", split, splits) for split in sizes] == [(k, range(v)) for k, v in sizes.items()]


def test_splits_that_other_names_mean(tmp_path, capfd):
    """Two of one meaning: the first is read, and the other is named."""
    columns = {"image": encoded(tmp_path / "source", *range(4))}
    whole = datasets.Dataset.from_dict(columns, features=datasets.Features({"image": datasets.Image()}))
    parts = {name: whole.select([index]) for index, name in enumerate(("Training", "dev", "valid"))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "parts")
    for split, value in (("train", 0), ("training", 0), ("test", 1), ("validation", 1), ("valid", 2)):
        assert load(tmp_path / "parts", split).pixels.unique().tolist() == [value]
    assert "not read: split valid\n" in capfd.readouterr().err
    whole.save_to_disk(tmp_path / "whole")
    assert [len(load(tmp_path / "whole", split)) for split in ("train", "Training", "eval")] == [3, 3, 1]


def test_a_split_that_is_not_there(cats_and_dogs, tmp_path):
    refusal("'extra'", "train, test", source=cats_and_dogs, split="extra")
    save_image(tmp_path / "only" / "test" / "0.png")
    refusal("'train'", "it has test", source=tmp_path / "only")
    assert len(load(tmp_path / "only", "test")) == 1


def test_one_image_cannot_be_split(tmp_path):
    save_image(tmp_path / "single" / "0.png")
    refusal("single", "no image", "'train'", "1 in all", source=tmp_path / "single")


# columns and labels


@pytest.fixture
def columns(tmp_path):
    return save_parquet(
        tmp_path / "columns",
        {
            "id": datasets.Value("int64"),
            "first": datasets.Image(),
            "second": datasets.Image(),
            "fine_label": datasets.Value("uint8"),
            "kind": datasets.ClassLabel(names=["a", "b", "c"]),
            "text": datasets.Value("string"),
        },
        test={
            "id": [70],
            "first": encoded(tmp_path / "source", 1),
            "second": encoded(tmp_path / "source", 2),
            "fine_label": [42],
            "kind": [2],
            "text": ["hello"],
        },
    )


def test_columns_are_found_or_chosen(columns):
    images = load(columns, "test", labelled=True)
    assert images.pixels[0, 0, 0, 0] == 1 and images.labels.tolist() == [2] and images.class_names == ("a", "b", "c")
    images = load(columns, "test", labelled=True, image_column="second", label_column="id")
    assert images.pixels[0, 0, 0, 0] == 2 and images.labels.tolist() == [0] and images.class_names == ("70",)
    images = load(columns, "test", labelled=True, label_column="text")
    assert images.labels.tolist() == [0] and images.class_names == ("hello",)


def test_an_integer_column_may_hold_the_labels(tmp_path):
    features = {"count": datasets.Value("int64"), "image": datasets.Image(), "labels": datasets.Value("int32")}
    columns = {"count": [9], "image": encoded(tmp_path / "source", 1), "labels": [3]}
    images = load(save_parquet(tmp_path / "integer", features, test=columns), "test", labelled=True)
    assert images.labels.dtype == torch.int64 and images.labels.tolist() == [0] and images.class_names == ("3",)


@pytest.mark.parametrize("options", [{"image_column": "text"}, {"image_column": "none"}])
def test_a_column_without_images(columns, options):
    refusal(*options.values(), "id, first, second, fine_label, kind, text", source=columns, split="test", **options)


@pytest.mark.parametrize("column", ["first", "none"])
def test_a_column_without_labels(columns, column):
    refusal(column, "id, first", source=columns, split="test", labelled=True, label_column=column)


@pytest.mark.parametrize("label", [-1, None, 2])
def test_a_label_that_is_no_class(tmp_path, label):
    features = {"image": datasets.Image(), "label": datasets.Value("int64")}
    columns = {"image": encoded(tmp_path / "source", 1, 2), "label": [0, label]}
    folder = save_parquet(tmp_path / "hidden", features, test=columns)
    if label == 2:  # two classes are promised, and a third is stored
        [file] = folder.glob("data/*")
        schema = datasets.Features({**features, "label": datasets.ClassLabel(names=["a", "b"])}).arrow_schema
        parquet.write_table(parquet.read_table(file).replace_schema_metadata(schema.metadata), file)
    refusal("test row 1", f"label {label}", "no class", source=folder, split="test", labelled=True)
    assert len(load(folder, "test")) == 2  # without its labels it is good


# images that cannot be used


def test_an_image_of_another_size(tmp_path, cats_and_dogs):
    for index in range(3):
        path = save_image(tmp_path / "mixed" / f"{index}.png", size=(4, 5))
    refusal(path.parent, ".png", "4x5", "4x4", "resize", source=path.parent)
    refusal("row 0", "0.png", "4x4", "28x28", source=cats_and_dogs, size=28)


def test_a_file_that_is_no_image(tmp_path):
    save_image(tmp_path / "corrupt" / "train" / "good.png")
    save_image(tmp_path / "corrupt" / "test" / "good.png")
    (tmp_path / "corrupt" / "train" / "bad.png").write_bytes(b"not an image")
    refusal(tmp_path / "corrupt" / "train" / "bad.png", "cannot be read", source=tmp_path / "corrupt")
    assert len(load(tmp_path / "corrupt", "test")) == 1


def test_rows_that_hold_no_readable_image(tmp_path):
    good, cut = encoded(tmp_path / "source", 1, 2)
    cut["bytes"] = cut["bytes"][:-20]
    features = {"image": datasets.Image()}
    refusal(
        "row 1",
        "cannot be read",
        source=save_parquet(tmp_path / "a", features, test={"image": [good, cut]}),
        split="test",
    )
    refusal(
        "row 1", "no image", source=save_parquet(tmp_path / "b", features, test={"image": [good, None]}), split="test"
    )


def test_more_than_8_bits(tmp_path):
    save_image(tmp_path / "deep" / "test" / "0.png", 1000, mode="I;16")
    refusal("0.png", "8 bits", source=tmp_path / "deep", split="test")


def test_more_images_than_the_memory_holds(cats_and_dogs, monkeypatch):
    monkeypatch.setattr(module, "room", lambda: 10)
    refusal("GiB of memory", "more than the 0.0", source=cats_and_dogs)


def test_a_third_of_the_memory_is_for_images(monkeypatch):
    """And less for each of several processes; Linux says how much there is."""
    lines = pathlib.Path("/proc/meminfo")
    if lines.exists():
        total = 1024 * int(lines.read_text().split()[1])
        monkeypatch.setattr(module, "CONTAINER_LIMITS", [])
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
        assert module.room() == pytest.approx(total / 3, rel=0.01)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
        assert module.room() == pytest.approx(total / 12, rel=0.01)


def test_a_container_may_have_less_memory_than_its_machine(tmp_path, monkeypatch):
    limits = [tmp_path / name for name in ("none", "max", "less")]
    limits[1].write_text("max\n")
    limits[2].write_text(f"{3 * 2**20}\n")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(module, "CONTAINER_LIMITS", limits)
    assert module.room() == 2**20


# sources that cannot be used


def test_a_folder_without_images(tmp_path):
    (tmp_path / "empty").mkdir()
    refusal(tmp_path / "empty", "no image", source=tmp_path / "empty")
    (tmp_path / "readme").mkdir()
    (tmp_path / "readme" / "README.md").write_text("# nothing here\n")
    refusal(tmp_path / "readme", "no image", source=tmp_path / "readme")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.xyz").write_text("nothing")
    refusal(tmp_path / "other", "no image", source=tmp_path / "other")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("nothing")
    refusal(tmp_path / "text", "no image, but a.txt: it may hold images", source=tmp_path / "text")


def test_a_parquet_file_that_is_none(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.parquet").write_bytes(b"nothing")
    refusal("cannot read", tmp_path / "broken", source=tmp_path / "broken")


def test_a_folder_that_does_not_exist(tmp_path):
    refusal("no folder", tmp_path / "none", source=tmp_path / "none")
    for path in ("./none", "~/none-of-this", "~nobody-is-called-so/x", "none/", "a/b/c", "..\\none", "/" + "long" * 99):
        refusal("no folder", path, source=path)


@pytest.mark.parametrize("source", ["mnist", "", "two words", "two\nlines"])
def test_what_is_no_source(source):
    refusal("unknown data", "digits", "folder", "hub id", "ylecun/mnist", source=source)


# the hub


def stub_hub(monkeypatch, answer):
    """Makes ``datasets.load_dataset`` return or raise ``answer``; returns the list of what it was called with."""
    calls = []

    def load_dataset(*arguments):
        calls.append(arguments)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_a_hub_id_is_loaded_from_the_hub(monkeypatch, cats_and_dogs):
    calls = stub_hub(monkeypatch, datasets.load_dataset(str(cats_and_dogs)))
    assert load("someone/their-data.v2", "test").pixels[:, 0, 0, 0].tolist() == [7]
    load("someone/their-data.v2", configuration="small")
    assert calls == [("someone/their-data.v2", None), ("someone/their-data.v2", "small")]


@pytest.mark.parametrize(
    ("error", "key_words"),
    [
        (ConnectionError("Couldn't reach it\non the hub"), "cannot reach the hub for a/b: connect, or pass --data DIR"),
        (DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub\nor"), "no dataset of that name on the hub"),
        (
            ValueError("Config name is missing.\nPlease pick one among the available configs: ['x', 'y']\nExample"),
            "a/b has several datasets: choose one with --data.configuration: x, y",
        ),
        (
            ValueError("Config name is missing.\nPlease pick one"),
            "cannot load a/b from the hub: Config name is missing.",
        ),
    ],
)
def test_what_the_hub_does_not_give(monkeypatch, error, key_words):
    stub_hub(monkeypatch, error)
    refusal("a/b", key_words, source="a/b")


def test_without_a_network(tmp_path):
    """In a process of its own: the hub's library reads its environment when it is imported."""
    code = "from fromnoise.data.images import load_images; load_images('ylecun/mnist', channels=1, size=28)"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.stderr.splitlines()[-1] == (
        "fromnoise.errors.UserError: "
        "cannot reach the hub for ylecun/mnist: connect, or pass --data DIR with a local copy"
    )


# manners


def test_loading_is_quiet_and_leaves_the_settings_as_they_were(cats_and_dogs, tmp_path, capfd):
    before = datasets.logging.get_verbosity(), hub_logging.get_verbosity(), datasets.are_progress_bars_disabled()
    load(cats_and_dogs)
    refusal("no folder", source="./none")
    assert capfd.readouterr() == ("", "")
    assert before == (
        datasets.logging.get_verbosity(),
        hub_logging.get_verbosity(),
        datasets.are_progress_bars_disabled(),
    )


def test_heavy_libraries_wait_until_they_are_needed():
    code = (
        "import sys, fromnoise.data.images; print([n for n in ('datasets', 'sklearn', 'pyarrow') if n in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\[\]\s*", result.stdout)
