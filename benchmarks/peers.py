"""The others' side: diffusers and denoising-diffusion-pytorch, each in the way its own training code is written.

denoising-diffusion-pytorch imports torchvision for its image folders and picture grids, of which nothing is used here.
A torchvision that does not fit the torch that is installed fails at import, so its name is lent to an empty module
while the package is imported, and the package is installed without its dependencies.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from fromnoise.interop.unet import unet_config_to_diffusers
from fromnoise.nn.unet import UNetConfig
from measure import parameters

STEPS = 1000
USUAL_BATCH = 16  # what both draw at a time unless told otherwise (eval_batch_size; batch_size of sample)


@dataclass
class Peer:
    """Another library's network with its training step and its sampling."""

    network: nn.Module
    step: Callable[[], None]
    sample: Callable[[int, int], Tensor]
    """batch, steps: draws so many images in so many steps"""
    inputs: tuple[Tensor, ...]
    """of a forward pass for one image"""


def diffusers_network(config: UNetConfig) -> Any:
    """UNet2DModel with the same widths, depth, attention and classes."""
    from diffusers import UNet2DModel

    return UNet2DModel.from_config(unet_config_to_diffusers(config))


def diffusers_peer(config: UNetConfig, batch: int, *, like_ours: str | None = None) -> Peer:
    """diffusers' example of unconditional training, ``--use_ema``, with a class for each image.

    Args:
        like_ours: the precision of our training, fp32 or bf16 autocast, and channels-last memory with it, which its
            example does not use on a CPU; none: as the example has it.

    Source: diffusers, examples/unconditional_image_generation/train_unconditional.py.
    """
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    accelerator = Accelerator(cpu=True, mixed_precision="no")
    network: Any = diffusers_network(config)
    if like_ours:
        network = network.to(memory_format=torch.channels_last)
    scheduler: Any = DDPMScheduler(num_train_timesteps=STEPS, beta_schedule="linear")
    averages = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    optimizer: Any = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    rates = get_scheduler("cosine", optimizer=optimizer, num_warmup_steps=500, num_training_steps=100_000)
    network, optimizer, rates = accelerator.prepare(network, optimizer, rates)
    images, labels = _data(config)

    def step() -> None:
        chosen = torch.randint(len(images), (batch,))
        clean = images[chosen]
        noise = torch.randn(clean.shape)
        timesteps = torch.randint(0, STEPS, (batch,))
        noisy = scheduler.add_noise(clean, noise, timesteps)
        if like_ours:
            noisy = noisy.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=like_ours == "bf16"):
            output = network(noisy, timesteps, class_labels=labels[chosen]).sample
        loss = F.mse_loss(output.float(), noise)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        averages.step(network.parameters())
        loss.detach().item()

    @torch.no_grad()
    def sample(count: int, steps: int) -> Tensor:
        network.eval()
        drawing: Any = DDPMScheduler(num_train_timesteps=STEPS, beta_schedule="linear")
        drawing.set_timesteps(steps)
        x = torch.randn(count, *images.shape[1:])
        for t in drawing.timesteps:
            x = drawing.step(network(x, t, class_labels=labels[:count]).sample, t, x).prev_sample
        return (x / 2 + 0.5).clamp(0, 1)

    return Peer(network, step, sample, (torch.zeros_like(images[:1]), torch.zeros(1), labels[:1]))


def import_ddp() -> Any:
    """denoising_diffusion_pytorch's main module, with or without torchvision."""
    names = ("torchvision", "torchvision.transforms", "torchvision.utils")
    stubs = {name: ModuleType(name) for name in names}
    stubs["torchvision"].transforms = stubs["torchvision.transforms"]  # type: ignore[attr-defined]
    stubs["torchvision"].utils = stubs["torchvision.utils"]  # type: ignore[attr-defined]
    lent = {name: stubs[name] for name in names if name not in sys.modules}
    sys.modules.update(lent)
    try:  # not patch.dict, which would also forget all else that is imported here, and numpy loads only once
        from denoising_diffusion_pytorch import denoising_diffusion_pytorch as module
    finally:
        for name in lent:
            del sys.modules[name]
    module.tqdm = lambda values, **options: values  # no bars between our own lines
    return module


def ddp_network(like: nn.Module, config: UNetConfig) -> Any:
    """Its U-Net with as many levels, of the width (a multiple of 8) whose number of parameters is nearest."""
    module = import_ddp()
    mults = tuple(2**level for level in range(len(config.channels)))
    with torch.device("meta"):
        sizes = {
            dim: parameters(module.Unet(dim, dim_mults=mults, channels=config.in_channels)) for dim in range(16, 129, 8)
        }
    nearest = min(sizes, key=lambda dim: abs(sizes[dim] - parameters(like)))
    return module.Unet(nearest, dim_mults=mults, channels=config.in_channels)


def ddp_peer(config: UNetConfig, like: nn.Module, batch: int) -> Peer:
    """denoising-diffusion-pytorch: what its ``Trainer.train`` does in a step; it knows no classes.

    Source: denoising_diffusion_pytorch/denoising_diffusion_pytorch.py.
    """
    from ema_pytorch import EMA

    module = import_ddp()
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    network = ddp_network(like, config)
    diffusion = module.GaussianDiffusion(network, image_size=config.sample_size, timesteps=STEPS)
    averages = EMA(diffusion, beta=0.995, update_every=10)
    optimizer: Any = torch.optim.Adam(diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))
    prepared, optimizer = accelerator.prepare(diffusion, optimizer)
    images = _data(config)[0] * 0.5 + 0.5  # it takes [0, 1]

    def step() -> None:
        prepared.train()
        data = images[torch.randint(len(images), (batch,))]
        with accelerator.autocast():
            loss = prepared(data)
            loss.item()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        averages.update()

    @torch.inference_mode()
    def sample(count: int, steps: int) -> Tensor:
        diffusion.eval()
        diffusion.sampling_timesteps, diffusion.is_ddim_sampling = steps, steps < STEPS
        return diffusion.sample(batch_size=count)

    return Peer(network, step, sample, (images[:1], torch.zeros(1)))


def _data(config: UNetConfig, count: int = 1024) -> tuple[Tensor, Tensor]:
    """Random images in [-1, 1], decoded already, and labels."""
    shape = (count, config.in_channels, config.sample_size, config.sample_size)
    return torch.rand(shape) * 2 - 1, torch.randint(config.num_class_embeds or 1, (count,))
