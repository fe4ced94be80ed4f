"""An evaluation as a whole: the figures are of the images that the request draws, and the record says how."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from small_sd import save_pipeline
from stand_ins import save_noise, untrained
from torch import nn

from fromnoise.errors import UserError
from fromnoise.evaluate import features, report
from fromnoise.evaluate.classifier import judge, open_classifier
from fromnoise.evaluate.distances import frechet_distance, kernel_distance, precision_recall
from fromnoise.evaluate.reference import RealImages
from fromnoise.evaluate.report import prepare
from fromnoise.models import open_model
from fromnoise.sampling.generate import generate
from fromnoise.sampling.request import Request

SHAPE, DIGITS = (1, 28, 28), tuple("0123456789")
KEYS = "n classes sampler steps evaluations spacing eta variance clip guidance guide guidance_interval guidance_rescale"


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """A model of colour images, real ones, and a network in place of Inception."""
    monkeypatch.setattr(features, "open_inception", Means)
    source = save_noise(tmp_path / "colours-jpeg", (8, 8, 3), train=9, test=12)
    return untrained((3, 8, 8)), RealImages(source, "test", (3, 8, 8))


class Means(nn.Module):
    """In place of Inception: the means of five columns of the green channel."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return (x[:, 1, :, :5].float().mean(1) * self.weight,)


def real_digits(source):
    return RealImages(source, "test", SHAPE, DIGITS)


def seen(pixels):
    return judge(open_classifier()[0], pixels).features


@pytest.mark.parametrize("data_mix", [False, True])
def test_the_figures_are_of_these_images(digits, noise, data_mix):
    """Each figure, computed here from the images that the request draws, from their halves and from real images."""
    real, n = real_digits(noise), 20
    classes = tuple(real.class_mix(n)) if data_mix else None
    drawn = generate(digits, Request(n=n, steps=1, classes=classes))
    labels = torch.tensor(classes) if classes else torch.arange(n) % 10
    other = real.comparison(n, labels)
    test, baseline, of_classes = (seen(other[name]) for name in ("reference", "baseline", "baseline of classes"))
    judged = judge(open_classifier()[0], drawn)
    right = (judged.digits == labels).double()

    figures = prepare(digits, Request(n=n, steps=1), None, real, data_mix=data_mix).run().record["metrics"]
    assert list(figures) == ["accuracy", "fd", "kid", "precision", "recall"]
    assert figures["accuracy"]["value"] == right.mean().item()
    assert figures["accuracy"]["details"]["halves"] == [half.mean().item() for half in right.split(10)]
    expected = {
        "fd": lambda x: frechet_distance(x, test),
        "kid": lambda x: kernel_distance(x, test),
        "precision": lambda x: precision_recall(x, test[: len(x)])[0],
        "recall": lambda x: precision_recall(x, test[: len(x)])[1],
    }
    for name, figure in expected.items():
        details = figures[name]["details"]
        assert figures[name]["value"] == pytest.approx(figure(judged.features), rel=1e-4)
        assert details["halves"] == pytest.approx([figure(half) for half in judged.features.split(10)], rel=1e-4)
        assert details["features"] == "classifier"
        assert (details["real"]["split"], details["real"]["n"]) == ("train", n)
        assert details["real"]["value"] == pytest.approx(figure(baseline), rel=1e-4)
        if data_mix:
            assert "real_of_these_classes" not in details
        else:
            assert details["real_of_these_classes"] == pytest.approx(figure(of_classes), rel=1e-4)
    fd = figures["fd"]
    assert fd["details"]["ratio"] == pytest.approx(fd["value"] / fd["details"]["real"]["value"])
    assert f"{fd['details']['ratio']:.2f} times the distance of 20 training images" in fd["meaning"]


REQUESTS = [
    ({}, (11, 11, None, None), "by dpmpp-2m-sde, 11 steps, trailing spacing, clipped, guidance 1: 11 network "),
    (
        {"sampler": "heun", "steps": 5, "guidance": 3.0, "guidance_rescale": 0.7},
        (3, 10, None, None),
        "by heun, 3 steps, karras spacing, clipped, guidance 3, rescaled by 0.7: 10 network ",
    ),
    (
        {"sampler": "ddim", "steps": 3, "eta": 0.5, "clip": False, "classes": (1, 2), "seed": 3, "dtype": "bf16"},
        (3, 3, 0.5, None),
        "2 images of classes 1,2 by ddim, 3 steps, trailing spacing, eta 0.5, not clipped, guidance 1: 3 network "
        "evaluations each; seed 3, bf16",
    ),
    (
        {"sampler": "ddpm", "steps": 2, "spacing": "leading", "guidance": 2.0, "guidance_interval": (0.5, 5.0)},
        (2, 3, None, "fixed_small"),
        "leading spacing, variance fixed_small, clipped, guidance 2, only at noise levels 0.5 to 5: 3 network ",
    ),
]


@pytest.mark.parametrize(("options", "expected", "title"), REQUESTS)
def test_the_record_repeats_the_figures(digits, options, expected, title):
    """It leaves nothing open, and from the request in it, which went through JSON, comes the same record."""
    first = prepare(digits, Request(n=2, **options), ("accuracy",)).run()
    record = json.loads(json.dumps(first.record))
    assert {*KEYS.split(), "seed", "dtype", "device", "metrics", "reference", "request"} <= record.keys()
    assert (record["steps"], record["evaluations"], record["eta"], record["variance"]) == expected
    assert None not in (record[name] for name in ("n", "spacing", "clip"))
    assert title in first.title and "against" not in first.title
    assert record["reference"] is None
    again = prepare(digits, Request(**record["request"]), ("accuracy",)).run()
    assert json.loads(json.dumps(again.record)) == record


def test_the_evaluations_ahead_are_counted(digits, noise):
    """Guided ones twice, in an interval of noise levels; those of the bound and the ODE, too."""
    request = Request(n=5, sampler="dpmpp-2m", steps=6, guidance=2.0, guidance_interval=(0.5, 5.0), batch_size=2)
    for metrics in (("accuracy",), ("accuracy", "nll")):
        prepared, done = prepare(digits, request, metrics, real_digits(noise), nll_images=2), []
        record = prepared.run(done.append).record
        explaining = 2 * (20 + 4 * 19) if "nll" in metrics else 0
        assert sum(done) == prepared.total == 5 * record["evaluations"] + explaining
        assert 6 < record["evaluations"] < 12


def test_what_the_classifier_cannot_read_is_refused(digits):
    with pytest.raises(UserError, match="28x28 pixels: leave --height, --width and --init-image out"):
        prepare(digits, Request(n=4, steps=1, height=56), ("accuracy",))


def test_likelihood_draws_nothing(digits, noise, monkeypatch):
    monkeypatch.setattr(report, "draw", None)
    prepared, done = prepare(digits, Request(), ("nll",), real_digits(noise), nll_images=2), []
    found = prepared.run(done.append)
    assert sum(done) == prepared.total == 2 * (20 + 4 * 19)
    assert (found.title, found.warning, found.record["reference"]) == ("test images of all", "", None)
    assert list(found.record["metrics"]) == list(found.lines) == ["vlb", "ode"]
    assert "bits per dimension of 2 images by the variational bound" in found.lines["vlb"]
    assert prepare(digits, Request(), ("nll",), real_digits(noise), nll_images=99).nll_images == 30


def test_the_mix_of_the_data(digits, noise):
    found = prepare(digits, Request(n=4, steps=1), ("accuracy",), real_digits(noise), data_mix=True).run()
    assert "4 images in the mix of classes of the data by dpmpp-2m-sde" in found.title
    assert (found.record["data_mix"], found.record["classes"], found.record["request"]["classes"]) == (True, None, None)


def test_photographs_use_inceptions_features(photographs):
    """And training images may be the reference: then test images form the baseline."""
    found = prepare(photographs[0], Request(n=10, steps=1), None, photographs[1]).run()
    assert list(found.record["metrics"]) == ["fid", "kid", "precision", "recall"]
    assert found.title.endswith("; against 12 test images of colours-jpeg")
    assert "of 9 training images" in found.lines["fid"] and found.lines["kid"].endswith("by Inception's features")
    assert found.record["reference"]["shape"] == [3, 8, 8]
    against_training = replace(photographs[1], split="train")
    found = prepare(photographs[0], Request(n=4, steps=1), ("fid",), against_training).run()
    assert found.title.endswith("; against 9 training images of colours-jpeg")
    assert "the distance of 4 test images" in found.lines["fid"]


def test_kid_and_pr_by_chosen_features(digits, noise, monkeypatch):
    monkeypatch.setattr(features, "open_inception", Means)
    metrics = ("fd", "kid", "pr")
    found = prepare(digits, Request(n=8, steps=1), metrics, real_digits(noise), features="inception").run()
    real = RealImages(noise, "test", SHAPE).comparison(8, None)
    drawn, test = (
        features.inception_features(Means(), x) for x in (generate(digits, Request(n=8, steps=1)), real["reference"])
    )
    assert found.record["metrics"]["kid"]["value"] == pytest.approx(kernel_distance(drawn, test), rel=1e-4)
    assert found.record["metrics"]["fd"]["details"]["features"] == "classifier"


def test_the_warning(digits, noise, monkeypatch):
    """Below 10,000 images, which are drawn unless told otherwise."""
    few = Request(n=4, steps=1)
    assert "comes out too large" in prepare(digits, few, ("fd",), real_digits(noise)).run().warning
    assert "4 images are few" in prepare(digits, few, ("accuracy",)).run().warning
    assert prepare(digits, Request(), ("accuracy",)).plan.n == 10_000
    monkeypatch.setattr(report, "ENOUGH", 4)
    assert prepare(digits, few, ("fd",), real_digits(noise)).run().warning == ""


@pytest.mark.parametrize(
    ("request_options", "metrics", "options", "complaint"),
    [
        ({"device": "abacus"}, ("fd",), {}, "no device 'abacus'"),
        ({"n": 0}, ("fd",), {}, "n must be at least 1"),
        ({"classes": (10,)}, ("fd",), {}, "there is no class 10"),
        ({}, ("beauty",), {}, "unknown metric"),
        ({}, ("fd",), {"real": None}, "which real images"),
        ({}, ("nll",), {"real": None}, "which real images"),
        ({}, ("accuracy",), {"real": None, "data_mix": True}, "which real images"),
        ({"classes": (1,)}, ("accuracy",), {"data_mix": True}, "leave --classes out"),
        ({}, ("fd",), {}, "unknown data 'nowhere'"),
    ],
)
def test_what_is_refused_before_data_are_read(digits, request_options, metrics, options, complaint):
    with pytest.raises(UserError, match=complaint):
        prepare(
            digits,
            Request(**{"n": 4} | request_options),
            metrics,
            **{"real": RealImages("nowhere", "test", SHAPE)} | options,
        )


def test_the_mix_of_a_model_without_classes(photographs):
    with pytest.raises(UserError, match="--data-mix chooses the classes of a model that has some"):
        prepare(photographs[0], Request(n=4), ("fid",), photographs[1], data_mix=True)


def test_nothing_is_drawn_before_all_is_there(digits, noise, tmp_path, monkeypatch):
    """Inception, real images to compare with, and enough of them for a standard error, of classes that are known."""
    monkeypatch.setattr(report, "draw", lambda *arguments: pytest.fail("drew images"))
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    few = real_digits(save_noise(tmp_path / "few", (28, 28), train=3, test=9))
    more_classes = real_digits(save_noise(tmp_path / "more", (28, 28), test=(1,) * 11))
    for metrics, real, nll_images, complaint in [
        (("fid",), real_digits(noise), 2, "pip install"),
        (("fd",), few, 2, "too few to compare with"),
        (("accuracy", "nll"), real_digits(noise), 1, "takes 2 images or more, not 1"),
        (("accuracy", "nll"), few, 2, "the real images need labels"),
        (("accuracy", "nll"), more_classes, 2, "there is no class 10"),
    ]:
        with pytest.raises(UserError, match=complaint):
            prepare(digits, Request(n=4, steps=1), metrics, real, nll_images=nll_images)


def test_a_model_of_prompts(tmp_path, monkeypatch):
    """The images that its prompts become are measured; likelihood and the data's classes are not for it."""
    monkeypatch.setattr(features, "open_inception", Means)
    real = RealImages(save_noise(tmp_path / "colours", (32, 32, 3), train=9, test=12), "test", (3, 32, 32))
    model, request = open_model(save_pipeline(tmp_path / "sd")), Request(prompts=("a cat", "hello"), n=4, steps=1)
    record = prepare(model, request, ["fid"], real).run().record
    drawn = Means()(generate(model, request))[0].double()
    assert record["metrics"]["fid"]["value"] == pytest.approx(
        float(frechet_distance(drawn, Means()(real.images.pixels)[0].double())), rel=1e-4
    )
    assert record["request"]["prompts"] == ("a cat", "hello")
    with pytest.raises(UserError, match="sees latents"):
        prepare(model, request, ["nll"], real)
    with pytest.raises(UserError, match="data-mix"):
        prepare(model, request, ["fid"], real, data_mix=True)
