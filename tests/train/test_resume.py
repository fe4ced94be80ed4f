"""A run that is killed and resumed ends with the bits of a run that was never stopped."""

import json
import resource
from pathlib import Path

import pytest
from runs import CLASSIFIER, TINY, assert_same_run, checkpoint_steps, final_state, finish, kill_when, logged_step, start

EAGER = ("--train.compile", "no")
COMPILED = ("--train.compile", "yes")
MUON = (*EAGER, "--train.optimizer", "muon", "--diffusion.timestep-sampling", "uniform-and-logit-normal")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    finish(start(out, *EAGER))
    return out


def being_written(out: Path) -> bool:
    return any((out / "checkpoints").glob(".partial-*/weights.safetensors"))


def kill_while_writing(out: Path, *options: str) -> None:
    """Kills a run in the middle of writing a checkpoint; tries again on the next one if the blow came too late."""
    for _ in range(3):
        kill_when(start(out, *options, "--resume"), lambda: being_written(out))
        if being_written(out):
            return
    pytest.fail("never caught a checkpoint being written")


def test_killed_at_several_moments(uninterrupted, tmp_path):
    out = tmp_path / "run"
    kill_when(start(out, *EAGER), lambda: logged_step(out) >= 4)  # before the first checkpoint
    assert checkpoint_steps(out) == []
    kill_while_writing(out, *EAGER)
    written = checkpoint_steps(out)
    kill_when(start(out, *EAGER, "--resume"), lambda: len(checkpoint_steps(out)) > len(written))  # just after one
    kill_when(start(out, *EAGER, "--resume"), lambda: logged_step(out) >= 38)  # near the end
    finish(start(out, *EAGER, "--resume"))
    assert_same_run(out, uninterrupted)
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == [json.loads(line)["step"] for line in (uninterrupted / "log.jsonl").read_text().splitlines()]
    assert not list(out.rglob(".partial*"))


@pytest.mark.parametrize(("preset", "options"), [(TINY, MUON), (CLASSIFIER, EAGER)], ids=["muon", "classifier"])
def test_killed_with_another_optimiser_or_task(uninterrupted, tmp_path, preset, options):
    """The classifier's normalisations have statistics, which a step changes and no gradient does."""
    reference, out = tmp_path / "reference", tmp_path / "run"
    finish(start(reference, *options, preset=preset))
    kill_when(start(out, *options, preset=preset), lambda: logged_step(out) >= 24)
    finish(start(out, *options, "--resume", preset=preset))
    assert_same_run(out, reference)
    assert final_state(reference).keys() != final_state(uninterrupted).keys(), "the options made no difference"


def test_killed_while_the_model_is_exported(uninterrupted, tmp_path):
    out = tmp_path / "run"
    kill_when(start(out, *EAGER), lambda: checkpoint_steps(out)[-1:] == [40])
    finish(start(out, *EAGER, "--resume"))
    assert_same_run(out, uninterrupted)


def test_killed_in_compiled_mode(uninterrupted, tmp_path):
    reference, out = tmp_path / "reference", tmp_path / "run"
    finish(start(reference, *COMPILED))
    kill_when(start(out, *COMPILED), lambda: logged_step(out) >= 14)
    kill_while_writing(out, *COMPILED)
    finish(start(out, *COMPILED, "--resume"))
    assert_same_run(out, reference)
    compiled, eager = final_state(reference), final_state(uninterrupted)
    assert any(not compiled[name].equal(eager[name]) for name in compiled), "compiling changed not one bit: did it run?"


def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(uninterrupted, tmp_path):
    out = tmp_path / "run"
    kill_when(start(out, *EAGER), lambda: checkpoint_steps(out) == [10])

    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    _, errors = finish(start(out, *EAGER, "--resume", preexec_fn=small_files_only), status=2)
    message = errors.strip().splitlines()[-1]
    assert message.startswith("fromnoise: cannot write")
    assert "step-00000010" in message
    assert "--resume" in message
    assert checkpoint_steps(out) == [10]
    assert not list(out.rglob(".partial*"))
    finish(start(out, *EAGER, "--resume"))
    assert_same_run(out, uninterrupted)


def test_a_resumed_run_must_be_the_same_run(uninterrupted, tmp_path):
    def refused(*options: str) -> str:
        errors = finish(start(uninterrupted, *options), status=2)[1]
        return errors.strip().splitlines()[-1]

    before = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*")}
    assert "already holds a run" in refused()
    assert "train.learning_rate" in refused("--resume", "--train.learning-rate", "0.5")
    assert "train.compile no, not yes" in refused("--resume", *COMPILED)
    assert before == {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*")}
