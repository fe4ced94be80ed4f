"""The curves of a training run are those of its log, or those that its preset says to expect."""

import json
from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import pytest

from fromnoise.train.config import TrainingConfig, load_config

matplotlib.use("agg")
from curves import BANDS, draw_losses, expected


@pytest.fixture
def drawn(monkeypatch):
    """The axes of a drawing, by number; each with its lines ``(x, y)`` by label."""
    monkeypatch.setattr(plt, "show", lambda: None)
    plt.close("all")

    def draw(folder, config):
        draw_losses(folder, config)
        return [{line.get_label(): [*zip(*line.get_data(), strict=True)] for line in a.lines} for a in plt.gcf().axes]

    yield draw
    plt.close("all")


def test_expected():
    config = load_config("mnist")
    assert expected(config)[10500] == config.expect["10500"]
    assert expected(replace(config, expect={})) == expected(config)  # what a run records leaves it out
    assert expected(replace(config, name="mine", expect={"7": 0.5})) == {7: 0.5}
    assert expected(None) == {}


def test_a_run_with_a_log(drawn, tmp_path):
    bands = [[0.4, 0.3, 0.2, 0.1], [0.2, 0.2, 0.1, 0.1]]
    entries = [{"step": 5, "loss": 0.9}, {"step": 10, "loss": 0.7}]
    entries += [
        {"step": 10 * (i + 1), "validation_loss": (0.26, 0.14)[i], "validation_loss_by_noise": b}
        for i, b in enumerate(bands)
    ]
    half_written = '{"step": 30, "lo'
    (tmp_path / "log.jsonl").write_text("\n".join([*map(json.dumps, entries), half_written]))
    whole, by_noise = drawn(tmp_path, TrainingConfig(name="mine", expect={"10": 0.25}))
    assert whole["training"] == [(5, 0.9), (10, 0.7)]
    assert whole["held-out"] == [(10, 0.26), (20, 0.14)]
    assert whole["to expect"] == [(10, 0.25)]
    assert by_noise == {name: [(10, bands[0][i]), (20, bands[1][i])] for i, name in enumerate(BANDS)}


def test_a_model_without_a_log(drawn, tmp_path):
    (whole,) = drawn(tmp_path, load_config("digits"))
    assert whole == {"to expect": [(int(step), loss) for step, loss in load_config("digits").expect.items()]}


def test_nothing_is_known(tmp_path, capsys):
    draw_losses(tmp_path, None)
    assert "no log" in capsys.readouterr().out
