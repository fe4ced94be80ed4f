"""A run that is killed and resumed ends with the bits of a run that was never stopped."""

import json
import signal
from pathlib import Path

import pytest
from runs import CLASSIFIER, TINY, Run, assert_same_run, checkpoint_steps, final_state, logged_step

EAGER = ("--train.compile", "no")
COMPILED = ("--train.compile", "yes")
MUON = (*EAGER, "--train.optimizer", "muon", "--diffusion.timestep-sampling", "uniform-and-logit-normal")
SMALL = ("--network.channels", "16", "--network.attention-levels", "False")  # which is soon compiled


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    Run(out, *EAGER).finish()
    return out


def being_written(out: Path) -> bool:
    return any((out / "checkpoints").glob(".partial-*/*/weights.safetensors"))


def kill_while_writing(out: Path, *options: str) -> None:
    """Kills a run in the middle of writing a checkpoint; tries again on the next one if the blow came too late."""
    for _ in range(3):
        Run(out, *options, "--resume").kill_when(lambda: being_written(out))
        if being_written(out):
            return
    pytest.fail("never caught a checkpoint being written")


def test_killed_at_several_moments(uninterrupted, tmp_path):
    out = tmp_path / "run"
    Run(out, *EAGER).kill_when(lambda: logged_step(out) >= 4)  # before the first checkpoint
    assert checkpoint_steps(out) == []
    kill_while_writing(out, *EAGER)
    written = checkpoint_steps(out)
    Run(out, *EAGER, "--resume").kill_when(lambda: len(checkpoint_steps(out)) > len(written))  # just after one
    Run(out, *EAGER, "--resume").kill_when(lambda: logged_step(out) >= 38)  # near the end
    Run(out, *EAGER, "--resume").finish()
    assert_same_run(out, uninterrupted)
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == [json.loads(line)["step"] for line in (uninterrupted / "log.jsonl").read_text().splitlines()]
    assert not list(out.rglob(".partial*"))


def test_asked_to_stop(uninterrupted, tmp_path):
    """By a signal, and again while it cleans up: one line, nothing left over, and it goes on as that line says."""
    out = tmp_path / "run"
    run = Run(out, *EAGER).when(lambda: logged_step(out) >= 12)
    for _ in range(2):
        run.send(signal.SIGTERM)
    run.finish(128 + signal.SIGTERM)
    last = f"{out}/checkpoints/step-{checkpoint_steps(out)[-1]:08d}"
    advice = f"the last good checkpoint is {last}: the same command with --resume goes on from it"
    assert run.errors().splitlines()[-1] == f"fromnoise: stopped; {advice}"
    assert "Traceback" not in run.errors()
    assert not list(out.rglob(".partial*"))
    Run(out, *EAGER, "--resume").finish()
    assert_same_run(out, uninterrupted)


@pytest.mark.parametrize(("preset", "options"), [(TINY, MUON), (CLASSIFIER, EAGER)], ids=["muon", "classifier"])
def test_killed_with_another_optimiser_or_task(uninterrupted, tmp_path, preset, options):
    """The classifier's normalisations have statistics, which a step changes and no gradient does."""
    reference, out = tmp_path / "reference", tmp_path / "run"
    Run(reference, *options, preset=preset).finish()
    Run(out, *options, preset=preset).kill_when(lambda: logged_step(out) >= 24)
    Run(out, *options, "--resume", preset=preset).finish()
    assert_same_run(out, reference)
    assert final_state(reference).keys() != final_state(uninterrupted).keys(), "the options made no difference"


def test_killed_while_the_model_is_exported(uninterrupted, tmp_path):
    out = tmp_path / "run"
    Run(out, *EAGER).kill_when(lambda: checkpoint_steps(out)[-1:] == [40])
    Run(out, *EAGER, "--resume").finish()
    assert_same_run(out, uninterrupted)


def test_killed_in_compiled_mode(tmp_path):
    eager, reference, out = tmp_path / "eager", tmp_path / "reference", tmp_path / "run"
    Run(eager, *EAGER, *SMALL).finish()
    Run(reference, *COMPILED, *SMALL).finish()
    Run(out, *COMPILED, *SMALL).kill_when(lambda: logged_step(out) >= 14)
    Run(out, *COMPILED, *SMALL, "--resume").finish()
    assert_same_run(out, reference)
    compiled, plain = final_state(reference), final_state(eager)
    assert any(not compiled[name].equal(plain[name]) for name in compiled), "compiling changed not one bit: did it run?"


def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(uninterrupted, tmp_path):
    out = tmp_path / "run"
    Run(out, *EAGER).kill_when(lambda: checkpoint_steps(out) == [10])
    full = Run(out, *EAGER, "--resume", largest_file=100_000)
    full.finish(2)
    message = full.errors().strip().splitlines()[-1]
    assert message.startswith("fromnoise: cannot write")
    assert "step-00000010" in message
    assert "--resume" in message
    assert checkpoint_steps(out) == [10]
    assert not list(out.rglob(".partial*"))
    Run(out, *EAGER, "--resume").finish()
    assert_same_run(out, uninterrupted)


def test_a_resumed_run_must_be_the_same_run(uninterrupted):
    def refused(*options: str) -> str:
        run = Run(uninterrupted, *options)
        run.finish(2)
        return run.errors().strip().splitlines()[-1]

    before = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*")}
    assert "already holds a run" in refused()
    assert "train.seed 0, not 1" in refused("--resume", "--train.seed", "1")
    assert "network.channels (16, 32), not (16, 16)" in refused("--resume", "--network.channels", "16", "16")
    assert "has come to step 40 already: give --train.steps 40 or more" in refused("--resume", "--train.steps", "20")
    assert before == {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*")}
