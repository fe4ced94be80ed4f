"""What is measured of drawn images: the judge, the distance, and the command that reports them."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from fromnoise.cli import main
from fromnoise.data.images import Images
from fromnoise.errors import UserError
from fromnoise.evaluate.classifier import Classifier, judge, open_classifier, train_classifier
from fromnoise.evaluate.metrics import check_metrics, frechet_distance
from fromnoise.generate import Request, generate
from fromnoise.models import Model, SchedulerConfig, open_model, save_model
from fromnoise.nn.unet import UNet, UNetConfig


def standardised(count: int, dims: int) -> torch.Tensor:
    """Points whose sample mean is exactly 0 and whose sample covariance is exactly 1."""
    points = torch.randn(count, dims, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = points - points.mean(0)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(points.T.cov()), points.T, upper=False).T


def test_frechet_distance_of_gaussians_with_diagonal_covariances():
    """``|m_1 - m_2|^2 + sum (s_1 - s_2)^2``, and with more features than points of one set it stays finite."""
    points, (s_1, s_2) = standardised(500, 3), torch.tensor([[1.0, 2.0, 0.5], [3.0, 2.0, 0.1]], dtype=torch.float64)
    shift = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    expected = (shift.square() + (s_1 - s_2).square()).sum().item()
    assert math.isclose(frechet_distance(points * s_1 + shift, points * s_2), expected, rel_tol=1e-6)
    assert abs(frechet_distance(points, points)) < 1e-6


def test_frechet_distance_does_not_see_rotations_of_both():
    points = standardised(400, 4)
    stretched = points * torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    turned = frechet_distance(points @ rotation, stretched @ rotation)
    assert math.isclose(turned, 0 + 1 + 4 + 9, rel_tol=1e-6)


def test_the_classifier_that_ships_reads_what_the_model_that_ships_draws():
    """Digits from the shipped weights are as good as new test images; and it knows how good it is."""
    classifier, accuracy = open_classifier()
    assert 0.995 <= accuracy < 1
    model, request = open_model("mnist-conditional"), Request(n=40, steps=15, dtype="bf16")
    judged = judge(classifier, generate(model, request))
    assert (judged.digits == request.labels(model)).sum() >= 39
    assert judged.features.shape == (40, 128)
    assert judged.features.std(0).min() > 0


def test_training_a_classifier():
    """On squares in ten places, which shifts of two pixels do not confuse, it learns nearly all in a few steps."""
    labels = torch.arange(10).repeat(150)
    pixels = torch.zeros(1500, 1, 28, 28, dtype=torch.uint8)
    for i, label in enumerate(labels.tolist()):
        row, column = divmod(label, 4)
        pixels[i, 0, 8 * row + 2 : 8 * row + 7, 7 * column + 1 : 7 * column + 6] = 255
    classifier = train_classifier(Images(pixels, labels), epochs=6)
    assert (judge(classifier, pixels[:10]).digits == labels[:10]).sum() >= 9


def test_a_file_that_is_no_classifier(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="holds no classifier: python -m"):
        open_classifier(tmp_path / "weights.safetensors")
    assert sum(p.numel() for p in Classifier().parameters()) < 300_000


def test_metrics_that_cannot_be():
    with pytest.raises(UserError, match="unknown metric 'beauty': there are accuracy, fd"):
        check_metrics(("fd", "beauty"), (1, 28, 28), 10)
    with pytest.raises(UserError, match="this model draws 3x32x32"):
        check_metrics(("fd",), (3, 32, 32), 10)
    with pytest.raises(UserError, match="leave it out"):
        check_metrics(("accuracy",), (1, 28, 28), 0)


@pytest.fixture
def model(tmp_path):
    """A network of MNIST's shape that has learned nothing."""
    torch.manual_seed(0)
    config = UNetConfig(
        channels=(8, 8), attention_levels=(False, False), middle_attention=False, norm_groups=4, num_class_embeds=11
    )
    scheduler = SchedulerConfig(num_train_timesteps=20, prediction_type="v_prediction", timestep_spacing="trailing")
    save_model(Model(UNet(config), scheduler, tuple("0123456789")), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def data(tmp_path):
    """A folder of MNIST's layout that holds noise."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 30)):
        (tmp_path / "data" / split).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(draw.integers(0, 256, (28, 28), np.uint8)).save(tmp_path / "data" / split / f"{i}.png")
    return tmp_path / "data"


def test_the_command(model, data, tmp_path, capsys):
    """It says what was drawn and measured, warns that it is little, and writes the same to a file."""
    out = tmp_path / "figures.json"
    words = ["evaluate", model, "--data", data, "--n", "20", "--steps", "2", "--sampler", "ddim", "--json", out]
    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr().out
    assert "20 images of ddim, 2 steps, guidance 3: 4 network evaluations each; seed 0, fp32" in printed
    assert "of 20 training images" in printed and "comes out too large" in printed
    record = json.loads(out.read_text())
    assert record["command"] == " ".join(["fromnoise", *map(str, words)])
    accuracy, fd = record["metrics"]["accuracy"], record["metrics"]["fd"]
    assert f"{accuracy['value']:.2%} read as the digit asked for" in printed
    assert fd["value"] / fd["details"]["of_training_images"] == pytest.approx(fd["details"]["ratio"])
    assert (record["n"], record["evaluations"], record["seed"]) == (20, 4, 0)


def test_the_command_without_data(model, capsys):
    """The accuracy needs no other image."""
    assert main(["evaluate", str(model), "--metrics", "accuracy", "--n", "20", "--steps", "1", "--guidance", "1"]) == 0
    assert "1 network evaluations each" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--metrics", "beauty"], "unknown metric 'beauty'"),
        (["--n", "0"], "n must be at least 1"),
        (["--n", "10", "--steps", "2", "--data", "nowhere"], "unknown data 'nowhere'"),
        (["--json", "."], "--json . is a folder"),
        (["--n", "1", "--steps", "1", "--metrics", "fd"], "at least 2"),
    ],
)
def test_what_is_refused(model, words, complaint, capsys):
    assert main(["evaluate", str(model), *words]) == 2
    assert complaint in capsys.readouterr().err
