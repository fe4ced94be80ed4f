"""Image to image and inpainting against diffusers: its pipelines' loops, with its schedulers and a small network."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
)
from diffusers.image_processor import VaeImageProcessor
from oracle import Network, ours, start

from fromnoise.diffusion.inpainting import (
    InpaintingDenoiser,
    binarised,
    cut_times,
    joined,
    mask_to_latents,
    put_back,
    start_from,
)
from fromnoise.diffusion.samplers import ddim, ddpm, final
from fromnoise.diffusion.schedules import Schedule, linear_betas
from fromnoise.diffusion.solvers import dpmpp_2m, dpmpp_2m_sde, euler, heun

OF_STABLE_DIFFUSION = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "timestep_spacing": "leading"}
PAIRS = {
    "ddim": (ddim, partial(DDIMScheduler, clip_sample=False)),
    "ddim-stable-diffusion": (ddim, partial(DDIMScheduler, **OF_STABLE_DIFFUSION)),
    "euler": (euler, partial(EulerDiscreteScheduler, **LINEAR)),
    "heun": (heun, partial(HeunDiscreteScheduler, **LINEAR)),
    "dpmpp-2m": (dpmpp_2m, DPMSolverMultistepScheduler),
    "ddpm": (ddpm, partial(DDPMScheduler, clip_sample=False)),
    "dpmpp-2m-sde": (dpmpp_2m_sde, partial(DPMSolverMultistepScheduler, algorithm_type="sde-dpmsolver++")),
}
KNOWN = torch.linspace(-1.5, 1.5, 24).view(2, 3, 2, 2).sin()
NOISE = start()
MASK = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]], [[[1.0, 1.0], [0.0, 1.0]]]])
STEPS = 6


def pipeline(scheduler, strength, mask=None):
    """The loop of ``StableDiffusionImg2ImgPipeline``; with a mask, of ``StableDiffusionInpaintPipeline``."""
    scheduler.set_timesteps(STEPS)
    first = (STEPS - min(int(STEPS * strength), STEPS)) * scheduler.order
    timesteps = scheduler.timesteps[first:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    x = scheduler.add_noise(KNOWN, NOISE, timesteps[:1])
    if mask is not None and strength == 1:
        x = NOISE * scheduler.init_noise_sigma
    network, generator = Network(), torch.Generator().manual_seed(9)
    drawing = {} if isinstance(scheduler, HeunDiscreteScheduler) else {"generator": generator}
    for i, t in enumerate(timesteps):
        output = network(scheduler.scale_model_input(x, t), t.float().expand(2))
        x = scheduler.step(output, t, x, **drawing).prev_sample
        if mask is not None:
            proper = KNOWN
            if i < len(timesteps) - 1:
                proper = scheduler.add_noise(KNOWN, NOISE, timesteps[i + 1 : i + 2])
            x = (1 - mask) * proper + mask * x
    return x


def times_of(scheduler):
    scheduler.set_timesteps(STEPS)
    last = 0.0 if scheduler.config.get("set_alpha_to_one", True) else 1.0
    return [*(index + 1 for index in scheduler.timesteps.unique_consecutive().tolist()), last]


def drawn(name, strength, mask=None):
    """What ours draws, and what diffusers does."""
    sampler, scheduler = PAIRS[name]
    denoise, times = ours("epsilon"), cut_times(times_of(scheduler()), strength)
    x = start_from(denoise.schedule, KNOWN, times[0], NOISE)
    if mask is not None:
        x = NOISE if strength == 1 else x
        denoise = InpaintingDenoiser(denoise, KNOWN, mask, NOISE, times[0])
    x = final(sampler(denoise, x, times, torch.Generator().manual_seed(9)))
    return x if mask is None else put_back(KNOWN, x, mask), pipeline(scheduler(), strength, mask)


@pytest.mark.parametrize("strength", [0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("name", PAIRS)
def test_image_to_image_equals_diffusers(name, strength):
    """To 1e-5 of the largest number, with 1, 3, 4 and 6 of 6 steps."""
    found, expected = drawn(name, strength)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("strength", [0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("name", PAIRS)
def test_inpainting_equals_diffusers(name, strength):
    """The known part is in the denoiser here, and is written into x after each step there. At strength 1 there is
    nothing of the picture in x at first.
    """
    found, expected = drawn(name, strength, MASK)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    assert torch.equal(found[MASK.expand_as(found) == 0], KNOWN[MASK.expand_as(found) == 0])


class EquationAlone(InpaintingDenoiser):
    """The known part in the answer, but not in what the network is shown."""

    def __call__(self, x, t, **condition):
        return put_back(self.known, self.denoise(x, t, **condition), self.mask)


@pytest.mark.parametrize("strength", [0.8, 1.0])
@pytest.mark.parametrize("sampler", [ddim, euler, heun, dpmpp_2m])
def test_what_the_network_is_shown(sampler, strength):
    """From the noisy picture, a sampler without fresh noise has the known part in x as the network is to be shown it.
    From noise alone it has not, and the network would see something else.
    """
    denoise, times = ours("epsilon"), cut_times(times_of(EulerDiscreteScheduler(**LINEAR)), strength)
    x = NOISE if strength == 1 else start_from(denoise.schedule, KNOWN, times[0], NOISE)
    results = [
        final(sampler(kind(denoise, KNOWN, MASK, NOISE, times[0]), x, times, torch.Generator()))
        for kind in (InpaintingDenoiser, EquationAlone)
    ]
    for result in results:
        torch.testing.assert_close(put_back(KNOWN, result, MASK), result, rtol=0, atol=1e-6)  # it is there by itself
    apart = (results[0] - results[1]).abs().max().item()
    assert apart < 1e-5 if strength < 1 else apart > 1e-3


def test_the_start_is_found_at_fractional_times():
    """Times are float32 for the denoiser, and the start is not."""
    shown = []

    def denoise(x, t):
        shown.append(x)
        return torch.zeros_like(x)

    denoise.schedule = Schedule(linear_betas())
    start_time, nothing = 700 + 1 / 3, torch.zeros_like(KNOWN)
    wrapped = InpaintingDenoiser(denoise, KNOWN, torch.zeros_like(MASK), NOISE, start_time)
    final(ddim(wrapped, nothing, [start_time, 200.1, 0.0], torch.Generator()))
    assert torch.equal(shown[0], nothing)
    torch.testing.assert_close(shown[1], start_from(denoise.schedule, KNOWN, 200.1, NOISE))


def test_strength():
    """The last int(N strength) steps; none at 0, where the picture itself is left, whatever time the list ends with."""
    for steps in (1, 2, 7, 25, 50):
        times = [*range(10 * steps, 0, -10), 1.0]
        for strength in (0.0, 0.01, 0.3, 0.58, 0.999, 1.0):
            kept = int(steps * strength)
            assert cut_times(times, strength) == (times[steps - kept :] if kept else [0.0])
    assert len(cut_times(range(50, -1, -1), 0.58)) == 28 + 1  # 50 * 0.58 is below 29 in floats, as in diffusers
    assert torch.equal(start_from(Schedule(linear_betas()), KNOWN, cut_times([9.0, 5.0, 1.0], 0.4)[0], NOISE), KNOWN)


def test_masks_equal_diffusers():
    """One half and above is repainted; a latent takes the pixel that ``interpolate`` does, as the pipeline calls it."""
    mask = torch.rand(2, 1, 24, 40, generator=torch.Generator().manual_seed(0))
    mask[0, 0, 0, :3] = torch.tensor([0.5, 0.4999, 0.0])
    whole = binarised(mask)
    assert whole[0, 0, 0, :3].tolist() == [1, 0, 0]
    assert torch.equal(whole, VaeImageProcessor(do_normalize=False).binarize(mask.clone()))
    assert torch.equal(mask_to_latents(whole, (3, 5)), whole[:, :, ::8, ::8])
    assert torch.equal(mask_to_latents(whole, (7, 9)), F.interpolate(whole, size=(7, 9)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nine_channels(dtype):
    """In the order of diffusers: noisy latents, mask, latents of the masked picture; all else is handed on."""
    seen = []

    def network(x, timestep, **condition):
        seen.append((x, timestep, condition))
        return x[:, :4]

    x, masked, mask = torch.randn(2, 4, 3, 3).to(dtype), torch.randn(2, 4, 3, 3), torch.ones(2, 1, 3, 3)
    t, context = torch.tensor([3.0, 4.0]), torch.zeros(2, 5, 6)
    assert torch.equal(joined(network)(x, t, context=context, masked=masked, mask=mask), x)
    ((together, timestep, condition),) = seen
    assert together.dtype == dtype
    assert torch.equal(together, torch.cat([x, mask.to(dtype), masked.to(dtype)], 1))
    assert timestep is t and condition == {"context": context}
