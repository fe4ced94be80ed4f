"""Group normalisation of channels-last features on a CPU, by the kernel and without it, is the library's."""

import shutil
import sys

import pytest
import torch
import torch.nn.functional as F

from fromnoise.nn import kernels, normalization
from fromnoise.nn.normalization import GroupNorm

FORMATS = [torch.contiguous_format, torch.channels_last]
COMPILER = sys.platform == "linux" and shutil.which("c++") is not None
needs_compiler = pytest.mark.skipif(
    not COMPILER,
    reason="there is no C++ compiler, hence no kernel to test: torch's formulas run, which the others check",
)
CHANNELS = {True: 48, False: 12}  # with and without the kernel, which takes 16 side by side


def library_norm(module, x, offset, silu):
    """What ours has to give, by the library, in float64 on contiguous features."""
    x = x.double().contiguous() if offset is None else (x.double() + offset.double()[:, :, None, None]).contiguous()
    x = F.group_norm(x, module.num_groups, module.weight.double(), module.bias.double(), module.eps)
    return F.silu(x) if silu else x


def module(groups, channels, dtype=torch.float32):
    """A module with random parameters."""
    norm = GroupNorm(groups, channels, 1e-5).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn(channels, generator=generator))
    return norm


def features(channels, dtype, memory_format=torch.channels_last, shift=0.5):
    x = shift + 2 * torch.randn(3, channels, 5, 4, generator=torch.Generator().manual_seed(2))
    return x.to(dtype).to(memory_format=memory_format)


def offsets(channels, dtype):
    return torch.randn(3, channels, generator=torch.Generator().manual_seed(4)).to(dtype)


def run(function, x, offset, parameters):
    """Output and the gradients of x, offset (where there is one) and parameters, for a random one of the output."""
    inputs = [x.detach().clone().requires_grad_()]
    if offset is not None:
        inputs.append(offset.detach().clone().requires_grad_())
    y = function(inputs[0], inputs[1] if offset is not None else None)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y)
    return y, *torch.autograd.grad(y, [*inputs, *parameters], upstream)


@pytest.mark.parametrize("groups", [1, 3, 6])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12), (torch.bfloat16, 6e-3)]
)
def test_equals_the_library(groups, memory_format, kernel, silu, shifted, dtype, tolerance):
    """Output and all gradients equal those of float64 on contiguous features, to the dtype's accuracy."""
    norm, x = module(groups, CHANNELS[kernel], dtype), features(CHANNELS[kernel], dtype, memory_format)
    offset = offsets(CHANNELS[kernel], dtype) if shifted else None
    if kernel and COMPILER and dtype != torch.float64:
        assert normalization._kernel(x) is not None
    if not kernel:
        assert normalization._kernel(x) is None
    expected = run(lambda x, offset: library_norm(norm, x, offset, silu), x, offset, norm.parameters())
    actual = run(lambda x, offset: norm(x, offset, silu), x, offset, norm.parameters())
    for ours, exact in zip(actual, expected, strict=True):
        assert ours.dtype == dtype
        exact = exact.double()
        torch.testing.assert_close(ours.double(), exact, rtol=tolerance, atol=tolerance * exact.abs().max().item())


@pytest.mark.parametrize("kernel", [True, False])
def test_bf16_features_with_float32_parameters(kernel):
    """What autocast makes of it: bf16 in and out, float32 gradients of the parameters."""
    norm, x = module(3, CHANNELS[kernel]), features(CHANNELS[kernel], torch.bfloat16)
    expected = run(lambda x, offset: library_norm(norm, x, None, False), x, None, norm.parameters())
    actual = run(norm, x, None, norm.parameters())
    types = [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    for ours, exact, dtype in zip(actual, expected, types, strict=True):
        assert ours.dtype == dtype
        exact = exact.double()
        torch.testing.assert_close(ours.double(), exact, rtol=4e-3, atol=4e-3 * exact.abs().max().item())


@pytest.mark.parametrize("kernel", [True, False])
def test_features_far_from_zero(kernel):
    """With a mean of 100 and a std of 2, float32 sums must not cancel: no worse than the library's own kernel."""
    norm, x = module(3, CHANNELS[kernel]), features(CHANNELS[kernel], torch.float32, shift=100.0)
    exact = run(lambda x, offset: library_norm(norm, x, None, False), x, None, norm.parameters())
    library = run(norm, x.contiguous(), None, norm.parameters())
    for ours, theirs, truth in zip(run(norm, x, None, norm.parameters()), library, exact, strict=True):
        error, allowed = ((values.double() - truth).abs().max() for values in (ours, theirs))
        assert error < 2 * allowed + 1e-4 * truth.abs().max()


def test_silu_of_large_numbers():
    """The kernel's own exponential neither overflows nor loses digits, from far below zero to far above."""
    norm = GroupNorm(1, 16, 1e-12)
    x = torch.linspace(-1, 1, 16 * 64).reshape(1, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        norm.weight.fill_(100.0)
    actual, exact = norm(x, silu=True), library_norm(norm, x, None, True)
    assert actual.abs().max() > 150 and actual.min() < -0.27
    torch.testing.assert_close(actual.double(), exact, rtol=1e-4, atol=1e-30)


@pytest.mark.parametrize("groups", [1, 3, 12])
@pytest.mark.parametrize("silu", [True, False])
def test_gradients(groups, silu):
    """Finite differences in float64, for features, offset, weight and bias."""
    norm = module(groups, 12, torch.float64)
    x = features(12, torch.float64)[:2, :, :2, :3].contiguous(memory_format=torch.channels_last)
    assert not x.is_contiguous()
    names = [name for name, _ in norm.named_parameters()]

    def function(x, offset, *parameters):
        return torch.func.functional_call(norm, dict(zip(names, parameters, strict=True)), (x, offset, silu))

    offset = offsets(12, torch.float64)[:2]
    inputs = [v.detach().clone().requires_grad_() for v in (x, offset, *norm.parameters())]
    assert "fromnoise" in type(function(*inputs).grad_fn).__name__
    assert torch.autograd.gradcheck(function, inputs)


def test_second_derivatives_are_refused_rather_than_wrong():
    """The derivative is written by hand and has none itself."""
    norm, x = module(3, 48), features(48, torch.float32).requires_grad_()
    (gradient,) = torch.autograd.grad(norm(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        gradient.square().sum().backward()


def test_without_parameters():
    """`affine=False` is the library's too."""
    ours, theirs = (kind(3, 12, affine=False) for kind in (GroupNorm, torch.nn.GroupNorm))
    x = features(12, torch.float32)
    torch.testing.assert_close(ours(x), theirs(x))


def test_state_dict_is_the_library_s():
    assert list(GroupNorm(3, 12).state_dict()) == ["weight", "bias"]
    assert isinstance(GroupNorm(3, 12), torch.nn.GroupNorm)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_compiled(memory_format):
    """Inside torch.compile it is one graph, with one operation of ours where there is a short cut."""
    norm, x, offset = module(3, 48), features(48, torch.float32, memory_format), offsets(48, torch.float32)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph.code)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(lambda x, offset: norm(x, offset, True), backend=backend, fullgraph=True)
    expected = run(lambda x, offset: norm(x, offset, True), x, offset, norm.parameters())
    for ours, exact in zip(run(compiled, x, offset, norm.parameters()), expected, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-4)
    (code,) = graphs
    assert ("fromnoise.group_norm" in code) == (memory_format is torch.channels_last)


@needs_compiler
def test_the_operation_is_registered_as_torch_wants_it():
    """Its fake and autograd registrations agree with what it does."""
    x, weight, bias = features(16, torch.float32), torch.ones(16), torch.zeros(16)
    arguments = (x.requires_grad_(), offsets(16, torch.float32), weight, bias, 4, 1e-5, True)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(normalization._normalize, arguments, test_utils=tests)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_do_not_depend_on_threads_or_neighbours(dtype):
    norm, x, offset = module(3, 48), features(48, dtype), offsets(48, dtype)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run(lambda x, offset: norm(x, offset, True), x, offset, norm.parameters())
    finally:
        torch.set_num_threads(threads)
    together = run(lambda x, offset: norm(x, offset, True), x, offset, norm.parameters())
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert torch.equal(norm(x[1:2], offset[1:2], True), together[0][1:2])


# ------------------------------------------------------------------ where the kernel comes from


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """No kernel has been built yet, and the cache is an empty folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels.library.cache_clear()
    yield tmp_path / "fromnoise"
    kernels.library.cache_clear()


@needs_compiler
def test_the_kernel_is_built_once_and_kept(fresh, monkeypatch):
    assert kernels.library(normalization.SOURCE) is not None
    (built,) = fresh.iterdir()
    kernels.library.cache_clear()
    monkeypatch.setattr(kernels.subprocess, "run", None)  # another build would fail
    assert kernels.library(normalization.SOURCE) is not None
    assert list(fresh.iterdir()) == [built]


def test_without_a_compiler_the_result_is_the_same(fresh, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert kernels.library(normalization.SOURCE) is None
    norm, x = module(3, 48), features(48, torch.float32)
    torch.testing.assert_close(norm(x, silu=True).double(), library_norm(norm, x, None, True), rtol=1e-5, atol=1e-5)


@needs_compiler
def test_a_compiler_that_fails_leaves_nothing_behind(fresh, monkeypatch, tmp_path):
    broken = tmp_path / "broken.cpp"
    broken.write_text("this is no program")
    assert kernels.library(broken) is None
    assert not fresh.exists() or not list(fresh.iterdir())


def test_a_cache_that_cannot_be_written(fresh, monkeypatch, tmp_path):
    (tmp_path / "fromnoise").write_text("a file where the folder would be")
    assert kernels.library(normalization.SOURCE) is None


def test_the_kernel_can_be_switched_off(fresh, monkeypatch):
    monkeypatch.setenv("FROMNOISE_KERNELS", "0")
    assert kernels.library(normalization.SOURCE) is None
