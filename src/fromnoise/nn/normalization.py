"""Group normalisation, written so that it is fast where this project trains: bf16, channels-last, on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` with the same parameters and result, and a short cut on the CPU.

    PyTorch's CPU kernel is some thirty times slower on bf16 channels-last features than their size warrants, and
    was two thirds of a training step. There the two sums are taken per channel first, which reads memory in order.
    Everywhere else, and inside ``torch.compile``, the library's own kernel runs.

    Shapes: ``(B, C, H, W)`` to the same. Source: Wu and He 2018 (arXiv 1803.08494).
    """

    def forward(self, input: Tensor) -> Tensor:
        slow_kernel = (
            input.device.type == "cpu"
            and self.affine
            and not torch.compiler.is_compiling()
            and not input.is_contiguous()
            and input.is_contiguous(memory_format=torch.channels_last)
        )
        if slow_kernel:
            return _GroupNormChannelsLast.apply(input, self.weight, self.bias, self.num_groups, self.eps)
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class _GroupNormChannelsLast(torch.autograd.Function):
    """``y = (x - mean) / std * weight + bias`` and its derivative, in sums over height and width."""

    @staticmethod
    def forward(ctx, x, weight, bias, groups, eps):  # type: ignore[no-untyped-def]
        high = torch.promote_types(x.dtype, torch.float32)
        centred = x.to(high)
        mean = _over_groups(centred.mean((2, 3)), groups)  # (B, C, 1, 1)
        centred = centred - mean
        rstd = _over_groups(centred.square().mean((2, 3)), groups).add(eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.groups = groups
        return torch.addcmul(bias[:, None, None], centred, rstd * weight[:, None, None]).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, weight, mean, rstd = ctx.saved_tensors
        pixels = x.shape[2] * x.shape[3]
        high_x, high_grad = x.to(mean.dtype), grad.to(mean.dtype)
        # With n = (x - mean) * rstd the normalised x, g = grad * weight and averages over a group:
        # dx = rstd * (g - mean(g) - n * mean(g * n)), d weight = sum(grad * n), d bias = sum(grad).
        grad_sum = high_grad.sum((2, 3), keepdim=True)  # (B, C, 1, 1)
        grad_n_sum = ((high_grad * high_x).sum((2, 3), keepdim=True) - grad_sum * mean) * rstd
        scale = weight[:, None, None]
        mean_g = _over_groups((grad_sum * scale).flatten(1) / pixels, ctx.groups)
        mean_gn = _over_groups((grad_n_sum * scale).flatten(1) / pixels, ctx.groups)
        slope = -mean_gn * rstd.square()
        offset = -mean_g * rstd - slope * mean
        dx = torch.addcmul(torch.addcmul(offset, high_x, slope), high_grad, rstd * scale).to(x.dtype)
        return dx, grad_n_sum.sum(0).flatten(), grad_sum.sum(0).flatten(), None, None


def _over_groups(per_channel: Tensor, groups: int) -> Tensor:
    """Averages ``(B, C)`` over each group of channels and gives every channel its group's: ``(B, C, 1, 1)``."""
    batch, channels = per_channel.shape
    averages = per_channel.view(batch, groups, -1).mean(-1, keepdim=True)
    return averages.expand(-1, -1, channels // groups).reshape(batch, channels, 1, 1)
