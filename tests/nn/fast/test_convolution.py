"""Convolution is its formula, with the gradient of the weights by the kernel where there is one."""

import pytest
import torch

from fromnoise.nn.fast import convolution
from fromnoise.nn.fast.convolution import convolve, formula, weight_gradient
from fromnoise.nn.fast.kernels import library
from fromnoise.nn.layers import Conv2d

KERNEL = hasattr(library(convolution.SOURCE), "weight_gradient")

SHAPES = {  # images, channels in and out, height, width, size of the weights, stride, padding, transposed
    "a residual block's": (5, 32, 16, 6, 5, 3, 1, 1, False),
    "one image": (1, 64, 8, 3, 4, 3, 1, 1, False),
    "many small images": (70, 32, 24, 4, 3, 3, 1, 1, False),
    "more positions than are summed up at once": (3, 32, 8, 20, 21, 3, 1, 1, False),
    "a shortcut's": (4, 96, 32, 5, 5, 1, 1, 0, False),
    "down": (4, 32, 32, 6, 8, 3, 2, 1, False),
    "down, padded below and to the right": (3, 32, 8, 7, 9, 3, 2, 0, False),
    "up": (4, 8, 32, 3, 4, 4, 2, 1, True),
}


def example(images, channels, out_channels, height, width, size, stride, padding, transposed):
    """bf16 gradient of the result, features and weights, all channels-last; and the options."""
    torch.manual_seed(0)
    last = torch.channels_last
    x = (0.5 + torch.randn(images, channels, height, width)).to(torch.bfloat16, memory_format=last)
    sides = (channels, out_channels) if transposed else (out_channels, channels)
    weight = torch.randn(*sides, size, size).to(torch.bfloat16, memory_format=last)
    shape = formula(x, weight, None, stride, padding, transposed).shape
    return torch.randn(shape).to(torch.bfloat16, memory_format=last), x, weight, stride, padding, transposed


def by_formula(grad, x, weight, *options):
    weight = weight.detach().requires_grad_()
    return torch.autograd.grad(formula(x, weight, None, *options), weight, grad)[0]


def test_the_kernel_is_there_where_its_instruction_is():
    assert (convolution.DOT_PRODUCTS and library(convolution.SOURCE) is not None) == KERNEL


@pytest.mark.skipif(
    not KERNEL,
    reason="only with AVX-512's bf16 is there such a kernel to compare",
)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_kernel_s_gradient_is_the_formula_s(shape):
    """To the accuracy of float32 sums, and each time the same."""
    grad, x, weight, *options = example(*shape)
    found = weight_gradient(grad, x, weight, *options)
    truth = by_formula(grad.double(), x.double(), weight.double(), *options)
    assert found.dtype == torch.float32
    assert (found - truth).abs().max() < 1e-6 * truth.abs().max()
    assert torch.equal(found, weight_gradient(grad, x, weight, *options))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_without_the_kernel_the_gradient_is_the_library_s(shape, monkeypatch):
    monkeypatch.setattr(convolution, "library", lambda source: None)
    arguments = example(*shape)
    torch.testing.assert_close(weight_gradient(*arguments), by_formula(*arguments).float(), rtol=0, atol=0)


def test_the_operation_is_registered_as_torch_wants_it():
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(weight_gradient, example(*SHAPES["down"]), test_utils=tests)


@pytest.fixture
def chosen(monkeypatch):
    """As on a processor that ours is for; one without its instruction runs the library's inside it."""
    monkeypatch.setattr(convolution, "DOT_PRODUCTS", True)
    monkeypatch.setattr(convolution, "MATRICES", False)


@pytest.mark.parametrize("shape", ["down", "up"])
def test_convolve_is_its_formula(chosen, shape):
    """Its value and all gradients; in autocast, from float32 parameters, which get float32 gradients."""
    grad, x, weight, *options = example(*SHAPES[shape])
    bias = torch.randn(grad.shape[1])
    results = []
    for function in (convolve, formula):
        inputs = [value.clone().requires_grad_() for value in (x, weight.float(), bias)]
        with torch.autocast("cpu", torch.bfloat16):
            y = function(*inputs, *options)
        assert ("_Convolution" in y.grad_fn.name()) == (function is convolve)
        results.append((y, *torch.autograd.grad(y, inputs, grad)))
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=2**-7 * theirs.abs().max().item())


def test_compiled(chosen):
    """Inside torch.compile it is one graph, whose gradient of the weights is ours."""
    grad, x, weight, *options = example(*SHAPES["up"])
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph.print_readable(print_output=False))
        return graph.forward

    torch._dynamo.reset()
    inputs = [value.requires_grad_() for value in (x, weight.float(), torch.randn(grad.shape[1]))]
    results = [f(*inputs, *options) for f in (torch.compile(convolve, backend=backend, fullgraph=True), convolve)]
    compiled, eager = (torch.autograd.grad(y, inputs, grad) for y in results)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(compiled, eager, strict=True))
    (code,) = graphs
    assert "fromnoise.weight_gradient" in code


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_a_gradient_that_nobody_needs_is_not_computed(monkeypatch, frozen):
    grad, x, weight, *options = example(*SHAPES["down"])
    inputs = [value.requires_grad_(i != frozen) for i, value in enumerate((x, weight, torch.zeros(grad.shape[1])))]
    library_gradient, computed = convolution._library_gradient, []

    def recorded(of, *arguments):
        computed.append(of)
        return library_gradient(of, *arguments)

    monkeypatch.setattr(convolution, "library", lambda source: None)
    monkeypatch.setattr(convolution, "_library_gradient", recorded)
    convolution._Convolution.apply(*inputs, *options).backward(grad)
    assert computed == [i for i in (0, 1) if i != frozen]
    assert [value.grad is None for value in inputs] == [i == frozen for i in range(3)]


def test_everything_else_is_the_library_s_own(chosen, monkeypatch):
    _, x, *_ = example(*SHAPES["a residual block's"])
    layer = Conv2d(32, 16, 3, padding=1).to(torch.bfloat16, memory_format=torch.channels_last)

    def library_s(layer, x):
        return layer(x).grad_fn.name() == "ConvolutionBackward0"

    assert "_Convolution" in layer(x).grad_fn.name()
    assert library_s(layer, x.contiguous())
    assert library_s(Conv2d(32, 16, 3, padding=1), x.float())
    assert library_s(Conv2d(32, 3, 3, padding=1).bfloat16(), x)  # channels that the kernel's blocks do not fit
    assert library_s(layer.requires_grad_(False), x.clone().requires_grad_())
    monkeypatch.setattr(convolution, "MATRICES", True)
    assert library_s(layer.requires_grad_(True), x)
