"""The features that images are compared by: Inception's, of a stand-in, and what is said when they are not there."""

import hashlib
import sys
from urllib.error import URLError

import pytest
import torch
from torch import nn

from fromnoise.errors import UserError
from fromnoise.evaluate import features
from fromnoise.evaluate.classifier import judge, open_classifier
from fromnoise.evaluate.features import (
    INCEPTION_URL,
    inception_features,
    inception_weights,
    open_features,
    open_inception,
)

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"

NETWORK = """
import torch

class FeatureExtractorInceptionV3(torch.nn.Linear):
    def __init__(self, name, features_list, feature_extractor_weights_path=None, **kwargs):
        super().__init__(3, 2)
        self.features_list = features_list
        self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=False))
        self.requires_grad_(False)

    def forward(self, x):
        assert x.dtype == torch.uint8 and x.shape[1] == 3
        return (super().forward(x.float().mean((2, 3))),)
"""


class StandIn(nn.Module):
    """What Inception takes and returns: the means of the three channels. It remembers the sizes of its batches."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3), requires_grad=False)
        self.batches = []

    def forward(self, x):
        assert x.dtype == torch.uint8 and x.shape[1:] == (3, 8, 8)
        self.batches.append(len(x))
        return (x.float().mean((2, 3)) * self.weight,)


@pytest.fixture
def no_fidelity(monkeypatch):
    """As if torch-fidelity were not installed."""
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)


@pytest.fixture
def fidelity(monkeypatch, tmp_path):
    """A folder with a torch-fidelity that can only be imported in part, as beside a torchvision that does not fit."""
    package = tmp_path / "installed" / "torch_fidelity"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import a_torchvision_that_is_not_there\n")
    (package / "feature_extractor_inceptionv3.py").write_text(NETWORK)
    before = {name: module for name, module in sys.modules.items() if name.startswith("torch_fidelity")}
    for name in before:
        del sys.modules[name]
    monkeypatch.syspath_prepend(package.parent)
    yield package.parent
    for name in [name for name in sys.modules if name.startswith("torch_fidelity")]:
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """The stand-in's weights in torch's cache, as if they were Inception's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    path = tmp_path / "torch" / "hub" / "checkpoints" / WEIGHTS
    path.parent.mkdir(parents=True)
    torch.save({"weight": torch.tensor([[1.0, 0, 0], [0, 1, 1]]), "bias": torch.tensor([0.5, 0])}, path)
    monkeypatch.setattr(features, "INCEPTION_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_grey_and_colour():
    """Grey is shown as three equal channels; images go through in batches, the last one shorter, in their order."""
    grey = torch.randint(0, 256, (70, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    colour = torch.cat([grey, grey.flip(0), 255 - grey], 1)
    network = StandIn()
    seen = inception_features(network, colour)
    assert (seen.dtype, seen.device.type, network.batches) == (torch.float64, "cpu", [32, 32, 6])
    assert torch.allclose(seen, colour.double().mean((2, 3)), rtol=1e-5)
    assert torch.allclose(inception_features(network, grey), seen[:, :1].expand(-1, 3))


def test_the_classifiers_features():
    pixels = torch.randint(0, 256, (5, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    seen = open_features("classifier", torch.device("cpu"))(pixels)
    assert seen.shape == (5, 128)
    assert torch.equal(seen, judge(open_classifier()[0], pixels).features)


def test_torch_fidelitys_inception(fidelity, weights):
    """It gets the weights from torch's cache and is asked for its last layer."""
    network = open_inception()
    assert network.features_list == ["2048"]
    pixels = torch.arange(2 * 3 * 16, dtype=torch.uint8).view(2, 3, 4, 4)
    means = pixels.double().mean((2, 3))
    expected = torch.stack([means[:, 0] + 0.5, means[:, 1] + means[:, 2]], 1)
    assert torch.allclose(open_features("inception", torch.device("cpu"))(pixels), expected)


def test_the_extra_is_not_installed(no_fidelity):
    with pytest.raises(UserError, match=r"need torch-fidelity: pip install 'fromnoise\[fid\]'"):
        open_features("inception", torch.device("cpu"))


def test_the_weights_cannot_be_fetched(fidelity, monkeypatch, tmp_path):
    """It says which file, from where, and where to put it; and leaves nothing half there."""

    def offline(url, *arguments, **options):
        raise URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError) as refused:
        open_inception()
    line, path = str(refused.value), tmp_path / "torch" / "hub" / "checkpoints" / WEIGHTS
    assert line.startswith("cannot fetch Inception's weights ([Errno -2] Name or service not known): ")
    assert line.endswith(f"download {INCEPTION_URL} elsewhere and put it at {path}")
    assert "\n" not in line and INCEPTION_URL.endswith(WEIGHTS)
    assert list(path.parent.iterdir()) == []


def test_the_weights_are_fetched_once(weights, monkeypatch):
    content = weights.read_bytes()
    weights.unlink()
    fetched = []

    def download(url, path, **options):
        fetched.append(url)
        with open(path, "wb") as file:
            file.write(content)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert inception_weights() == inception_weights() == weights
    assert fetched == [INCEPTION_URL]


def test_other_weights(fidelity, weights):
    """A download that broke off, or another file, is never opened."""
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{WEIGHTS} is not the file from https://.*, or not all of it: remove it"):
        open_inception()
