"""In every chapter's exercises the stub fails its check, and the solution passes it."""

import ast
import importlib.util
import re

import numpy as np
import pytest
import torch

import exercises
from bridge import BOOK, chapters

CHAPTERS = chapters()


def stubs(chapter):
    """The source of each function to complete, by name, from a chapter's cells with the tag ``exercise``."""
    cells = re.findall(r"^```\{code-cell\}[^\n]*\n:tags: \[exercise\]\n(.*?)^```$", chapter.read_text(), re.M | re.S)
    found = {}
    for cell in cells:
        (function,) = [node for node in ast.parse(cell).body if isinstance(node, ast.FunctionDef)]
        assert cell.rstrip().endswith(f"check({function.name})")
        found[function.name] = cell
    return found


def solutions(chapter):
    """The functions of a chapter's solutions, by name."""
    path = BOOK / "solutions" / f"chapter_{chapter.stem[:2]}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == path.stem}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_the_stub_fails_and_the_solution_passes(chapter, capsys):
    todo, done = stubs(chapter), solutions(chapter)
    assert 2 <= len(todo) <= 4
    for name, cell in todo.items():
        exec(compile(cell, name, "exec"), {})
        assert capsys.readouterr().out.startswith("Not yet: the stub is still empty"), name
        assert exercises.verdict(done[name]) is None, name


def test_every_check_belongs_to_a_chapter():
    assert sorted(exercises.CHECKS) == sorted(name for chapter in CHAPTERS for name in stubs(chapter))


@pytest.mark.parametrize(
    ("answer", "expected", "problem"),
    [
        (1.0, 1.0, None),
        (..., 1.0, "the stub is still empty"),
        ("1", 1.0, "it returned str"),
        (1.0, exercises.torch.ones(2), r"the shape \(\), where \(2,\) is due"),
        (1.1, 1.0, "hint"),
        (np.float32(1), 1.0, None),
        (np.int64(1), 1, None),
        (np.ones(2), exercises.torch.ones(2), None),
        (np.array("1"), 1.0, "it returned ndarray"),
        (exercises.torch.zeros(1), 0.0, None),
        (exercises.torch.zeros(2), 0.0, r"the shape \(2,\), where \(\) is due"),
        (float("nan"), 1.0, "hint"),
    ],
)
def test_expect(answer, expected, problem):
    if problem is None:
        exercises.expect(answer, expected, "hint")
    else:
        with pytest.raises(exercises.Wrong, match=problem):
            exercises.expect(answer, expected, "hint")


def test_a_crash_in_the_answer_is_told(capsys):
    def pixels_to_unit(pixels):
        return 1 / 0

    exercises.check(pixels_to_unit)
    assert capsys.readouterr().out == "Not yet: pixels_to_unit stopped with ZeroDivisionError: division by zero\n"


def named(name, function):
    function.__name__ = name
    return function


def products(betas):
    return np.concatenate([[1.0], np.cumprod(1 - betas.numpy())])


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("pixels_to_unit", lambda pixels: pixels / 127.5 - 1),
        ("pixels_to_unit", lambda pixels: pixels.numpy().astype(np.float32) / 127.5 - 1),
        ("pixels_to_unit", lambda pixels: (pixels.long() * 2 - 255) / 255),
        ("noise_of_variance", lambda noise, variance: noise * np.sqrt(variance)),
        ("scale_each", lambda images, factors: torch.stack([a * b for a, b in zip(images, factors, strict=True)])),
        ("expected_square", lambda m, v, c, d: np.float32(c**2 * (m**2 + v) + 2 * c * d * m + d**2)),
        ("time_of_equal_parts", lambda betas: np.argmax(products(betas) <= 0.5)),
        ("time_of_equal_parts", lambda betas: torch.from_numpy(products(betas) <= 0.5).nonzero()[0]),
        ("time_of_equal_parts", lambda betas: np.array([np.argmax(products(betas) <= 0.5)])),
        ("steps_until", lambda beta, left: np.ceil(2 * np.log(left) / np.log1p(-beta))),
        ("steps_until", lambda beta, left: next(n for n in range(10**5) if (1 - beta) ** (n / 2) <= left)),
        (
            "variance_given_both_ends",
            lambda betas, t: (1 - products(betas)[t - 1]) / (1 - products(betas)[t]) * betas.numpy()[t - 1],
        ),
        ("variance_given_both_ends", lambda betas, t: torch.zeros(1) if t == 1 else right_variance(betas, t)[None]),
        ("two_point_denoiser", lambda x, alpha, sigma: 2 * torch.sigmoid(2 * alpha * x / sigma**2) - 1),
    ],
)
def test_a_right_answer_in_other_words_is_right(name, answer):
    assert exercises.verdict(named(name, answer)) is None


def right_variance(betas, t):
    bars = torch.from_numpy(products(betas))
    return (1 - bars[t - 1]) / (1 - bars[t]) * betas[t - 1]


@pytest.mark.parametrize(
    ("name", "answer", "hint"),
    [
        ("pixels_to_unit", lambda pixels: pixels * 2 / 255 - 1, "uint8 and wrapped around"),
        ("pixels_to_unit", lambda pixels: (pixels - 128) / 127.5, "uint8 and wrapped around"),
        ("pixels_to_unit", lambda pixels: pixels / 128 - 1, "half of 255"),
        ("noise_of_variance", lambda noise, variance: noise / 2, "wrong for the variance 9.0"),
        ("noise_of_variance", lambda noise, variance: 2 * variance * noise, "wrong for the variance 9.0"),
        ("noise_of_variance", lambda noise, variance: variance * noise, "a factor is squared"),
        ("noise_of_variance", lambda noise, variance: noise + variance, "leaves the variance"),
        ("scale_each", lambda images, factors: images * factors[:, None, None, None], "stopped with|of the shape"),
        ("scale_each", lambda images, factors: images * factors[0], "wrong for images"),
        ("expected_square", lambda m, v, c, d: (c * m + d) ** 2, "the variance comes on top"),
        ("expected_square", lambda m, v, c, d: c**2 * (m**2 + v) + d**2, "mixed term"),
        ("time_of_equal_parts", lambda betas: np.argmax(products(betas) <= 0.5) - 1, "one too early"),
        ("time_of_equal_parts", lambda betas: "259", "it returned str"),
        ("steps_until", lambda beta, left: np.ceil(np.log(left) / np.log(1 - beta)), "the root"),
        ("steps_until", lambda beta, left: 2 * np.log(left) / np.log(1 - beta), "steps are whole"),
        ("variance_given_both_ends", lambda betas, t: 0.0 if t == 1 else right_variance(betas, 3), "one step late"),
        ("variance_given_both_ends", lambda betas, t: betas[t - 1], "the step forwards"),
        ("two_point_denoiser", lambda x, alpha, sigma: torch.tanh(alpha * x / 0.36), "weigh"),
        ("two_point_denoiser", lambda x, alpha, sigma: torch.tanh(x / sigma**2), r"\+alpha and -alpha"),
        ("two_point_step", lambda x, before, now: torch.tanh(now**0.5 * x / (1 - now)), "the best guess at x_0"),
        ("two_point_step", lambda x, before, now: x / (now / before) ** 0.5, "undoes the shrinking"),
        ("dataset_denoiser", lambda x, alpha, sigma, data: data.mean(0).expand(len(x), -1), "plain average"),
        (
            "dataset_denoiser",
            lambda x, alpha, sigma, data: torch.softmax(-(torch.cdist(x, data) ** 2) / (2 * sigma**2), 1) @ data,
            "compare x with alpha",
        ),
    ],
)
def test_a_wrong_answer_is_refused_and_told_why(name, answer, hint):
    problem = exercises.verdict(named(name, answer))
    assert problem is not None and re.search(hint, problem), problem
