"""The parts of the benchmarks that need no measuring: arithmetic, tables, and that the contestants are comparable."""

import json
import os
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

import breakdown
import measure
import memory
import ours
import peers
import report
import small_model
import speed
import stable_diffusion

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


@pytest.fixture(autouse=True)
def settings_come_back():
    """What the contestants set for the whole process."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.use_deterministic_algorithms(deterministic)


def test_ratios_are_taken_within_a_round():
    ours_, theirs = [100.0, 10.0, 60.0], [50.0, 5.0, 20.0]  # the second round was slow for both
    assert measure.ratios(ours_, theirs) == {"median": 2.0, "min": 2.0, "max": 3.0}
    assert measure.summary([3.0, 1.0, 2.0, 10.0]) == {"median": 2.5, "min": 1.0, "max": 10.0}
    with pytest.raises(ValueError):
        measure.ratios([1.0], [1.0, 2.0])


def test_turns_alternate():
    seen = []
    cases = {"a": measure.Case(lambda: seen.append("a"), 3), "b": measure.Case(lambda: seen.append("b"), 1)}
    rates = measure.interleaved(cases, rounds=2, quick=True)
    assert seen[-4:] == ["a", "b"] * 2
    assert {name: len(values) for name, values in rates.items()} == {"a": 2, "b": 2}


def build_counter(path):
    """Sets something for its whole process, and says in which process it is called."""
    torch.use_deterministic_algorithms(True)
    path.write_text("")

    def run():
        assert torch.are_deterministic_algorithms_enabled()
        with path.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if len(path.read_text().splitlines()) > 2:
            raise SystemExit("the third call fails")

    return run, {"pid": os.getpid()}


def test_a_contestant_lives_in_a_process_of_its_own(tmp_path):
    torch.use_deterministic_algorithms(False)
    counter = measure.OwnProcess(build_counter, tmp_path / "calls")
    counter()
    counter()
    assert (tmp_path / "calls").read_text() == 2 * f"{counter.about['pid']}\n"
    assert counter.about["pid"] != os.getpid() and not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(EOFError):  # instead of waiting for ever
        counter()
    counter.close()


def test_flops():
    network = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Flatten(), nn.Linear(48, 5))
    assert measure.forward_flops(network, torch.zeros(1, 2, 4, 4)) == 2 * (2 * 3 * 9 * 16 + 48 * 5)


def test_diffusers_is_the_same_network():
    network = ours.model(ours.PRESET).unet
    theirs = peers.diffusers_network(network.config)
    inputs = (torch.zeros(1, 1, 28, 28), torch.zeros(1), torch.zeros(1).long())
    assert measure.parameters(network) == measure.parameters(theirs)
    saved = 2 * (36 - 16) * (64**2 * 14**2 + 128**2 * 7**2)  # where ours upsamples and convolves at once
    assert measure.forward_flops(network, *inputs) == measure.forward_flops(theirs, *inputs) - saved


def test_ddp_is_about_as_large():
    network = ours.model(ours.PRESET).unet
    peer = peers.ddp_peer(network.config, network, batch=2)
    assert abs(measure.parameters(peer.network) / measure.parameters(network) - 1) < 0.1
    before = [parameter.clone() for parameter in peer.network.parameters()]
    peer.step()
    assert not all(torch.equal(a, b) for a, b in zip(before, peer.network.parameters(), strict=True))
    assert peer.sample(2, 2).shape == (2, 1, 28, 28)


def test_diffusers_trains_and_draws():
    config = ours.model("digits").unet.config
    for like_ours in (None, "fp32", "bf16"):
        peer = peers.diffusers_peer(config, 2, like_ours=like_ours)
        before = [parameter.clone() for parameter in peer.network.parameters()]
        peer.step()  # the first learning rate of its warm-up is 0
        peer.step()
        assert not all(torch.equal(a, b) for a, b in zip(before, peer.network.parameters(), strict=True))
        assert peer.sample(2, 2).shape == (2, 1, 8, 8)


def test_the_time_of_a_step_is_told_apart():
    config = ours.configuration("digits", compiled=False, dtype="bf16", batch_size=4)
    fractions = breakdown.time_by_kind(ours.trainer(config), steps=1)
    assert sum(fractions.values()) == pytest.approx(1)
    assert set(fractions) == {kind for kind, _ in breakdown.KINDS} | {breakdown.REST, breakdown.PYTHON}


def test_memory_is_the_process_own():
    held = torch.ones(2**28, dtype=torch.uint8)  # which the process that is started must not be charged with
    found = memory.in_a_process("import", "digits", quick=True)
    assert 2**26 < found["bytes"] < measure.peak_memory() - len(held)


def test_kinds():
    assert breakdown.kind_of(["aten::mul", "fromnoise::group_norm", breakdown.STEP]) == "normalisation, with SiLU"
    assert breakdown.kind_of(["aten::addmm", breakdown.ATTENTION, breakdown.STEP]) == "attention"
    assert breakdown.kind_of(["aten::addmm", "aten::linear", breakdown.STEP]) == "linear layers (time, class)"
    assert breakdown.kind_of([breakdown.STEP]) == breakdown.PYTHON


def one(value):
    return {"median": value, "min": value / 2, "max": value * 2}


def test_page():
    case = {"parameters": 3_940_801, "forward_flops": 823_530_496, "rounds": []}
    case |= {"images_per_second": one(200.0), "times_diffusers": one(4.0), "times_ddp": one(6.0)}
    case |= {"fraction_of_peak": one(0.437)}
    drawn = {"evaluations_per_second": one(1234.0), "times_diffusers": one(1.5), "times_ddp": one(3.0), "rounds": []}
    text = report.render(
        {
            "machine": {
                "processor": "Some CPU",
                "cores": 2,
                "threads": 2,
                "bf16_instructions": [],
                "load_before": 0.1,
                "system": "Linux",
                "versions": {"torch": "2.13.0", "diffusers": None},
                "date": "2026-01-01",
            },
            "command": "python benchmarks/speed.py",
            "quick": False,
            "rounds": 3,
            "training": {
                "batch": 128,
                "preset": "p",
                "dtype": "bf16",
                "cases": {"ours": case},
                "peak": {"best": "big", "flops_per_second": {"big": one(5e11)}},
            },
            "sampling": {"preset": "p", "images": 64, "steps": 30, "cases": {"ours": drawn}},
            "digits": {
                "preset": "p",
                "images": 1000,
                "evaluations": 12,
                "timed_steps": 20,
                "cases": {"ours": {"images_per_second": one(40.0), "times_slow": one(101.0), "rounds": []}},
            },
            "profile": {"preset": "p", "steps": 5, "fractions": {"convolution": 0.4239}},
            "memory": {"presets": {"p": {"import": {"bytes": 2**28}, "sample": {"failed": "exit status 1"}}}},
        }
    )
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert "| ours | 200 (100 to 400) | 4 (2 to 8) | 6 (3 to 12) | 3.94 | 824 | 44% |" in rows
    assert "| big | 500 (250 to 1,000) |" in rows
    assert "| ours | 1,234 (617 to 2,468) | 1.5 (0.75 to 3) | 3 (1.5 to 6) |" in rows
    assert "| ours | 25 | 40 (20 to 80) | 101 (50.5 to 202) |" in rows
    assert "| convolution | 42.4% |" in rows
    assert "| p | 0.25 | exit status 1 |" in rows
    assert "bf16 instructions: none" in text and "mean nothing" not in text
    assert report.spread({"median": 1.0, "min": 1.0, "max": 1.0}) == "1"


def test_a_part_measured_anew_stands_beside_the_rest(tmp_path):
    """The earlier sections stay, and the page says how the new one was measured; another machine's are dropped."""
    path = tmp_path / "speed.json"
    here = {"processor": "a", "cores": 2, "threads": 2, "versions": {}, "date": "2026-02-02"}
    earlier = {"machine": here | {"date": "2026-01-01"}, "command": "all", "training": {"x": 1}, "memory": {"x": 2}}
    new = {"machine": here, "command": "speed.py --only memory", "memory": {"x": 3}}
    assert speed.beside_earlier(path, new, ["memory"]) == new
    path.write_text(json.dumps(earlier))
    measured = {"date": "2026-02-02", "command": "speed.py --only memory"}
    both = speed.beside_earlier(path, new, ["memory"])
    assert both == earlier | {"memory": {"x": 3, "measured": measured}}
    assert report._measured(both["memory"]) == ["This part was measured on 2026-02-02 by `speed.py --only memory`."]
    assert report._measured(both["training"]) == []
    path.write_text(json.dumps(earlier | {"machine": here | {"processor": "b"}}))
    assert speed.beside_earlier(path, new, ["memory"]) == new


def test_pages_that_are_kept_say_what_was_measured():
    for path in RESULTS.rglob("*.json"):
        results = json.loads(path.read_text(encoding="utf-8"))
        render = {"stable_diffusion": stable_diffusion, "small_model": small_model}.get(path.stem, report).render
        assert not results.get("quick", False)
        assert path.with_suffix(".md").read_text(encoding="utf-8") == render(results)
    assert {path.with_suffix("") for path in RESULTS.rglob("*.md")} == {
        path.with_suffix("") for path in RESULTS.rglob("*.json")
    }


def test_the_small_model_s_page_has_a_line_for_each_phase():
    value = measure.summary([1.0, 2.0, 4.0])
    phases = {name: {"seconds": value, "seconds of the processor": value} for name in small_model.PHASES}
    about = {"processor": "one", "threads": 1, "load_before": 0.5, "date": "today"}
    lines = small_model.render(
        {"machine": about, **dict.fromkeys(("mini-sd, fromnoise", "mini-sd, diffusers"), phases)}
    ).splitlines()
    assert lines[2] == "one, 1 threads, load before 0.5, today."
    assert lines[6] == "| mini-sd, fromnoise, imports | 2.00, 1.00 to 4.00 | 2.00, 1.00 to 4.00 |"
    assert len(lines) == 6 + 2 * 3
