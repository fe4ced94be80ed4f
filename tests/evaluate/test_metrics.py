"""Which metrics fit a model, which features they use, and what is refused."""

import re
from types import SimpleNamespace

import pytest

from fromnoise.errors import UserError
from fromnoise.evaluate.metrics import METRICS, features_of_metrics, fitting_metrics
from fromnoise.models.conditioning import Classes, Unconditional
from fromnoise.models.space import Pixels


def model(shape, names=None):
    return SimpleNamespace(space=Pixels(shape), conditioner=Unconditional() if names is None else Classes(tuple(names)))


DIGITS, LETTERS, GREY = (model((1, 28, 28), names) for names in ("0123456789", "abcdefghij", None))
PHOTOGRAPHS = model((3, 32, 32))


def test_which_features():
    """fd uses the classifier's, fid Inception's; kid and pr the classifier's where it fits, or the chosen ones."""
    mixed = {"accuracy": "classifier", "fd": "classifier", "fid": "inception", "kid": "classifier", "pr": "classifier"}
    assert features_of_metrics((*METRICS, "nll"), DIGITS, 10) == mixed
    chosen = features_of_metrics(tuple(METRICS), DIGITS, 10, "inception")
    assert chosen == mixed | {"kid": "inception", "pr": "inception"}
    assert features_of_metrics(("pr", "kid"), PHOTOGRAPHS, 10) == {"kid": "inception", "pr": "inception"}
    assert features_of_metrics(("nll",), PHOTOGRAPHS, 1) == {}


def test_what_is_measured_if_nothing_is_asked_for():
    assert fitting_metrics(DIGITS) == ("accuracy", "fd", "kid", "pr")
    assert fitting_metrics(GREY) == fitting_metrics(LETTERS) == ("fd", "kid", "pr")
    assert fitting_metrics(PHOTOGRAPHS) == ("fid", "kid", "pr")


@pytest.mark.parametrize(
    ("metrics", "model", "features", "complaint"),
    [
        (("fd", "beauty"), DIGITS, None, "'beauty': there are accuracy, fd, fid, kid, pr, nll"),
        (("kid",), DIGITS, "vgg", "'vgg': there are classifier, inception"),
        (("fd",), PHOTOGRAPHS, None, "draws 3x32x32: take fid, kid or pr"),
        (("pr",), PHOTOGRAPHS, "classifier", "draws 3x32x32: take --features inception"),
        (("accuracy",), GREY, None, "one of ten digits"),
        (("accuracy",), LETTERS, None, "one of ten digits"),
        (("fd", "fid"), DIGITS, "inception", "not for fd, fid: leave --features out"),
    ],
)
def test_metrics_that_cannot_be(metrics, model, features, complaint):
    with pytest.raises(UserError, match=re.escape(complaint)):
        features_of_metrics(metrics, model, 10, features)


@pytest.mark.parametrize(("metric", "least"), [("accuracy", 1), ("fd", 2), ("fid", 2), ("kid", 2), ("pr", 4)])
def test_the_fewest_images(metric, least):
    assert list(features_of_metrics((metric,), DIGITS, least)) == [metric]
    with pytest.raises(UserError, match=f"--n must be at least {least}"):
        features_of_metrics((metric,), DIGITS, least - 1)
