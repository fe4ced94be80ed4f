"""Several stages in order: each in its folder, stopped anywhere and resumed to the same bits."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from runs import CLASSIFIER, TINY, Run, assert_same_run, checkpoint_steps, logged_step
from small_things import draw_cutouts

from fromnoise.cli import main
from fromnoise.errors import UserError
from fromnoise.models import open_model
from fromnoise.sampling.generate import generate
from fromnoise.sampling.request import Request
from fromnoise.terminal import LAUNCHED
from fromnoise.train import run as runs
from fromnoise.train.config import DataConfig, PartsConfig, TrainingConfig, dump_config, load_config
from fromnoise.train.folder import STAGES, STAGES_FILE, locked
from fromnoise.train.run import command
from fromnoise.train.stages import Shared, SharedData, SharedLoop, _stages, load_stages, train_stages
from fromnoise.train.tasks.denoising import DenoisingTask

BRIEF = {"steps": 4, "batch_size": 8, "log_every": 1, "checkpoint_every": 1, "validate_every": 4, "preview_every": 4}
BRIEF |= {"warmup_steps": 0, "device": "cpu", "dtype": "fp32", "compile": "no"}
SMALL = {
    "network.channels": (8,),
    "network.attention_levels": (False,),
    "network.norm_groups": 4,
    "network.head_dim": 8,
}


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch):
    monkeypatch.setattr(DenoisingTask, "preview", lambda *_: (torch.zeros(4, 1, 8, 8, dtype=torch.uint8), 2))
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="session")
def preset(tmp_path_factory):
    """A classifier and then a diffusion model, four steps each, with a checkpoint after every one."""
    folder = tmp_path_factory.mktemp("presets")
    for name, path, more in (("first", CLASSIFIER, {}), ("second", TINY, SMALL)):
        config = load_config(str(path)).override(more | {f"train.{key}": value for key, value in BRIEF.items()})
        (folder / f"{name}.toml").write_text(dump_config(dataclasses.replace(config, name=name)))
    (folder / "both.toml").write_text('name = "both"\nstages = ["first.toml", "second.toml"]\n')
    return folder / "both.toml"


@pytest.fixture(scope="session")
def finished(preset, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    return train_stages(load_stages(str(preset)), out)


@pytest.fixture
def refuse(capsys, preset, tmp_path, monkeypatch):
    """Runs ``train both.toml`` that must be refused: the one line that it says, once nothing has been written."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        before = sorted(Path.cwd().rglob("*"))
        assert main(["train", str(preset), *map(str, words)]) == 2
        output, errors = capsys.readouterr()
        assert errors.count("\n") == 1
        assert sorted(Path.cwd().rglob("*")) == before
        return output, errors.removeprefix("fromnoise: ").rstrip("\n")

    return run


def same(out, reference):
    for stage in ("", "stages/classifier"):
        assert_same_run(out / stage, reference / stage)


# The folders


def test_each_stage_has_its_folder_and_the_last_is_the_model(finished):
    assert open_model(finished).space.shape == (1, 8, 8)
    assert {path.name for path in (finished / STAGES).iterdir()} == {".lock", STAGES_FILE, "classifier"}
    assert load_config(str(finished / "stages/classifier/training.toml")).name == "first"
    assert load_config(str(finished / "training.toml")).name == "both"
    assert (finished / "README.md").read_text().startswith("# both\n")


def test_later_stages_are_told_where_the_earlier_ones_are(tmp_path, monkeypatch):
    """By their tasks, in [parts], which may be looked up from the preset or be elsewhere when trained alone."""
    asked = []

    def train(config, folder, **options):
        asked.append((config, folder, options))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README.md").touch()

    monkeypatch.setattr(runs, "train", train)
    for name in ("autoencoder", "clip", "denoising", "further"):
        task = "denoising" if name == "further" else name
        own = {"parts.autoencoder": "elsewhere"} if task == "denoising" else {}
        config = TrainingConfig(name=f"my-{name}", task=task, data=DataConfig(source="scenes")).override(own)
        (tmp_path / f"{name}.toml").write_text(dump_config(config))
    presets = ["autoencoder.toml", "clip.toml", "denoising.toml", "further.toml"]
    (tmp_path / "all.toml").write_text(f'name = "all"\nstages = {json.dumps(presets)}')
    stages, out = load_stages(str(tmp_path / "all.toml")), tmp_path / "out"
    shared = Shared(data=SharedData(digits="digits"), train=SharedLoop(seed=5), source="a/b")
    train_stages(stages, out, shared=shared)
    configs, folders, options = zip(*asked, strict=True)
    assert folders == (out / "stages/autoencoder", out / "stages/clip", out / "stages/denoising", out)
    assert [config.name for config in configs] == ["my-autoencoder", "my-clip", "my-denoising", "all"]
    assert {(config.data.source, config.data.digits, config.train.seed) for config in configs} == {("a/b", "digits", 5)}
    assert [config.parts for config in configs] == [
        PartsConfig(),
        PartsConfig(),
        (found := PartsConfig(autoencoder=f"{out}/stages/autoencoder", clip=f"{out}/stages/clip")),
        dataclasses.replace(found, unet=f"{out}/stages/denoising"),
    ]
    assert {(given["data"], given["resume"]) for given in options} == {("a/b", False)}


def test_the_shared_settings_are_those_of_the_run_when_it_goes_on(tmp_path, monkeypatch, preset):
    """What the command with --resume leaves out is as it was begun, in the stages that have not begun, too."""
    asked = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "train", lambda config, folder, **options: asked.append((config, options)))
    Path("pictures").mkdir()
    out = Path("out")
    shared = Shared(train=SharedLoop(seed=3, dtype="bf16"), source="pictures")
    train_stages(load_stages(str(preset)), out, shared=shared)
    train_stages(load_stages(str(preset)), out, shared=Shared(train=SharedLoop(dtype="fp32")), resume=True)
    train_stages(load_stages(str(out / STAGES / STAGES_FILE)), out, resume=True)
    assert [config.train.seed for config, _ in asked] == [3] * 6
    assert [config.train.dtype for config, _ in asked] == ["bf16"] * 2 + ["fp32"] * 4
    assert {config.data.source for config, _ in asked} == {str(tmp_path / "pictures")}
    assert load_stages(str(out / STAGES / STAGES_FILE)).shared.source == str(tmp_path / "pictures")


def test_other_things_than_a_finished_stage_has_are_told(tmp_path, monkeypatch, capsys):
    def train(config, folder, **options):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "training.toml").write_text(dump_config(config))
        (folder / "README.md").touch()

    monkeypatch.setattr(runs, "train", train)
    for name in ("here/cutouts", "here/emoji", "there"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    stages, out = load_stages("mini-sd"), tmp_path / "out"
    train_stages(stages, out, shared=Shared(data=SharedData(things="cutouts")))
    assert "on scenes of cutouts" in load_config(str(out / "training.toml")).description
    monkeypatch.chdir(tmp_path / "there")
    train_stages(stages, out, resume=True)
    assert capsys.readouterr().err == "", "the same folder, from elsewhere"
    monkeypatch.chdir(tmp_path / "here")
    train_stages(stages, out, shared=Shared(data=SharedData(things="emoji")), resume=True)
    line = f"autoencoder is finished, and was trained on {tmp_path}/here/cutouts, not on emoji"
    assert line in capsys.readouterr().err
    assert load_stages(str(out / STAGES / STAGES_FILE)).shared.data.things == "emoji", "not the folder of this name"


def test_the_card_says_the_one_command():
    config = dataclasses.replace(load_config("mnist"), name="mini-sd", task="denoising")
    with pytest.MonkeyPatch.context() as patch:
        both = dataclasses.replace(load_stages("mini-sd"), stages=("mnist-guide", "mnist"))
        patch.setattr(runs, "load_stages", lambda name: both)
        changed = {"data.source": "x/y", "train.seed": 4, "parts.clip": "runs/mini-sd/stages/clip"}
        assert command(config) == "fromnoise train mini-sd"
        assert command(config.override(changed)) == "fromnoise train mini-sd --data x/y --train.seed 4"


# Stopped and resumed


def test_killed_in_each_stage_and_between(finished, preset, tmp_path, capsys):
    out, stage = tmp_path / "run", tmp_path / "run" / "stages" / "classifier"
    Run(out, preset=preset).kill_when(lambda: logged_step(stage) >= 2)
    Run(out, "--resume", preset=preset).kill_when((stage / "README.md").exists)
    was = (stage / "README.md").stat().st_mtime_ns
    Run(out, "--resume", preset=preset).kill_when(lambda: logged_step(out) >= 2)
    said = Run(out, "--resume", preset=preset).finish()
    assert "stage 1 of 2: classifier (finished)\nstage 2 of 2: denoising\nresuming from step " in said
    assert said.endswith(f"trained both: {out}\n")
    assert (stage / "README.md").stat().st_mtime_ns == was
    same(out, finished)
    assert main(["train", str(preset), "--out", str(out), "--resume"]) == 0
    again = f"stage 1 of 2: classifier (finished)\nstage 2 of 2: denoising (finished)\ntrained both: {out}\n"
    assert capsys.readouterr().out == again


@pytest.mark.parametrize("left", [STAGES_FILE, ".lock"])
def test_killed_before_the_first_stage(preset, finished, tmp_path, left):
    """When nothing but what the stages are was written down, or not even that."""
    out = tmp_path / "run"
    (out / STAGES / ".partial-x").mkdir(parents=True)
    shutil.copy(finished / STAGES / left, out / STAGES)
    train_stages(load_stages(str(preset)), out, resume=True)
    same(out, finished)
    assert not list(out.rglob(".partial*"))


def test_asked_to_stop(preset, tmp_path):
    out, stage = tmp_path / "run", tmp_path / "run" / "stages" / "classifier"
    run = Run(out, preset=preset).when(lambda: len(checkpoint_steps(stage)) >= 1)
    run.send(signal.SIGTERM)
    run.finish(128 + signal.SIGTERM)
    line = run.errors().splitlines()[-1]
    assert line.startswith(f"fromnoise: stopped; the last good checkpoint is {stage}/checkpoints/step-0000000")
    assert line.endswith(": the same command with --resume goes on from it")
    assert not list(out.rglob(".partial*"))


@pytest.fixture
def begun(finished, tmp_path, monkeypatch):
    """Stages of which the first is finished and the second has not begun."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished / STAGES, tmp_path / "run" / STAGES)
    return Path("run")


def test_a_fault_in_a_later_stage_says_how_to_go_on(preset, begun, finished, monkeypatch, refuse):
    def broken(*_):
        raise UserError("it broke")

    with monkeypatch.context() as patch:
        patch.setattr("fromnoise.train.run.Trainer", broken)
        said, line = refuse("--out", begun, "--resume")
    assert said == "stage 1 of 2: classifier (finished)\nstage 2 of 2: denoising\n"
    assert line == "it broke; stage 2 has no checkpoint yet: the same command with --resume begins with it"
    with monkeypatch.context() as patch:
        patch.setattr(DenoisingTask, "export", broken)
        with pytest.raises(UserError, match="it broke; the last good checkpoint is run/checkpoints/step-00000004: "):
            train_stages(load_stages(str(preset)), begun, resume=True)
    train_stages(load_stages(str(preset)), begun, resume=True)
    same(begun, finished)


def test_stages_that_are_not_finished_are_no_model(begun):
    line = "run is of stages that are not finished: fromnoise train run/stages/stages.toml --out run --resume goes on"
    with pytest.raises(UserError, match=line):
        open_model(begun)


def test_moved_stages_go_on(preset, begun, finished):
    moved = shutil.move(begun, "moved")
    train_stages(load_stages(str(preset)), Path(moved), resume=True)
    same(Path(moved), finished)


# Stable Diffusion, trained smaller still


PARTS = {
    "autoencoder": {"autoencoder.channels": (8, 16), "autoencoder.latent_channels": 4, "autoencoder.norm_groups": 4},
    "clip": {f"clip.{key}": value for key, value in {"max_length": 12, "width": 16, "layers": 1, "heads": 2}.items()},
    "denoising": SMALL | {"network.channels": (16,)},
}


@pytest.fixture(scope="session")
def three(tmp_path_factory):
    """The three stages of Stable Diffusion on pictures of 16x16, four steps each."""
    folder = tmp_path_factory.mktemp("three")
    for task, settings in PARTS.items():
        data = DataConfig(source="scenes", digits="digits", channels=3, size=16)
        config = TrainingConfig(name=f"tiny-{task}", task=task, data=data)
        config = config.override(settings | {f"train.{key}": value for key, value in BRIEF.items()})
        (folder / f"{task}.toml").write_text(dump_config(config))
    (folder / "sd.toml").write_text(f'name = "sd"\nstages = {json.dumps([f"{task}.toml" for task in PARTS])}\n')
    return folder / "sd.toml"


def captioned(folder):
    """A few pictures of one grey each, with captions."""
    folder.mkdir()
    for grey in range(30):
        Image.new("RGB", (20, 18), (8 * grey,) * 3).save(folder / f"{grey}.png")
        (folder / f"{grey}.txt").write_text(f"the grey of number {grey}\n{grey}")
    return folder


def test_three_stages_make_a_model_that_takes_prompts(three, tmp_path, capfd):
    """On pictures of one's own, which take the place of the scenes in all of them."""
    shared = Shared(source=str(captioned(tmp_path / "pictures")))
    out = train_stages(load_stages(str(three)), tmp_path / "run", shared=shared)
    assert {path.name for path in (out / STAGES).iterdir() if path.is_dir()} == {"autoencoder", "clip"}
    capfd.readouterr()
    model = open_model(out)
    assert capfd.readouterr().err == "", "nobody else's licence is spoken of"
    assert model.space.image_shape == (3, 16, 16)
    assert generate(model, Request(prompts=("the grey",), steps=2)).shape == (1, 3, 16, 16)
    for stage in ("stages/autoencoder", "stages/clip", ""):
        assert load_config(str(out / stage / "training.toml")).data.source == str(tmp_path / "pictures")
    for folder in ("unet", "vae", "text_encoder", "tokenizer", "clip"):
        assert (out / folder).is_dir()
    stopped = tmp_path / "stopped"
    shutil.copytree(out / STAGES, stopped / STAGES)  # and as if it had been killed within the second stage
    (stopped / "stages/clip/README.md").unlink()
    shutil.rmtree(stopped / "stages/clip/checkpoints/step-00000004")
    train_stages(load_stages(str(three)), stopped, resume=True)
    for stage in ("stages/autoencoder", "stages/clip", ""):
        assert_same_run(stopped / stage, out / stage)


def test_three_stages_learn_things_that_are_cut_out(three, tmp_path):
    """By the presets of digits, which are told to draw other things; killed within each, to the same bits."""
    shared = Shared(data=SharedData(things=str(draw_cutouts(tmp_path / "cutouts"))))
    out = train_stages(load_stages(str(three)), tmp_path / "run", shared=shared)
    model = open_model(out)
    assert generate(model, Request(prompts=("an owl on green",), steps=2)).shape == (1, 3, 16, 16)
    assert {"owl", "umbrella", "green", "frog"} <= {*(out / "tokenizer/words.txt").read_text().split()}
    stopped = tmp_path / "stopped"
    shutil.copytree(out, stopped)
    for stage in ("stages/autoencoder", "stages/clip", ""):
        (stopped / stage / "README.md").unlink()
        shutil.rmtree(stopped / stage / "checkpoints/step-00000004")
    train_stages(load_stages(str(three)), stopped, resume=True)
    for stage in ("stages/autoencoder", "stages/clip", ""):
        assert_same_run(stopped / stage, out / stage)
        assert load_config(str(stopped / stage / "training.toml")).data.things == str(tmp_path / "cutouts")


# What is refused


def test_what_a_stage_alone_takes_is_refused_by_the_name_of_its_preset(refuse, preset):
    first, second = preset.with_name("first.toml"), preset.with_name("second.toml")
    belongs = "which belongs to a stage of its own"
    assert refuse("--train.steps", 3)[1] == (
        f"both takes no --train.steps, {belongs}: "
        f"fromnoise train {first} --train.steps or fromnoise train {second} --train.steps"
    )
    assert refuse("--network.norm-groups=4")[1] == (
        f"both takes no --network.norm-groups, {belongs}: fromnoise train {second} --network.norm-groups"
    )
    assert f"takes no --data.no-flip, {belongs}" in refuse("--data.no-flip")[1]
    assert "--trian.seed" in refuse("--trian.seed", 1)[1]
    assert "train.seed" in refuse("--train.seed", -1)[1]


def test_what_is_said_of_the_data_holds_for_all_stages():
    given = {"configuration": "de", "image_column": "picture", "caption_column": "words", "resize": "none"}
    given |= {"background": "black", "licence": "mine"}
    shared = Shared(data=SharedData(**given), source="a/b")
    for stage in _stages(load_stages("mini-sd"), Path("nowhere"), shared, resume=False):
        assert {key: getattr(stage.config.data, key) for key in given} == given


def test_a_list_with_a_clip_takes_one_process(refuse, preset, monkeypatch):
    for name in LAUNCHED:
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    clip = preset.with_name("clip.toml")
    clip.write_text(dump_config(TrainingConfig(name="clip", task="clip")))
    preset.with_name("pair.toml").write_text('name = "pair"\nstages = ["first.toml", "clip.toml"]\n')
    with pytest.raises(UserError, match="pair trains a clip, which takes one process: start it without a launcher"):
        train_stages(load_stages(str(preset.with_name("pair.toml"))), Path("nowhere"))
    assert not Path("nowhere").exists()


def test_mistakes_leave_nothing_behind(refuse):
    _, line = refuse("--data", "none/such/folder")
    assert line == "there is no folder none/such/folder"
    Path("runs").mkdir()
    assert "there is no folder" in refuse("--data", "none/such/folder", "--out", "runs/new")[1]


def test_folders_that_cannot_be_used(refuse, begun):
    Path("file").touch()
    Path("full").mkdir()
    Path("full/thing").touch()
    Path("other").mkdir()
    Path("other/training.toml").touch()
    assert refuse("--out", "file")[1] == "file is a file: give --out a folder"
    for resume in ((), ("--resume",)):
        assert "holds no stages of a run: give another" in refuse("--out", "full", *resume)[1]
        assert "holds a run that has no stages: give another" in refuse("--out", "other", *resume)[1]
    assert refuse("--out", begun)[1].startswith("run already holds stages of a run: give --resume to go on with them")
    with locked(begun / STAGES):
        assert "another process is training" in refuse("--out", begun, "--resume")[1]
    assert (
        "run/stages/classifier was started with train.seed 0, not 1"
        in refuse("--out", begun, "--resume", "--train.seed", 1)[1]
    )
    with pytest.raises(UserError, match=r"run holds stages, which .*stages.toml --out run --resume goes on with"):
        runs.train(load_config("digits"), begun)
    config = dataclasses.replace(load_stages(str(begun / STAGES / STAGES_FILE)), name="another")
    with pytest.raises(UserError, match="holds stages of 'both', not of 'another'"):
        train_stages(config, begun, resume=True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('stages = ["a.toml"]', "name is missing"),
        ('name = "x"\nstages = []', "stages"),
        ('name = "x"\nstages = [3]', "stages"),
        ('name = "x"\nstages = ["a.toml"]\ntrain = 3', "unknown key train"),
        ('name = "../x"\nstages = ["a.toml"]', "name"),
        ('name = "x"\nstages = ["none.toml"]', "none.toml is missing"),
        ('name = "x"\nstages = ["bad.toml"]', "bad.toml is a list of stages"),
        ('name = "x"\nstages = ["digits", "digits", "mnist"]', "two of its stages train a denoising"),
    ],
)
def test_bad_lists(tmp_path, text, told):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(UserError, match=told):
        train_stages(load_stages(str(tmp_path / "bad.toml")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The preset that ships


def test_mini_sd_is_a_list():
    stages = load_stages("mini-sd")
    assert stages.name == "mini-sd" and stages.stages == tuple(
        f"mini-sd-{name}" for name in ("autoencoder", "clip", "unet", "joint")
    )
    configs = [load_config(name) for name in stages.stages]
    assert [config.task for config in configs] == ["autoencoder", "clip", "denoising", "denoising"]
    assert [config.parts.train_text_encoder for config in configs] == [False, False, False, True]
    assert configs[-1].network == configs[-2].network and configs[-1].diffusion == configs[-2].diffusion
    assert load_stages("mnist") is None and load_stages(str(TINY)) is None and load_stages("nonsense") is None
    with pytest.raises(UserError, match="mini-sd is a list of stages: "):
        load_config("mini-sd")


def test_help_is_quick_and_loads_nothing_heavy(preset):
    code = "import sys; from fromnoise.cli import main; main(['train', sys.argv[1], '--help']); "
    code += "assert not {'torch', 'pydantic'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", code, "mini-sd"], env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--train.seed" in done.stdout and "--data NAME|DIR" in done.stdout
