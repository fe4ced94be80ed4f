"""The fast samplers against diffusers and the papers' algorithms, and what a caller may rely on."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
)
from oracle import Network, Shrink, Told, assert_same, ours, start, theirs

from fromnoise.diffusion.exact import EmpiricalDenoiser
from fromnoise.diffusion.parameterization import NetworkDenoiser, Prediction
from fromnoise.diffusion.process import noise_like
from fromnoise.diffusion.samplers import Spacing, ddim, ddpm, flow_times, sampling_times
from fromnoise.diffusion.schedules import (
    FlowSchedule,
    Schedule,
    cosine_betas,
    linear_betas,
    scaled_linear_betas,
    zero_terminal_snr,
)
from fromnoise.diffusion.solvers import dpmpp_2m, dpmpp_2m_sde, euler, heun

F64 = torch.float64
LINEAR = {"beta_start": 1e-4, "beta_end": 0.02}
STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
EULER_AND_HEUN = [(euler, EulerDiscreteScheduler), (heun, HeunDiscreteScheduler)]
MULTISTEP = [(dpmpp_2m, "dpmsolver++"), (dpmpp_2m_sde, "sde-dpmsolver++")]
SAMPLERS = {
    "euler": euler,
    "heun": heun,
    "heun-churn": lambda *args, **options: heun(*args, churn=5.0, **options),
    "dpmpp-2m": dpmpp_2m,
    "dpmpp-2m-sde": dpmpp_2m_sde,
}


def times_of(scheduler):
    """The list of times that a scheduler of diffusers visits, Heun's doubles once."""
    indices = scheduler.timesteps.unique_consecutive().tolist()
    return [*(index + 1 for index in indices), 0.0]


def generator():
    return torch.Generator().manual_seed(9)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [3, 10, 40])
@pytest.mark.parametrize(("sampler", "scheduler"), EULER_AND_HEUN)
def test_euler_and_heun_equal_diffusers(sampler, scheduler, steps, spacing):
    """Their linspace is not rounded, as DDIM's and ours is: there we visit the times of theirs."""
    oracle = scheduler(timestep_spacing=spacing, **LINEAR)
    expected = theirs(oracle, steps)
    times = times_of(oracle)
    distances = [abs(t - u) for t, u in zip(times, sampling_times(1000, steps, Spacing(spacing)), strict=True)]
    assert max(distances) <= (0.5 if spacing == "linspace" else 0)
    assert_same(sampler(ours("epsilon"), start(), times, generator()), expected)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("steps", [2, 10, 40])
@pytest.mark.parametrize(("sampler", "algorithm"), MULTISTEP)
def test_dpmpp_equals_diffusers(sampler, algorithm, steps, prediction):
    """With the same noise. Trailing is the spacing we share."""
    oracle = DPMSolverMultistepScheduler(
        timestep_spacing="trailing", algorithm_type=algorithm, prediction_type=prediction
    )
    times = sampling_times(1000, steps, Spacing.TRAILING)
    expected = theirs(oracle, steps)
    assert times_of(oracle) == times
    assert_same(sampler(ours(prediction), start(), times, generator()), expected)


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
@pytest.mark.parametrize(("sampler", "algorithm"), MULTISTEP)
def test_dpmpp_equals_diffusers_at_its_own_times(sampler, algorithm, spacing):
    """Its leading and linspace cut T into one step more than asked and leave the cleanest time out: a last step from
    there to 0 is longer than all others. At its times we draw the same.
    """
    oracle = DPMSolverMultistepScheduler(timestep_spacing=spacing, algorithm_type=algorithm)
    expected = theirs(oracle, 20)
    times = times_of(oracle)
    assert times[-2] > 1 + 1000 / 22
    assert sampling_times(1000, 20, Spacing(spacing))[-2] == 1
    assert_same(sampler(ours("epsilon"), start(), times, generator()), expected)


@pytest.mark.parametrize(("sampler", "scheduler"), EULER_AND_HEUN)
def test_karras_equals_diffusers(sampler, scheduler):
    """The same noise levels, on a schedule that stays below 80. From a level to its timestep diffusers interpolates
    linearly in log sigma, though it goes the other way linearly in sigma: less than a timestep apart. Told the same
    timesteps, our network draws the same.
    """
    oracle = scheduler(use_karras_sigmas=True, **STABLE_DIFFUSION)
    expected = theirs(oracle, 12)
    denoise = ours("epsilon", network=Told(oracle.timesteps), betas=scaled_linear_betas())
    times = sampling_times(denoise.schedule, 12, Spacing.KARRAS)
    levels = denoise.schedule.noise_to_signal(torch.tensor(times, dtype=F64)).float()
    torch.testing.assert_close(levels, oracle.sigmas.unique_consecutive(), rtol=1e-3, atol=0)
    assert max(abs(t - u) for t, u in zip(times, times_of(oracle), strict=True)) < 0.5
    assert_same(sampler(denoise, start(), times, generator()), expected)


@pytest.mark.parametrize(("spacing", "option"), [("karras", "use_karras_sigmas"), ("log-snr", "use_lu_lambdas")])
@pytest.mark.parametrize(("sampler", "algorithm"), MULTISTEP)
def test_dpmpp_equals_diffusers_between_whole_times(sampler, algorithm, spacing, option):
    """Again the same noise levels; but diffusers rounds the timestep, and so asks its network about another one."""
    oracle = DPMSolverMultistepScheduler(algorithm_type=algorithm, **STABLE_DIFFUSION, **{option: True})
    expected = theirs(oracle, 12)
    denoise = ours("epsilon", network=Told(oracle.timesteps), betas=scaled_linear_betas())
    times = sampling_times(denoise.schedule, 12, Spacing(spacing))
    levels = denoise.schedule.noise_to_signal(torch.tensor(times, dtype=F64)).float()
    torch.testing.assert_close(levels, oracle.sigmas, rtol=1e-3, atol=0)
    assert max(abs(t - u) for t, u in zip(times, times_of(oracle), strict=True)) < 1
    assert_same(sampler(denoise, start(), times, generator()), expected)


def flow_denoiser(network=None):
    return NetworkDenoiser(network or Network(), FlowSchedule(), Prediction.FLOW)


@pytest.mark.parametrize("factor", [1.0, 3.0])
@pytest.mark.parametrize("sampler", [euler, ddim])
def test_euler_equals_diffusers_on_a_flow(sampler, factor):
    """diffusers takes its last step from sigma = 1/1000, shifted, and so shifts twice; at its times it is the same."""
    oracle = FlowMatchEulerDiscreteScheduler(shift=factor)
    expected = theirs(oracle, 10)
    times = oracle.sigmas.tolist()
    assert (times[0], times[-1]) == (1, 0)
    assert_same(sampler(flow_denoiser(), start(), times, generator()), expected)
    evenly = [i / 10 for i in range(10, 0, -1)]
    assert_same(theirs(oracle, None, sigmas=evenly), sampler(flow_denoiser(), start(), flow_times(10, factor), None))


def test_heun_equals_diffusers_on_a_flow():
    oracle = FlowMatchHeunDiscreteScheduler(shift=3.0)
    expected = theirs(oracle, 10)
    times = [*oracle.sigmas.unique_consecutive().tolist()]
    assert_same(heun(flow_denoiser(), start(), times, generator()), expected)


@pytest.mark.parametrize(("sampler", "algorithm"), MULTISTEP)
def test_dpmpp_equals_diffusers_on_a_flow(sampler, algorithm):
    """It rounds the timesteps down; told the same, our network draws the same."""
    oracle = DPMSolverMultistepScheduler(
        algorithm_type=algorithm, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    expected = theirs(oracle, 12)
    denoise = flow_denoiser(Told(oracle.timesteps))
    assert_same(sampler(denoise, start(), oracle.sigmas.tolist(), generator()), expected)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_from_nothing_but_noise(prediction):
    """Where alpha is 0 the DPM-Solvers start as DDIM and DDPM do; Euler and Heun, which divide by it, refuse."""
    denoise, x = ours(prediction, betas=zero_terminal_snr(linear_betas())), start()
    for one, other in ((dpmpp_2m, ddim), (dpmpp_2m_sde, ddpm)):
        pair = (f(denoise, x, [1000.0, 600.0], generator()) for f in (one, other))
        torch.testing.assert_close(*pair)
        assert bool(one(denoise, x, sampling_times(1000, 9, Spacing.TRAILING), generator()).isfinite().all())
    for refused in (euler, heun):
        with pytest.raises(ValueError, match="sigma / alpha is infinite at time 1000: start later"):
            refused(denoise, x, [1000.0, 600.0, 0.0], generator())
        times = sampling_times(denoise.schedule, 9, Spacing.KARRAS)
        assert bool(refused(denoise, x, times, generator()).isfinite().all())


def test_two_steps_from_nothing_but_noise():
    """The second step knows that the first was infinitely long in log-SNR: it does not extrapolate."""
    denoise, x = ours("v_prediction", betas=zero_terminal_snr(linear_betas())), start()
    times = [1000.0, 600.0, 300.0]
    one, other = (f(denoise, x, times, generator()) for f in (dpmpp_2m, ddim))
    torch.testing.assert_close(one, other)


def algorithm_2(denoise, x, sigmas, generator, churn, low, high):
    """Karras et al.'s algorithm 2 in their own symbols, S_noise = 1: x at scale 1, a denoiser D(x; sigma)."""
    count = len(sigmas) - 1
    for i in range(count):
        gamma = min(churn / count, math.sqrt(2) - 1) if low <= sigmas[i] <= high else 0
        hat = sigmas[i] + gamma * sigmas[i]
        if gamma:
            x = x + math.sqrt(hat**2 - sigmas[i] ** 2) * torch.randn(x.shape, generator=generator).to(x)
        d = (x - denoise(x, hat)) / hat
        after = x + (sigmas[i + 1] - hat) * d
        if sigmas[i + 1] != 0:
            other = (after - denoise(after, sigmas[i + 1])) / sigmas[i + 1]
            after = x + (sigmas[i + 1] - hat) * (0.5 * d + 0.5 * other)
        x = after
    return x


@pytest.mark.parametrize(("churn", "low", "high"), [(0, 0, 9), (3, 0, math.inf), (3, 0.5, 8), (100, 0.1, 20)])
def test_heun_is_algorithm_2(churn, low, high):
    """On three points, with the noise of the same generator, from a time with room for more noise above it."""
    schedule = Schedule(linear_betas())
    denoise = EmpiricalDenoiser(schedule, torch.tensor([[-1.0, 0.5], [0.3, 0.3], [1.0, -0.2]], dtype=F64))

    def at_scale_1(x, sigma):
        t = schedule.time(torch.full((len(x),), float(sigma), dtype=F64))
        return denoise(x * schedule.alpha(t)[:, None], t)

    times = sampling_times(800, 12, Spacing.TRAILING)
    sigmas = schedule.noise_to_signal(torch.tensor(times, dtype=F64)).tolist()
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    expected = algorithm_2(at_scale_1, x * math.hypot(1, sigmas[0]), sigmas, generator(), churn, low, high)
    actual = heun(denoise, x, times, generator(), churn=churn, churn_levels=(low, high))
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-9)
    assert churn == 0 or not torch.allclose(actual, heun(denoise, x, times, generator()), atol=1e-3)


def test_dpmpp_2m_sde_starts_as_ancestral_sampling():
    """Its first step, and its only one, are those of `ddpm` with beta~; the second is not."""
    denoise, x = ours("v_prediction"), start()
    for times in ([900.0, 400.0], [700.0, 0.0]):
        assert torch.equal(dpmpp_2m_sde(denoise, x, times, generator()), ddpm(denoise, x, times, generator()))
    times = [900.0, 400.0, 100.0]
    assert not torch.allclose(dpmpp_2m_sde(denoise, x, times, generator()), ddpm(denoise, x, times, generator()))


def test_dpmpp_2m_sde_keeps_marginals():
    """Monte Carlo on one image, at 4 standard errors: every x_t has the forward process's mean and variance."""
    schedule, image = Schedule(linear_betas(10, 0.02, 0.5)), torch.tensor([[0.7]], dtype=F64)
    times, seen = [10.0, 6.0, 3.5, 1.0, 0.0], []
    alpha, sigma = (f(torch.tensor(times, dtype=F64)) for f in (schedule.alpha, schedule.sigma))
    x = alpha[0] * image + sigma[0] * torch.randn(50_000, 1, generator=generator(), dtype=F64)
    denoise = EmpiricalDenoiser(schedule, image)
    result = dpmpp_2m_sde(denoise, x, times, generator(), callback=lambda step, t, x, x0_hat: seen.append(x))
    assert torch.equal(result, image.expand(50_000, 1))
    for a, s, x in zip(alpha, sigma, seen, strict=False):
        for values, expected in ((x, a * image[0]), ((x - a * image).square(), s.square())):
            assert (values.mean() - expected).abs() < 4 * values.std() / len(values) ** 0.5


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("spacing", Spacing)
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_one_image_comes_out_exactly(name, spacing, steps):
    """Data that are one image: any sampler finds it in any number of steps, to rounding."""
    schedule, image = Schedule(cosine_betas(100)), torch.tensor([[0.7, -1.0]], dtype=F64)
    times = sampling_times(schedule, steps, spacing)
    x = torch.randn(4, 2, generator=generator(), dtype=F64)
    result = SAMPLERS[name](EmpiricalDenoiser(schedule, image), x, times, generator())
    torch.testing.assert_close(result, image.expand(4, 2), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_one_image_comes_out_exactly_on_a_flow(name, steps):
    """From t = 1, where nothing is left of the image, too; with churn, to times between."""
    image = torch.tensor([[0.7, -1.0]], dtype=F64)

    def denoise(x, t):
        return image.expand(4, 2)

    denoise.schedule = FlowSchedule()
    x = torch.randn(4, 2, generator=generator(), dtype=F64)
    result = SAMPLERS[name](denoise, x, flow_times(steps), generator())
    torch.testing.assert_close(result, image.expand(4, 2), rtol=0, atol=1e-9)


def test_euler_is_ddim():
    for steps, spacing in ((7, Spacing.KARRAS), (20, Spacing.TRAILING)):
        denoise, x = ours("v_prediction", clip=True), start()
        times = sampling_times(denoise.schedule, steps, spacing)
        torch.testing.assert_close(euler(denoise, x, times, generator()), ddim(denoise, x, times, generator()))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sample_does_not_depend_on_its_neighbours(name):
    """With a generator for each sample, sample i of a batch is the very one drawn alone, and in any other batch."""
    times = sampling_times(Shrink.schedule, 13, Spacing.KARRAS)

    def draw(seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        x = noise_like(torch.empty(len(seeds), 1, 4, 4), generators)
        return SAMPLERS[name](Shrink(), x, times, generators)

    together = draw([3, 4, 5])
    for i, seed in enumerate([3, 4, 5]):
        assert torch.equal(draw([seed])[0], together[i])
    assert torch.equal(draw([5, 3]), together[[2, 0]])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("name", SAMPLERS)
def test_who_draws(name):
    """Only those with fresh noise touch the generator."""
    given = generator()
    before = given.get_state()
    SAMPLERS[name](Shrink(), start(), sampling_times(800, 5, Spacing.TRAILING), given)
    assert torch.equal(given.get_state(), before) == (name in ("euler", "heun", "dpmpp-2m"))


@pytest.mark.parametrize("name", SAMPLERS)
def test_callback_sees_every_step(name):
    """With churn, at the raised noise level, where the step starts."""
    times, seen, x = [900.0, 500.5, 20.0, 0.0], [], torch.randn(2, 3, generator=generator())
    SAMPLERS[name](Shrink(), x, times, generator(), callback=lambda *event: seen.append(event))
    assert [step for step, *_ in seen] == [0, 1, 2]
    assert [t for _, t, _, _ in seen] == times[:-1] or name == "heun-churn"
    for given, (_, t, x, x0_hat) in zip(times, seen, strict=False):
        assert t >= given
        assert torch.equal(x0_hat, Shrink()(x, t))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_is_kept_and_conditions_pass(name, dtype):
    """Heun asks twice a step, but once in the one that ends at 0; the others once a step."""
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
    result = SAMPLERS[name](denoise, x, [990.0, 400.0, 100.0, 0.0], generator(), label=label)
    assert result.dtype == dtype
    assert bool(result.isfinite().all())
    assert all(given is label for given in labels)
    assert len(labels) == (5 if name.startswith("heun") else 3)


def test_the_helpers_of_this_file():
    """A network that is told its timesteps differs from one that is asked."""
    network, told = Network(), Told([3.0, 500.0])
    x, t = start(), torch.full((2,), 500.0)
    assert not torch.equal(told(x, t), network(x, t))
    assert torch.equal(told(x, 0 * t), network(x, t))
    assert all(t > u for t, u in pairwise(times_of(EulerDiscreteScheduler())))
