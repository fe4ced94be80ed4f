"""Scenes of scikit-learn's digits."""

from functools import cache

from fromnoise.data.digits import Digits
from fromnoise.data.images import Images, load_images
from fromnoise.data.scene_captions import Scene
from fromnoise.data.scenes import Scenes
from fromnoise.data.things import Kind


@cache
def small_digits() -> Images:
    return load_images("digits", "test", channels=1, size=8, labelled=True)


def prompts(kind: Kind, count: int, seed: int) -> list[Scene]:
    """Scenes of digits to ask a model for."""
    return Scenes(Digits(small_digits())).prompts(kind, count, seed)
