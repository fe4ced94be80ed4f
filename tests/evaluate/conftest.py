"""What the tests of evaluation share."""

import pytest
from stand_ins import save_noise, untrained


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """Few images are drawn at a time: a batch that is not full takes as long as a full one."""
    monkeypatch.setattr("fromnoise.sampling.plan.rows_at_a_time", lambda *_: 5)


@pytest.fixture(scope="session")
def digits():
    """A model of MNIST's shape and classes."""
    noise = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    return untrained((1, 28, 28), classes=10, **noise)


@pytest.fixture(scope="session")
def noise(tmp_path_factory):
    """3 test images of each of ten classes, and 2 to 11 training images."""
    return save_noise(tmp_path_factory.mktemp("noise") / "all", (28, 28), train=tuple(range(2, 12)), test=(3,) * 10)
