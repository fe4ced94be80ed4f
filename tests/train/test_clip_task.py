"""The small CLIP: its batches, what it learns, and that a stopped run goes on to the same bits."""

import math
import re
import shutil
from itertools import product
from string import ascii_lowercase

import pytest
import torch
from runs import BRIEF, assert_same_run
from torch import Tensor

from fromnoise import terminal
from fromnoise.data.captions import CaptionedImages
from fromnoise.data.cutouts import Cutouts, Names
from fromnoise.data.images import to_pixels
from fromnoise.data.scenes import Scenes
from fromnoise.errors import UserError
from fromnoise.models.clip import open_clip
from fromnoise.nn.clip import infonce
from fromnoise.train.config import TrainingConfig, load_config
from fromnoise.train.randomness import generator_for
from fromnoise.train.run import train
from fromnoise.train.tasks import TASKS, clip
from fromnoise.train.tasks.clip import ClipTask

COLOURS = ("red", "green", "blue", "white", "black", "yellow", "orange", "purple")
SMALL = {"vocabulary": 600, "max_length": 8, "width": 16, "layers": 1, "heads": 2, "patch_size": 8, "embedding": 16}
CONFIG = TrainingConfig(name="tiny-clip", task="clip").override(
    {"data.source": "squares", "data.channels": 3, "data.size": 16}
    | {f"clip.{key}": value for key, value in SMALL.items()}
    | {f"train.{key}": value for key, value in BRIEF.items()}
)


class Squares:
    """Pictures of one colour each, with its name as the caption; as many of them as ``rows``."""

    size, shards = 16, ()

    def __init__(self, rows: int | None = None):
        self.rows = rows

    def draw(self, indices: Tensor, generator: torch.Generator) -> tuple[dict[str, Tensor], list[str]]:
        chosen = indices % 8 if self.rows else torch.randint(8, indices.shape, generator=generator)
        return {"colour": chosen}, [f"a {COLOURS[i]} square" for i in chosen.tolist()]

    def captions_of(self, indices: Tensor, generator: torch.Generator) -> list[str]:
        return self.draw(indices, generator)[1]

    def texts(self) -> list[str]:
        return []

    def images(self, drawn: dict[str, Tensor]) -> Tensor:
        levels = torch.stack([drawn["colour"] >> bit & 1 for bit in range(3)], 1) * 2.0 - 1  # (B, 3)
        return levels[:, :, None, None].expand(-1, -1, 16, 16)


@pytest.fixture(autouse=True)
def squares(monkeypatch):
    monkeypatch.setattr(clip, "load_captioned", lambda config, source: (Squares(), Squares()))
    monkeypatch.setattr(clip, "CAPTIONS", 512)


def made(**changes):
    torch.manual_seed(0)
    return ClipTask(CONFIG.override({key.replace("__", "."): value for key, value in changes.items()}), "squares")


def test_it_is_a_task():
    assert TASKS["clip"] is ClipTask


def test_a_batch_is_a_function_of_seed_and_step():
    task, again = made(), made()
    first, same = task.batch(torch.arange(8), 0, 3), again.batch(torch.arange(8), 0, 3)
    assert first.keys() == {"colour", "tokens"}
    assert all(torch.equal(first[name], same[name]) for name in first)
    others = [task.batch(torch.arange(8), 0, 4), task.batch(torch.arange(8), 1, 3)]
    assert not any(torch.equal(first["colour"], other["colour"]) for other in others)
    caption = f"a {COLOURS[first['colour'][2]]} square"
    assert tuple(first["tokens"][2].tolist()) == task.tokenizer(caption).ids


def test_the_vocabulary_is_that_of_the_captions():
    task = made()
    assert task.vocabulary.words == {"a", "square", *COLOURS}
    assert task.network.config.text.vocabulary == len(task.vocabulary.tokens) <= 600
    assert task.network.config.eos == task.tokenizer.eos
    assert task.vocabulary == made().vocabulary
    assert task.record == made().record != made(train__seed=1).record


def test_the_vocabulary_knows_every_name_of_things(monkeypatch):
    """Also those that its sample of captions lacks, which have the tokens that they would have had anyway."""
    pixels = torch.full((4, 4, 48, 48), 255, dtype=torch.uint8)  # white squares
    keywords = [
        [f"{name}{a}{b}" for a, b in product(ascii_lowercase, repeat=2)] for name in ("owl", "fox", "cat", "dog")
    ]
    things = Cutouts(pixels, [Names((f"{words[0]} friend",), tuple(words)) for words in keywords])
    scenes = Scenes(things, size=16)
    monkeypatch.setattr(clip, "load_captioned", lambda config, source: (scenes, scenes))
    task, every = made(), {word for words in keywords for word in words}
    assert every < task.vocabulary.words and task.tokenizer.known_words == task.vocabulary.words
    monkeypatch.setattr(scenes, "texts", lambda: [])
    without = made()
    assert len(every - without.vocabulary.words) > 100, "captions alone do not have them all"
    assert task.vocabulary.tokens == without.vocabulary.tokens and task.vocabulary.merges == without.vocabulary.merges
    assert task.record == without.record


def test_the_vocabulary_knows_every_word_of_pictures_with_captions(monkeypatch):
    """Of a thousand pictures, each has a word of its own, and the sample is of 512."""
    words = [f"{a}{b}{c}" for a, b, c in product(ascii_lowercase[:10], repeat=3)]
    pictures = CaptionedImages(torch.zeros(1000, 3, 16, 16, dtype=torch.uint8), [[f"a {word}"] for word in words])
    monkeypatch.setattr(clip, "load_captioned", lambda config, source: (pictures, pictures))
    assert made().vocabulary.words == {"a", *words}


def test_all_rows_are_read_where_they_have_an_end(monkeypatch):
    monkeypatch.setattr(clip, "load_captioned", lambda *_: (Squares(rows=40), Squares(rows=12)))
    task = made()
    assert task.rows == 40
    assert task.record.images == 40
    assert len(task._choices(task.network, 0)["colour"]) == 12
    assert task.validate(task.network)["validation_loss"] > 0
    assert task.preview(task.network)[0].shape == (40, 3, 16, 16)


def test_the_loss_is_that_of_the_equation():
    """One for each pair; a temperature below a hundredth goes back to it, as after each step of the first CLIP."""
    task = made()
    batch = task.batch(torch.arange(8), 0, 0)
    with torch.no_grad():
        task.network.logit_scale.fill_(5.0)
    losses = task.loss(task.network, batch)
    images, texts = task.network(Squares().images(batch), batch["tokens"])
    torch.testing.assert_close(losses, infonce(100 * images @ texts.T))
    assert losses.shape == (8,)
    assert task.network.logit_scale.exp().item() == pytest.approx(100)
    losses.mean().backward()
    assert all(parameter.grad is not None for parameter in task.network.parameters())


def test_it_learns(monkeypatch):
    """Which of eight colours a caption names is learned in a few steps, and told by the validation."""
    monkeypatch.setattr(clip, "CHOICES", 32)
    task = made()
    optimizer = torch.optim.AdamW(task.network.parameters(), lr=3e-3)
    before = task.validate(task.network)
    for step in range(50):
        task.loss(task.network, task.batch(torch.arange(32), 0, step)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    after = task.validate(task.network)
    assert before["retrieval"] < 0.5 and after["retrieval"] > 0.8
    assert after["validation_loss"] < math.log(32 / 8) + 0.8 < before["validation_loss"]
    assert after == task.validate(task.network), "from the same draws each time"
    images, columns = task.preview(task.network)
    assert (images.shape, columns) == ((40, 3, 16, 16), 5)
    rows = images.unflatten(0, (8, 5))
    drawn, _ = Squares().draw(torch.arange(32), generator_for(0, 8, 0))
    assert torch.equal(rows[:, 0], to_pixels(Squares().images(drawn))[:8]), "the first of a row is the caption's own"
    assert (rows[:, 1:] == rows[:, :1]).flatten(1).all(1).float().mean() > 0.7


def test_captions_that_lose_their_end_are_told(capfd):
    class Long(Squares):
        def draw(self, indices, generator):
            drawn, captions = super().draw(indices, generator)
            return drawn, [f"{caption} and nothing else at all" for caption in captions]

    terminal.warn.cache_clear()
    clip._learned(Squares(40), CONFIG)
    assert capfd.readouterr().err == ""
    clip._learned(Long(40), CONFIG)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(
        "fromnoise: 8 of 8 captions are longer than 6 tokens and lose their end, such as 'at all' of"
    )
    assert "of 'a black square and nothing else at all': --clip.max-length of the stage" in line


def test_mirrored_pictures_are_refused():
    with pytest.raises(UserError, match="data.flip does not go with captions"):
        TASKS["clip"](CONFIG.override({"data.flip": True}), "squares")


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(UserError, match="train it in one process"):
        made()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"clip__patch_size": 5}, "clip.patch_size 5 does not divide data.size 16"),
        ({"clip__heads": 3}, "clip: width 16 is not a multiple of heads 3"),
        ({"clip__vocabulary": 100}, "clip.vocabulary 100 is less than 514"),
        ({"clip__max_length": 2}, "clip.max_length leaves no room"),
    ],
)
def test_what_does_not_fit_is_refused(changes, expected):
    with pytest.raises(UserError, match=expected):
        made(**changes)


def test_a_run_is_resumed_to_the_same_bits(tmp_path, capsys):
    finished = train(CONFIG.override({"train.optimizer": "muon"}), tmp_path / "finished")
    stopped = shutil.copytree(finished, tmp_path / "stopped")
    shutil.rmtree(stopped / "checkpoints" / "step-00000004")
    (stopped / "checkpoints" / "step-00000003" / "proven").unlink()
    for name in ("clip", "text_encoder", "tokenizer"):
        shutil.rmtree(stopped / name)
    train(CONFIG.override({"train.optimizer": "muon"}), stopped, resume=True)
    assert "resuming from step 3" in capsys.readouterr().out
    assert_same_run(stopped, finished)
    for path in finished.glob("tokenizer/*"):
        assert path.read_bytes() == (stopped / "tokenizer" / path.name).read_bytes()
    assert open_clip(finished / "clip").config == made().network.config
    card = (finished / "README.md").read_text()
    assert re.search(r"vocabulary: 5\d\d tokens", card) and "held-out pictures told from 256 captions" in card


def test_other_data_is_noticed(tmp_path, monkeypatch):
    folder = train(CONFIG, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints" / "step-00000004")
    monkeypatch.setattr(clip, "load_captioned", lambda *_: (Squares(rows=64), Squares()))
    with pytest.raises(UserError, match="other data"):
        train(CONFIG, folder, resume=True)


def test_the_preset_fits():
    """Its weights in bf16, with the copy of the text encoder, take less than 6 MB, and a tower about 0.9 million."""
    config = load_config("mini-sd-clip")
    words = clip.learn_vocabulary(["a red square"] * 2, config.clip.vocabulary, config.clip.max_length)
    tokens = {str(i): i for i in range(config.clip.vocabulary)}
    words = clip.Vocabulary(tokens, words.merges, words.length, words.words)
    with torch.device("meta"):
        network = clip.Clip(clip.clip_config(config, words))
    whole, text = (sum(p.numel() for p in module.parameters()) for module in (network, network.text_model))
    assert 0.8e6 < text < 1e6
    assert 2 * whole < 4.5e6
    assert 2 * (whole + text) < 6e6
