"""The features by which images are compared: those of the classifier of digits that ships, or Inception's."""

import hashlib
import importlib
import importlib.util
import io
import sys
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from types import ModuleType

import torch
import torch.hub
from torch import Tensor, nn
from tqdm import tqdm

from fromnoise.errors import UserError
from fromnoise.evaluate.classifier import judge, open_classifier

FEATURES = ("classifier", "inception")

INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
"""the weights of the network of the first FID; torch-fidelity and torchmetrics use this file, too"""
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

BATCH = 32

Extractor = Callable[[Tensor], Tensor]
"""uint8 images ``(N, C, H, W)`` to features ``(N, D)``, float64 on the CPU"""


def open_features(name: str, device: torch.device) -> Extractor:
    """The features of a name in `FEATURES`: the classifier's 128, or Inception's 2048 (its last pooling layer).

    Inception runs on the device; the classifier is small and runs on the CPU. A `UserError` if a file is missing.
    """
    if name == "inception":
        network = open_inception().to(device)
        return lambda pixels: inception_features(network, pixels)
    classifier, _ = open_classifier()
    return lambda pixels: judge(classifier, pixels).features


@torch.inference_mode()
def inception_features(network: nn.Module, pixels: Tensor) -> Tensor:
    """The features ``(N, 2048)`` of grey or colour images ``(N, C, H, W)`` uint8, float64 on the CPU.

    Grey is shown as red, green and blue; the network resizes to 299x299 itself, as TensorFlow 1 did for the first FIDs.
    """
    device = next(network.parameters()).device
    parts = tqdm(pixels.split(BATCH), "Inception features", unit="batch", leave=False, delay=1, disable=None)
    return torch.cat([network(part.to(device).expand(-1, 3, -1, -1))[0].cpu().double() for part in parts])


def open_inception() -> nn.Module:
    """torch-fidelity's Inception, which takes uint8 images ``(B, 3, H, W)`` and returns ``(features,)``.

    Raises:
        UserError: torch-fidelity is not installed, or the weights are neither there nor can be fetched.
    """
    try:
        module = _import_alone("torch_fidelity.feature_extractor_inceptionv3")
    except ImportError:
        raise UserError("Inception's features need torch-fidelity: pip install 'fromnoise[fid]'") from None
    # It would open the file as a pickle that may run anything: it gets one written here, of tensors alone.
    state = torch.load(inception_weights(), map_location="cpu", weights_only=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return module.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=buffer)


def inception_weights() -> Path:
    """Where Inception's weights lie: in torch's cache, to which they are fetched once.

    Raises:
        UserError: they cannot be fetched, or the file is another.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_URL.rpartition("/")[2]
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(INCEPTION_URL, str(path), progress=sys.stderr.isatty())
        except (OSError, HTTPException) as error:  # the network's, most of which are an OSError, or the disk's
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
            raise UserError(
                f"cannot fetch Inception's weights ({reason}): download {INCEPTION_URL} elsewhere and put it at {path}"
            ) from error
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != INCEPTION_SHA256:
            raise UserError(f"{path} is not the file from {INCEPTION_URL}, or not all of it: remove it")
    return path


def _import_alone(name: str) -> ModuleType:
    """A module of a package without the package's ``__init__``.

    torch-fidelity's imports all its networks, and with them torchvision, which Inception does not use.
    """
    package = name.partition(".")[0]
    spec = None if package in sys.modules else importlib.util.find_spec(package)
    if spec is not None:
        sys.modules[package] = importlib.util.module_from_spec(spec)
    try:
        return importlib.import_module(name)
    finally:
        if spec is not None:
            del sys.modules[package]
