"""How far one set of features lies from another."""

import torch
from torch import Tensor

NEIGHBOURS = 3
"""to which nearest neighbour the balls of precision and recall reach"""

_ROWS = 500  # rows of the table of all pairs that are computed at a time: 40 MB for 10,000 images


def frechet_distance(features: Tensor, reference: Tensor) -> float:
    """Fréchet distance between Gaussians with the means and covariances of two sets of features. Eq. fid

    ``|mean_1 - mean_2|^2 + tr(cov_1 + cov_2 - 2 (cov_1 cov_2)^(1/2))``. It is biased upwards, the more so the fewer
    samples there are: compare only distances of equal numbers of samples. N and M may be smaller than D.

    The two are ``(N, D)`` and ``(M, D)``, N and M at least 2.
    Source: Heusel et al. 2017 (arXiv 1706.08500), equation 6.
    """
    features, reference = features.double(), reference.double()
    cov_1, cov_2 = torch.atleast_2d(features.T.cov(), reference.T.cov())
    values, vectors = torch.linalg.eigh(cov_1)
    root = vectors * values.clamp(min=0).sqrt()  # root root^T = cov_1
    squares = torch.linalg.eigvalsh(root.T @ cov_2 @ root)  # the eigenvalues of cov_1 cov_2, too
    trace = cov_1.trace() + cov_2.trace() - 2 * squares.clamp(min=0).sqrt().sum()
    return float((features.mean(0) - reference.mean(0)).square().sum() + trace)


def kernel_distance(features: Tensor, reference: Tensor) -> float:
    """Squared maximum mean discrepancy of two sets of features for the kernel ``(x.y / D + 1)^3``. Eq. kid

    It is unbiased for independent samples, however few: for two sets from one distribution its mean is 0, and it is
    often below 0. Sets with an equal number of each class are not quite independent, which lowers it by the order of
    1 / N. All pairs are used, and N and M may differ; torchmetrics uses random subsets of equal size.

    The two are ``(N, D)`` and ``(M, D)``, N and M at least 2.
    Source: Bińkowski et al. 2018 (arXiv 1801.01401), section 4; the estimator is that of Gretton et al. 2012 ("A kernel
    two-sample test"), lemma 6.
    """
    x, y = features.double(), reference.double()

    def kernel_sum(a: Tensor, b: Tensor) -> float:
        return sum(float(((part @ b.T / b.shape[1] + 1) ** 3).sum()) for part in a.split(_ROWS))

    def mean_of_others(a: Tensor) -> float:
        with_itself = float(((a.square().mean(1) + 1) ** 3).sum())
        return (kernel_sum(a, a) - with_itself) / (len(a) * (len(a) - 1))

    return mean_of_others(x) + mean_of_others(y) - 2 * kernel_sum(x, y) / (len(x) * len(y))


def precision_recall(features: Tensor, reference: Tensor, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Precision and recall of one set of features against another, by balls around each point. Eq. prec-recall

    Around each point of a set there is a ball that reaches to the point's ``neighbours``-th nearest neighbour in the
    set; the set covers what lies in any of its balls. Precision is the fraction of ``features`` that the reference
    covers, recall the fraction of the reference that ``features`` cover. Both depend on the numbers of points: take
    N = M.

    The two are ``(N, D)`` and ``(M, D)``, N and M above ``neighbours``.
    Source: Kynkäänniemi et al. 2019 (arXiv 1904.06991), equations 1 and 2.
    """

    def covered(points: Tensor, by: Tensor) -> float:
        radii = [torch.cdist(part, by).kthvalue(neighbours + 1).values for part in by.split(_ROWS)]  # 1 is itself
        inside = [(torch.cdist(part, by) <= torch.cat(radii)).any(1) for part in points.split(_ROWS)]
        return torch.cat(inside).double().mean().item()

    features, reference = features.double(), reference.double()
    return covered(features, by=reference), covered(reference, by=features)
