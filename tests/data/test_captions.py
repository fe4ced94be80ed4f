"""Captioned pictures: which caption belongs to which picture, what is drawn, and what is told of the rest."""

import json
import re

import datasets
import pytest
import torch
from PIL import Image

from fromnoise import terminal
from fromnoise.data.captions import CaptionedImages, load_captioned
from fromnoise.data.images import load_images
from fromnoise.errors import UserError
from fromnoise.train.config import DataConfig


@pytest.fixture(autouse=True)
def own_notes(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    terminal.warn.cache_clear()


def pictures(folder, greys, size=(4, 4)):
    """Pictures ``7.png`` of these greys."""
    folder.mkdir(parents=True, exist_ok=True)
    for grey in greys:
        Image.new("L", size, grey).save(folder / f"{grey}.png")
    return folder


def metadata(folder, *rows):
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def load(source, **settings):
    return load_captioned(DataConfig(size=4, **settings), str(source))


def by_grey(*loaded):
    """The captions of each picture."""
    return {
        int(row[0, 0, 0]): list(texts)
        for images in loaded
        for row, texts in zip(images.pixels, images.captions, strict=True)
    }


def refused(source, **settings):
    with pytest.raises(UserError) as caught:
        load(source, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Which captions


@pytest.mark.parametrize("key", ["text", "caption", "captions", "prompt"])
def test_metadata_in_lines(tmp_path, key):
    rows = [{"file_name": f"{grey}.png", key: f"grey  {grey}\n"} for grey in range(8)]
    loaded = load(metadata(pictures(tmp_path / "p", range(8)), *rows))
    assert by_grey(*loaded) == {grey: [f"grey {grey}"] for grey in range(8)}


def test_metadata_in_a_table(tmp_path):
    pictures(tmp_path / "p", range(6))
    lines = ["file_name,artist,prompt", *(f'{grey}.png,x,"{grey}, grey"' for grey in range(6))]
    (tmp_path / "p" / "metadata.csv").write_text("\n".join(lines))
    assert by_grey(*load(tmp_path / "p")) == {grey: [f"{grey}, grey"] for grey in range(6)}
    assert by_grey(*load(tmp_path / "p", caption_column="artist")) == {grey: ["x"] for grey in range(6)}


@pytest.mark.parametrize("row", ["1.png,a ball, on grass", '1.png, "a ball, on grass"', '1.png,"a ball'])
def test_a_row_of_a_table_whose_caption_would_lose_its_end_is_refused(tmp_path, row):
    """A comma without quotes, a space before the quotes, and quotes that never end."""
    pictures(tmp_path / "p", range(3))
    (tmp_path / "p" / "metadata.csv").write_text(f"file_name,text\n0.png,red\n{row}\n2.png,blue\n")
    known = "line 3 has more cells than the first: put ", "metadata.csv cannot be read: unexpected end"
    assert any(words in refused(tmp_path / "p") for words in known)
    (tmp_path / "p" / "metadata.csv").write_text("file_name,text,,\n0.png,red,,\n1.png,green\n2.png,blue,\n")
    assert by_grey(*load(tmp_path / "p")) == {0: ["red"], 1: ["green"], 2: ["blue"]}


def test_half_a_letter_of_two_parts(tmp_path):
    """JavaScript cuts texts between the two halves of a letter, and JSON can say so, but UTF-8 cannot."""
    folder = metadata(pictures(tmp_path / "p", range(3)), *({"file_name": f"{g}.png", "text": "x"} for g in range(3)))
    (folder / "metadata.jsonl").write_text((folder / "metadata.jsonl").read_text().replace('"x"', r'"nice \ud83d"'))
    assert by_grey(*load(folder)) == {g: ["nice ?"] for g in range(3)}


def test_captions_that_are_numbers(tmp_path):
    rows = [{"file_name": f"{grey}.png", "text": str(grey)} for grey in range(4)]
    assert by_grey(*load(metadata(pictures(tmp_path / "p", range(4)), *rows))) == {
        grey: [str(grey)] for grey in range(4)
    }


def test_a_text_beside_each(tmp_path, capfd):
    for grey in range(6):
        pictures(tmp_path / "p" / str(grey % 2), [grey]).joinpath(f"{grey}.txt").write_text(
            f"\ufeff{grey}\r\n\n  not {grey}\n"
        )
    assert by_grey(*load(tmp_path / "p")) == {grey: [str(grey), f"not {grey}"] for grey in range(6)}
    assert capfd.readouterr().err == ""


def test_metadata_before_texts(tmp_path, capfd):
    folder = metadata(
        pictures(tmp_path / "p", range(3)), *({"file_name": f"{g}.png", "text": f"{g}!"} for g in range(3))
    )
    (folder / "0.txt").write_text("other")
    assert by_grey(*load(folder))[0] == ["0!"]
    assert "not read: 0.txt" in capfd.readouterr().err


def test_several_captions(tmp_path):
    """A list, or several rows for one picture."""
    rows = [{"file_name": f"{grey}.png", "text": [f"{grey}", f"no {grey + 1}"]} for grey in range(3)]
    rows += [{"file_name": f"{grey}.png", "text": f"{word} {grey}"} for grey in range(3, 6) for word in ("a", "b", "c")]
    found = by_grey(*load(metadata(pictures(tmp_path / "p", range(6)), *rows)))
    assert found == {g: [f"{g}", f"no {g + 1}"] for g in range(3)} | {
        g: [f"{w} {g}" for w in "abc"] for g in range(3, 6)
    }


def test_captions_of_one_picture_under_two_names_and_in_two_files(tmp_path):
    folder = metadata(pictures(tmp_path / "p", range(3)), *({"file_name": f"{g}.png", "width": 4} for g in range(3)))
    (folder / "metadata.csv").write_text("file_name,text\n0.png,a\n./0.png,b\n1.png,c\n2.png,\n2.png,d\n")
    assert by_grey(*load(folder)) == {0: ["a", "b"], 1: ["c"], 2: ["d"]}


@pytest.mark.parametrize("several", [False, True])
def test_parquet(tmp_path, several):
    pictures(tmp_path / "p", range(10))
    cells = [{"bytes": (tmp_path / "p" / f"{grey}.png").read_bytes(), "path": None} for grey in range(10)]
    texts = [[f"{grey}", f"number {grey}"] if several else f"{grey}" for grey in range(10)]
    table = datasets.Dataset.from_dict(
        {"image": cells, "caption": texts},
        features=datasets.Features(
            {
                "image": datasets.Image(),
                "caption": datasets.List(datasets.Value("string")) if several else datasets.Value("string"),
            }
        ),
    )
    (tmp_path / "q").mkdir()
    table.to_parquet(tmp_path / "q" / "train-00000-of-00001.parquet")
    expected = {grey: texts[grey] if several else [texts[grey]] for grey in range(10)}
    assert by_grey(*load(tmp_path / "q")) == expected


def test_names_of_classes_do_as_captions(tmp_path):
    for name, greys in {"cat": (1, 2), "dog": (3, 4)}.items():
        pictures(tmp_path / "p" / name, greys)
    assert by_grey(*load(tmp_path / "p", caption_column="label")) == {1: ["cat"], 2: ["cat"], 3: ["dog"], 4: ["dog"]}


# What is held out


def test_the_test_split_is_held_out(tmp_path):
    for split, greys in {"train": (1, 2, 3), "test": (4, 5)}.items():
        for grey in greys:
            pictures(tmp_path / "p" / split, [grey]).joinpath(f"{grey}.txt").write_text(f"{grey}")
    train, held_out = load(tmp_path / "p")
    assert by_grey(train).keys() == {1, 2, 3} and by_grey(held_out).keys() == {4, 5}


def test_the_same_pictures_are_held_out_as_without_captions(tmp_path):
    folder = pictures(tmp_path / "p", range(40))
    metadata(folder, *({"file_name": f"{grey}.png", "text": f"{grey}"} for grey in range(40)))
    train, held_out = load(folder)
    theirs = load_images(str(folder), "test", channels=3, size=4)
    assert held_out.pixels.equal(theirs.pixels) and len(theirs) == 2
    assert not by_grey(train).keys() & by_grey(held_out).keys() and train.rows == 38


def test_a_picture_that_is_held_out_is_not_trained_on_under_another_name(tmp_path, capfd):
    for name, grey in {"train/1": 1, "train/2": 2, "train/again": 4, "test/4": 4}.items():
        path = tmp_path / "p" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), grey).save(path)
        path.with_suffix(".txt").write_text(name)
    train, _ = load(tmp_path / "p")
    rows, seen = {grey: row for row, grey in enumerate(train.pixels[:, 0, 0, 0].tolist())}, set()
    for seed in range(64):
        drawn, captions = draw(train, seed, (rows[1], rows[4], rows[2]))
        greys = drawn["pixels"][:, 0, 0, 0].tolist()
        assert captions == [f"train/{grey}" for grey in greys]
        assert (greys[0], greys[2]) == (1, 2)
        seen.add(greys[1])
    assert seen == {1, 2}, "the others are not drawn in its place at random"
    assert capfd.readouterr().err.count("some pictures are held out, too: others are drawn in their place") == 1
    for grey in (1, 2):
        (tmp_path / "p" / "train" / f"{grey}.png").unlink()
    with pytest.raises(UserError, match="each picture is held out, too, and none is left to train on: give others"):
        draw(load(tmp_path / "p")[0], 0, (0,))


def test_of_a_large_test_split_some_are_held_out(tmp_path, monkeypatch):
    monkeypatch.setattr("fromnoise.data.captions.MOST_HELD_OUT", 4)
    for split, greys in {"train": (100, 101), "test": range(10, 20)}.items():
        pictures(tmp_path / "p" / split, greys)
        metadata(tmp_path / "p" / split, *({"file_name": f"{grey}.png", "text": f"{grey}"} for grey in greys))
    train, held_out = load(tmp_path / "p")
    assert by_grey(held_out).keys() == {10, 12, 15, 17} and by_grey(train).keys() == {100, 101}


# What is drawn


@pytest.fixture
def few():
    pixels = torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, 3, 2, 2).clone()
    pixels[..., 0] += 100
    return CaptionedImages(pixels, [["a"], ["b", "c"], ["d", "e", "f"]])


def draw(images, seed, indices=(0, 1, 2)):
    return images.draw(torch.tensor(indices), torch.Generator().manual_seed(seed))


def test_pictures_are_in_range_and_in_order(few):
    drawn, captions = draw(few, 0, (2, 0))
    assert captions[0] in "def" and captions[1] == "a"
    found = few.images(drawn)
    assert found.shape == (2, 3, 2, 2) and (few.rows, few.size) == (3, 2)
    assert found[:, 0, 0, 1].tolist() == pytest.approx([2 / 127.5 - 1, -1])


def test_captions_are_drawn_from_evenly(few):
    """Each of three within 4 sigma of a third, and the same for the same seed."""
    count = 900
    found = [draw(few, seed)[1] for seed in range(count)]
    assert found == [draw(few, seed)[1] for seed in range(count)]
    for texts in few.captions:
        column = few.captions.index(texts)
        p = 1 / len(texts)
        for text in texts:
            share = sum(captions[column] == text for captions in found) / count
            assert abs(share - p) <= 4 * (p * (1 - p) / count) ** 0.5


def test_a_caption_does_not_depend_on_mirroring(few):
    mirrored = CaptionedImages(few.pixels, few.captions, flip=True)
    turned = 0
    for seed in range(64):
        (one, captions), (other, same) = draw(few, seed), draw(mirrored, seed)
        assert captions == same and one["pixels"].equal(few.pixels)
        for picture, original in zip(other["pixels"], few.pixels, strict=True):
            assert picture.equal(original) or picture.equal(original.flip(-1))
            turned += not picture.equal(original)
    assert abs(turned / 192 - 0.5) < 4 * 0.5 / 192**0.5


def test_pictures_of_any_size(tmp_path, capfd):
    folder = pictures(tmp_path / "p", (10, 20), size=(9, 6))
    metadata(folder, *({"file_name": f"{grey}.png", "text": f"{grey}"} for grey in (10, 20)))
    train, held_out = load(folder)
    assert train.pixels.shape[1:] == held_out.pixels.shape[1:] == (3, 4, 4)
    assert "resized, the shorter side to 4 pixels" in train.changes
    assert "1 of 1 images resized" in capfd.readouterr().err
    assert "is 9x6, not 4x4" in refused(folder, resize="none")


# What is told


def test_missing_empty_and_doubled_captions_are_named(tmp_path, capfd):
    train = pictures(tmp_path / "p" / "train", range(8))
    test = pictures(tmp_path / "p" / "test", [9])
    texts = [["a"], None, ["", "b"], ["c", "c"], "d", "d", "  ", "e"]
    metadata(train, *({"file_name": f"{grey}.png", "text": text} for grey, text in enumerate(texts)))
    metadata(test, {"file_name": "9.png", "text": "f"})
    found, _ = load(tmp_path / "p")
    assert by_grey(found) == {0: ["a"], 2: ["b"], 3: ["c"], 4: ["d"], 5: ["d"], 7: ["e"]}
    (line,) = capfd.readouterr().err.splitlines()
    assert line == (
        f"fromnoise: {tmp_path}/p, train: of 8 pictures 1 have no caption (first train/1.png), "
        f"2 have an empty one (first train/2.png), 1 have one twice (first train/3.png), "
        f"2 share one with others (first train/4.png); 2 are left out"
    )


def test_where_no_picture_has_a_caption(tmp_path):
    folder = pictures(tmp_path / "p", range(4))
    assert "has no column of captions: its columns are image: put a metadata.jsonl" in refused(folder)
    assert "has no column of captions 'words'" in refused(folder, caption_column="words")
    for grey in range(4):
        (folder / f"{grey}.txt").write_text(" \n\n")
    found = re.search(
        r"p, test: of 1 pictures none has a caption in text \(the first is (\d).png\): put", refused(folder)
    )
    for grey in {*range(4)} - {int(found[1])}:
        (folder / f"{grey}.txt").write_text("all but the one that is held out\n")
    assert f"p, test: of 1 pictures none has a caption in text (the first is {found[1]}.png)" in refused(folder)
    (folder / f"{found[1]}.txt").write_text("that one\n")
    assert len(load(folder)[1].pixels) == 1


@pytest.mark.parametrize("secret", ["", None])
def test_a_test_split_whose_captions_are_kept_secret_is_not_taken(tmp_path, capfd, secret):
    for split, greys in (("train", range(4)), ("validation", (5, 6)), ("test", (7, 8))):
        rows = [{"file_name": f"{g}.png", "text": f"grey {g}"} for g in greys]
        rows = [row | {"text": secret} for row in rows] if split == "test" else rows
        metadata(pictures(tmp_path / "p" / split, greys), *rows)
    train, held_out = load(tmp_path / "p")
    assert {*by_grey(train)} == {*range(4)} and {*by_grey(held_out)} == {5, 6}
    assert "split test has no captions: other pictures are held out" in capfd.readouterr().err


def test_what_cannot_be_read_is_refused(tmp_path):
    folder = metadata(pictures(tmp_path / "p", range(4)), *({"file_name": f"{g}.png", "text": "x"} for g in range(4)))
    (folder / "2.png").write_bytes(b"nothing")
    assert "2.png cannot be read as an image" in refused(folder)
    (folder / "metadata.jsonl").write_bytes(b'{"file_name": "0.png", "text": "\xff"}')
    assert "metadata.jsonl cannot be read" in refused(folder)
    (folder / "metadata.jsonl").unlink()
    (folder / "0.txt").write_bytes(b"\xff")
    assert "0.txt cannot be read" in refused(folder)
