"""The gradient of a convolution's weights, by the kernel where there is one, is the library's."""

import pytest
import torch
import torch.nn.functional as F

from fromnoise.nn import convolution
from fromnoise.nn.convolution import Conv2d, convolve

KERNEL = convolution._kernel() is not None
ROUNDING = 1e-6 if KERNEL else 2**-8  # as a share of the largest: float32 sums, which the library rounds to bf16

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
    """bf16 features, weights and gradient of the result, all channels-last; and the options."""
    torch.manual_seed(0)
    last = torch.channels_last
    x = (0.5 + torch.randn(images, channels, height, width)).to(torch.bfloat16, memory_format=last)
    sides = (channels, out_channels) if transposed else (out_channels, channels)
    weight = torch.randn(*sides, size, size).to(torch.bfloat16, memory_format=last)
    result = (F.conv_transpose2d if transposed else F.conv2d)(x, weight, stride=stride, padding=padding)
    return torch.randn(result.shape).to(torch.bfloat16, memory_format=last), x, weight, stride, padding, transposed


def exact(grad, x, weight, stride, padding, transposed):
    weight = weight.double().requires_grad_()
    result = (F.conv_transpose2d if transposed else F.conv2d)(x.double(), weight, stride=stride, padding=padding)
    return torch.autograd.grad(result, weight, grad.double())[0]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_weight_gradient(shape):
    arguments = example(*shape)
    found, truth = convolution.weight_gradient(*arguments), exact(*arguments)
    assert found.dtype == torch.float32
    assert (found - truth).abs().max() < ROUNDING * truth.abs().max()
    assert torch.equal(found, convolution.weight_gradient(*arguments))


def test_the_kernel_is_there_where_its_instruction_is(monkeypatch):
    assert (convolution.DOT_PRODUCTS and convolution.library(convolution.SOURCE) is not None) == KERNEL
    arguments = example(*SHAPES["up"])
    monkeypatch.setattr(convolution, "library", lambda source: None)
    truth = exact(*arguments)
    assert (convolution.weight_gradient(*arguments) - truth).abs().max() < 2**-8 * truth.abs().max()


def test_the_operation_is_registered_as_torch_wants_it():
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(convolution.weight_gradient, example(*SHAPES["down"]), test_utils=tests)


@pytest.fixture
def chosen(monkeypatch):
    """As on a processor that ours is for; one without its instruction runs the library's inside it."""
    monkeypatch.setattr(convolution, "DOT_PRODUCTS", True)
    monkeypatch.setattr(convolution, "MATRICES", False)


@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_are_the_library_s(chosen, transposed):
    """In autocast, from float32 parameters, which get float32 gradients."""
    shape = SHAPES["up" if transposed else "down"]
    grad, x, weight, stride, padding, _ = example(*shape)
    bias = torch.randn(grad.shape[1])
    gradients = []
    for function in (convolve, F.conv_transpose2d if transposed else F.conv2d):
        inputs = [x.clone().requires_grad_(), weight.float().requires_grad_(), bias.clone().requires_grad_()]
        options = {"transposed": transposed} if function is convolve else {}
        with torch.autocast("cpu", torch.bfloat16):
            y = function(*inputs, stride=stride, padding=padding, **options)
        assert ("_Convolution" in y.grad_fn.name()) == (function is convolve)
        gradients.append((y, *torch.autograd.grad(y, inputs, grad)))
    for ours, theirs in zip(*gradients, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=2**-7 * theirs.abs().max().item())


def test_everything_else_is_the_library_s_own(chosen, monkeypatch):
    grad, x, _, stride, padding, _ = example(*SHAPES["a residual block's"])
    layer = Conv2d(32, 16, 3, padding=1).to(torch.bfloat16, memory_format=torch.channels_last)
    assert "_Convolution" in layer(x).grad_fn.name()
    assert layer(x.contiguous()).grad_fn.name() == "ConvolutionBackward0"
    assert layer.float()(x.float()).grad_fn.name() == "ConvolutionBackward0"
    layer.bfloat16().requires_grad_(False)
    assert layer(x.requires_grad_()).grad_fn.name() == "ConvolutionBackward0"
    odd = Conv2d(32, 3, 3, padding=1).to(torch.bfloat16)
    assert odd(x).grad_fn.name() == "ConvolutionBackward0"
    layer.requires_grad_(True)
    monkeypatch.setattr(convolution, "MATRICES", True)
    assert layer(x).grad_fn.name() == "ConvolutionBackward0"
    with torch.no_grad():
        assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1))
