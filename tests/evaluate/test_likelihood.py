"""Bits per dimension of real images: by hand where the network predicts nothing, and of the model that ships."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import norm
from stand_ins import untrained

from fromnoise.data.images import Images, from_pixels, load_images
from fromnoise.errors import UserError
from fromnoise.evaluate.likelihood import check_images, evaluations_for_an_image, measure_nll
from fromnoise.models import open_model
from fromnoise.sampling.generate import generate
from fromnoise.sampling.plan import plan
from fromnoise.sampling.request import Request

DIGITS = load_images("digits", "test", channels=1, size=8, labelled=True)
FEW = Images(DIGITS.pixels[:6], DIGITS.labels[:6] % 3)
DIMS = 64


def silent(**noise):
    """A model whose network, not trained yet, answers 0 whatever it sees, for 8x8 images."""
    return untrained((1, 8, 8), beta_start=0.02, beta_end=0.6, **noise)


def measured(model, images, n=99, **options):
    """On the CPU."""
    progress, ode_steps = options.pop("progress", None), options.pop("ode_steps", 2)
    planned = plan(model, Request(device="cpu", **options))
    return measure_nll(planned, images, n, ode_steps=ode_steps, progress=progress)


def mean_and_error(bits):
    return pytest.approx((bits.mean().item(), bits.std().item() / len(bits) ** 0.5), rel=1e-4)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_the_bound_by_hand(variance):
    """If x0_hat is always grey, nothing is random: all terms are known, with either variance."""
    model = silent(prediction_type="sample", variance_type=variance)
    vlb = measured(model, FEW)["vlb"]
    x0, schedule = from_pixels(FEW.pixels).double().flatten(1), model.noise.schedule()
    betas, alpha_bar, squares = schedule.betas, schedule.alpha_bar, x0.square().sum(1)

    upper, lower = (norm.cdf((x0.numpy() + half) / betas[0].sqrt().item()) for half in (1 / 255, -1 / 255))
    upper[x0 == 1], lower[x0 == -1] = 1, 0
    decoder = -torch.tensor(upper - lower).log().sum(1)
    steps = torch.zeros(len(x0), dtype=torch.float64)
    for t in range(2, 21):
        small = (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * betas[t - 1]
        chosen = small if variance == "fixed_small" else betas[t - 1]
        share = alpha_bar[t - 1].sqrt() * betas[t - 1] / (1 - alpha_bar[t])
        ratio = small / chosen
        steps += share**2 * squares / (2 * chosen) + DIMS / 2 * (ratio - 1 - ratio.log())
    prior_gap = (alpha_bar[-1] * squares + DIMS * (-alpha_bar[-1] - (1 - alpha_bar[-1]).log())) / 2

    in_bits = 1 / (DIMS * math.log(2))
    for name, nats in {"decoder": decoder, "steps": steps, "prior_gap": prior_gap}.items():
        figures = vlb.details[name], vlb.details[f"{name}_standard_error"]
        assert figures == mean_and_error(nats * in_bits)
    assert (vlb.value, vlb.details["standard_error"]) == mean_and_error((decoder + steps + prior_gap) * in_bits)
    assert vlb.details["images"] == 6
    assert f"{vlb.value:.3f} +- {vlb.details['standard_error']:.3f} bits per dimension of 6 images" in vlb.meaning


def test_the_ode_by_hand():
    """If v is 0 the curve stands still: images with uniform noise, at time 1, are taken for normal ones."""
    model = silent(prediction_type="v_prediction")
    ode = measured(model, FEW, ode_steps=3, seed=5)["ode"]
    noise = torch.stack([torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(5 + i)) for i in range(6)])
    x0 = (from_pixels(FEW.pixels) + (noise - 0.5) / 127.5).double().flatten(1)
    alpha = (1 - model.noise.schedule().betas[0]).sqrt()
    nats = -(torch.tensor(norm.logpdf(alpha * x0)) + alpha.log()).sum(1)
    expected = nats / (DIMS * math.log(2)) + math.log2(127.5)
    assert (ode.value, ode.details["standard_error"]) == mean_and_error(expected)
    assert "of 6 images by the density of the ODE, in 3 steps" in ode.meaning


def test_an_image_does_not_depend_on_how_many_are_measured(conditional):
    """The first two are the same among three, by the mean and the standard error; and the evaluations are counted."""
    model, done = open_model(conditional), []
    images = Images(DIGITS.pixels[:24], DIGITS.labels[:24] % 3)
    two = measured(model, images, 2)
    three = measured(model, images, 3, progress=done.append)
    assert sum(done) == 3 * evaluations_for_an_image(model, 2) == 3 * (20 + 4 * 2)
    for name in ("vlb", "ode"):
        half = two[name].details["standard_error"]  # of the difference
        third = 3 * three[name].value - 2 * two[name].value
        all_three = torch.tensor([two[name].value - half, two[name].value + half, third])
        assert three[name].details["standard_error"] == pytest.approx(all_three.std().item() / 3**0.5, rel=1e-3)
    assert measured(model, images)["vlb"].details["images"] == 24
    assert measured(model, images, 2, seed=1)["vlb"].value != two["vlb"].value


def test_the_label_counts(conditional):
    model = open_model(conditional)
    right, wrong = (
        measured(model, Images(DIGITS.pixels[:4], torch.tensor(labels))) for labels in ([0, 1, 2, 0], [1, 2, 0, 1])
    )
    for name in ("vlb", "ode"):
        assert abs(right[name].value - wrong[name].value) > 1e-3


def test_a_model_that_ends_in_nothing_but_noise():
    model = silent(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    assert all(math.isfinite(found.value) for found in measured(model, FEW, 2, sampler="ddim").values())


@pytest.mark.slow
def test_the_model_that_ships(monkeypatch):
    """What it draws costs it less than 3 of 8 bits, by the bound and by the ODE, which is the lower one here."""
    monkeypatch.setattr("fromnoise.sampling.plan.rows_at_a_time", lambda *_: 2)  # no more than are measured
    request = Request(n=2, sampler="ddim", steps=12, classes=(3, 8), guidance=1.0)
    model = open_model("mnist-conditional")
    images = Images(generate(model, request), torch.tensor([3, 8]))
    found = measured(model, images, ode_steps=10)
    vlb, ode = found["vlb"], found["ode"]
    assert 0.5 < ode.value < vlb.value < 3
    assert vlb.value == pytest.approx(sum(vlb.details[name] for name in ("decoder", "steps", "prior_gap")))
    assert vlb.details["prior_gap"] < 1e-6 < 0.1 < min(vlb.details["decoder"], vlb.details["steps"])


@pytest.mark.parametrize(
    ("images", "n", "complaint"),
    [
        (FEW, 1, "takes 2 images or more, not 1"),
        (Images(FEW.pixels[:1], FEW.labels[:1]), 9, "takes 2 images or more, not 1"),
        (replace(FEW, labels=None), 2, "the real images need labels"),
        (replace(FEW, labels=FEW.labels + 3), 2, "this model knows 0 to 2"),
    ],
)
def test_what_is_refused(conditional, images, n, complaint):
    check_images(open_model(conditional), FEW, 2)
    with pytest.raises(UserError, match=complaint):
        check_images(open_model(conditional), images, n)
