"""The checks of chapters 3 and 4 refuse answers that are right by chance, and accept right ones of another form."""

import numpy as np
import pytest
import torch

import exercises


def receptive_field_of_constants(kernels, strides):
    return {(1, 1, 1): 7, (1, 2, 1): 9}.get(tuple(strides), 31)


def receptive_field_of_numpy(kernels, strides):
    distances = np.cumprod([1, *strides])[: len(kernels)]
    return 1 + np.sum((np.array(kernels, dtype=int) - 1) * distances, dtype=int)


def receptive_field_of_torch(kernels, strides):
    distances = torch.tensor([1, *strides]).cumprod(0)[: len(kernels)]
    return 1 + ((torch.tensor(kernels).long() - 1) * distances).sum()


def groups(x, count, divide):
    flat = x.reshape(len(x), count, -1)
    centred = flat - flat.mean(-1, keepdim=True)
    return divide(centred, centred.square().mean(-1, keepdim=True)).view_as(x)


def plain_kappa(variance, beta, beta_tilde):
    return (variance - beta_tilde) / (beta - beta_tilde)


def numpy_kappa(variance, beta, beta_tilde):
    v, b, low = (np.log(value.numpy()) for value in (variance, beta, beta_tilde))
    return torch.from_numpy((v - low) / (b - low))


@pytest.mark.parametrize(
    ("name", "answer", "problem"),
    [
        ("receptive_field", receptive_field_of_constants, "see"),
        ("receptive_field", lambda kernels, strides: 1.5, "not 1.5"),
        ("receptive_field", receptive_field_of_numpy, None),
        ("receptive_field", receptive_field_of_torch, None),
        ("normalise_groups", lambda x, n: groups(x, n, lambda c, v: c / v.clamp(min=1e-30).sqrt()), "1e-5 is missing"),
        ("normalise_groups", lambda x, n: groups(x, n, lambda c, v: c / (v.sqrt() + 1e-5)), "under the root"),
        ("normalise_groups", lambda x, n: groups(x, n, lambda c, v: c / (v + 1e-4).sqrt()), "add 1e-5"),
        ("normalise_groups", lambda x, n: groups(x, n, lambda c, v: c * (v + 1e-5).rsqrt()), None),
        ("normalise_groups", lambda x, n: torch.nn.GroupNorm(n, x.shape[1], affine=False)(x), None),
        ("kappa_of_variance", plain_kappa, "mixes the variances"),
        ("kappa_of_variance", numpy_kappa, None),
    ],
)
def test_answers_of_other_forms(name, answer, problem):
    answer.__name__ = name
    verdict = exercises.verdict(answer)
    assert verdict is None if problem is None else problem in verdict
