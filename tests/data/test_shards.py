"""Captioned pictures that do not fit into memory: read from their shards, and drawn as if they were in memory."""

import io
import tracemalloc

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from fromnoise import terminal
from fromnoise.data import arrow, captions
from fromnoise.data.captions import CaptionedImages, StoredPixels, load_captioned
from fromnoise.errors import UserError
from fromnoise.train.checkpoint import DataRecord
from fromnoise.train.config import DataConfig
from fromnoise.train.randomness import batch_indices

TRAIN, GROUP = (24, 12), 4  # rows of two files, and of a group of rows in them


def png(number: int) -> bytes:
    """A picture that no other number has."""
    file, grey = io.BytesIO(), np.full((4, 4), number, np.uint8)
    Image.fromarray(grey).save(file, "PNG")
    return file.getvalue()


def write(path, numbers, damaged=()):
    cells = [{"bytes": b"nothing" if number in damaged else png(number), "path": None} for number in numbers]
    table = pyarrow.table({"image": cells, "text": [f"number {number}" for number in numbers]})
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(table, path, row_group_size=GROUP)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Pictures 0 to 35 in two files, of which shards hold two groups of rows, and others that are held out."""
    terminal.warn.cache_clear()
    write(tmp_path / "p" / "train-00000-of-00002.parquet", range(24))
    write(tmp_path / "p" / "train-00001-of-00002.parquet", range(24, 36))
    write(tmp_path / "p" / "test.parquet", range(50, 56))
    group = pyarrow.parquet.read_metadata(tmp_path / "p" / "train-00000-of-00002.parquet").row_group(0)
    monkeypatch.setattr(arrow, "SHARD_BYTES", int(2.5 * group.total_byte_size))
    return tmp_path / "p"


def load(source, streamed=True, **settings) -> tuple[CaptionedImages, CaptionedImages]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captions, "room", lambda: 0 if streamed else 2**30)
        train, held_out = load_captioned(DataConfig(size=4, **settings), str(source))
    assert isinstance(train.pixels, StoredPixels if streamed else torch.Tensor)
    return train, held_out


def batch(images, step, seed=0, size=5):
    """The numbers of the pictures of a step, and their captions."""
    indices = batch_indices(seed, step, size, images.rows, images.shards)
    drawn, texts = images.draw(indices, torch.Generator().manual_seed(step))
    return drawn["pixels"], texts


def numbers(pixels):
    return pixels[:, 0, 0, 0].tolist()


def test_an_epoch_goes_through_one_shard_after_the_other(folder):
    """Shards are groups of rows of one file, several where they are small."""
    train, held_out = load(folder)
    assert train.shards == (8, 8, 8, 8, 4) and isinstance(held_out.pixels, torch.Tensor)
    epochs = [sum((numbers(batch(train, step, size=6)[0]) for step in range(n, n + 6)), []) for n in (0, 6)]
    orders = []
    for epoch in epochs:
        assert sorted(epoch) == list(range(36))
        shards = [number // 8 for number in epoch]
        orders.append([shard for place, shard in enumerate(shards) if shard not in shards[:place]])
        assert shards == sorted(shards, key=orders[-1].index), "a shard is gone back to"
        assert epoch != sorted(epoch)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("flip", [False, True])
def test_the_same_is_drawn_as_from_memory_whatever_was_read_before(folder, flip):
    there = [batch(load(folder, streamed=False, flip=flip)[0], step) for step in range(20)]
    going_on, _ = load(folder, flip=flip)
    for step in (13, *range(20)):  # a resumed run starts at any step
        pixels, texts = batch(going_on, step)
        assert pixels.equal(there[step][0]) and texts == there[step][1]
    assert [texts for _, texts in there] == [[f"number {number}" for number in numbers(pixels)] for pixels, _ in there]
    resumed = batch(load(folder, flip=flip)[0], 13)
    assert resumed[0].equal(there[13][0]) and resumed[1] == there[13][1]


def test_one_shard_is_kept_and_read_once_an_epoch(folder, monkeypatch):
    """And each picture is decoded once an epoch, when it is drawn."""
    reads, pictures = [], []
    guarded, decode = arrow.told, captions.decode
    monkeypatch.setattr(arrow, "told", lambda *problem: reads.append(problem) or guarded(*problem))
    monkeypatch.setattr(captions, "decode", lambda cell, row, **how: pictures.append(row) or decode(cell, row, **how))
    train, _ = load(folder)
    reads.clear()
    pictures.clear()
    for step in range(12):
        batch(train, step, size=6)
        assert len(pictures) == 6 * (step + 1)
    assert len(reads) in (9, 10), "5 shards, twice, of which the last may be the next epoch's first"


def test_memory_holds_one_shard_as_it_is_stored_and_no_picture(tmp_path, monkeypatch):
    noise = np.random.default_rng(0)
    for name, count in {"train": 200, "test": 4}.items():
        cells = []
        for _ in range(count):
            file = io.BytesIO()
            Image.fromarray(noise.integers(0, 256, (32, 32, 3), np.uint8)).save(file, "PNG")
            cells.append({"bytes": file.getvalue(), "path": None})
        table = pyarrow.table({"image": cells, "text": [str(number) for number in range(count)]})
        pyarrow.parquet.write_table(table, tmp_path / f"{name}.parquet", row_group_size=10)
    group = pyarrow.parquet.read_metadata(tmp_path / "train.parquet").row_group(0)
    monkeypatch.setattr(arrow, "SHARD_BYTES", int(2.5 * group.total_byte_size))
    monkeypatch.setattr(captions, "room", lambda: 0)
    train, _ = load_captioned(DataConfig(size=32), str(tmp_path))
    assert train.shards == (20,) * 10
    picture = 32 * 32 * 3  # bytes, decoded, and a little more as it is stored
    batch(train, 0, size=10)
    tracemalloc.start()
    before, arrays = tracemalloc.get_traced_memory()[0], []
    for step in range(1, 20):
        batch(train, step, size=10)
        arrays.append(pyarrow.total_allocated_bytes())
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 20 * picture < max(arrays) < 3 * 20 * picture, "of 200 pictures 20 are in memory, as they are stored"
    assert after - before < 20 * picture, "decoded pictures are kept"


def test_captions_alone_need_no_picture(folder, monkeypatch):
    train, _ = load(folder)
    expected = batch(train, 3)[1]
    monkeypatch.setattr(captions, "decoded", None)
    rows = batch_indices(0, 3, 5, train.rows, train.shards)
    assert train.captions_of(rows, torch.Generator().manual_seed(3)) == expected


def test_held_out_pictures_are_drawn_from_no_shard(folder):
    write(folder / "train-00001-of-00002.parquet", [50, 24, 25, 53, 26, 27, 28, 29, 30, 31, 32, 33])
    streamed, in_memory = (load(folder, streamed)[0] for streamed in (True, False))
    for step in range(20):
        (pixels, texts), (same, others) = batch(streamed, step), batch(in_memory, step)
        assert not {50, 53} & {*numbers(pixels)} and pixels.equal(same) and texts == others
        assert texts == [f"number {number}" for number in numbers(pixels)]
    write(folder / "test.parquet", range(50, 58))
    write(folder / "train-00000-of-00002.parquet", [*range(8), *range(50, 58), *range(16, 24)])
    with pytest.raises(UserError, match="train: each picture of its shard 2 is held out, too, and none is left"):
        load(folder)[0].draw(torch.tensor([3, 11]), torch.Generator().manual_seed(0))


def test_of_pictures_in_one_split_the_same_are_held_out(folder):
    (folder / "test.parquet").unlink()
    found = [load(folder, streamed) for streamed in (True, False)]
    (train, held_out), (others, same) = found
    assert held_out.pixels.equal(same.pixels) and train.shards == others.shards and sum(train.shards) == 35
    epoch = sum((numbers(batch(train, step, size=7)[0]) for step in range(5)), [])
    assert sorted(epoch + numbers(held_out.pixels)) == list(range(36))


def test_a_damaged_picture_is_named_when_it_is_drawn(folder):
    write(folder / "train-00000-of-00002.parquet", range(24), damaged=[10])
    train, _ = load(folder)
    assert numbers(train.pixels[torch.tensor([9, 11, 30])]) == [9, 11, 30]
    with pytest.raises(UserError, match=r"train row 10 cannot be read as an image: replace or remove it \(if you"):
        train.pixels[torch.tensor([9, 10])]
    with pytest.raises(UserError, match="train row 10 cannot be read as an image"):
        load(folder, streamed=False)


def test_a_file_that_is_cut_off_is_one_line(folder):
    train, _ = load(folder)
    path = folder / "train-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="cannot read .*p/train-0000.* as a dataset: ") as caught:
        train.pixels[torch.tensor([30])]
    assert "\n" not in str(caught.value)


def test_a_folder_of_images_and_a_saved_dataset_are_one_shard(tmp_path):
    """Any picture of theirs can be read by itself, so all are shuffled together."""
    import datasets

    (tmp_path / "p").mkdir()
    for number in range(40):
        (tmp_path / "p" / f"{number:02}.png").write_bytes(png(number))
        (tmp_path / "p" / f"{number:02}.txt").write_text(f"number {number}")
    cells = [{"bytes": png(number), "path": None} for number in range(40)]
    table = datasets.Dataset.from_dict({"image": cells, "text": [f"number {number}" for number in range(40)]})
    table.save_to_disk(tmp_path / "q", num_shards=2)
    found = []
    for source in (tmp_path / "p", tmp_path / "q"):
        for streamed in (True, False):
            train, _ = load(source, streamed)
            assert train.shards == () and train.rows == 38
            found.append([numbers(batch(train, step)[0]) for step in range(8)])
    assert found[0] == found[1] == found[2] == found[3]


def test_it_is_said_that_pictures_are_not_kept(folder, capfd):
    load(folder)
    assert "p, train: 0.0 GiB of images, each of which is read when it is drawn" in capfd.readouterr().err


def test_the_record_covers_the_shards_and_some_pictures(folder, monkeypatch):
    streamed, in_memory = (load(folder, streamed)[0] for streamed in (True, False))
    record = DataRecord.of_captioned(streamed)
    assert record == DataRecord.of_captioned(in_memory)
    assert (record.images, record.shards) == (36, (8, 8, 8, 8, 4))
    monkeypatch.setattr(arrow, "SHARD_BYTES", 2**20)
    other = DataRecord.of_captioned(load(folder)[0])
    assert other.shards == TRAIN and (other.pixels, other.labels) == (record.pixels, record.labels)
    write(folder / "train-00001-of-00002.parquet", [*range(24, 35), 60])
    assert DataRecord.of_captioned(load(folder)[0]).pixels != other.pixels


def test_the_record_is_read_from_a_few_shards_alone(folder, monkeypatch):
    monkeypatch.setattr("fromnoise.train.checkpoint.RECORDED_SHARDS", 2)
    monkeypatch.setattr("fromnoise.train.checkpoint.RECORDED", 6)
    train, _ = load(folder)
    drawn, draw = [], train.draw
    monkeypatch.setattr(train, "draw", lambda indices, generator: drawn.append(indices) or draw(indices, generator))
    DataRecord.of_captioned(train)
    assert drawn[0].tolist() == [0, 2, 5, 16, 18, 21]
