"""A scheduler config is read with the defaults of the class that it names, or refused by the name of the key."""

import inspect
import json
from dataclasses import fields, replace

import diffusers
import pytest
import torch
from small_sd import PNDM

from fromnoise.diffusion.noise import OPEN_KEYS, NoiseConfig
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
    assert noise == replace(noise_from_diffusers(whole), **dict.fromkeys(OPEN_KEYS))
    theirs = {key: default for key, default in signature(name).items() if key not in OPEN_KEYS}
    file = SchedulerFile(**SCHEDULERS[name])
    assert json.loads(json.dumps({key: getattr(file, key) for key in theirs})) == json.loads(json.dumps(theirs))


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
        2, "scaled_linear", 1e-3, 0.01, "v_prediction", "fixed_large", False, 2.0, "trailing", 1, False
    )
    config = replace(config, trained_betas=(1e-3, 1), rescale_betas_zero_snr=True, final_sigmas_type="sigma_min")
    for spaced in ("use_karras_sigmas", "use_exponential_sigmas"):
        config = replace(config, **{"use_karras_sigmas": False, "use_exponential_sigmas": False, spaced: True})
        assert noise_from_diffusers(json.loads(json.dumps(noise_to_diffusers(config)))) == config
    same = {key for key in OURS if getattr(config, key) == getattr(NoiseConfig(), key)}
    assert same == {"use_karras_sigmas"}, "which was another in the first round"


def test_scheduler_of_stable_diffusion():
    noise = noise_from_diffusers(PNDM)
    written = {"clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False}
    assert noise == NoiseConfig(1000, "scaled_linear", 0.00085, 0.012, timestep_spacing=None, **written)
    assert noise_from_diffusers(json.loads(json.dumps(noise_to_diffusers(noise)))) == noise, "what is open stays open"


@pytest.mark.parametrize(
    "inert",
    [
        {"variance_type": "fixed_small_log"},
        {"variance_type": None},
        {"use_karras_sigmas": None},
        {"algorithm_type": "dpmsolver"},
        {"lambda_min_clipped": -float("inf")},
        {"disable_corrector": [0, 1]},
        {"flow_shift": 3},
        {"solver_order": 3, "lower_order_final": False, "euler_at_final": True, "solver_type": "heun"},
        {"predict_x0": False, "use_dynamic_shifting": True, "shift_terminal": 0.1},
        {"sigma_min": 0.1, "sigma_max": 9.0},
        {"_name_or_path": "somewhere"},
    ],
    ids=str,
)
def test_what_changes_nothing_is_accepted(inert):
    assert noise_from_diffusers(inert) == NoiseConfig(**dict.fromkeys(OPEN_KEYS))


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
        ("use_beta_sigmas", True),
        ("use_flow_sigmas", True),
        ("predict_epsilon", False),
        ("lambda_min_clipped", -5.1),
        ("interpolation_type", "log_linear"),
        ("timestep_type", "continuous"),
        ("num_train_timesteps", 10**12),
        ("clip_sample_range", 0),
        ("clip_sample_range", -1),
        ("trained_betas", 0.1),
        ("beta_end", 0.9),
        ("beta_end", 0.3),
    ],
)
def test_what_changes_the_computation_is_refused_by_name(key, value):
    with pytest.raises(UserError) as caught:
        noise_from_diffusers({key: value}, "here.json")
    assert str(caught.value).startswith(f"here.json: {key}: {json.dumps(value)} is not supported: ")


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"beta_start": 0.9, "beta_end": 0.9}, "beta_end"),
        ({"beta_start": 0.9, "beta_end": 0.9, "num_train_timesteps": 10}, "beta_end"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ({"trained_betas": [0.1, 1.0, 0.2], "num_train_timesteps": 3}, "trained_betas"),
        ({"trained_betas": [0.9] * 10, "num_train_timesteps": 10}, "trained_betas"),
        ({"trained_betas": [0.3] * 1000}, "trained_betas"),
        ({"trained_betas": []}, "trained_betas"),
        ({"trained_betas": [0.1, 0], "num_train_timesteps": 2}, "trained_betas.1"),
        ({"trained_betas": [0.1, None], "num_train_timesteps": 2}, "trained_betas.1"),
        ({"use_karras_sigmas": True, "use_exponential_sigmas": True}, "use_karras_sigmas"),
        ({"use_karras_sigmas": True, "use_lu_lambdas": True}, "use_karras_sigmas"),
        ({"use_karras_sigmas": True, "sigma_min": 0.1}, "sigma_min"),
        ({"use_exponential_sigmas": True, "sigma_max": 9.0}, "sigma_max"),
        ({"rescale_betas_zero_snr": True, "num_train_timesteps": 1}, "beta_end"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(values, key):
    with pytest.raises(UserError, match=f"^here.json: {key}: .* is not supported: "):
        noise_from_diffusers(values, "here.json")


@pytest.mark.parametrize("steps", [1, 2, 3, 20, 1000])
def test_the_cosine_schedule_is_never_too_noisy(steps):
    noise_from_diffusers({"num_train_timesteps": steps, "beta_schedule": "squaredcos_cap_v2"})


def test_betas_of_its_own_and_betas_that_end_in_noise():
    config = {"trained_betas": [0.01, 0.02, 0.3, 0.4], "num_train_timesteps": 4}
    assert noise_from_diffusers(config).schedule().betas.tolist() == config["trained_betas"]
    theirs = diffusers.DDIMScheduler(**config, rescale_betas_zero_snr=True)
    schedule = noise_from_diffusers(config | {"rescale_betas_zero_snr": True}).schedule()
    torch.testing.assert_close(schedule.alpha_bar[1:].float(), theirs.alphas_cumprod, rtol=1e-5, atol=1e-7)
    assert schedule.alpha_bar[-1] == 0


def test_unknown_key_is_refused_by_name():
    with pytest.raises(UserError, match="^here.json: unknown key shift$"):
        noise_from_diffusers({"shift": 3.0}, "here.json")
