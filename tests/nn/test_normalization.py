"""Group normalisation: the short cut for channels-last features on a CPU is the library's, to the last digits."""

import pytest
import torch

from fromnoise.nn.normalization import GroupNorm

CHANNELS = 12
FORMATS = [torch.contiguous_format, torch.channels_last]


def pair(groups, dtype, **options):
    """The module, and the library's with the same random parameters."""
    ours, theirs = (kind(groups, CHANNELS, 1e-5, **options).to(dtype) for kind in (GroupNorm, torch.nn.GroupNorm))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(CHANNELS, generator=generator))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def features(dtype, memory_format, shift=0.5):
    x = shift + 2 * torch.randn(3, CHANNELS, 5, 4, generator=torch.Generator().manual_seed(2))
    return x.to(dtype).to(memory_format=memory_format)


def run(module, x):
    """Output and the gradients of x, weight and bias, for a random gradient of the output."""
    x = x.detach().clone().requires_grad_()
    y = module(x)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y)
    return y, *torch.autograd.grad(y, [x, *module.parameters()], upstream)


@pytest.mark.parametrize("groups", [1, 3, 4, CHANNELS])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12), (torch.bfloat16, 3e-3)]
)
def test_equals_the_library(groups, memory_format, dtype, tolerance):
    """Output and all gradients equal those of nn.GroupNorm on contiguous float64 features, to the dtype's accuracy."""
    ours, theirs = pair(groups, dtype)
    x = features(dtype, memory_format)
    expected = run(theirs.double(), x.double().contiguous())
    for actual, exact in zip(run(ours, x), expected, strict=True):
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.double(), exact, rtol=tolerance, atol=tolerance * exact.abs().max().item())


def test_bf16_features_with_float32_parameters():
    """What autocast makes of it: bf16 in and out, float32 gradients of the parameters."""
    ours, theirs = pair(3, torch.float32)
    x = features(torch.bfloat16, torch.channels_last)
    expected = run(theirs.double(), x.double().contiguous())
    for actual, exact, dtype in zip(
        run(ours, x), expected, [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32], strict=True
    ):
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.double(), exact, rtol=3e-3, atol=3e-3 * exact.abs().max().item())


def test_features_far_from_zero():
    """With a mean of 100 and a std of 2, float32 sums must not cancel: no worse than the library's own kernel."""
    ours, theirs = pair(3, torch.float32)
    x = features(torch.float32, torch.channels_last, shift=100.0)
    exact = run(pair(3, torch.float64)[1], x.double().contiguous())
    for actual, library, truth in zip(run(ours, x), run(theirs, x.contiguous()), exact, strict=True):
        error, allowed = ((values.double() - truth).abs().max() for values in (actual, library))
        assert error < 2 * allowed + 1e-4 * truth.abs().max()


@pytest.mark.parametrize("groups", [1, 3, CHANNELS])
def test_gradients(groups):
    """Finite differences in float64, for features, weight and bias, on the short cut."""
    ours, _ = pair(groups, torch.float64)
    x = features(torch.float64, torch.channels_last)[:2, :, :2, :3].contiguous(memory_format=torch.channels_last)
    assert not x.is_contiguous()
    names = [name for name, _ in ours.named_parameters()]

    def function(x, *parameters):
        return torch.func.functional_call(ours, dict(zip(names, parameters, strict=True)), (x,))

    inputs = [v.detach().clone().requires_grad_() for v in (x, *ours.parameters())]
    assert type(function(*inputs).grad_fn).__name__ == "_GroupNormChannelsLastBackward"
    assert torch.autograd.gradcheck(function, inputs)


def test_second_derivatives_are_refused_rather_than_wrong():
    """The short cut's derivative is written by hand and has none itself."""
    ours, _ = pair(3, torch.float32)
    x = features(torch.float32, torch.channels_last).requires_grad_()
    (gradient,) = torch.autograd.grad(ours(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


def test_without_parameters():
    """`affine=False` is the library's too."""
    ours, theirs = (kind(3, CHANNELS, affine=False) for kind in (GroupNorm, torch.nn.GroupNorm))
    x = features(torch.float32, torch.channels_last)
    torch.testing.assert_close(ours(x), theirs(x))


def test_state_dict_is_the_library_s():
    assert list(GroupNorm(3, CHANNELS).state_dict()) == ["weight", "bias"]
    assert isinstance(GroupNorm(3, CHANNELS), torch.nn.GroupNorm)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_compiled(memory_format):
    """Inside torch.compile it is one graph that calls the library's kernel, with the same output and gradients."""
    ours, theirs = pair(3, torch.float32)
    x, graphs = features(torch.float32, memory_format), []

    def backend(graph, inputs):
        graphs.append(graph.code)
        return graph.forward

    compiled = torch.compile(ours, backend=backend, fullgraph=True)
    for actual, expected in zip(run(compiled, x), run(theirs, x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    (code,) = graphs
    assert "group_norm(" in code
    assert "autograd_function" not in code
