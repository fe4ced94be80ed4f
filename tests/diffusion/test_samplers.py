"""The samplers against diffusers and the papers' algorithms, their lists of times, and what a caller may rely on."""

import math
import weakref
from fractions import Fraction
from functools import partial
from itertools import pairwise

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
)
from every_sampler import SAMPLERS as EVERY
from oracle import Network, Shrink, Told, assert_same, ours, start, theirs

from fromnoise.diffusion.exact import EmpiricalDenoiser
from fromnoise.diffusion.parameterization import NetworkDenoiser, Prediction
from fromnoise.diffusion.process import noise_like
from fromnoise.diffusion.samplers import Moment, Spacing, Variance, ddim, ddpm, final, flow_times, sampling_times
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
SAMPLERS = EVERY | {"ddpm-large": partial(ddpm, variance=Variance.LARGE)}
WHOLE = [Spacing.LEADING, Spacing.TRAILING, Spacing.LINSPACE]
COUNTS = [1, 2, 3, 5, 7, 10, 15, 20, 25, 30, 50, 99, 100, 250, 333, 500, 501, 998, 999, 1000]


def generator():
    return torch.Generator().manual_seed(9)


# ---------------------------------------------------------------- lists of times


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
@pytest.mark.parametrize("spare", [0, 1])
def test_every_list_falls_strictly_to_zero(spacing, offset, spare):
    for total in (1, 2, 10, 37, 1000):
        schedule = Schedule(linear_betas(total))
        for steps in range(1, total + 1):
            times = sampling_times(schedule, steps, spacing, offset, spare=spare)
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


# ---------------------------------------------------------------- against diffusers

LINEAR = {"beta_start": 1e-4, "beta_end": 0.02}
STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
EULER_AND_HEUN = [(euler, EulerDiscreteScheduler), (heun, HeunDiscreteScheduler)]
MULTISTEP = [
    (dpmpp_2m, partial(DPMSolverMultistepScheduler, algorithm_type="dpmsolver++")),
    (dpmpp_2m_sde, partial(DPMSolverMultistepScheduler, algorithm_type="sde-dpmsolver++")),
]


def times_of(scheduler):
    """The list of times that a scheduler of diffusers visits, Heun's doubles once."""
    indices = scheduler.timesteps.unique_consecutive().tolist()
    return [*(index + 1 for index in indices), 0.0]


def assert_draws_the_same(sampler, denoise, oracle, steps, spacing, rounded=True, spare=0, **options):
    """At the times of a spacing, with the same noise."""
    expected = theirs(oracle, steps, **options)
    times = sampling_times(1000, steps, Spacing(spacing), rounded=rounded, spare=spare)
    assert times == times_of(oracle)
    assert_same(final(sampler(denoise, start(), times, generator())), expected)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("variance", Variance)
@pytest.mark.parametrize("steps", [10, 50, 1000])
def test_ddpm_equals_diffusers(steps, variance, clip):
    oracle = DDPMScheduler(clip_sample=clip, variance_type=variance.value)
    assert_draws_the_same(partial(ddpm, variance=variance), ours("epsilon", clip), oracle, steps, "leading")


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_ddpm_equals_diffusers_at_other_spacings(spacing):
    """DDPMScheduler looks the next time up in its list, and is right. DDIMScheduler subtracts T // N from the last one
    instead, and so steps to noise levels that are not those it asks the network about next.
    """
    oracle = DDPMScheduler(clip_sample=True, timestep_spacing=spacing)
    assert_draws_the_same(ddpm, ours("epsilon", True), oracle, 30, spacing)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [10, 50, 1000])
def test_ddim_equals_diffusers(steps, eta, clip):
    """With clipping, diffusers by default keeps the noise of the image that was clipped away, so that image and noise
    no longer make up x; `use_clipped_model_output` is the right one.
    """
    oracle, options = DDIMScheduler(clip_sample=clip), {"eta": eta, "use_clipped_model_output": clip}
    assert_draws_the_same(partial(ddim, eta=eta), ours("epsilon", clip), oracle, steps, "leading", **options)


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
@pytest.mark.parametrize(
    ("sampler", "scheduler", "options"),
    [(ddpm, DDPMScheduler, {}), (partial(ddim, eta=0.5), DDIMScheduler, {"eta": 0.5})],
)
def test_other_predictions_equal_diffusers(sampler, scheduler, options, prediction):
    oracle = scheduler(clip_sample=False, prediction_type=prediction)
    assert_draws_the_same(sampler, ours(prediction), oracle, 20, "leading", **options)


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("steps", [10, 50])
def test_ddim_equals_diffusers_from_nothing_but_noise(steps, eta):
    """With a v-network, from time T, where alpha is 0. At eta = 1 diffusers may take the root of a rounding error
    below 0 there, and is not a number.
    """
    oracle = DDIMScheduler(
        rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False
    )
    denoise = ours("v_prediction", betas=zero_terminal_snr(linear_betas()))
    assert_draws_the_same(partial(ddim, eta=eta), denoise, oracle, steps, "trailing", eta=eta)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [3, 10, 40])
@pytest.mark.parametrize(("sampler", "scheduler"), EULER_AND_HEUN)
def test_euler_and_heun_equal_diffusers(sampler, scheduler, steps, spacing):
    """Their linspace is not rounded, as DDIM's is."""
    oracle = scheduler(timestep_spacing=spacing, **LINEAR)
    expected = theirs(oracle, steps)
    times = sampling_times(1000, steps, Spacing(spacing), rounded=False)
    assert times == pytest.approx(times_of(oracle), rel=1e-7)
    assert_same(final(sampler(ours("epsilon"), start(), times, generator())), expected)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("steps", [2, 10, 40])
@pytest.mark.parametrize(("sampler", "scheduler"), MULTISTEP)
def test_dpmpp_equals_diffusers(sampler, scheduler, steps, prediction):
    """Trailing is the spacing we share."""
    oracle = scheduler(timestep_spacing="trailing", prediction_type=prediction)
    assert_draws_the_same(sampler, ours(prediction), oracle, steps, "trailing")


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
@pytest.mark.parametrize(("sampler", "scheduler"), MULTISTEP)
def test_dpmpp_equals_diffusers_at_its_own_times(sampler, scheduler, spacing):
    """Its leading and linspace cut T into one step more than asked and leave the cleanest time out: a last step from
    there to 0 is longer than all others.
    """
    assert_draws_the_same(sampler, ours("epsilon"), scheduler(timestep_spacing=spacing), 20, spacing, spare=1)


@pytest.mark.parametrize(
    ("sampler", "scheduler", "spacing", "option", "apart"),
    [
        *((*pair, "karras", "use_karras_sigmas", 0.5) for pair in EULER_AND_HEUN),
        *((*pair, "karras", "use_karras_sigmas", 1) for pair in MULTISTEP),
        *((*pair, "log-snr", "use_lu_lambdas", 1) for pair in MULTISTEP),
    ],
)
def test_spacings_by_noise_level_equal_diffusers(sampler, scheduler, spacing, option, apart):
    """The same noise levels, on a schedule that stays below 80. From a level to its timestep diffusers interpolates
    linearly in log sigma, though it goes the other way linearly in sigma, and for DPM-Solver++ it rounds the timestep.
    Told the same timesteps, our network draws the same.
    """
    oracle = scheduler(**STABLE_DIFFUSION, **{option: True})
    expected = theirs(oracle, 12)
    denoise = ours("epsilon", network=Told(oracle.timesteps), betas=scaled_linear_betas())
    times = sampling_times(denoise.schedule, 12, Spacing(spacing))
    levels = denoise.schedule.noise_to_signal(torch.tensor(times, dtype=F64)).float()
    torch.testing.assert_close(levels, oracle.sigmas.unique_consecutive(), rtol=1e-3, atol=0)
    assert max(abs(t - u) for t, u in zip(times, times_of(oracle), strict=True)) < apart
    assert_same(final(sampler(denoise, start(), times, generator())), expected)


FLOW_DPM = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [
        *(
            (sampler, partial(FlowMatchEulerDiscreteScheduler, shift=k))
            for sampler in (euler, ddim)
            for k in (1.0, 3.0)
        ),
        (heun, partial(FlowMatchHeunDiscreteScheduler, shift=3.0)),
        *((sampler, partial(scheduler, **FLOW_DPM)) for sampler, scheduler in MULTISTEP),
    ],
)
def test_flows_equal_diffusers(sampler, scheduler):
    """From t = 1. At its times, since its last step is from sigma = 1/1000, shifted, so that it shifts twice; told the
    same timesteps, since DPM-Solver++ rounds them down.
    """
    oracle = scheduler()
    expected = theirs(oracle, 10)
    times = oracle.sigmas.unique_consecutive().tolist()
    assert (round(times[0], 2), times[-1], len(times)) == (1, 0, 11)
    denoise = NetworkDenoiser(Told(oracle.timesteps), FlowSchedule(), Prediction.FLOW)
    assert_same(final(sampler(denoise, start(), times, generator())), expected)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_flow_times_equal_diffusers(factor):
    """For a list of times of its caller's it shifts once, as we do."""
    oracle = FlowMatchEulerDiscreteScheduler(shift=factor)
    expected = theirs(oracle, None, sigmas=[i / 10 for i in range(10, 0, -1)])
    denoise = NetworkDenoiser(Network(), FlowSchedule(), Prediction.FLOW)
    assert_same(final(euler(denoise, start(), flow_times(10, factor), generator())), expected)


def test_a_network_that_is_told_its_timesteps():
    """It differs from one that is asked: a comparison by `Told` compares what it says."""
    network, told = Network(), Told([3.0, 500.0])
    x, t = start(), torch.full((2,), 500.0)
    assert not torch.equal(told(x, t), network(x, t))
    assert torch.equal(told(x, 0 * t), network(x, t))


# ---------------------------------------------------------------- against each other and the papers


@pytest.mark.parametrize("variance", Variance)
@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_ddpm_starts_from_nothing_but_noise(prediction, variance):
    """x_T says nothing: the first step draws around alpha(u) x0_hat, of which the network's answer is all."""
    denoise = ours(prediction, betas=zero_terminal_snr(linear_betas()))
    x, t = start(), torch.full((2,), 1000.0)
    output = denoise.network(x, t - 1)
    torch.testing.assert_close(denoise(x, t), -output if prediction == "v_prediction" else output)
    result = final(ddpm(denoise, x, [1000.0, 600.0], generator(), variance=variance))
    z = torch.randn(x.shape, generator=generator())
    alpha, sigma = denoise.schedule.alpha(t - 400)[0], denoise.schedule.sigma(t - 400)[0]
    torch.testing.assert_close(result, alpha * denoise(x, t) + (sigma if variance is Variance.SMALL else 1) * z)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_solvers_from_nothing_but_noise(prediction):
    """Where alpha is 0 the DPM-Solvers start as DDIM and DDPM do. The second step knows that the first was infinitely
    long in log-SNR, and does not extrapolate. Euler and Heun, which divide by alpha, refuse.
    """
    denoise, x = ours(prediction, betas=zero_terminal_snr(linear_betas())), start()
    for one, other in ((dpmpp_2m, ddim), (dpmpp_2m_sde, ddpm)):
        pair = (final(f(denoise, x, [1000.0, 600.0, 300.0], generator())) for f in (one, other))
        torch.testing.assert_close(*pair)
        assert bool(final(one(denoise, x, sampling_times(1000, 9, Spacing.TRAILING), generator())).isfinite().all())
    for refused in (euler, heun):
        with pytest.raises(ValueError, match="sigma / alpha is infinite at time 1000: start later"):
            next(refused(denoise, x, [1000.0, 600.0, 0.0], generator()))
        times = sampling_times(denoise.schedule, 9, Spacing.KARRAS)
        assert bool(final(refused(denoise, x, times, generator())).isfinite().all())


@pytest.mark.parametrize(("steps", "spacing"), [(7, Spacing.KARRAS), (20, Spacing.TRAILING)])
def test_euler_is_ddim(steps, spacing):
    denoise = ours("v_prediction", clip=True)
    times = sampling_times(denoise.schedule, steps, spacing)
    one, other = (final(sampler(denoise, start(), times, generator())) for sampler in (euler, ddim))
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
    actual = final(heun(denoise, x, times, generator(), churn=churn, churn_levels=(low, high)))
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-9)
    assert churn == 0 or not torch.allclose(actual, final(heun(denoise, x, times, generator())), atol=1e-3)


def test_dpmpp_2m_sde_starts_as_ancestral_sampling():
    """Its first step, and its only one, are those of `ddpm` with beta~; the second is not."""
    for times in ([900.0, 400.0], [700.0, 0.0], [900.0, 400.0, 100.0]):
        one, other = (final(f(ours("v_prediction"), start(), times, generator())) for f in (dpmpp_2m_sde, ddpm))
        assert torch.equal(one, other) if len(times) == 2 else not torch.allclose(one, other)


def test_dpmpp_2m_sde_keeps_marginals():
    """Monte Carlo on one image, at 4 standard errors: every x_t has the forward process's mean and variance."""
    schedule, image = Schedule(linear_betas(10, 0.02, 0.5)), torch.tensor([[0.7]], dtype=F64)
    times = [10.0, 6.0, 3.5, 1.0, 0.0]
    alpha, sigma = (f(torch.tensor(times, dtype=F64)) for f in (schedule.alpha, schedule.sigma))
    x = alpha[0] * image + sigma[0] * torch.randn(50_000, 1, generator=generator(), dtype=F64)
    *seen, last = dpmpp_2m_sde(EmpiricalDenoiser(schedule, image), x, times, generator())
    assert torch.equal(last.x, image.expand(50_000, 1))
    for a, s, (_, x, _) in zip(alpha[1:-1], sigma[1:-1], seen, strict=True):
        for values, expected in ((x, a * image[0]), ((x - a * image).square(), s.square())):
            assert (values.mean() - expected).abs() < 4 * values.std() / len(values) ** 0.5


# ---------------------------------------------------------------- what a caller may rely on


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("spacing", [*Spacing, "flow"])
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_one_image_comes_out_exactly(name, spacing, steps):
    """Data that are one image: any sampler finds it in any number of steps, to rounding. On a flow it starts at t = 1,
    where nothing is left of the image, and with churn it visits times between.
    """
    image = torch.tensor([[0.7, -1.0]], dtype=F64).expand(4, 2)

    def denoise(x, t):
        return image

    denoise.schedule = FlowSchedule() if spacing == "flow" else Schedule(cosine_betas(100))
    times = flow_times(steps) if spacing == "flow" else sampling_times(denoise.schedule, steps, spacing)
    x = torch.randn(4, 2, generator=generator(), dtype=F64)
    result = final(SAMPLERS[name](denoise, x, times, generator()))
    torch.testing.assert_close(result, image, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sample_does_not_depend_on_its_neighbours(name):
    """With a generator for each sample, sample i of a batch is the very one drawn alone, and in any other batch."""
    times = sampling_times(Shrink.schedule, 13, Spacing.KARRAS)

    def draw(seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        x = noise_like(torch.empty(len(seeds), 1, 4, 4), generators)
        return final(SAMPLERS[name](Shrink(), x, times, generators))

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
    final(SAMPLERS[name](Shrink(), start(), sampling_times(800, 5, Spacing.TRAILING), given))
    assert torch.equal(given.get_state(), before) == (name in ("ddim", "euler", "heun", "dpmpp-2m"))


@pytest.mark.parametrize("name", SAMPLERS)
def test_moments(name):
    """One after each step: its end, x there, and what the denoiser said at its start. Nothing is asked in advance, and
    Heun's method asks a second time in each step but the last. With churn a step starts at a raised noise level.
    """
    asked = []

    def denoise(x, t):
        asked.append((x, t.unique().item(), 0.5 * x.clamp(-1, 1)))
        return asked[-1][2]

    denoise.schedule = Shrink.schedule
    times, x, seen = [900.0, 500.5, 20.0, 0.0], start(), []
    for count, moment in enumerate(SAMPLERS[name](denoise, x, times, generator()), 1):
        seen.append(moment)
        assert len(asked) == (min(2 * count, 5) if name.startswith("heun") else count)
    assert [moment.t for moment in seen] == times[1:]
    questions = asked[::2] if name.startswith("heun") else asked
    for begins, x_there, question, moment in zip(
        times, [x, *(moment.x for moment in seen)], questions, seen, strict=False
    ):
        x_asked, t_asked, answer = question
        assert moment.x0_hat is answer
        assert t_asked > begins if name == "heun-churn" else t_asked == begins
        assert torch.equal(x_asked, x_there) == (name != "heun-churn")
    assert torch.equal(final(seen), seen[-1].x)


def test_final_keeps_no_earlier_moment():
    alive = []

    def moments():
        for t in (2.0, 1.0, 0.0):
            x = torch.full((3,), t)
            alive.append(weakref.ref(x))
            yield Moment(t, x, x)
            del x
            assert sum(reference() is not None for reference in alive) == 1

    assert final(moments()).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="no step"):
        final(ddim(Shrink(), start(), [1000.0], generator()))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_is_kept_and_conditions_pass(name, dtype):
    label, x = torch.tensor([1, 2]), torch.ones(2, 3, dtype=dtype)

    def denoise(x, t, label):
        assert label is given
        assert x.dtype == dtype
        assert t.shape == (2,)
        assert t.dtype == torch.promote_types(dtype, torch.float32)
        return 0.5 * x

    denoise.schedule, given = Schedule(linear_betas()), label
    for moment in SAMPLERS[name](denoise, x, [990.0, 400.0, 100.0, 0.0], generator(), label=label):
        assert moment.x.dtype == dtype
        assert bool(moment.x.isfinite().all())
