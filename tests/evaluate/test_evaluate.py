"""What is measured of drawn images: the judge, the distance, and the command that reports them."""

import json
import re
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fromnoise.cli import main
from fromnoise.data.images import Images, load_images
from fromnoise.diffusion.samplers import Spacing, sampling_times
from fromnoise.errors import UserError
from fromnoise.evaluate import features, metrics, report
from fromnoise.evaluate.classifier import Classifier, judge, open_classifier, train_classifier
from fromnoise.evaluate.metrics import (
    METRICS,
    Reference,
    check_metrics,
    classes_as_in,
    fitting_metrics,
    frechet_distance,
    kernel_distance,
    load_real_images,
    precision_recall,
)
from fromnoise.evaluate.report import evaluate, reference_of
from fromnoise.generate import Request, generate
from fromnoise.models import Model, SchedulerConfig, open_model, save_model
from fromnoise.nn.unet import UNet, UNetConfig


def test_the_classifier_that_ships_reads_what_the_model_that_ships_draws():
    """Digits from the shipped weights are as good as new test images; and it knows how good it is."""
    classifier, accuracy = open_classifier()
    assert 0.995 <= accuracy < 1
    model, request = open_model("mnist-conditional"), Request(n=40, steps=15, guidance=2.0, dtype="bf16")
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


MNIST_SHAPE, DIGITS = (1, 28, 28), tuple("0123456789")


@pytest.mark.parametrize(
    ("metrics", "shape", "names", "features", "complaint"),
    [
        (("fd", "beauty"), MNIST_SHAPE, DIGITS, None, "unknown metric 'beauty': there are accuracy, fd, fid, kid, pr"),
        (("kid",), MNIST_SHAPE, DIGITS, "vgg", "unknown features 'vgg': there are classifier, inception"),
        (("fd",), (3, 32, 32), None, None, "this model draws 3x32x32: take fid, kid or pr"),
        (("pr",), (3, 32, 32), None, "classifier", "this model draws 3x32x32: take --features inception"),
        (("accuracy",), MNIST_SHAPE, None, None, "one of ten digits: leave it out"),
        (("accuracy",), MNIST_SHAPE, tuple("abcdefghij"), None, "one of ten digits: leave it out"),
        (("fd", "fid"), MNIST_SHAPE, DIGITS, "inception", "not for fd, fid: leave --features out"),
    ],
)
def test_metrics_that_cannot_be(metrics, shape, names, features, complaint):
    with pytest.raises(UserError, match=re.escape(complaint)):
        check_metrics(metrics, shape, names, 10, features)


@pytest.mark.parametrize(("metric", "least"), [("accuracy", 1), ("fd", 2), ("fid", 2), ("kid", 2), ("pr", 4)])
def test_the_fewest_images(metric, least):
    assert list(check_metrics((metric,), MNIST_SHAPE, DIGITS, least)) == [metric]
    with pytest.raises(UserError, match=f"--n must be at least {least}"):
        check_metrics((metric,), MNIST_SHAPE, DIGITS, least - 1)


def test_which_features():
    """fd goes by the classifier's, fid by Inception's; kid and pr by the classifier's where it fits, or as asked."""
    mixed = {"accuracy": "classifier", "fd": "classifier", "fid": "inception", "kid": "classifier", "pr": "classifier"}
    assert check_metrics(METRICS, MNIST_SHAPE, DIGITS, 10) == mixed
    asked = check_metrics(METRICS, MNIST_SHAPE, DIGITS, 10, "inception")
    assert asked == mixed | {"kid": "inception", "pr": "inception"}
    assert check_metrics(("pr", "kid"), (3, 32, 32), None, 10) == {"kid": "inception", "pr": "inception"}


def test_what_is_measured_if_nothing_is_asked_for():
    assert fitting_metrics(MNIST_SHAPE, DIGITS) == ("accuracy", "fd", "kid", "pr")
    assert fitting_metrics(MNIST_SHAPE, None) == ("fd", "kid", "pr")
    assert fitting_metrics((3, 32, 32), DIGITS) == ("fid", "kid", "pr")


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


def save_noise(folder, shape, train, test):
    """A folder of images, in the layout of a dataset with two splits."""
    draw = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        (folder / split).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(draw.integers(0, 256, shape, np.uint8)).save(folder / split / f"{i}.png")
    return folder


@pytest.fixture
def data(tmp_path):
    """A folder of MNIST's layout that holds noise."""
    return save_noise(tmp_path / "data", (28, 28), train=40, test=30)


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """A model of colour images, 8x8, trained on a folder whose name its training.toml tells; and a network to judge."""
    torch.manual_seed(0)
    config = UNetConfig(
        3, 3, 8, channels=(8, 8), attention_levels=(False, False), middle_attention=False, norm_groups=4
    )
    folder = save_noise(tmp_path / "colours-jpeg", (8, 8, 3), train=9, test=12)
    save_model(Model(UNet(config), SchedulerConfig(num_train_timesteps=20)), tmp_path / "photographs")
    (tmp_path / "photographs" / "training.toml").write_text(f'[data]\nsource = "{folder}"\nchannels = 3\nsize = 8\n')
    monkeypatch.setattr(features, "open_inception", Means)
    return tmp_path / "photographs"


class Means(nn.Module):
    """In place of Inception: the means of five columns of the green channel."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return (x[:, 1, :, :5].float().mean(1) * self.weight,)


def run(*words):
    return main(["evaluate", *(str(word) for word in words)])


def test_the_command(model, data, tmp_path, capsys):
    """It says what was drawn and measured, warns that it is little, and writes the same to a file."""
    out = tmp_path / "figures.json"
    words = ["evaluate", model, "--data", data, "--n", "20", "--steps", "2", "--sampler", "ddim", "--guidance", "3"]
    words += ["--json", out]
    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr().out
    assert (
        f"{model}: 20 images by ddim, 2 steps, trailing spacing, guidance 3: 4 network evaluations each; seed 0, fp32; "
        "against 30 test images of data\n"
    ) in printed
    assert "of 20 training images, by the classifier's features" in printed and "comes out too large" in printed
    record = json.loads(out.read_text())
    assert record["command"] == " ".join(["fromnoise", *map(str, words)])
    assert record["model"] == str(model)
    accuracy, fd = record["metrics"]["accuracy"], record["metrics"]["fd"]
    assert f"{accuracy['value']:.2%} (halves " in printed
    assert fd["value"] / fd["details"]["real"]["value"] == pytest.approx(fd["details"]["ratio"])
    assert (record["n"], record["evaluations"], record["seed"], record["spacing"]) == (20, 4, 0, "trailing")
    assert list(record["metrics"]) == ["accuracy", "fd", "kid", "precision", "recall"]
    for figure in record["metrics"].values():
        assert figure["meaning"] in printed and figure["details"]["features"] == "classifier"


def test_the_figures_are_of_these_images(model, data):
    """Each figure, computed here from the images that the request draws, as a whole and by halves."""
    opened, request = open_model(str(model)), Request(n=20, steps=1, guidance=1)
    record = evaluate(opened, request, reference=Reference(str(data))).record["metrics"]
    classifier, _ = open_classifier()
    judged = judge(classifier, generate(opened, request))
    drawn, test, train = (
        judged.features,
        *(judge(classifier, load_images(str(data), split, channels=1, size=28).pixels) for split in ("test", "train")),
    )
    parts = {"value": slice(0, 20), 0: slice(0, 10), 1: slice(10, 20)}
    for part, rows in parts.items():

        def of(figure, part=part):
            figure = record[figure]
            return figure["value"] if part == "value" else figure["details"]["halves"][part]

        right = (judged.digits == request.labels(opened))[rows].double().mean().item()
        assert of("accuracy") == right
        assert of("fd") == pytest.approx(frechet_distance(drawn[rows], test.features), rel=1e-4)
        assert of("kid") == pytest.approx(kernel_distance(drawn[rows], test.features), rel=1e-4)
    assert record["kid"]["details"]["real"]["n"] == 20
    everything = evaluate(opened, Request(n=50, steps=1, guidance=1), ("kid",), Reference(str(data))).record
    real = everything["metrics"]["kid"]["details"]["real"]
    assert (real["split"], real["n"]) == ("train", 40)
    assert real["value"] == pytest.approx(kernel_distance(train.features, test.features), rel=1e-4)


def test_the_record_repeats_the_figures(model, data):
    """From the request in the record, which went through JSON, come the same figures."""
    opened, reference = open_model(str(model)), Reference(str(data))
    request = Request(
        n=8,
        classes=(3, 4),
        sampler="ddim",
        steps=3,
        eta=0.5,
        seed=7,
        guidance=3.0,
        guidance_interval=(0.1, 9),
        guidance_rescale=0.5,
    )
    record = json.loads(json.dumps(evaluate(opened, request, reference=reference).record))
    again = json.loads(json.dumps(evaluate(opened, Request(**record["request"]), reference=reference).record))
    assert again == record
    assert (record["guidance_interval"], record["guidance_rescale"], record["eta"]) == ([0.1, 9], 0.5, 0.5)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sampler": "heun", "steps": 5, "guidance": 3.0}, "by heun, 3 steps, karras spacing, guidance 3: 10 network "),
        ({"classes": (1, 2), "sampler": "ddim", "steps": 3}, "of classes 1,2 by ddim, 3 steps, trailing spacing, "),
        ({"steps": 2, "spacing": "log-snr", "guidance": 1.0}, "2 steps, log-snr spacing, guidance 1: 2 network "),
        (
            {"sampler": "ddim", "steps": 2, "eta": 0.5, "clip": False, "guidance": 3.0, "seed": 3, "dtype": "bf16"},
            "trailing spacing, eta 0.5, not clipped, guidance 3: 4 network evaluations each; seed 3, bf16",
        ),
        (
            {
                "sampler": "ddpm",
                "steps": 2,
                "variance": "fixed_large",
                "guidance": 2.0,
                "guidance_interval": (0.5, 5.0),
            },
            "trailing spacing, variance fixed_large, guidance 2, only at noise levels 0.5 to 5: ",
        ),
        ({"steps": 2, "guidance": 3.0, "guidance_rescale": 0.7}, "guidance 3, rescaled by 0.7: "),
        ({}, "by dpmpp-2m-sde, 11 steps, trailing spacing, guidance 1: 11 network "),
    ],
)
def test_the_title(model, options, told):
    opened, request = open_model(str(model)), Request(n=2, **options)
    report = evaluate(opened, request, ("accuracy",))
    assert told in report.title and "against" not in report.title
    assert report.record["reference"] is None
    schedule, offset = opened.scheduler.schedule(), opened.scheduler.steps_offset
    spacing = Spacing(report.record["spacing"])
    assert request.times(opened) == sampling_times(schedule, report.record["steps"], spacing, offset)


def test_the_warning(model, data, monkeypatch):
    """Below 10,000 images, whatever the metric."""
    opened, few = open_model(str(model)), Request(n=4, steps=1)
    of_fd = evaluate(opened, few, ("fd",), Reference(str(data))).warning
    assert of_fd == "the distance of 4 images comes out too large: compare it with none of 10000"
    assert evaluate(opened, few, ("accuracy",)).warning == "4 images are few: compare with no figure of 10000"
    monkeypatch.setattr(report, "ENOUGH", 4)
    assert evaluate(opened, few, ("fd",), Reference(str(data))).warning == ""


def test_other_images(photographs, tmp_path, capsys):
    """Photographs go by Inception's features, against what the model was trained on, under the folder's name."""
    out = tmp_path / "figures.json"
    assert run(photographs, "--n", "10", "--steps", "2", "--json", out) == 0
    printed = capsys.readouterr().out
    assert "; against 12 test images of colours-jpeg\n" in printed
    assert "of 9 training images, by Inception's features" in printed and "accuracy" not in printed
    record = json.loads(out.read_text())
    assert list(record["metrics"]) == ["fid", "kid", "precision", "recall"]
    real = record["reference"]
    assert (real["name"], real["split"], real["size"], real["shape"]) == ("colours-jpeg", "test", 12, [3, 8, 8])
    pixels = load_images(str(tmp_path / "colours-jpeg"), "test", channels=3, size=8).pixels
    assert real["checksum"] == zlib.crc32(pixels.numpy().tobytes())
    assert all(figure["details"]["features"] == "inception" for figure in record["metrics"].values())


def test_against_training_images(photographs, tmp_path, capsys):
    """And, the other way round, test images for comparison; other data go before what the model tells."""
    assert run(photographs, "--n", "4", "--steps", "1", "--reference", "train", "--metrics", "fid") == 0
    printed = capsys.readouterr().out
    assert "; against 9 training images of colours-jpeg\n" in printed and "of 4 test images" in printed
    other = save_noise(tmp_path / "other", (8, 8, 3), train=5, test=5)
    assert run(photographs, "--n", "4", "--steps", "1", "--data", other, "--metrics", "kid,pr") == 0
    assert "; against 5 test images of other\n" in capsys.readouterr().out


def test_kid_and_pr_by_inceptions_features(model, data, monkeypatch, capsys):
    monkeypatch.setattr(features, "open_inception", Means)
    words = ["--n", "8", "--steps", "1", "--metrics", "fd,kid,pr", "--features", "inception"]
    assert run(model, "--data", data, *words) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:])
    assert lines["fd"].endswith("by the classifier's features")
    assert all(lines[name].endswith("by Inception's features") for name in ("kid", "precision", "recall"))


def test_what_a_model_is_compared_with(photographs, model, tmp_path, monkeypatch):
    """What --data says, else its training.toml, whose columns go for either, else MNIST where it can be."""
    grey, colour = open_model(str(model)), open_model(str(photographs))
    assert reference_of(grey, "mnist") == Reference("ylecun/mnist")
    assert reference_of(grey, "mnist", "digits", "train") == Reference("digits", "train")
    assert reference_of(grey, str(model), split="train") == Reference("ylecun/mnist", "train")
    assert reference_of(grey, str(model), "digits") == Reference("digits")
    assert reference_of(colour, "owner/name") is None
    assert reference_of(colour, str(photographs)) == Reference(str(tmp_path / "colours-jpeg"))
    with (photographs / "training.toml").open("a") as file:
        file.write('image_column = "photo"\nlabel_column = "kind"\n')
    expected = Reference("there", "test", "photo", "kind")
    assert reference_of(colour, str(photographs), "there") == expected
    assert Reference("owner/name").name == "owner/name"
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path / "digits")
    assert (Reference(".").name, Reference("digits").name) == ("digits", "digits")


def save_classes(folder, train, test):
    """A folder with a subfolder for each of two classes, of so many images, grey 0 to 9 and 200 to 209."""
    for split, counts in (("train", train), ("test", test)):
        for label, count in enumerate(counts):
            (folder / split / str(label)).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(np.full((28, 28), 200 * label + i, np.uint8)).save(
                    folder / split / str(label) / f"{i}.png"
                )
    return folder


def test_others_of_the_same_classes(tmp_path):
    """Beside any others, as many of each class as are drawn, so that it is seen what the mix of classes does."""
    reference = Reference(str(save_classes(tmp_path / "classes", train=(8, 3), test=(4, 4))))
    real = load_real_images(reference, (1, 28, 28), 5, torch.tensor([1, 0, 1, 1, 0]))
    assert len(real.others) == 5
    ones = real.alike[:, 0, 0, 0] >= 200
    assert len(real.alike) == 5 and int(ones.sum()) == 3
    assert len({int(value) for value in real.alike[:, 0, 0, 0]}) == 5, "one image twice"
    assert load_real_images(reference, (1, 28, 28), 4, torch.ones(4, dtype=torch.long)).alike is None  # too few
    assert load_real_images(reference, (1, 28, 28), 4).alike is None


def test_the_figure_of_the_same_classes_is_told(model, tmp_path):
    folder = save_labelled_noise(tmp_path / "all")
    found = evaluate(open_model(str(model)), Request(n=20, steps=1), ("fd",), Reference(str(folder)))
    details = found.record["metrics"]["fd"]["details"]
    assert details["real"]["value"] != details["real_of_these_classes"] > 0
    assert "of as many of these classes), by the classifier's features" in found.lines["fd"]


def save_labelled_noise(folder):
    """Three images of each digit in the test split, and one more of each than of the one before in the other."""
    for split in ("train", "test"):
        for label in range(10):
            (folder / split / str(label)).mkdir(parents=True)
            for i in range(label + 2 if split == "train" else 3):
                pixels = np.random.default_rng([label, i]).integers(0, 256, (28, 28), np.uint8)
                Image.fromarray(pixels).save(folder / split / str(label) / f"{i}.png")
    return folder


def test_classes_as_in_the_data(model, tmp_path, capsys):
    """Of each class as many are asked for as there are among the real images beside them, which are then alike."""
    folder, out = save_labelled_noise(tmp_path / "all"), tmp_path / "figures.json"
    reference = Reference(str(folder))
    assert sorted(classes_as_in(reference, MNIST_SHAPE, 65)) == [label for label in range(10) for _ in range(label + 2)]
    wanted = classes_as_in(reference, MNIST_SHAPE, 20)
    others = load_real_images(reference, MNIST_SHAPE, 20).others
    alike = load_real_images(reference, MNIST_SHAPE, 20, torch.tensor(wanted)).alike
    assert sorted(alike.flatten(1).tolist()) == sorted(others.flatten(1).tolist())

    words = ["--data", folder, "--n", "20", "--steps", "1", "--metrics", "accuracy,fd", "--json", out]
    assert run(model, "--classes", "data", *words) == 0
    printed = capsys.readouterr().out
    assert "20 images, of each class as many as in the data, by dpmpp-2m-sde" in printed
    assert "as many of these classes" not in printed
    record = json.loads(out.read_text())
    assert record["classes"] == record["request"]["classes"] == "data"
    drawn = generate(open_model(str(model)), Request(n=20, steps=1, classes=wanted))
    classifier, _ = open_classifier()
    right = judge(classifier, drawn).digits == torch.tensor(wanted)
    assert record["metrics"]["accuracy"]["value"] == right.double().mean().item()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--n", "70"), "no 70 labelled training images: give a lower --n"),
        (("--n", "20", "--classes", "data,1"), "--classes takes class numbers"),
    ],
)
def test_classes_that_the_data_cannot_tell(model, tmp_path, capsys, words, complaint):
    folder = save_labelled_noise(tmp_path / "all")
    assert run(model, "--classes", "data", "--data", folder, "--steps", "1", "--metrics", "accuracy", *words) == 2
    assert complaint in capsys.readouterr().err


def test_likelihood_draws_nothing(model, tmp_path, monkeypatch, capsys):
    """`nll` alone needs real images only, with their labels, and says of how many and how sure it is."""
    monkeypatch.setattr(report, "generate", None)
    folder, out = tmp_path / "all", tmp_path / "nll.json"
    save_classes(folder, train=(2, 2), test=(3, 3))
    assert run(model, "--metrics", "nll", "--nll-images", "4", "--data", folder, "--json", out) == 0
    printed = capsys.readouterr().out
    assert f"{model}: test images of all\n" in printed and "note" not in printed
    assert "bits per dimension of 4 images by the variational bound" in printed
    figures = json.loads(out.read_text())["metrics"]
    assert list(figures) == ["vlb", "ode"]
    assert all(figure["details"]["standard_error"] > 0 for figure in figures.values())
    assert run(model, "--metrics", "nll", "--nll-images", "1", "--data", folder) == 2
    assert "takes 2 images or more" in capsys.readouterr().err


def test_equal_numbers_for_precision_and_recall(model, data):
    """Of the 30 real ones as many as are drawn are taken, and not the first: they may be easier than the rest."""
    opened, request = open_model(str(model)), Request(n=8, steps=1, guidance=1)
    record = evaluate(opened, request, ("pr",), Reference(str(data))).record["metrics"]
    classifier, _ = open_classifier()
    drawn = judge(classifier, generate(opened, request)).features
    real = load_real_images(Reference(str(data)), (1, 28, 28), 8)
    stored = load_images(str(data), "test", channels=1, size=28).pixels
    assert not torch.equal(real.pixels, stored)
    assert sorted(real.pixels.flatten(1).tolist()) == sorted(stored.flatten(1).tolist())
    expected = precision_recall(drawn, judge(classifier, real.pixels).features[:8])
    assert (record["precision"]["value"], record["recall"]["value"]) == expected


def test_nothing_is_drawn_before_all_is_there(model, data, monkeypatch):
    """Without Inception, or without torchmetrics, it says so at once."""
    opened, request = open_model(str(model)), Request(n=4, steps=1)
    monkeypatch.setattr(report, "generate", lambda *arguments: pytest.fail("drew images"))
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UserError, match="pip install"):
        evaluate(opened, request, ("fid",), Reference(str(data)))

    def fail():
        raise UserError("torchmetrics cannot be imported")

    monkeypatch.setattr(metrics, "torchmetrics_fid", fail)
    with pytest.raises(UserError, match="torchmetrics cannot be imported"):
        evaluate(opened, request, ("fd",), Reference(str(data)))


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
        (["--metrics", "fd", "--features", "inception"], "leave --features out"),
        (["--features", "vgg"], "--features"),
    ],
)
def test_what_is_refused(model, words, complaint, capsys):
    assert main(["evaluate", str(model), *words]) == 2
    assert complaint in capsys.readouterr().err


def test_data_that_cannot_be_compared_with(photographs, tmp_path, capsys):
    (photographs / "training.toml").unlink()
    assert run(photographs, "--n", "4", "--steps", "1") == 2
    assert "which real images? The model does not tell what it was trained on: give --data" in capsys.readouterr().err
    few = save_noise(tmp_path / "few", (8, 8, 3), train=5, test=3)
    assert run(photographs, "--n", "4", "--steps", "1", "--data", few) == 2
    assert "few has 8 images, too few to compare with" in capsys.readouterr().err
    (photographs / "training.toml").write_text("nonsense = 1")
    assert run(photographs, "--n", "4", "--steps", "1") == 2
    assert "training.toml: unknown key nonsense" in capsys.readouterr().err
