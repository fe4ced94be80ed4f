"""A small CLIP: two networks that learn which picture and which caption belong together."""

import math
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fromnoise.data.captions import Captioned, load_captioned
from fromnoise.data.images import to_pixels
from fromnoise.errors import UserError
from fromnoise.interop.vocabulary import SMALLEST, Vocabulary, learn_vocabulary
from fromnoise.models.clip import save_clip
from fromnoise.nn.clip import MOST_LOGIT_SCALE, Clip, ClipConfig, infonce
from fromnoise.nn.image_encoder import ImageEncoderConfig
from fromnoise.nn.text_encoder import TextEncoderConfig
from fromnoise.terminal import warn
from fromnoise.train.checkpoint import DataRecord
from fromnoise.train.config import TrainingConfig
from fromnoise.train.randomness import batch_indices, generator_for
from fromnoise.train.task import Batch, device_of, on_device

CAPTIONS = 8192  # from so many the vocabulary is learned
CHOICES = 256  # captions among which a picture's own is looked for
VALIDATION_GROUPS = 4  # of so many pictures each
ROWS, COLUMNS = 8, 5  # of a preview


class ClipTask:
    """Trains a `Clip` on pictures with captions, by which pairs of a batch belong together.

    Raises:
        UserError: a network or data that does not fit, or several processes.
    """

    objective = "cross-entropy of naming the caption of a picture, and the picture of a caption"

    def __init__(self, config: TrainingConfig, source: str):
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise UserError("a clip compares all pairs of a batch with each other: train it in one process")
        if config.data.flip:
            raise UserError("data.flip does not go with captions, which say what is where: leave it out")
        self.config = config
        self.images, self.held_out = load_captioned(config.data, source)
        self.rows = self.images.rows
        self.vocabulary, self.record = _learned(self.images, config)
        self.tokenizer = self.vocabulary.tokenizer()
        self.network = Clip(clip_config(config, self.vocabulary))

    def batch(self, indices: Tensor, seed: int, step: int) -> Batch:
        """What the pictures are made from, and the tokens of their captions ``(B, max_length)``."""
        return self._drawn(self.images, indices, generator_for(seed, 7, step))

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        images, texts = self._embedded(network, batch)
        with torch.no_grad():  # as the first CLIP: sharper would make a few pairs count alone
            network.logit_scale.clamp_(max=MOST_LOGIT_SCALE)  # type: ignore[operator]
        return infonce(network.similarity(images, texts))  # type: ignore[operator]

    def validate(self, network: Clip) -> dict[str, Any]:
        """The mean loss on held-out pairs, and how many pictures, of 256 captions, are nearest to their own.

        A caption of the same words is as good as its own.
        """
        losses, hits = [], []
        whole = (self.held_out.rows or CAPTIONS) // CHOICES
        for group in range(max(1, min(VALIDATION_GROUPS, whole))):
            batch = self._choices(network, group)
            images, texts = self._embedded(network, batch)
            similarity = network.similarity(images, texts)  # (B, B)
            losses.append(infonce(similarity))
            found = batch["tokens"][similarity.argmax(1)]  # (B, N)
            hits.append((found == batch["tokens"]).all(1).float())
        return {"validation_loss": torch.cat(losses).mean().item(), "retrieval": torch.cat(hits).mean().item()}

    @torch.no_grad()
    def preview(self, network: Clip) -> tuple[Tensor, int]:
        """Each row begins with the picture that a held-out caption is of; the caption finds the other four, best first.

        They are found among 256 pictures, of which it is one.
        """
        batch = self._choices(network, 0)
        pictures = self._pictures(batch)  # (B, 3, S, S)
        images, texts = self._embedded(network, batch)
        best = network.similarity(images, texts).T[:ROWS].topk(min(COLUMNS - 1, len(images))).indices  # (rows, 4)
        shown = torch.cat([torch.arange(len(best), device=best.device)[:, None], best], 1)  # (rows, 5)
        return to_pixels(pictures[shown.flatten()].cpu()), shown.shape[1]

    def export(self, network: Clip, folder: Path, dtype: torch.dtype) -> dict[str, str]:
        """Writes ``clip/``, ``text_encoder/`` and ``tokenizer/``."""
        with torch.no_grad():
            network.logit_scale.clamp_(max=MOST_LOGIT_SCALE)
        save_clip(network, self.vocabulary, folder, dtype)
        choices = min(CHOICES, self.held_out.rows or CHOICES)
        with torch.no_grad():
            right = self.validate(network)["retrieval"]
        return {
            "vocabulary": f"{len(self.vocabulary.tokens)} tokens, learned from captions",
            f"held-out pictures told from {choices} captions": f"{100 * right:.1f}%",
        }

    def _drawn(self, images: Captioned, indices: Tensor, generator: torch.Generator) -> Batch:
        drawn, captions = images.draw(indices, generator)
        return {**drawn, "tokens": torch.tensor([self.tokenizer(caption).ids for caption in captions])}

    def _choices(self, network: Clip, group: int) -> Batch:
        """One of the groups of held-out pairs that are compared with each other, on the network's device."""
        count = min(CHOICES, self.held_out.rows or CHOICES)
        indices = batch_indices(0, group, count, self.held_out.rows)
        return on_device(self._drawn(self.held_out, indices, generator_for(0, 8, group)), device_of(network))

    @torch.no_grad()
    def _pictures(self, batch: Batch) -> Tensor:
        return self.images.images({name: value for name, value in batch.items() if name != "tokens"})

    def _embedded(self, network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The vectors of pictures and of captions, ``(B, embedding)`` each."""
        return network(self._pictures(batch), batch["tokens"])


def clip_config(config: TrainingConfig, vocabulary: Vocabulary) -> ClipConfig:
    """The two networks of a preset, for a vocabulary.

    Raises:
        UserError: numbers that do not fit together.
    """
    data, clip = config.data, config.clip
    if data.size % clip.patch_size:
        raise UserError(f"clip.patch_size {clip.patch_size} does not divide data.size {data.size}")
    shared: dict[str, Any] = {
        "width": clip.width,
        "mlp_width": 4 * clip.width,
        "layers": clip.layers,
        "heads": clip.heads,
    }
    try:
        image = ImageEncoderConfig(3, data.size, clip.patch_size, **shared)
        text = TextEncoderConfig(len(vocabulary.tokens), max_length=clip.max_length, **shared)
    except ValueError as error:
        raise UserError(f"clip: {error}") from error
    return ClipConfig(text, image, clip.embedding, len(vocabulary.tokens) - 1)


def _learned(images: Captioned, config: TrainingConfig) -> tuple[Vocabulary, DataRecord]:
    """What captions have in their vocabulary, and what a run recognises its data by: the first of them."""
    clip, part = config.clip, 256
    if clip.vocabulary < SMALLEST:
        raise UserError(f"clip.vocabulary {clip.vocabulary} is less than {SMALLEST}, which any text can be told in")
    if clip.max_length < 3:
        raise UserError("clip.max_length leaves no room between what begins and what ends a caption: give 3 or more")
    seed, captions, checksum = config.train.seed, list[str](), 0
    first = batch_indices(seed, 0, part, images.rows, images.shards)
    drawn, _ = images.draw(first, generator_for(seed, 9, 0))
    for name in sorted(drawn):
        checksum = zlib.crc32(drawn[name].contiguous().numpy().tobytes(), checksum)
    for step in range(math.ceil(CAPTIONS / part)):  # of all shards
        captions += images.captions_of(batch_indices(seed, step, part, images.rows), generator_for(seed, 9, step))
    texts = zlib.crc32("\n".join(captions).encode())
    record = DataRecord(images.rows or 0, checksum, texts, None, shards=images.shards)
    vocabulary = learn_vocabulary(captions, clip.vocabulary, clip.max_length, images.texts())
    _tell_of_long(sorted({*captions}), vocabulary)
    return vocabulary, record


def _tell_of_long(captions: list[str], vocabulary: Vocabulary) -> None:
    """Says on stderr how many captions, and which, lose their end because they have too many tokens."""
    tokenizer = vocabulary.tokenizer()
    if cut := [(caption, end) for caption in captions if (end := tokenizer(caption).cut)]:
        caption, end = cut[0]
        warn(
            f"{len(cut)} of {len(captions)} captions are longer than {vocabulary.length - 2} tokens and lose their "
            f"end, such as {end!r} of {caption!r}: --clip.max-length of the stage that trains the CLIP makes room"
        )
