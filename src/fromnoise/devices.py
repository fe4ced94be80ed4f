"""What this machine offers: which device, which precision, how many rows of a batch at a time, a compiler or none."""

import json
import os
import platform
import time
from contextlib import suppress
from pathlib import Path

import torch

from fromnoise.configs import Positive, load, read
from fromnoise.errors import UserError
from fromnoise.files import atomic_write, cache_file, cache_folder
from fromnoise.nn.layers import Conv2d
from fromnoise.nn.unet import UNetConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def resolve_device(name: str) -> torch.device:
    """``auto`` is the best there is: CUDA, then MPS, then the CPU.

    Raises:
        UserError: a device that this machine or this PyTorch does not have.
    """
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    there = [*(["cuda"] if cuda else []), *(["mps"] if torch.backends.mps.is_available() else []), "cpu", *cuda]
    if name not in ("auto", *there):
        raise UserError(f"no device {name!r} here: there are auto, {', '.join(there)}")
    return torch.device(there[0] if name == "auto" else name)


def rows_at_a_time(config: UNetConfig, device: torch.device, many: bool = False) -> int:
    """How many rows a network is always shown at a time: a power of two, smaller for large images and wide networks.

    Matrix products and convolutions choose their algorithm by the shape of what they get, and round differently.
    With this number fixed by the network, not by the request, an image does not depend on the batch that it is in.
    On a CPU, 16 rows make up for what each call costs within a tenth, and whoever asks for a few images does not wait
    for many. A prompt is mostly drawn once, and its guided step has two rows; where a model is measured by ``many``
    prompts, they are shown as other images are.
    """
    most, room = (16 if config.context_dim is None or many else 2, 2**21) if device.type == "cpu" else (64, 2**23)
    fitting = room // (config.channels[0] * config.sample_size**2)
    return 1 << min(most, max(1, fitting)).bit_length() - 1


def training_dtype(device: torch.device) -> tuple[str, str]:
    """The precision that training is faster in on a device, by its name in `DTYPES`, and the reason in words.

    A CPU is measured: what its flags promise is not always what it does, and one that emulates bf16 is many times
    slower in it.
    """
    if device.type == "cpu":
        rates = convolution_rates()
        told = " and ".join(f"{rate:.0f} GFLOP/s in {name}" for name, rate in rates.items())
        return max(rates, key=rates.__getitem__), f"convolutions here reach {told}"
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16", "the device has instructions for it"
    return "fp32", "the device is not known to be faster in bf16"


def convolution_rates() -> dict[str, float]:
    """GFLOP/s of a 3x3 convolution in training on this CPU, by the names in `DTYPES`.

    They are measured once, in about a second, and kept in the user's cache for this processor, its instructions, the
    number of threads and this version of torch.
    """
    here = (processor(), sorted(torch.cpu.get_capabilities().items()), torch.get_num_threads(), torch.__version__)
    with suppress(UserError):  # not measured yet, or damaged
        kept = cache_file("convolution.json", here)
        rates = read(dict[str, Positive], load(kept), str(kept))
        if rates.keys() == DTYPES.keys():
            return rates
    rates = {name: _convolution_rate(dtype) for name, dtype in DTYPES.items()}
    with suppress(UserError), atomic_write(cache_file("convolution.json", here)) as partial:
        partial.write_text(json.dumps(rates))
    return rates


def processor() -> str:
    """The name of this machine's processor."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith("model name")), platform.machine())
    return platform.processor()


def _convolution_rate(dtype: torch.dtype) -> float:
    """The best of a few passes forward and backward, at growing batches; a slow precision has time for few of them."""
    channels, size, spent, best = 64, 16, 0.0, 0.0
    convolution = Conv2d(channels, channels, 3, padding=1)
    convolution.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for turn, batch in enumerate((2, 2, 2, 2, 8, 8, 8, 32, 32, 32)):
        x = torch.full((batch, channels, size, size), 0.5).contiguous(memory_format=torch.channels_last)
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            result = convolution(x.requires_grad_())
        result.backward(result.detach())
        seconds = time.perf_counter() - start
        if turn > 0:  # the first warms up
            spent, best = spent + seconds, max(best, 3 * 2 * batch * size**2 * channels**2 * 9 / seconds / 1e9)
        if spent > 0.2:
            break
    return best


def compiler_works(device: torch.device) -> bool:
    """Whether torch.compile can build code for the device here. It keeps that in the user's cache from now on.

    Its own choice is a folder for temporary files of a name that others can foretell, and fill.
    """
    try:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "torchinductor"))
        torch.compile(lambda x: x.sin() + 1)(torch.ones(4, device=device))
    except Exception:  # whatever it is that is missing, the answer is no
        return False
    return True
