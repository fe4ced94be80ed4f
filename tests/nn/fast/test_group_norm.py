"""Group normalisation of channels-last features on a CPU, by the kernel and without it, is its formula."""

import shutil
import sys

import pytest
import torch

from fromnoise.nn.fast import group_norm as module
from fromnoise.nn.fast.group_norm import formula, group_norm

COMPILER = sys.platform == "linux" and shutil.which("c++") is not None
CHANNELS = {True: 48, False: 12}  # with and without the kernel, which takes 16 side by side
LAST = torch.channels_last


def example(channels, dtype=torch.float32, high=None, shifted=True, mean=0.5):
    """Features, offset (or none), weight and bias; the last two of the dtype ``high`` where that is another one."""
    generator = torch.Generator().manual_seed(1)
    x = (mean + 2 * torch.randn(3, channels, 5, 4, generator=generator)).to(dtype, memory_format=LAST)
    offset = torch.randn(3, channels, generator=generator).to(dtype) if shifted else None
    return x, offset, *(torch.randn(channels, generator=generator).to(high or dtype) for _ in range(2))


def run(function, inputs, groups=3, silu=True):
    """The result and the gradients of all inputs, for a random one of the result."""
    inputs = [value if value is None else value.detach().clone().requires_grad_() for value in inputs]
    y = function(*inputs, groups, 1e-5, silu)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y)
    return y, *torch.autograd.grad(y, [value for value in inputs if value is not None], upstream)


def exact(inputs, *options):
    """The formula in float64, on contiguous features."""
    return run(formula, [value if value is None else value.double().contiguous() for value in inputs], *options)


@pytest.mark.parametrize("groups", [1, 3, 6])
@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize(
    ("dtype", "high", "tolerance"),
    [
        (torch.float32, torch.float32, 2e-5),
        (torch.float64, torch.float64, 1e-12),
        (torch.bfloat16, torch.bfloat16, 6e-3),
        (torch.bfloat16, torch.float32, 4e-3),  # as autocast has it
    ],
)
def test_group_norm_is_its_formula(groups, kernel, silu, shifted, dtype, high, tolerance):
    """Its value and all gradients, to the dtype's accuracy, each in the dtype of what it belongs to."""
    inputs = example(CHANNELS[kernel], dtype, high, shifted)
    assert (module._kernel("forward", inputs[0]) is not None) == (kernel and COMPILER and dtype != torch.float64)
    results = run(group_norm, inputs, groups, silu)
    types = [dtype, *(value.dtype for value in inputs if value is not None)]
    for ours, truth, expected in zip(results, exact(inputs, groups, silu), types, strict=True):
        assert ours.dtype == expected
        torch.testing.assert_close(ours.double(), truth, rtol=tolerance, atol=tolerance * truth.abs().max().item())


@pytest.mark.parametrize("kernel", [True, False])
def test_features_far_from_zero(kernel):
    """With a mean of 100 and a std of 2, float32 sums must not cancel: no worse than the library's own kernel."""
    inputs = example(CHANNELS[kernel], shifted=False, mean=100.0)
    library = run(formula, [inputs[0].contiguous(), *inputs[1:]])
    for ours, theirs, truth in zip(run(group_norm, inputs), library, exact(inputs), strict=True):
        error, allowed = ((values.double() - truth).abs().max() for values in (ours, theirs))
        assert error < 2 * allowed + 1e-4 * truth.abs().max()


def test_silu_of_large_numbers():
    """The kernel's own exponential neither overflows nor loses digits, from far below zero to far above."""
    x = torch.linspace(-1, 1, 16 * 64).reshape(1, 16, 8, 8).contiguous(memory_format=LAST)
    weight, bias = torch.full((16,), 100.0), torch.zeros(16)
    actual = group_norm(x, None, weight, bias, 1, 1e-12, True)
    truth = formula(x.double().contiguous(), None, weight.double(), bias.double(), 1, 1e-12, True)
    assert actual.abs().max() > 150 and actual.min() < -0.27
    torch.testing.assert_close(actual.double(), truth, rtol=1e-4, atol=1e-30)


def test_second_derivatives_are_refused_rather_than_wrong():
    """The derivative is written by hand and has none itself."""
    x, *others = example(48)
    y = group_norm(x.requires_grad_(), *others, 3, 1e-5, True)
    (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        gradient.square().sum().backward()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, LAST])
def test_compiled(memory_format):
    """Inside torch.compile it is one graph, with one operation of ours where PyTorch's is slow."""
    x, *others = example(48)
    inputs = [x.contiguous(memory_format=memory_format), *others]
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph.code)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(group_norm, backend=backend, fullgraph=True)
    for ours, eager in zip(run(compiled, inputs), run(group_norm, inputs), strict=True):
        assert torch.equal(ours, eager)
    (code,) = graphs
    assert ("fromnoise.group_norm" in code) == (memory_format is LAST)


@pytest.mark.parametrize("kernel", [True, False])
def test_the_operation_is_registered_as_torch_wants_it(kernel):
    """Its fake and autograd registrations agree with what it does."""
    x, *others = example(CHANNELS[kernel])
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(module._normalize, (x.requires_grad_(), *others, 3, 1e-5, True), test_utils=tests)


@pytest.mark.skipif(not COMPILER, reason="the kernel needs a C++ compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_do_not_depend_on_threads_or_neighbours(dtype):
    x, offset, *parameters = inputs = example(48, dtype)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(run(group_norm, inputs))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, three) for one, three in zip(*results, strict=True))
    assert torch.equal(group_norm(x[1:2], offset[1:2], *parameters, 3, 1e-5, True), results[0][0][1:2])
