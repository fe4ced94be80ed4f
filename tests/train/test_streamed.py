"""A run on captioned pictures that are read from their shards: it goes on where it was, and with no other shards."""

import io

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from runs import AUTOENCODER

from fromnoise.data import arrow, captions
from fromnoise.data.captions import StoredPixels
from fromnoise.errors import UserError
from fromnoise.train.config import DataConfig, load_config
from fromnoise.train.randomness import batch_indices
from fromnoise.train.tasks import clip
from fromnoise.train.trainer import Trainer

SETTINGS = {"train.dtype": "fp32", "train.compile": "no", "train.device": "cpu", "train.batch_size": 6, "data.size": 4}


def write(path, count, seed):
    noise, cells = np.random.default_rng(seed), []
    for _ in range(count):
        file = io.BytesIO()
        Image.fromarray(noise.integers(0, 256, (4, 4, 3), np.uint8)).save(file, "PNG")
        cells.append({"bytes": file.getvalue(), "path": None})
    table = pyarrow.table({"image": cells, "text": [f"number {number}" for number in range(count)]})
    pyarrow.parquet.write_table(table, path, row_group_size=5)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Shards of 5 pictures each, none of which is kept."""
    (tmp_path / "p").mkdir()
    write(tmp_path / "p" / "train.parquet", 30, 0)
    write(tmp_path / "p" / "test.parquet", 4, 1)
    monkeypatch.setattr(arrow, "SHARD_BYTES", 1)
    monkeypatch.setattr(captions, "room", lambda: 0)
    return tmp_path / "p"


def made(folder, out, **changes) -> Trainer:
    settings = SETTINGS | {"data.source": str(folder)} | changes
    return Trainer(load_config(str(AUTOENCODER)).override(settings), out)


def test_a_resumed_run_goes_on_at_the_same_place(folder, tmp_path, monkeypatch):
    without = made(folder, tmp_path / "run")
    assert isinstance(without.task.pictures.pixels, StoredPixels)
    for _ in range(4):
        without.take_step()
    checkpoint = without.save(1.0)
    for _ in range(3):
        without.take_step()
    resumed, asked = made(folder, tmp_path / "run"), []
    resumed.load(checkpoint)
    batch = resumed.task.batch
    monkeypatch.setattr(resumed.task, "batch", lambda rows, *draws: asked.append(rows) or batch(rows, *draws))
    for _ in range(3):
        resumed.take_step()
    for name, values in without.network.state_dict().items():
        assert values.equal(resumed.network.state_dict()[name]), name
    assert torch.cat(asked).equal(torch.cat([batch_indices(0, step, 6, 30, (5,) * 6) for step in (4, 5, 6)]))
    shards = (asked[1] // 5).tolist()  # step 5 begins an epoch
    assert len({*shards[:5]}) == 1 and shards[5] != shards[0], "a shard is not drawn to its end first"


def test_other_shards_of_the_same_pictures_are_refused(folder, tmp_path, monkeypatch):
    """For their order would be another."""
    run = made(folder, tmp_path / "run")
    run.take_step()
    checkpoint = run.save(1.0)
    monkeypatch.setattr(arrow, "SHARD_BYTES", 2**20)
    with pytest.raises(UserError, match=r"was trained on other data \(shards \(5, 5, 5, 5, 5, 5\) then, \(\) now\)"):
        made(folder, tmp_path / "run").load(checkpoint)


def test_where_pictures_are_kept_does_not_matter(folder, tmp_path, monkeypatch):
    run = made(folder, tmp_path / "run")
    run.take_step()
    checkpoint = run.save(1.0)
    monkeypatch.setattr(captions, "room", lambda: 2**30)
    in_memory = made(folder, tmp_path / "run")
    in_memory.load(checkpoint)
    for trainer in (run, in_memory):
        trainer.take_step()
    for name, values in run.network.state_dict().items():
        assert values.equal(in_memory.network.state_dict()[name]), name


def test_a_picture_that_cannot_be_read_may_be_replaced_and_not_removed(tmp_path, monkeypatch):
    """A run that has begun knows how many pictures there are."""
    monkeypatch.setattr(captions, "room", lambda: 0)
    for row in range(30):
        Image.new("RGB", (16, 16), (row, 0, 0)).save(tmp_path / f"{row:02}.png")
        (tmp_path / f"{row:02}.txt").write_text(f"number {row}")
    pictures, _ = captions.load_captioned(DataConfig(size=16), str(tmp_path))
    (tmp_path / "07.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"07.png cannot be read as an image: replace or remove it \(if you remove it"):
        pictures.draw(torch.arange(pictures.rows), torch.Generator())


def test_a_clip_learns_its_words_from_all_shards_and_reads_few_pictures(folder, monkeypatch):
    settings = {"data.source": str(folder), "data.size": 4, "clip.patch_size": 2, "clip.vocabulary": 520}
    learn, decode, texts, pictures = clip.learn_vocabulary, captions.decode, [], []
    monkeypatch.setattr(captions, "decode", lambda cell, row, **how: pictures.append(row) or decode(cell, row, **how))
    monkeypatch.setattr(clip, "learn_vocabulary", lambda told, *sizes: texts.extend(told) or learn(told, *sizes))
    task = clip.ClipTask(load_config("mini-sd-clip").override(settings), str(folder))
    assert task.record.shards == (5,) * 6 and task.rows == 30
    assert {*texts[:30]} == {f"number {number}" for number in range(30)} and len(texts) == clip.CAPTIONS
    assert len(pictures) == 4 + 256, "those that are held out, and a batch for the record"


def test_the_scale_of_latents_is_measured_shard_by_shard(folder, tmp_path, monkeypatch):
    run, asked = made(folder, tmp_path / "run"), []
    draw = run.task.pictures.draw
    monkeypatch.setattr(run.task.pictures, "draw", lambda rows, source: asked.append(rows) or draw(rows, source))
    run.task.export(run.averaged, tmp_path / "run", torch.float32)
    (rows,) = asked
    shards = (rows // 5).unique_consecutive().tolist()
    assert sorted(shards) == list(range(6)) and rows.sort().values.equal(torch.arange(30))
