"""What this machine offers: which device, which precision, how many rows of a batch at a time, a compiler or none."""

import torch

from fromnoise.errors import UserError
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


def rows_at_a_time(config: UNetConfig, device: torch.device) -> int:
    """How many rows a network is always shown at a time: a power of two, smaller for large images and wide networks.

    Matrix products and convolutions choose their algorithm by the shape of what they get, and round differently.
    With this number fixed by the network, not by the request, an image does not depend on the batch that it is in.
    A CPU gains nothing by more than it takes to make up for what each call costs.
    """
    room, most = (2**21, 64) if device.type == "cpu" else (2**23, 64)
    fitting = room // (config.channels[0] * config.sample_size**2)
    return 1 << min(most, max(1, fitting)).bit_length() - 1


def computes_in_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16; one that emulates it is many times slower than in fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(found.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def compiler_works(device: torch.device) -> bool:
    """Whether torch.compile can build code for the device here."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(4, device=device))
    except Exception:  # whatever it is that is missing, the answer is no
        return False
    return True
