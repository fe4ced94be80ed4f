"""The processes of a run: one, or several that a launcher has started and that know of each other."""

import os

import torch
from accelerate import Accelerator

from fromnoise.errors import UserError
from fromnoise.terminal import LAUNCHED

MPI = {"PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"}  # what starts several processes otherwise


def make_accelerator(device: torch.device) -> tuple[Accelerator, torch.device]:
    """The processes of this run, and the device on which this one computes.

    A part of what a launcher says, such as a ``WORLD_SIZE`` that was left set, starts nothing, and one process trains.

    Raises:
        UserError: the processes do not find each other.
    """
    if not os.environ.keys() >= LAUNCHED and not os.environ.keys() & MPI:
        for name in LAUNCHED:
            os.environ.pop(name, None)
    try:
        accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
    except (ValueError, RuntimeError) as problem:
        reason = str(problem).strip().partition("\n")[0][:100]
        raise UserError(
            f"the processes do not find each other ({reason}): start them with torchrun, or unset WORLD_SIZE"
        ) from None
    found = accelerator.device
    return accelerator, torch.device("cpu") if found.type == "cpu" else found  # gloo says cpu:0, which is no device
