"""Captioned pictures, encoded by a trained autoencoder and a trained text encoder, as latent diffusion sees them."""

import shlex
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fromnoise.data.captions import load_captioned
from fromnoise.diffusion.noise import NoiseConfig
from fromnoise.errors import UserError
from fromnoise.files import atomic_write
from fromnoise.models import Model, open_model
from fromnoise.models.conditioning import Prompts
from fromnoise.models.placing import placed
from fromnoise.models.space import Latents
from fromnoise.models.store import open_autoencoder, open_prompts
from fromnoise.nn.text_encoder import TextEncoder
from fromnoise.nn.unet import UNet, UNetConfig
from fromnoise.sampling.generate import generate
from fromnoise.sampling.request import Request
from fromnoise.train.checkpoint import DataRecord
from fromnoise.train.config import TrainingConfig, preset_names
from fromnoise.train.folder import PRESET
from fromnoise.train.randomness import Draws, generator_for
from fromnoise.train.task import Batch, device_of

DRAWN = "drawn."  # before the names of what pictures are made from, in a batch
PROMPTS, PREVIEW_COLUMNS = 20, 10
PREVIEW_STEPS, PREVIEW_GUIDANCE = 15, 4.0


def latent_unet_config(config: TrainingConfig, latents: Latents, text_width: int) -> UNetConfig:
    """The U-Net of a preset, for these latents and for texts whose tokens are vectors of this length.

    Raises:
        UserError: numbers that do not fit together.
    """
    shared = vars(config.network).copy()
    head_dim, (channels, size, _) = shared.pop("head_dim"), latents.shape
    for width, attends in zip(config.network.channels, (*config.network.attention_levels[:-1], True), strict=False):
        if attends and head_dim and width % head_dim:
            raise UserError(f"network: channels {width} is not a multiple of head_dim {head_dim}")
    heads = tuple(width // head_dim if head_dim and width >= head_dim else 1 for width in config.network.channels)
    try:
        return UNetConfig(channels, channels, size, context_dim=text_width, heads=heads, **shared)
    except ValueError as error:
        raise UserError(f"network: {error}") from error


class PromptedUNet(nn.Module):
    """A U-Net and the text encoder that it is told by, as one network: tokens in, and both are trained."""

    def __init__(self, unet: UNet, text_encoder: TextEncoder):
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        return self.unet(x, t, context=self.text_encoder(tokens))  # (B, C, h, w)


class CaptionedLatents:
    """Captioned pictures, of which the network sees the latents and is told the caption; see `Examples`.

    The autoencoder is frozen, and so is the text encoder unless the preset trains it. What is frozen belongs to no
    checkpoint, but its checksum to the record of the data, with that of the text encoder as it was. A dropped caption
    becomes the empty one.

    Raises:
        UserError: a network, parts or data that do not fit; parts that are not there yet, by the command that makes
            them.
    """

    def __init__(self, config: TrainingConfig, source: str):
        for name in ("conditional", "flip"):
            if getattr(config.data, name):
                raise UserError(f"data.{name} does not go with captions, which say what is where: leave it out")
        autoencoder = open_autoencoder(_part(config.parts.autoencoder, "autoencoder", "vae"))
        self.clip = _part(config.parts.clip, "clip", "text_encoder").parent
        prompts = open_prompts(self.clip / "text_encoder", self.clip / "tokenizer")
        start = open_model(_part(config.parts.unet, "unet", "unet").parent) if config.parts.unet else None
        prompts = _words_of(start, prompts) if start else prompts
        factor, size = autoencoder.config.size_multiple, config.data.size
        if (autoencoder.config.in_channels, autoencoder.config.out_channels) != (config.data.channels,) * 2:
            colours = autoencoder.config.in_channels
            raise UserError(
                f"data.channels is {config.data.channels}, and the autoencoder takes {colours}: set it to that"
            )
        if size % factor:
            raise UserError(
                f"data.size {size} is not a multiple of {factor}, by which the autoencoder shrinks pictures"
            )
        self.config, self.prompts = config, prompts
        self.shape = (autoencoder.config.latent_channels, size // factor, size // factor)
        self.space = Latents(autoencoder.requires_grad_(False), self.shape, at_a_time=config.train.batch_size)
        self.text_encoder = prompts.text_encoder.requires_grad_(False)
        unet = UNet(latent_unet_config(config, self.space, self.text_encoder.config.width))
        if start:
            if start.unet.config != unet.config:
                raise UserError(f"parts.unet: {config.parts.unet} has another U-Net than [network] says: change that")
            unet.load_state_dict(start.unet.state_dict())
        self.pictures, self.held_out = load_captioned(config.data, source)
        if config.parts.train_text_encoder:  # which learns the words of these captions, too
            told = prompts.tokenizer.with_words_of(self.pictures.texts())
            self.prompts = replace(prompts, tokenizer=told, _encoded={})
        self.rows, self.held_out_rows = self.pictures.rows, self.held_out.rows
        self.record = replace(DataRecord.of_captioned(self.pictures), parts=_checksum(self.space, prompts))
        self.empty = self._tokens([""])  # (1, N)
        self.network = self._network(unet)

    def batch(self, indices: Tensor, seed: int, step: int, draws: Draws) -> Batch:
        """What the pictures are made from, and the tokens of their captions, of which some are dropped."""
        drawn, captions = self.pictures.draw(indices, generator_for(seed, 5, step))
        dropped = draws.drop[:, None] < self.config.train.class_dropout  # (B, 1)
        return _named(drawn) | {"tokens": torch.where(dropped, self.empty, self._tokens(captions))}

    def held_out_batch(self, indices: Tensor, number: int) -> Batch:
        drawn, captions = self.held_out.draw(indices, generator_for(0, 9, number))
        return _named(drawn) | {"tokens": self._tokens(captions)}

    @torch.no_grad()
    def inputs(self, batch: Batch) -> Batch:
        """Draws the pictures and encodes them as the mean of their latents, scaled.

        A frozen text encoder encodes the captions here. The pictures are drawn in float32, whatever the networks
        compute in.
        """
        drawn = {name.removeprefix(DRAWN): value for name, value in batch.items() if name.startswith(DRAWN)}
        tokens = batch["tokens"]
        self._place(tokens.device)
        with torch.autocast(tokens.device.type, enabled=False):
            images = self.pictures.images(drawn)  # (B, 3, H, W)
        images = images.contiguous(memory_format=torch.channels_last)
        x0 = self.space.encode(images)  # (B, C, h, w)
        if self.config.parts.train_text_encoder:
            return {"x0": x0, "tokens": tokens}
        return {"x0": x0, "context": self.text_encoder(tokens).float()}  # context: (B, N, text_width)

    def model(self, network: UNet | PromptedUNet, noise: NoiseConfig) -> Model:
        if isinstance(network, UNet):
            return Model(network, noise, self.space, self.prompts)
        text_encoder = placed(network.text_encoder, "cpu", torch.float32)
        return Model(network.unet, noise, self.space, replace(self.prompts, text_encoder=text_encoder, _encoded={}))

    def preview(self, model: Model) -> tuple[Tensor, int]:
        """Pictures of the captions of a few that are held out, always the same."""
        indices = torch.arange(PROMPTS) % (self.held_out_rows or PROMPTS)
        _, captions = self.held_out.draw(indices, generator_for(0, 10))
        device = device_of(model.unet).type
        request = Request(prompts=tuple(captions), steps=PREVIEW_STEPS, guidance=PREVIEW_GUIDANCE, device=device)
        return generate(model, request), PREVIEW_COLUMNS

    def export(self, folder: Path) -> dict[str, str]:
        """Copies the whole CLIP, whose image tower no pipeline has."""
        for path in sorted((self.clip / "clip").glob("*")):
            with atomic_write(folder / "clip" / path.name) as partial:
                shutil.copyfile(path, partial)
        frozen: dict[str, nn.Module] = {"autoencoder": self.space.autoencoder}
        if not self.config.parts.train_text_encoder:
            frozen["text encoder"] = self.text_encoder
        counts = (f"{name} {_count(part) / 1e6:.2f} million" for name, part in frozen.items())
        return {"parameters of the frozen parts": ", ".join(counts)}

    def _network(self, unet: UNet) -> UNet | PromptedUNet:
        """What is trained: the U-Net, with a copy of the text encoder if that is trained too."""
        if not self.config.parts.train_text_encoder:
            return unet
        text_encoder = TextEncoder(self.text_encoder.config)
        text_encoder.load_state_dict(self.text_encoder.state_dict())
        return PromptedUNet(unet, text_encoder)

    def _tokens(self, captions: list[str]) -> Tensor:
        return torch.tensor([self.prompts.tokenizer(caption).ids for caption in captions])  # (B, N)

    def _place(self, device: torch.device) -> None:
        """Moves the encoders to where the network is; prompts of a model are encoded on the CPU."""
        self.space = self.space.placed(device, torch.float32)
        self.text_encoder = placed(self.text_encoder, device, torch.float32)


def _part(folder: str, name: str, inside: str) -> Path:
    """The folder ``inside`` that of a finished run."""
    path = Path(folder).expanduser()
    fits = path.name in preset_names() and path.name.endswith(f"-{name}")
    preset = path.name if fits else f"mini-sd-{name}"
    command = ["fromnoise", "train", preset]
    if not folder:
        raise UserError(f"parts.{name} is empty: give the folder of a run of {shlex.join(command)}")
    if path != Path("runs") / preset:
        command += ["--out", folder]
    if (path / PRESET).is_file() and not (path / "README.md").exists():
        raise UserError(f"parts.{name}: {folder} is not finished: {shlex.join([*command, '--resume'])} goes on with it")
    if not (path / inside / "config.json").is_file():
        raise UserError(f"parts.{name}: there is no {path / inside}: {shlex.join(command)} makes it")
    return path / inside


def _words_of(start: Model, prompts: Prompts) -> Prompts:
    """How the model that a run starts from is told what to draw, which must be in the words of the parts."""
    told = start.conditioner
    if not isinstance(told, Prompts) or told.tokenizer.vocabulary != prompts.tokenizer.vocabulary:
        raise UserError("parts.unet knows other words than parts.clip: give a run that was trained with that CLIP")
    return told


def _checksum(space: Latents, prompts: Prompts) -> int:
    """Of all that the encoders, before anything is trained, and the tokeniser are made of."""
    tokenizer, networks = prompts.tokenizer, (space.autoencoder, prompts.text_encoder)
    settings = [network.config for network in networks]
    total = zlib.crc32(
        repr([*settings, sorted(tokenizer.vocabulary.items()), tokenizer.merges, tokenizer.file]).encode()
    )
    for network in networks:
        for _, tensor in sorted(network.state_dict().items()):
            total = zlib.crc32(tensor.contiguous().numpy().tobytes(), total)
    return total


def _named(drawn: Batch) -> Batch:
    return {f"{DRAWN}{name}": value for name, value in drawn.items()}


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
