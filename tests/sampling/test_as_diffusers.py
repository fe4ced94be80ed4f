"""A scheduler's file decides what is drawn, as it does in diffusers."""

import inspect
import json
import math
from dataclasses import replace
from functools import partial
from importlib import resources

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
)
from small_sd import PNDM

from fromnoise.diffusion.noise import OPEN_KEYS
from fromnoise.diffusion.samplers import Spacing, final, sampling_times
from fromnoise.interop.scheduler import SCHEDULERS, noise_from_diffusers
from fromnoise.models import open_model
from fromnoise.sampling.generate import generate
from fromnoise.sampling.plan import plan
from fromnoise.sampling.request import Request

SCALED = EulerDiscreteScheduler, HeunDiscreteScheduler
"""The schedulers whose x is divided by alpha, so that the image stays at scale 1."""

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
    """The loop of diffusers' pipelines, from the same noise."""
    scheduler.set_timesteps(steps)
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = torch.Generator().manual_seed(9)
    x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        with torch.no_grad():
            output = network.unet(scheduler.scale_model_input(x, t), t.float().expand(len(x)))
        x = scheduler.step(output, t, x, **options).prev_sample
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


# ---------------------------------------------------------------- each sampler from the same file, as from_config does

TURBO = {"interpolation_type": "linear", "sample_max_value": 1.0, "timestep_spacing": "trailing"}
ZOO = json.loads((resources.files("fromnoise") / "zoo/mnist/scheduler/scheduler_config.json").read_text())
FILES = {
    "SD 1.x": PNDM,
    "leading": PNDM | {"timestep_spacing": "leading"},
    "SD 2.x": PNDM | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
    "sd-turbo": PNDM | TURBO | {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": False},
    "zoo": ZOO,
}
CLASSES = {
    "ddpm": DDPMScheduler,
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "heun": HeunDiscreteScheduler,
    "dpmpp-2m": DPMSolverMultistepScheduler,
    "dpmpp-2m-sde": partial(DPMSolverMultistepScheduler.from_config, algorithm_type="sde-dpmsolver++"),
}


def from_file(network, content, sampler, **request):
    """A plan and diffusers' scheduler, both from one file; heun is asked for the times of its class."""
    noise = noise_from_diffusers(content)
    if sampler == "heun":
        request = {"steps": 2 * request["steps"] - 1, "spacing": noise.timestep_spacing or "linspace"}
    there = CLASSES[sampler]
    there = there(content) if isinstance(there, partial) else there.from_config(content)
    return plan(replace(network, noise=noise), Request(n=2, device="cpu", sampler=sampler, **request)), there


@pytest.mark.parametrize("steps", [1, 5, 7])
@pytest.mark.parametrize("sampler", CLASSES)
@pytest.mark.parametrize("file", FILES)
def test_times_and_noise_levels_as_from_config(file, sampler, steps, network):
    """Ours differs once: diffusers' Euler and Heun start a single linspace step at the clean end."""
    here, there = from_file(network, FILES[file], sampler, steps=steps)
    there.set_timesteps(steps)
    if steps == 1 and there.config.timestep_spacing == "linspace" and sampler in ("euler", "heun"):
        assert (there.timesteps.tolist(), here.times) == ([0], [1000, 0])
        return
    assert [t - 1 for t in here.times[:-1]] == pytest.approx(there.timesteps.unique_consecutive().tolist(), abs=1e-4)
    levels = here.model.noise.schedule().noise_to_signal(torch.tensor(here.times, dtype=torch.float64)).float()
    if hasattr(there, "sigmas"):
        torch.testing.assert_close(levels, there.sigmas.unique_consecutive(), rtol=1e-3, atol=0)
    elif sampler == "ddim":
        torch.testing.assert_close(1 / (1 + levels[-1] ** 2), there.final_alpha_cumprod)
    largest = math.hypot(1, levels[0]) if isinstance(there, SCALED) else 1
    assert here.start_scale * largest == pytest.approx(float(there.init_noise_sigma), rel=1e-3)
    if not isinstance(there, SCALED) or there.config.timestep_spacing == "leading":
        assert here.start_scale == 1
    assert plan(replace(network, noise=noise_from_diffusers(FILES[file])), here.request) == here


@pytest.mark.parametrize("sampler", CLASSES)
@pytest.mark.parametrize("file", FILES)
def test_five_steps_as_from_config(file, sampler, network, monkeypatch):
    """Two things differ. Ours clips in every sampler if the file says so, which diffusers' Euler and DPM-Solver++
    cannot. And diffusers' Euler and Heun hold x at the scale of the image, where float32 is coarse at the noise level
    20,000 that the cosine schedule reaches.
    """
    monkeypatch.setattr(network.unet, "forward", lambda x, t: (1 + torch.cos(t / 100))[:, None, None, None] * x.tanh())
    here, there = from_file(network, FILES[file], sampler, steps=5)
    if sampler in ("euler", "dpmpp-2m", "dpmpp-2m-sde"):
        here = replace(here, request=replace(here.request, clip=False))
    options = {"use_clipped_model_output": True} if sampler == "ddim" else {}
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    found, expected = ours(here, here.start_scale * noise), theirs(network, there, 5, noise, **options)
    coarse = 2**-23 * there.sigmas[0].item() if isinstance(there, SCALED) else 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item() + coarse)


@pytest.mark.parametrize("sampler", CLASSES)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_what_the_file_leaves_open_is_as_from_config(name, sampler, network):
    """Whichever class the file names, and also if it says what it leaves open elsewhere."""
    for written in ({}, {"clip_sample": True}, {"set_alpha_to_one": False}, {"timestep_spacing": "trailing"}):
        here, there = from_file(network, {"_class_name": name, **written}, sampler, steps=3)
        theirs = {"clip_sample": False, "set_alpha_to_one": True} | there.config
        assert [getattr(here.model.noise, key) for key in OPEN_KEYS] == [theirs[key] for key in OPEN_KEYS]
        assert here.request.clip == theirs["clip_sample"]


@pytest.mark.parametrize("sampler", CLASSES)
def test_a_spacing_that_is_not_the_models_is_as_we_say(sampler, network):
    """A file that writes trailing changes none of the other spacings, and the first noise stays as it is."""
    noise = noise_from_diffusers(ZOO)
    for spacing in Spacing:
        here = plan(
            replace(network, noise=noise), Request(sampler=sampler, spacing=spacing, steps=5 + 4 * (sampler == "heun"))
        )
        assert here.times == sampling_times(noise.schedule(), 5, spacing)
        assert here.start_scale == 1 or (spacing == "trailing" and here.start_scale == pytest.approx(1, abs=1e-8))


def test_a_picture_starts_from_the_scaled_noise(network, monkeypatch):
    """With a network that sees its input as noise alone, one step of Euler leads to nothing but the scale."""
    model = replace(network, noise=noise_from_diffusers(FILES["sd-turbo"]))
    starts = []
    monkeypatch.setattr(model.unet, "forward", lambda x, timestep: starts.append(x) or x)
    drawn = [generate(model, Request(n=1, sampler=name, steps=1, device="cpu")) for name in ("ddim", "euler")]
    sigma = model.noise.schedule().sigma(torch.tensor(1000.0)).item()
    assert sigma < 0.999 and len(drawn) == 2
    torch.testing.assert_close(starts[1], sigma * starts[0])
