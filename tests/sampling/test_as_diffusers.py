"""A scheduler's file decides what is drawn, as it does in diffusers."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
)

from fromnoise.diffusion.samplers import final
from fromnoise.interop.scheduler import noise_from_diffusers
from fromnoise.models import open_model
from fromnoise.sampling.generate import generate
from fromnoise.sampling.plan import plan
from fromnoise.sampling.request import Request

BETAS = {"num_train_timesteps": 20, "beta_end": 0.3}


@pytest.fixture
def network(unconditional):
    return open_model(unconditional)


def planned(network, scheduler, folder, **request):
    """The plan of a request of two images from the model with this scheduler's file beside it."""
    scheduler.save_pretrained(folder)
    noise = noise_from_diffusers(json.loads((folder / "scheduler_config.json").read_text()))
    return plan(replace(network, noise=noise), Request(n=2, device="cpu", **request))


def ours(plan, x):
    with torch.no_grad():
        return final(plan.sampler(plan.denoiser(), x, plan.times, torch.Generator().manual_seed(9)))


def theirs(network, scheduler, steps, x, **options):
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(9)
    for t in scheduler.timesteps:
        with torch.no_grad():
            output = network.unet(x, t.float().expand(len(x)))
        x = scheduler.step(output, t, x, generator=generator, **options).prev_sample
    return x


@pytest.mark.parametrize(
    "keys",
    [
        {"set_alpha_to_one": True},
        {"set_alpha_to_one": False},
        {"set_alpha_to_one": False, "steps_offset": 1},
        {"trained_betas": [0.001 * i for i in range(1, 21)]},
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"},
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "sample"},
    ],
    ids=str,
)
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(("steps", "eta"), [(1, 0.0), (4, 0.5)])
def test_ddim_as_the_file_says(keys, clip, steps, eta, network, tmp_path):
    """Clipped, diffusers derives the noise anew only if it is asked to. It draws noise in the last step, too."""
    scheduler = DDIMScheduler(**BETAS | {"clip_sample": clip} | keys)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    found = ours(planned(network, scheduler, tmp_path, sampler="ddim", steps=steps, eta=eta), x)
    expected = theirs(network, scheduler, steps, x, eta=eta, use_clipped_model_output=clip)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_set_alpha_to_one_is_seen_in_the_pictures(network):
    drawn = []
    for value in (True, False):
        network.noise = replace(network.noise, set_alpha_to_one=value)
        drawn += [generate(network, Request(n=2, steps=3, sampler=name)) for name in ("ddim", "ddpm")]
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[1], drawn[3]), "DDPM always ends at alpha-bar 1"


def test_pndm_ends_at_the_first_timestep_unless_told_otherwise(network, tmp_path):
    assert planned(network, PNDMScheduler(), tmp_path, sampler="ddim", steps=3).times[-1] == 1
    assert planned(network, PNDMScheduler(set_alpha_to_one=True), tmp_path, sampler="ddim", steps=3).times[-1] == 0


SPACED = [{"use_karras_sigmas": True}, {"use_exponential_sigmas": True}]
ENDS = {"final_sigmas_type": "sigma_min", "use_karras_sigmas": True}
LEADING = {"timestep_spacing": "leading", "steps_offset": 1}


@pytest.mark.parametrize(
    ("sampler", "scheduler", "keys"),
    [
        *(
            (sampler, scheduler, keys | more)
            for sampler, scheduler in (("euler", EulerDiscreteScheduler), ("heun", HeunDiscreteScheduler))
            for keys in SPACED
            for more in ({}, LEADING, {"beta_start": 1e-4, "beta_end": 0.02})  # whose noise levels go up to 157
        ),
        *(
            ("dpmpp-2m", DPMSolverMultistepScheduler, keys | more)
            for keys in (*SPACED, {"use_lu_lambdas": True}, ENDS)
            for more in ({}, LEADING)
        ),
        ("dpmpp-2m-sde", DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
        ("euler", EulerDiscreteScheduler, ENDS),
        *(
            (sampler, scheduler, {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} | keys)
            for sampler, scheduler in (("euler", EulerDiscreteScheduler), ("dpmpp-2m", DPMSolverMultistepScheduler))
            for keys in ({}, *SPACED)
        ),
    ],
    ids=str,
)
def test_noise_levels_as_the_file_says(sampler, scheduler, keys, network, tmp_path):
    """sigma / alpha at the times of a plan are the sigmas of diffusers, each once."""
    there, steps = scheduler(**keys), 8
    there.set_timesteps(steps)
    here = planned(network, there, tmp_path, sampler=sampler, steps=steps * (1 + (sampler == "heun")))
    schedule = here.denoiser().schedule
    levels = schedule.noise_to_signal(torch.tensor(here.times, dtype=torch.float64)).float()
    expected = there.sigmas[[0, *range(1, 15, 2), 15]] if sampler == "heun" else there.sigmas
    torch.testing.assert_close(levels, expected, rtol=1e-3, atol=0)


def test_what_is_asked_for_comes_before_what_the_file_says(network, tmp_path):
    there = EulerDiscreteScheduler(use_exponential_sigmas=True)
    asked = {"euler": "log-snr", "heun": "log-snr", "dpmpp-2m": "log-snr", "ddim": "linspace", "ddpm": "linspace"}
    for sampler, spacing in asked.items():
        assert planned(network, there, tmp_path, sampler=sampler, steps=4).request.spacing == spacing
    assert planned(network, there, tmp_path, sampler="euler", steps=4, spacing="leading").request.spacing == "leading"


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "euler", "heun", "dpmpp-2m", "dpmpp-2m-sde"])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_every_sampler_starts_from_nothing_but_noise(sampler, prediction, network):
    for spacing in ("trailing", "leading"):
        noise = replace(
            network.noise, prediction_type=prediction, rescale_betas_zero_snr=True, timestep_spacing=spacing
        )
        model = replace(network, noise=replace(noise, clip_sample=False))
        drawing = plan(model, Request(n=1, steps=4, sampler=sampler, device="cpu"))
        assert ours(drawing, torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))).isfinite().all()
