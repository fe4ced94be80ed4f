"""On CUDA, a step as one graph: a small network's hundreds of kernels take longer to launch than to run."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fromnoise.train.task import Batch

WARM_UP = 3  # steps in which libraries choose their algorithms and tables are made, which no graph can hold


class Captured:
    """A function that computes a network's gradients, recorded once and then played back: the same kernels.

    Args:
        compute: takes a batch on the device, always of the same shapes, and returns two scalars. It may not look at a
            value, nor copy one between the device and the CPU.
        network: whose gradients it leaves behind.
    """

    def __init__(self, compute: Callable[[Batch], tuple[Tensor, Tensor]], network: nn.Module):
        self.compute, self.parameters = compute, list(network.parameters())
        self.calls, self.graph = 0, torch.cuda.CUDAGraph()

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        self.calls += 1
        if self.calls <= WARM_UP:
            return self._beside(batch)
        if self.calls == WARM_UP + 1:
            self._record(batch)
        for name, values in batch.items():
            self.inputs[name].copy_(values)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        first, second = self.outputs
        return first.clone(), second.clone()  # the next call overwrites them

    def _beside(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Computes in a stream of its own, as a recording will."""
        stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            outputs = self.compute(batch)
        current.wait_stream(stream)
        return outputs

    def _record(self, batch: Batch) -> None:
        """Notes the kernels without running them; where their inputs, outputs and gradients are stays the same."""
        self.inputs = {name: values.clone() for name, values in batch.items()}
        with torch.cuda.graph(self.graph):
            self.outputs = self.compute(self.inputs)
        self.gradients = [parameter.grad for parameter in self.parameters]
