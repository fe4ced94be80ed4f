"""Where a network is, and in which precision."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def placed(network: Network, device: torch.device | str, dtype: torch.dtype) -> Network:
    """The network on a device and in a precision: itself if it is there already, else a copy.

    Its weights have the channels last, which is what convolutions are fastest in.
    """
    here = next(network.parameters())
    elsewhere = (here.device.type, here.dtype) != (torch.device(device).type, dtype)
    with torch.inference_mode(False):  # weights made in inference mode could not be differentiated any more
        network = _sharing(network) if elsewhere else network
        return network.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _sharing(network: Network) -> Network:
    """A copy with the same numbers in memory: copied before they are converted, they would be there a third time."""
    shared: dict[int, Tensor] = {
        id(weight): nn.Parameter(weight.detach(), weight.requires_grad) for weight in network.parameters()
    }
    shared |= {id(buffer): buffer.detach() for buffer in network.buffers()}
    return copy.deepcopy(network, shared)
