"""Distances between sets of features, and likeness of pairs: equations fid, kid, prec-recall and clip-score."""

import math

import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from fromnoise.evaluate import distances
from fromnoise.evaluate.distances import frechet_distance, kernel_distance, precision_recall
from fromnoise.evaluate.likeness import clip_scores

F64 = torch.float64


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=F64)


def standardised(generator, count, dims):
    """Points whose sample mean is exactly 0 and whose sample covariance is exactly 1."""
    points = normal(generator, count, dims)
    points = points - points.mean(0)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(points.T.cov()), points.T, upper=False).T


@pytest.fixture
def few_rows(monkeypatch):
    """Tables of all pairs in parts of three rows, the last one shorter."""
    monkeypatch.setattr(distances, "_ROWS", 3)


def test_fid__diagonal_covariances(generator):
    """``|m_1 - m_2|^2 + sum (s_1 - s_2)^2``, and 0 between a set and itself."""
    points = standardised(generator, 500, 3)
    s_1, s_2 = torch.tensor([[1.0, 2.0, 0.5], [3.0, 2.0, 0.1]], dtype=F64)
    shift = torch.tensor([0.5, -1.0, 2.0], dtype=F64)
    expected = (shift.square() + (s_1 - s_2).square()).sum().item()
    assert math.isclose(frechet_distance(points * s_1 + shift, points * s_2), expected, rel_tol=1e-6)
    assert abs(frechet_distance(points, points)) < 1e-6


@pytest.mark.parametrize(("n", "m", "dims"), [(300, 200, 6), (40, 60, 20), (5, 100, 12), (9, 6, 30)])
def test_fid__general_covariances(generator, n, m, dims):
    """torchmetrics' figure, and the definition: the covariances do not commute, and some have fewer points than rows.

    In both the trace of the root is the sum of the singular values of ``X Y^T``, for points X and Y about their means.
    """
    features = normal(generator, n, dims) @ normal(generator, dims, dims) + normal(generator, dims)
    reference = normal(generator, m, dims) @ normal(generator, dims, dims)
    x, y = ((points - points.mean(0)) / math.sqrt(len(points) - 1) for points in (features, reference))
    assert not torch.allclose(x.T @ x @ y.T @ y, y.T @ y @ x.T @ x, rtol=0.1)
    root = torch.linalg.svdvals(x @ y.T).sum()
    shift = (features.mean(0) - reference.mean(0)).square().sum()
    expected = (shift + x.square().sum() + y.square().sum() - 2 * root).item()
    assert math.isclose(frechet_distance(features, reference), expected, rel_tol=1e-6)
    assert math.isclose(frechet_distance(reference, features), expected, rel_tol=1e-6)

    network = torch.nn.Identity()
    network.num_features = dims
    metric = FrechetInceptionDistance(feature=network)
    metric.update(reference, real=True)
    metric.update(features, real=False)
    assert math.isclose(frechet_distance(features, reference), metric.compute().item(), rel_tol=1e-5)
    assert math.isclose(frechet_distance(features.float(), reference.float()), expected, rel_tol=1e-4)


def test_fid__does_not_see_rotations_of_both(generator):
    points = standardised(generator, 400, 4)
    stretched = points * torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=F64)
    rotation = torch.linalg.qr(normal(generator, 4, 4))[0]
    turned = frechet_distance(points @ rotation, stretched @ rotation)
    assert math.isclose(turned, 0 + 1 + 4 + 9, rel_tol=1e-6)


def test_fid__too_large_with_few_samples(generator):
    """Between samples of one law it is above 0, and the more so the fewer they are."""
    few, more, many = (frechet_distance(normal(generator, n, 5), normal(generator, n, 5)) for n in (50, 500, 5000))
    assert few > 3 * more > 9 * many > 0


def test_kid__definition(generator, few_rows):
    """Every pair, one at a time; of a set with itself without the pairs of one point."""
    x, y = normal(generator, 7, 4), normal(generator, 10, 4) + 1

    def kernel(a, b):
        return (sum(float(p) * float(q) for p, q in zip(a, b, strict=True)) / 4 + 1) ** 3

    def mean(pairs):
        values = [kernel(a, b) for a, b in pairs]
        return sum(values) / len(values)

    within = [mean((a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j) for z in (x, y)]
    expected = sum(within) - 2 * mean((a, b) for a in x for b in y)
    assert math.isclose(kernel_distance(x, y), expected, rel_tol=1e-9)
    assert math.isclose(kernel_distance(y, x), expected, rel_tol=1e-9)


def test_kid__torchmetrics(generator, few_rows):
    """Of as many points in both sets, torchmetrics' figure for one subset that is all of them."""
    x, y = normal(generator, 20, 8), 2 * normal(generator, 20, 8)
    assert math.isclose(kernel_distance(x.float(), y.float()), poly_mmd(y, x).item(), rel_tol=1e-4)
    assert math.isclose(kernel_distance(x, y), poly_mmd(y, x).item(), rel_tol=1e-9)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (6, 9)])
def test_kid__unbiased(generator, within_four_sigma, n, m):
    """Between samples of one law it is 0 on average, however few they are, and so at times below 0."""
    values = torch.tensor([kernel_distance(normal(generator, n, 3), normal(generator, m, 3)) for _ in range(4000)])
    within_four_sigma(values, 0)
    assert 0.2 < (values < 0).double().mean() < 0.8


def test_kid__moments(generator, within_four_sigma):
    """In one dimension the kernel compares three moments: ``sum_k (3 choose k) (E x^k - E y^k)^2``."""
    m = 0.5
    expected = 3 * m**2 + 3 * (1 + m**2 - 1) ** 2 + (m**3 + 3 * m) ** 2
    values = [kernel_distance(normal(generator, 20, 1), normal(generator, 30, 1) + m) for _ in range(4000)]
    within_four_sigma(torch.tensor(values), expected)


def test_prec_recall__sets_apart_and_alike(generator):
    points = normal(generator, 50, 3)
    assert precision_recall(points, points + 100) == (0, 0)
    assert precision_recall(points, points.flip(0)) == (1, 1)
    assert precision_recall(points.float(), points.float()) == (1, 1)


def test_prec_recall__a_part():
    """Even spacing, where the balls leave no gap: what draws one of two modes is precise, and recalls that mode."""
    first, second = torch.arange(60, dtype=F64)[:, None], 1000 + torch.arange(40, dtype=F64)[:, None]
    reference, drawn = torch.cat([first, second]), first[:-1] + 0.5
    assert precision_recall(drawn, reference) == (1, 0.6)
    assert precision_recall(reference, drawn) == (0.6, 1)


def test_prec_recall__a_part_at_random(generator):
    first, second = normal(generator, 700, 2), normal(generator, 300, 2) + 50
    precision, recall = precision_recall(normal(generator, 700, 2), torch.cat([first, second]))
    assert precision > 0.95
    assert abs(recall - 0.7) < 0.05


@pytest.mark.parametrize("neighbours", [1, 3])
def test_prec_recall__definition(generator, few_rows, neighbours):
    """Every pair, one at a time; a point is not its own neighbour."""
    x, y = normal(generator, 13, 2), 0.7 * normal(generator, 17, 2) + 1

    def covered(points, by):
        radius = [sorted(math.dist(a, b) for j, b in enumerate(by) if j != i)[neighbours - 1] for i, a in enumerate(by)]
        return sum(any(math.dist(p, b) <= r for b, r in zip(by, radius, strict=True)) for p in points) / len(points)

    expected = covered(x.tolist(), y.tolist()), covered(y.tolist(), x.tolist())
    assert all(0 < value < 1 for value in expected)
    assert precision_recall(x, y, neighbours) == pytest.approx(expected)


def test_clip_score(generator):
    """The cosines of known angles; the length of a vector changes nothing, and what is opposite counts below 0."""
    angles = torch.tensor([0, 60, 90, 180], dtype=F64).deg2rad()
    images = torch.stack([torch.ones(4, dtype=F64), torch.zeros(4, dtype=F64)], 1) * 3
    texts = torch.stack([angles.cos(), angles.sin()], 1) * torch.rand(4, 1, generator=generator, dtype=F64)
    torch.testing.assert_close(clip_scores(images, texts), torch.tensor([100.0, 50, 0, -100], dtype=F64))
