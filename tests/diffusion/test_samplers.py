"""The samplers against diffusers, their lists of times, and what a caller may rely on."""

from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from oracle import Shrink, assert_same, ours, start, theirs

from fromnoise.diffusion.process import noise_like
from fromnoise.diffusion.samplers import Spacing, Variance, ddim, ddpm, sampling_times
from fromnoise.diffusion.schedules import Schedule, cosine_betas, linear_betas, scaled_linear_betas, zero_terminal_snr

WHOLE = [Spacing.LEADING, Spacing.TRAILING, Spacing.LINSPACE]
COUNTS = [1, 2, 3, 5, 7, 10, 15, 20, 25, 30, 50, 99, 100, 250, 333, 500, 501, 998, 999, 1000]


def diffusers_times(steps, spacing, **options):
    scheduler = DDIMScheduler(timestep_spacing=spacing.value, **options)
    scheduler.set_timesteps(steps)
    return [index + 1 for index in scheduler.timesteps.tolist()]


@pytest.mark.parametrize("spacing", WHOLE)
@pytest.mark.parametrize("steps", COUNTS)
def test_times_equal_diffusers(spacing, steps):
    expected = diffusers_times(steps, spacing)
    if spacing is Spacing.LINSPACE and steps == 1:
        expected = [1000]  # diffusers starts its one step at the clean end, where there is no noise to remove
    if spacing is Spacing.TRAILING and steps == 998:
        expected = expected[:-1]  # diffusers' sum of floats adds a step too many, from t = 0
    assert sampling_times(1000, steps, spacing) == [*expected, 0.0]


@pytest.mark.parametrize("steps", [1, 7, 50, 999])
def test_offset_equals_diffusers(steps):
    assert sampling_times(1000, steps, Spacing.LEADING, 1) == [
        *diffusers_times(steps, Spacing.LEADING, steps_offset=1),
        0.0,
    ]


def test_trailing_rounds_exactly():
    """At times that end in one half diffusers' sums of floats fall on either side: 48 steps of 1000 among them."""
    for steps in range(1, 1001):
        exact = [round(1000 - Fraction(1000 * i, steps)) for i in range(steps)]
        assert sampling_times(1000, steps, Spacing.TRAILING) == [*exact, 0.0]


@pytest.mark.parametrize("spacing", Spacing)
@pytest.mark.parametrize("offset", [0, 1, 40])
def test_every_list_falls_strictly_to_zero(spacing, offset):
    for total in (1, 2, 10, 37, 1000):
        schedule = Schedule(linear_betas(total))
        for steps in range(1, total + 1):
            times = sampling_times(schedule, steps, spacing, offset)
            assert len(times) == steps + 1
            assert times[0] <= total
            assert times[-1] == 0
            assert times[-2] >= 1
            assert spacing not in WHOLE or all(t == int(t) for t in times)
            assert all(t > u for t, u in pairwise(times)), (total, steps)


@pytest.mark.parametrize(("betas", "highest"), [(scaled_linear_betas(), None), (cosine_betas(), 80)])
def test_spacings_by_noise_level(betas, highest):
    """From T or the noise level 80 to 1 exactly; log-snr with equal factors between noise levels, karras with equal
    steps of a 7th root.
    """
    schedule = Schedule(betas)
    for spacing, scale in ((Spacing.LOG_SNR, torch.log), (Spacing.KARRAS, lambda level: level.pow(1 / 7))):
        times = sampling_times(schedule, 11, spacing)
        levels = schedule.noise_to_signal(torch.tensor(times, dtype=torch.float64))
        assert (times[-2], times[-1]) == (1, 0)
        assert times[0] == 1000 if highest is None else levels[0].item() == pytest.approx(highest)
        steps = scale(levels[:-1]).diff()
        torch.testing.assert_close(steps, steps[:1].expand(10), rtol=1e-9, atol=0)
        assert sampling_times(schedule, 1, spacing) == [times[0], 0]
        with pytest.raises(ValueError, match=f"{spacing} spacing needs the schedule"):
            sampling_times(1000, 11, spacing)


def test_whole_times_need_no_schedule():
    for spacing in WHOLE:
        assert sampling_times(Schedule(linear_betas(60)), 7, spacing) == sampling_times(60, 7, spacing)


@pytest.mark.parametrize("steps", [-1, 0, 1001])
def test_steps_out_of_range(steps):
    with pytest.raises(ValueError, match="between 1 and 1000"):
        sampling_times(1000, steps, Spacing.LEADING)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("variance", Variance)
@pytest.mark.parametrize("steps", [10, 50, 1000])
def test_ddpm_equals_diffusers(steps, variance, clip):
    expected = theirs(DDPMScheduler(clip_sample=clip, variance_type=variance.value), steps)
    times = sampling_times(1000, steps, Spacing.LEADING)
    actual = ddpm(ours("epsilon", clip), start(), times, torch.Generator().manual_seed(9), variance=variance)
    assert_same(actual, expected)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [10, 50, 1000])
def test_ddim_equals_diffusers(steps, eta, clip):
    """With clipping, diffusers by default keeps the noise of the image that was clipped away, so that image and noise
    no longer make up x; `use_clipped_model_output` is the right one.
    """
    expected = theirs(DDIMScheduler(clip_sample=clip), steps, eta=eta, use_clipped_model_output=clip)
    times = sampling_times(1000, steps, Spacing.LEADING)
    actual = ddim(ours("epsilon", clip), start(), times, torch.Generator().manual_seed(9), eta=eta)
    assert_same(actual, expected)


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_other_predictions_equal_diffusers(sampler, prediction):
    times, generator = sampling_times(1000, 20, Spacing.LEADING), torch.Generator().manual_seed(9)
    if sampler == "ddpm":
        expected = theirs(DDPMScheduler(clip_sample=False, prediction_type=prediction), 20)
        actual = ddpm(ours(prediction, False), start(), times, generator)
    else:
        expected = theirs(DDIMScheduler(clip_sample=False, prediction_type=prediction), 20, eta=0.5)
        actual = ddim(ours(prediction, False), start(), times, generator, eta=0.5)
    assert_same(actual, expected)


@pytest.mark.parametrize("spacing", [Spacing.TRAILING, Spacing.LINSPACE])
def test_ddpm_equals_diffusers_at_other_spacings(spacing):
    """DDPMScheduler looks the next time up in its list, and is right. DDIMScheduler subtracts T // N from the last one
    instead, and so steps to noise levels that are not those it asks the network about next.
    """
    expected = theirs(DDPMScheduler(clip_sample=True, timestep_spacing=spacing.value), 30)
    times = sampling_times(1000, 30, spacing)
    assert_same(ddpm(ours("epsilon", True), start(), times, torch.Generator().manual_seed(9)), expected)


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("steps", [10, 50])
def test_ddim_equals_diffusers_from_nothing_but_noise(steps, eta):
    """With a v-network, from time T, where alpha is 0. At eta = 1 diffusers may take the root of a rounding error
    below 0 there, and is not a number.
    """
    oracle = DDIMScheduler(
        rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False
    )
    expected = theirs(oracle, steps, eta=eta)
    denoise = ours("v_prediction", betas=zero_terminal_snr(linear_betas()))
    times = sampling_times(denoise.schedule, steps, Spacing.TRAILING)
    assert times[0] == 1000
    assert_same(ddim(denoise, start(), times, torch.Generator().manual_seed(9), eta=eta), expected)


@pytest.mark.parametrize("variance", Variance)
@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_ddpm_starts_from_nothing_but_noise(prediction, variance):
    """x_T says nothing: the first step draws around alpha(u) x0_hat, of which the network's answer is all."""
    denoise = ours(prediction, betas=zero_terminal_snr(linear_betas()))
    x, t = start(), torch.full((2,), 1000.0)
    output = denoise.network(x, t - 1)
    torch.testing.assert_close(denoise(x, t), -output if prediction == "v_prediction" else output)
    result = ddpm(denoise, x, [1000.0, 600.0], torch.Generator().manual_seed(9), variance=variance)
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    alpha, sigma = denoise.schedule.alpha(t - 400)[0], denoise.schedule.sigma(t - 400)[0]
    torch.testing.assert_close(result, alpha * denoise(x, t) + (sigma if variance is Variance.SMALL else 1) * z)


SAMPLERS = {
    "ddpm": ddpm,
    "ddim": ddim,
    "ddim-eta": lambda *args, **options: ddim(*args, eta=1.0, **options),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sample_does_not_depend_on_its_neighbours(name):
    """With a generator for each sample, sample i of a batch is the very one drawn alone, and in any other batch."""
    times = sampling_times(1000, 13, Spacing.TRAILING)

    def draw(seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        x = noise_like(torch.empty(len(seeds), 1, 4, 4), generators)
        return SAMPLERS[name](Shrink(), x, times, generators)

    together = draw([3, 4, 5])
    for i, seed in enumerate([3, 4, 5]):
        assert torch.equal(draw([seed])[0], together[i])
    assert torch.equal(draw([5, 3]), together[[2, 0]])
    assert not torch.equal(together[0], together[1])


def test_ddim_is_deterministic():
    """At eta = 0 it does not even touch the generator."""
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    ddim(Shrink(), start(), sampling_times(1000, 5, Spacing.LEADING), generator)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("name", SAMPLERS)
def test_callback_sees_every_step(name):
    times, seen, x = [900.0, 500.5, 20.0, 0.0], [], torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    SAMPLERS[name](Shrink(), x, times, torch.Generator(), callback=lambda *event: seen.append(event))
    assert [(step, t) for step, t, _, _ in seen] == [(0, 900.0), (1, 500.5), (2, 20.0)]
    assert torch.equal(seen[0][2], x)
    for _, t, x, x0_hat in seen:
        assert torch.equal(x0_hat, Shrink()(x, t))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_is_kept_and_conditions_pass(name, dtype):
    labels = []

    def denoise(x, t, label):
        labels.append(label)
        assert x.dtype == dtype
        assert t.shape == (2,)
        assert t.dtype == torch.promote_types(dtype, torch.float32)
        return 0.5 * x

    denoise.schedule = Schedule(linear_betas())
    label = torch.tensor([1, 2])
    x = torch.ones(2, 3, dtype=dtype)
    result = SAMPLERS[name](denoise, x, [1000.0, 400.0, 0.0], torch.Generator().manual_seed(0), label=label)
    assert result.dtype == dtype
    assert bool(result.isfinite().all())
    assert all(given is label for given in labels)
    assert len(labels) == 2
