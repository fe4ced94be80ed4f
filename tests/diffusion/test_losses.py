"""The training objective: weights that mean the same whatever the network predicts."""

import pytest
import torch

from fromnoise.diffusion.exact import gaussian_denoiser
from fromnoise.diffusion.losses import Weighting, loss_weight, squared_error, training_loss, vlb_weight
from fromnoise.diffusion.parameterization import Prediction, from_x0
from fromnoise.diffusion.schedules import FlowSchedule, Schedule, cosine_betas, linear_betas

F64 = torch.float64
TIMES = torch.tensor([1, 2, 60, 300, 999, 1000], dtype=F64)


def batch(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, 2, 3, generator=generator, dtype=F64)


def as_network(schedule, prediction, denoise):
    """The network of this kind that stands for a denoiser; it gets the index t - 1, as every network."""

    def network(x, index):
        alpha, sigma = (values.view(-1, 1, 1) for values in (schedule.alpha(index + 1), schedule.sigma(index + 1)))
        return from_x0(prediction, denoise(x, alpha, sigma), x, alpha, sigma)

    return network


@pytest.mark.parametrize("weighting", [w for w in Weighting if w is not Weighting.OUTPUT])
@pytest.mark.parametrize("betas", [linear_betas(), cosine_betas()])
def test_the_prediction_does_not_change_the_loss(weighting, betas):
    schedule, (x0, noise) = Schedule(betas), batch(6)

    def denoise(x, alpha, sigma):
        return torch.tanh(2 * x) - 0.3 * alpha

    losses = [
        training_loss(as_network(schedule, p, denoise), schedule, p, weighting, x0, TIMES, noise) for p in Prediction
    ]
    assert losses[0].shape == (6,)
    for loss in losses:
        torch.testing.assert_close(loss, losses[1], rtol=1e-7, atol=0)


def test_weights_by_hand():
    """SNR 4, then 1/4 (alpha_bar .8 and .2): every weight for every prediction, as numbers."""
    schedule, t = Schedule(torch.tensor([0.2, 0.75], dtype=F64)), torch.tensor([1, 2], dtype=F64)
    vlb = [1 / (2 * 0.2), (4 - 0.25) / 2]
    by_hand = {
        (Weighting.SIMPLE, Prediction.NOISE): [1, 1],
        (Weighting.SIMPLE, Prediction.IMAGE): [4, 0.25],
        (Weighting.SIMPLE, Prediction.VELOCITY): [0.8, 0.2],
        (Weighting.SIMPLE, Prediction.FLOW): [4 / 9, 1 / 9],  # / (sqrt(SNR) + 1)^2, here 9 and 2.25
        (Weighting.OUTPUT, Prediction.NOISE): [1, 1],
        (Weighting.OUTPUT, Prediction.IMAGE): [1, 1],
        (Weighting.OUTPUT, Prediction.VELOCITY): [1, 1],
        (Weighting.OUTPUT, Prediction.FLOW): [1, 1],
        (Weighting.VLB, Prediction.NOISE): [vlb[0] / 4, vlb[1] / 0.25],
        (Weighting.VLB, Prediction.IMAGE): vlb,
        (Weighting.VLB, Prediction.VELOCITY): [vlb[0] / 5, vlb[1] / 1.25],
        (Weighting.VLB, Prediction.FLOW): [vlb[0] / 9, vlb[1] / 2.25],
        (Weighting.MIN_SNR, Prediction.NOISE): [3.5 / 4, 1],
        (Weighting.MIN_SNR, Prediction.IMAGE): [3.5, 0.25],
        (Weighting.MIN_SNR, Prediction.FLOW): [3.5 / 9, 1 / 9],
        (Weighting.MIN_SNR, Prediction.VELOCITY): [3.5 / 5, 0.2],  # / (SNR + 1); not min(SNR + 1, gamma) / (SNR + 1)
    }
    assert len(by_hand) == len(Weighting) * len(Prediction)
    for (weighting, prediction), expected in by_hand.items():
        actual = loss_weight(weighting, prediction, schedule, t, gamma=3.5)
        torch.testing.assert_close(actual, torch.tensor(expected, dtype=F64), rtol=1e-12, atol=0, msg=str(weighting))


def test_weights_in_float32():
    """A float32 time gives finite float32 weights, close to those in float64, also where ratios cancel."""
    t = torch.arange(1, 1001, dtype=F64)
    for betas in (linear_betas(), cosine_betas()):
        schedule = Schedule(betas)
        for weighting in Weighting:
            for prediction in Prediction:
                high, low = (loss_weight(weighting, prediction, schedule, time) for time in (t, t.float()))
                assert low.dtype == torch.float32
                torch.testing.assert_close(low.double(), high, rtol=2e-3, atol=1e-6)
        assert bool((vlb_weight(schedule, t.float()) > 0).all())


@pytest.mark.parametrize("prediction", Prediction)
@pytest.mark.parametrize("weighting", Weighting)
def test_loss_of_the_best_predictor(prediction, weighting):
    """On N(0, s^2) the exact denoiser leaves Var(x_0 | x_t) in the image: s^2 sigma^2 / (a^2 s^2 + sigma^2), at 4
    standard errors; any other line does worse.
    """
    schedule, count, variance = Schedule(linear_betas()), 10_000, torch.tensor(0.25, dtype=F64)
    x0, noise = batch(count)
    x0 = x0 * variance.sqrt()
    for time in (50.0, 400.0, 1000.0):
        t = torch.full((count,), time, dtype=F64)

        def loss(gain, t=t):
            def denoise(x, alpha, sigma):
                return gain * gaussian_denoiser(x, alpha, sigma, torch.zeros(1, dtype=F64), variance)

            network = as_network(schedule, prediction, denoise)
            return training_loss(network, schedule, prediction, weighting, x0, t, noise)

        alpha2 = schedule.alpha_bar[int(time)]
        left = variance * (1 - alpha2) / (alpha2 * variance + 1 - alpha2)
        scale = {
            Prediction.NOISE: alpha2 / (1 - alpha2),
            Prediction.IMAGE: 1.0,
            Prediction.VELOCITY: 1 / (1 - alpha2),
            Prediction.FLOW: (1 + (alpha2 / (1 - alpha2)).sqrt()).square(),
        }
        expected = left * scale[prediction] * loss_weight(weighting, prediction, schedule, t[:1])
        best = loss(1.0)
        assert (best.mean() - expected).abs() < 4 * best.std() / count**0.5
        if time < 1000:
            assert loss(0.8).mean() > best.mean() < loss(1.2).mean()


@pytest.mark.parametrize("prediction", [Prediction.IMAGE, Prediction.FLOW])
def test_loss_on_the_path_of_flow_matching(prediction):
    """The plain mean squared error, of a network that is told 1000 t; the bound needs steps."""
    schedule, (x0, noise) = FlowSchedule(), batch(5)
    t, asked = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=F64), []

    def network(x, timestep):
        asked.append((x, timestep))
        return 0.3 * x

    loss = training_loss(network, schedule, prediction, Weighting.OUTPUT, x0, t, noise)
    ((x, timestep),) = asked
    torch.testing.assert_close(x, (1 - t)[:, None, None] * x0 + t[:, None, None] * noise)
    assert timestep.tolist() == [0, 100, 500, 900, 1000]
    target = noise - x0 if prediction is Prediction.FLOW else x0
    torch.testing.assert_close(loss, (0.3 * x - target).square().mean((1, 2)))
    with pytest.raises(ValueError, match="the variational bound is a sum over whole steps, and FlowSchedule has none"):
        training_loss(network, schedule, prediction, Weighting.VLB, x0, t, noise)


def test_squared_error_is_a_mean_in_float32():
    """bf16 outputs are compared in float32, and a sample's error does not depend on its number of pixels."""
    output, target = torch.full((2, 3, 64, 64), 1.0, dtype=torch.bfloat16), torch.full((2, 3, 64, 64), 1.01)
    error = squared_error(output, target)
    assert error.dtype == torch.float32
    assert error.shape == (2,)
    torch.testing.assert_close(error, torch.full((2,), 1e-4), rtol=1e-3, atol=0)
    assert squared_error(output.double(), target).dtype == F64


def test_conditions_reach_the_network():
    seen = {}

    def network(x, index, **condition):
        seen.update(index=index, **condition)
        return x

    x0, noise = batch(6)
    label = torch.arange(6)
    schedule = Schedule(linear_betas())
    training_loss(network, schedule, Prediction.NOISE, Weighting.SIMPLE, x0, TIMES, noise, label=label)
    assert seen["label"] is label
    assert torch.equal(seen["index"], TIMES - 1)
