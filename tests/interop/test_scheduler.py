"""A scheduler config is read with the defaults of the class that it names, or refused by the name of the key."""

import inspect
import json
from dataclasses import fields

import diffusers
import pytest
import torch

from fromnoise.diffusion.noise import NoiseConfig
from fromnoise.errors import UserError
from fromnoise.interop.scheduler import SCHEDULERS, SchedulerFile, noise_from_diffusers, noise_to_diffusers

OURS = {field.name for field in fields(NoiseConfig)}
LEGACY = {"predict_epsilon", "tensor_format"}  # of old releases, which today's classes do not have


def signature(name):
    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
    return {key: parameter.default for key, parameter in parameters.items() if key not in ("self", "kwargs")}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_key_left_out_takes_the_default_of_the_class_that_the_file_names(name, tmp_path):
    scheduler = getattr(diffusers, name)()
    scheduler.save_pretrained(tmp_path)
    whole = json.loads((tmp_path / "scheduler_config.json").read_text())
    noise = noise_from_diffusers({"_class_name": name})
    assert noise == noise_from_diffusers(whole)
    theirs = {key: default for key, default in signature(name).items() if key in OURS}
    assert len(theirs) >= 6
    small = {"variance_type": theirs.get("variance_type") or "fixed_small"}  # null: the class has no such choice
    assert {key: getattr(noise, key) for key in theirs | small} == theirs | small


def test_the_keys_and_defaults_of_a_file_are_those_of_diffusers():
    theirs = [signature(name) for name in SCHEDULERS]
    assert {field.name for field in fields(SchedulerFile)} - LEGACY == set().union(*theirs)
    file = SchedulerFile()
    for key, default in theirs[0].items():  # DDPMScheduler's
        assert getattr(file, key) == default
    for key in OURS:
        assert getattr(file, key) == getattr(NoiseConfig(), key)


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_schedule_is_that_of_diffusers(beta_schedule):
    config = NoiseConfig(50, beta_schedule, 1e-3, 0.05)
    theirs = diffusers.DDPMScheduler.from_config(noise_to_diffusers(config))
    torch.testing.assert_close(config.schedule().betas.float(), theirs.betas, rtol=1e-5, atol=0)


def test_round_trip():
    config = NoiseConfig(
        77, "scaled_linear", 1e-3, 0.01, "v_prediction", "fixed_large", False, 2.0, "trailing", 1, False
    )
    assert all(getattr(config, key) != getattr(NoiseConfig(), key) for key in OURS)
    assert noise_from_diffusers(json.loads(json.dumps(noise_to_diffusers(config)))) == config


def test_scheduler_of_stable_diffusion():
    config = {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    }
    assert noise_from_diffusers(config) == NoiseConfig(
        1000, "scaled_linear", 0.00085, 0.012, clip_sample=False, steps_offset=1, set_alpha_to_one=False
    )


@pytest.mark.parametrize(
    "inert",
    [
        {"variance_type": "fixed_small_log"},
        {"variance_type": None},
        {"use_karras_sigmas": None},
        {"algorithm_type": "sde-dpmsolver++"},
        {"lambda_min_clipped": -float("inf")},
        {"disable_corrector": []},
        {"flow_shift": 3},
        {"_name_or_path": "somewhere"},
    ],
    ids=str,
)
def test_what_changes_nothing_is_accepted(inert):
    assert noise_from_diffusers(inert) == NoiseConfig()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_class_name", "FlowMatchEulerDiscreteScheduler"),
        ("_class_name", ["DDPMScheduler"]),
        ("num_train_timesteps", "1000"),
        ("num_train_timesteps", 0),
        ("beta_start", 0),
        ("beta_end", 1),
        ("beta_end", float("nan")),
        ("beta_schedule", "sigmoid"),
        ("prediction_type", "flow_prediction"),
        ("variance_type", "learned_range"),
        ("clip_sample", 1),
        ("clip_sample_range", float("inf")),
        ("timestep_spacing", None),
        ("steps_offset", -1),
        ("thresholding", True),
        ("thresholding", 0),
        ("rescale_betas_zero_snr", True),
        ("use_karras_sigmas", True),
        ("use_flow_sigmas", True),
        ("predict_epsilon", False),
        ("final_sigmas_type", "sigma_min"),
        ("solver_order", 3),
        ("lambda_min_clipped", -5.1),
    ],
)
def test_what_changes_the_computation_is_refused_by_name(key, value):
    with pytest.raises(UserError) as caught:
        noise_from_diffusers({key: value}, "here.json")
    assert str(caught.value).startswith(f"here.json: {key}: {json.dumps(value)} is not supported: it should be ")


def test_unknown_key_is_refused_by_name():
    with pytest.raises(UserError, match="^here.json: unknown key shift$"):
        noise_from_diffusers({"shift": 3.0}, "here.json")
