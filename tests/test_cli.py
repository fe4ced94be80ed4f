"""The command line: what it writes and says when all is well, and the one line it says when it is not."""

import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import diffusers
import huggingface_hub.constants
import numpy as np
import pytest
import torch
from PIL import Image

from fromnoise import __version__, cli, models, terminal
from fromnoise.cli import Evaluate, Sample, main
from fromnoise.errors import UserError
from fromnoise.models import hub, shipped
from fromnoise.sampling.request import Request
from fromnoise.train.config import preset_names

SCHEDULER = "scheduler/scheduler_config.json"
FAST = ["--steps", "2", "--n", "4"]

PRESET = """
name = "small"
[data]
source = "digits"
size = 8
[network]
channels = [8, 16]
attention_levels = [false, true]
norm_groups = 4
head_dim = 8
"""


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """Each test in a folder of its own, without a network, and without traces in torch's settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "no-cache"))
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def model(conditional, tmp_path):
    """A model directory that may be changed."""
    return shutil.copytree(conditional, tmp_path / "model")


@pytest.fixture
def say(capsys):
    """Runs a command that succeeds; what it prints."""

    def run(*words):
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def refuse(capsys):
    """Runs a command that must be refused: the one line that it says, once it is sure that nothing was written."""

    def run(*words):
        before = snapshot(Path.cwd())
        capsys.readouterr()
        status = main([str(word) for word in words])
        output, errors = capsys.readouterr()
        assert (status, output) == (2, "")
        assert snapshot(Path.cwd()) == before
        assert errors.startswith("fromnoise: ")
        assert errors.count("\n") == 1
        assert errors.endswith("\n")
        return errors.removeprefix("fromnoise: ").rstrip("\n")

    return run


def snapshot(folder):
    """Every path below a folder, with the content of the files."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def python(*words, **environment):
    """A Python process of its own."""
    return subprocess.run(
        [sys.executable, *words], env=os.environ | environment, capture_output=True, text=True, timeout=120
    )


# Help


def test_overview(say):
    assert say("--help") == say("-h")
    text = say("--help")
    for word in ("models", "sample MODEL", "train PRESET|FILE.toml", "evaluate MODEL", *preset_names()):
        assert word in text
    assert say("--version") == f"fromnoise {__version__}\n"


def test_without_a_command(capsys):
    assert main([]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert "usage: fromnoise COMMAND" in errors


@pytest.mark.parametrize(("command", "options"), [("sample", Sample), ("evaluate", Evaluate)])
def test_help_tells_each_option_and_what_happens_without_it(command, options, say):
    text = " ".join(say(command, "--help").replace("│", " ").split())
    assert f"usage: fromnoise {command} [-h] [OPTIONS] MODEL" in text
    own = {field.name for field in dataclasses.fields(options)} - {"model", "asked"}
    names = own | {field.name for field in dataclasses.fields(Request)}
    flags = [f"--{name.replace('_', '-')}" for name in names - {"prompts"} | {"prompt"}]
    places = sorted((text.index(f"{flag} "), flag) for flag in flags)
    for (start, flag), (end, _) in pairwise([*places, (len(text), "")]):
        assert text[start:end].count("(default: ") == 1, flag
    assert "None" not in text


def test_help_of_train(say):
    text = say("train", "digits", "--help")
    for option in ("--data ", "--out ", "--resume ", "--data.source ", "--network.channels ", "--diffusion.schedule "):
        assert option in text
    assert "(default: 1500)" in text  # the steps of digits
    assert "--train.steps " in say("train", "--help")


def test_help_is_quick():
    """All seven together take about a second of a processor, the best of three, also when others use its caches;
    nothing heavy is imported for them.
    """
    code = """
import sys, time
start = time.process_time()
from fromnoise.cli import COMMANDS, main
for words in (["--help"], *([name, "--help"] for name in COMMANDS), ["train", "digits", "-h"]):
    assert main(words) == 0
heavy = {"torch", "numpy", "datasets", "huggingface_hub", "accelerate", "PIL", "sklearn", "safetensors", "pydantic"}
print("heavy:", sorted(heavy & set(sys.modules)))
print("seconds:", time.process_time() - start)
"""
    results = [python("-c", code) for _ in range(3)]
    assert {(result.returncode, result.stderr) for result in results} == {(0, "")}
    assert all(result.stdout.splitlines()[-2] == "heavy: []" for result in results)
    assert min(float(result.stdout.split()[-1]) for result in results) < 1.25


def test_nothing_is_loaded_that_is_not_needed(tmp_path):
    """Listing models loads no torch, drawing none of torch's compilers, which take as long as torch itself."""
    code = """
import sys
from fromnoise.cli import main
assert main(sys.argv[1:]) == 0
print("loaded:", sorted(set(HEAVY) & set(sys.modules)))
"""

    def loaded(words, *heavy):
        result = python("-c", code.replace("HEAVY", repr(heavy)), *words, HF_HUB_CACHE=str(tmp_path / "no-cache"))
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout.splitlines()[-1]

    assert loaded(["models"], "torch", "numpy", "huggingface_hub.utils") == "loaded: []"
    unwanted = "torch._dynamo", "torch._inductor", "sympy", "huggingface_hub", "transformers", "datasets", "sklearn"
    for words in (["mini-sd", "--prompt", "a red seven on black"], ["mnist-conditional", "--n", "1"]):
        assert loaded(["sample", *words, "--steps", "2"], "torch", *unwanted) == "loaded: ['torch']"


@pytest.mark.parametrize("given", [{}, {"THP_MEM_ALLOC_ENABLE": "0"}])
def test_drawing_asks_for_large_pages_before_torch_is_there(given, conditional):
    """Unless the environment says otherwise."""
    code = """
import builtins, os, sys
original = builtins.__import__
def watched(name, *arguments, **named):
    if name == "torch" and "torch" not in sys.modules:
        print("pages:", os.environ.get("THP_MEM_ALLOC_ENABLE"))
    return original(name, *arguments, **named)
builtins.__import__ = watched
from fromnoise.cli import main
assert main(["sample", *sys.argv[1:]]) == 0
"""
    result = python("-c", code, str(conditional), *FAST, **given)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[0] == f"pages: {'0' if given else '1'}"


def test_as_a_module():
    result = python("-m", "fromnoise", "--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"fromnoise {__version__}\n", "")
    for encoding in ("utf-8", "ascii"):  # boxes are drawn differently
        result = python("-m", "fromnoise", "sample", "mnist", "--nonsense", PYTHONIOENCODING=encoding)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr == (
            "fromnoise: Unrecognized options: --nonsense; fromnoise sample --help tells the options\n"
        )


@pytest.mark.parametrize("words", [["models"], ["--help"], ["train", "digits", "--help"]], ids=" ".join)
def test_a_reader_that_stops_early(words):
    """Standard output is a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "fromnoise", *words]
    result = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (result.returncode, result.stderr) == (0, "")


LOST = "fromnoise: what was printed is lost, what was written is there: "


@pytest.mark.parametrize(
    ("redirected", "status", "said"),
    [
        (">&-", 2, f"{LOST}[Errno 9] Bad file descriptor\n"),
        (">/dev/full", 2, f"{LOST}[Errno 28] No space left on device\n"),
        ("2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
        ("<&- >&- 2>&-", 2, ""),
    ],
)
def test_output_that_is_lost_stops_no_work(redirected, status, said, tmp_path):
    """The command stands for any: it prints, it works with a progress bar, and it writes a file."""
    code = """
import sys
from fromnoise import cli
def work(arguments):
    from tqdm import tqdm
    print("begun", flush=True)
    for _ in tqdm(range(3), mininterval=0):
        print("on the way", file=sys.stderr)
    open("done", "w").write(str(open("more", "w").fileno()))
    print("done")
cli.COMMANDS["work"] = work
sys.exit(cli.main(["work"]))
"""
    shell = ["sh", "-c", f'"$0" -c "$1" {redirected}', sys.executable, code]
    result = subprocess.run(shell, capture_output=True, text=True, timeout=60)
    assert result.returncode == status
    assert said in result.stderr and "Traceback" not in result.stderr
    assert int(Path("done").read_text()) > 2, "no file takes the place of a closed stream"


def fault(monkeypatch, capsys, error, code=2):
    """What is said of an error in the middle of a command; it is one line."""

    def fail(arguments):
        raise error

    monkeypatch.setitem(cli.COMMANDS, "models", fail)
    assert main(["models"]) == code
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("fromnoise: ") and errors.endswith("\n") and errors.count("\n") == 1
    assert len(errors) < 600
    return errors


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory: ask for less, by a smaller --n or --batch-size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "out of memory"),
        (OverflowError("Python int too large to convert to C long"), "a number is too large"),
        (RuntimeError("value cannot be converted to type int64_t without overflow"), "a number is too large"),
        (OSError(28, "No space left on device", "place"), "place: No space left on device"),
        (OSError(36, "File name too long", "a" * 3000), "File name too long"),
        (UserError("red \x1b[31m\r\nline \u202e \ud800"), "red \\x1b[31m line \\u202e \\ud800"),
        (UserError("a" * 5000), "aaa ... aaa"),
    ],
)
def test_faults_become_a_line(error, said, monkeypatch, capsys):
    assert said in fault(monkeypatch, capsys, error)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 cannot be multiplied"), ValueError("x"), KeyError("x")])
def test_defects_keep_their_traceback(error, monkeypatch, capsys):
    with pytest.raises(type(error)):
        fault(monkeypatch, capsys, error)


@pytest.mark.parametrize("launched", [True, False])
def test_of_several_processes_the_first_speaks(launched, monkeypatch, capsys):
    """One that runs alone speaks even if something has left it a number."""
    terminal.warn.cache_clear()
    for name in ("LOCAL_RANK", *(["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"] if launched else [])):
        monkeypatch.setenv(name, "1")
    terminal.warn("not read: a file")
    assert main(["models", "--nonsense"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == (0 if launched else 2)


def test_a_real_lack_of_memory(refuse, conditional, monkeypatch):
    monkeypatch.setattr(hub, "open_directory", lambda directory: torch.empty(2**60))
    assert refuse("sample", conditional).startswith("out of memory: ")


def test_a_working_folder_that_is_gone(tmp_path, capsys):
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["sample", "mnist"]) == 2
    assert capsys.readouterr().err == "fromnoise: the working folder is gone: change to one that is there\n"
    assert main(["--version"]) == 0


def test_letters_that_the_console_does_not_have(conditional, tmp_path, monkeypatch):
    shutil.copytree(conditional, tmp_path / "modèle")
    console = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(console, "ascii"))
    assert main(["sample", "modèle", *FAST]) == 0
    assert console.getvalue() == b"4 images: mod\\xe8le.png\n"
    assert Path("modèle.png").exists()


@pytest.mark.parametrize("columns", ["1", "20", "1000"])
def test_any_width_of_the_terminal(columns, monkeypatch, refuse, say):
    monkeypatch.setenv("COLUMNS", columns)
    name = "--" + "n" * 150
    assert refuse("sample", "mnist", name) == (
        f"Unrecognized options: {name}; fromnoise sample --help tells the options"
    )
    assert "usage: fromnoise sample" in say("sample", "--help")
    assert os.environ["COLUMNS"] == columns


# models


def test_models(say, conditional, tmp_path, monkeypatch):
    zoo = tmp_path / "zoo"
    shutil.copytree(conditional, zoo / "letters")
    (zoo / "letters" / "README.md").write_text("# letters\n\nThe first three.\n")
    monkeypatch.setattr(shipped, "ZOO", zoo)
    monkeypatch.setattr(models, "cached_models", lambda: ["owner/name"])
    assert [line.split(maxsplit=1) for line in say("models").splitlines()] == [
        ["letters", "The first three."],
        ["owner/name", "in the hub's cache"],
    ]
    assert say("sample", "letters", *FAST) == "4 images: letters.png\n"


def test_models_in_the_cache(say, conditional, tmp_path):
    """Listed in a process of its own: the hub's library reads its environment when it is imported."""
    commit = "0123456789" * 4
    cached = tmp_path / "no-cache" / "models--owner--name"
    shutil.copytree(conditional, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    result = python("-m", "fromnoise", "models", HF_HUB_CACHE=str(tmp_path / "no-cache"), HF_HUB_OFFLINE="1")
    assert (result.returncode, result.stderr) == (0, "")
    listed = [line.split()[0] for line in result.stdout.splitlines()]
    assert listed == [model.name for model in models.shipped_models()] + ["owner/name"]
    assert say("sample", "owner/name", *FAST) == "4 images: name.png\n"  # without a network


# sample


def test_sample_to_a_grid(say, conditional):
    assert say("sample", conditional, *FAST, "--out", "new/grid.png") == "4 images: new/grid.png\n"
    with Image.open("new/grid.png") as picture:
        assert picture.size == (3 * 58 + 2, 2 * 58 + 2)  # a column for each of the three classes


def test_sample_to_arrays_and_to_a_folder(say, conditional, unconditional):
    assert say("sample", conditional, *FAST, "--out", "a.npz") == "4 images: a.npz\n"
    arrays = np.load("a.npz")
    assert sorted(arrays) == ["images", "labels"]
    assert (arrays["images"].dtype, arrays["images"].shape) == (np.uint8, (4, 8, 8, 1))
    assert arrays["labels"].tolist() == [0, 1, 2, 0]
    assert say("sample", conditional, *FAST, "--out", "new/folder/") == "4 images: new/folder\n"
    names = ["00000-0.png", "00001-1.png", "00002-2.png", "00003-0.png"]
    assert sorted(os.listdir("new/folder")) == names
    pictures = [np.asarray(Image.open(f"new/folder/{name}")) for name in names]
    assert np.array_equal(np.stack(pictures)[..., None], arrays["images"])
    say("sample", unconditional, *FAST, "--out", "b.npz")
    assert sorted(np.load("b.npz")) == ["images"]
    say("sample", unconditional, *FAST, "--out", "other")
    assert sorted(os.listdir("other")) == [f"0000{i}.png" for i in range(4)]


def test_endings(say, conditional):
    """Any that is no known file's is a folder's, and it does not matter in which letters it is written."""
    for out in ("run.v1", "run.1", "steps-0.5"):
        assert say("sample", conditional, *FAST, "--out", out) == f"4 images: {out}\n"
        assert len(os.listdir(out)) == 4
    say("sample", conditional, *FAST, "--out", "A.PNG")
    say("sample", conditional, *FAST, "--out", "A.NPZ")
    assert Path("A.PNG").read_bytes().startswith(b"\x89PNG")
    assert len(np.load("A.NPZ")["images"]) == 4


def test_default_name_and_number(say, conditional, unconditional):
    for given in (f"{conditional}", f"{conditional}/", os.path.relpath(conditional)):
        assert say("sample", given, "--steps", "1") == "24 images: conditional.png\n"  # 8 of each class
    assert say("sample", conditional, "--steps", "1", "--classes", "2,0") == "16 images: conditional.png\n"
    assert say("sample", unconditional, "--steps", "1") == "64 images: unconditional.png\n"
    assert Image.open("unconditional.png").width == 8 * 58 + 2
    assert sorted(os.listdir()) == ["conditional.png", "unconditional.png"]


def test_name_of_the_folder_one_is_in(say, conditional, monkeypatch, tmp_path):
    monkeypatch.chdir(conditional)
    assert say("sample", ".", *FAST, "--out", tmp_path / "a.png")
    monkeypatch.chdir(shutil.copytree(conditional, tmp_path / "here"))
    assert say("sample", ".", *FAST) == "4 images: here.png\n"


def drawn(say, *words):
    say("sample", *words, "--out", "drawn.npz")
    return np.load("drawn.npz")["images"].astype(int)


def test_every_option_reaches_the_sampler(say, conditional):
    few = (conditional, "--steps", "3", "--n", "4")
    default = drawn(say, *few)
    assert np.array_equal(drawn(say, *few), default)
    same = ["--sampler=dpmpp-2m-sde", "--guidance=1", "--seed=0", "--clip", "--spacing=trailing", "--dtype=fp32"]
    assert np.array_equal(drawn(say, *few, *same, "--device=cpu", "--batch-size", "1", "--classes", "0,1,2"), default)
    others = [
        ["--sampler", "ddim"],
        ["--sampler", "ddim", "--eta", "0.5"],
        ["--sampler", "heun"],
        ["--sampler", "ddpm"],
        ["--sampler", "dpmpp-2m"],
        ["--guidance", "3"],
        ["--guidance", "3", "--guidance-rescale", "0.7"],
        ["--guidance", "3", "--guidance-interval", "0.5", "5"],
        ["--spacing", "karras"],
        ["--spacing", "log-snr"],
        ["--sampler", "ddpm", "--variance", "fixed_large"],
        ["--seed", "1"],
        ["--guidance", "0"],
        ["--spacing", "linspace"],
        ["--spacing", "leading"],
        ["--no-clip", "--guidance", "30"],
        ["--clip", "--guidance", "30"],
        ["--classes", "1"],
        ["--dtype", "bf16"],
    ]
    results = [default, *(drawn(say, *few, *options) for options in others)]
    assert len({result.tobytes() for result in results}) == 1 + len(others)
    ddim, euler = (drawn(say, *few, "--sampler", name) for name in ("ddim", "euler"))
    assert np.abs(ddim - euler).max() <= 1
    assert np.array_equal(drawn(say, conditional, "--steps=3", "--n=1", "--seed=2", "--classes=2")[0], default[2])
    assert np.abs(results[-1] - default).mean() < 4  # bf16 is another rounding, not another image


def test_sample_from_a_directory_of_diffusers(say, tmp_path):
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
    )
    pipeline = diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(num_train_timesteps=10))
    pipeline.save_pretrained(tmp_path / "theirs")
    images = drawn(say, "theirs", "--n", "2", "--seed", "5", "--sampler", "ddpm", "--steps", "1")
    assert images.shape == (2, 8, 8, 3)
    noise = [torch.randn((1, 3, 8, 8), generator=torch.Generator().manual_seed(5 + i)) for i in range(2)]
    noise = torch.cat(noise)
    pipeline.scheduler.set_timesteps(1)  # leading spacing: the first timestep
    with torch.no_grad():
        theirs = pipeline.scheduler.step(unet(noise, 0).sample, 0, noise).prev_sample
    expected = ((theirs.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    assert np.abs(images - expected).max() <= 1


# What sample refuses


def test_unknown_commands(refuse):
    for word in ("nonsense", "", "--nonsense", "Sample"):
        assert refuse(word, "x") == f"unknown command {word!r}: there are models, sample, train, evaluate, results"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "MODEL"),
        (["MODEL", "--nonsense", "3"], "--nonsense"),
        (["MODEL", "another"], "another"),
        (["MODEL", "--steps"], "'--steps'"),
        (["MODEL", "--steps", "2.5"], "--steps: .*'2.5'"),
        (["MODEL", "--steps", "many"], "--steps: .*'many'"),
        (["MODEL", "--n", "None"], "--n: .*'None'"),
        (["MODEL", "--eta", "x"], "--eta: .*'x'"),
        (["MODEL", "--guidance", ""], "--guidance: "),
        (["MODEL", "--guidance-interval", "2"], "--guidance-interval"),
        (["MODEL", "--seed", "1e3"], "--seed: .*'1e3'"),
        (["MODEL", "--dtype", "fp64"], "'fp64' for argument '--dtype'.*'fp32', 'bf16'"),
        (["MODEL", "--clip", "--no-clip"], "--clip and --no-clip"),
        (["MODEL", "--clip", "yes"], "yes"),
    ],
)
def test_options_that_cannot_be_read(words, named, refuse, conditional):
    line = refuse("sample", *[conditional if word == "MODEL" else word for word in words])
    assert re.search(named, line)
    assert line.endswith("; fromnoise sample --help tells the options")
    assert not re.search("[│╭╰─]", line)


def test_options_of_the_other_commands_that_cannot_be_read(refuse):
    assert "--all; fromnoise models --help" in refuse("models", "--all")
    assert "--train.stepz" in refuse("train", "digits", "--train.stepz", "3")
    assert "--train.steps: invalid literal" in refuse("train", "digits", "--train.steps", "1.5")
    assert "--network.channels" in refuse("train", "digits", "--network.channels", "8", "wide")
    assert "'cubic' for argument '--diffusion.schedule'" in refuse("train", "digits", "--diffusion.schedule", "cubic")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--sampler", "plms"], "unknown sampler 'plms': there are ddpm, "),
        (["--classes", "x"], "--classes takes class numbers with commas, 0,1,2, not 'x'"),
        (["--classes", ""], "--classes takes class numbers"),
        (["--classes", "1,,2"], "--classes takes class numbers"),
        (["--classes=-1"], "there is no class -1: this model knows 0 to 2"),
        (["--guidance=-inf"], "guidance must be between -1000 and 1000, not -inf"),
        (["--device", "tpu"], "no device 'tpu' here: there are auto, "),
        (["--n", f"{10**30}"], f"n must be at most 1000000, not {10**30}"),
        (["--batch-size", f"{10**20}"], f"batch-size must be at most 1000000, not {10**20}"),
        (["--steps", f"{10**9}"], "steps must be between 1 and 20, "),
        (["--guidance", "1e308"], "guidance must be between -1000 and 1000, not 1e+308"),
        (["--revision", "v2"], "revision v2 given for MODEL, which is not on the hub: leave it out"),
        (["--attention-maps", "x", "--out", "x/y.png"], "--out lies in the folder of --attention-maps: give another"),
        (["--attention-maps", "x", "--out", "x"], "--out lies in the folder of --attention-maps: give another"),
    ],
)
def test_requests_that_do_not_fit_a_model(options, expected, refuse, conditional):
    """The command line passes on what the plan and the store refuse; what these refuse is tested with them."""
    assert refuse("sample", conditional, *options).startswith(expected.replace("MODEL", str(conditional)))


def test_places_that_cannot_be_written(refuse, conditional):
    Path("file").touch()
    Path("folder").mkdir()
    for out, reason in [
        ("file/a.png", f"cannot be written: {Path('file').absolute()}: Not a directory"),
        ("file/new/a.npz", "Not a directory"),
        ("file/folder", "Not a directory"),
        ("/proc/a.png", "cannot be written: /proc: "),
        ("/proc/new/folder", "cannot be written: /proc: "),
        ("folder", "exists already: give a new folder"),
        ("file", "exists already: give a new folder"),
        (".", "exists already: give a new folder"),
        ("a.jpg", "ends in .jpg: give FILE.png (a grid), FILE.npz (arrays) or a folder"),
        ("a.JPG", "ends in .JPG: give FILE.png (a grid), FILE.npz (arrays) or a folder"),
        ("a.npy", "ends in .npy: give FILE.png (a grid), FILE.npz (arrays) or a folder"),
        ("/dev/null", "exists already: give a new folder"),
        ("a.png.txt", "ends in .txt: give FILE.png (a grid), FILE.npz (arrays) or a folder"),
    ]:
        line = refuse("sample", conditional, *FAST, "--out", out)
        assert line.startswith("--out ")
        assert out in line or "ends in" in line
        assert reason in line
    assert refuse("sample", conditional, "--out", "b" * 300 + ".png").endswith("b.png: File name too long")
    Path("b.png").mkdir()
    assert "--out b.png is a folder: give a file" in refuse("sample", conditional, *FAST, "--out", "b.png")


def test_a_place_that_is_lost_meanwhile(capsys, conditional, monkeypatch):
    """What could be written at first and cannot be at last: nothing half-written stays."""
    Path("a.png").write_text("old")

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    assert main(["sample", str(conditional), *FAST, "--out", "a.png"]) == 2
    assert capsys.readouterr() == ("", "fromnoise: cannot write a.png: No space left on device\n")
    assert main(["sample", str(conditional), *FAST, "--out", "folder"]) == 2
    assert os.listdir() == ["a.png"]
    assert Path("a.png").read_text() == "old"


@pytest.mark.parametrize("name", ["nonsense", "no/such/folder", "./no"])
def test_unknown_models(name, refuse):
    line = refuse("sample", name, "--out", "a.png")
    assert line.startswith(f"unknown model {name!r}: shipped are ")
    assert line.endswith("; or give a directory or a hub id")


def test_models_that_cannot_be_opened(refuse, model):
    """The command line passes on what the store and the hub refuse; what these refuse is tested with them."""
    (model / SCHEDULER).write_text("{")
    assert refuse("sample", "model", *FAST).startswith(f"model/{SCHEDULER} is not valid JSON")
    assert refuse("evaluate", "owner/name").startswith("cannot reach the hub for owner/name")


def test_what_is_measured_of_a_picture_that_is_drawn_over_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (28, 28)).save("begin.png")
    words = ["mnist-conditional", "--n", "2", "--steps", "2", "--metrics", "accuracy", "--init-image", "begin.png"]
    assert main(["evaluate", *words, "--json", "found.json"]) == 0
    assert json.loads(Path("found.json").read_text())["init_image"] == "begin.png"


# What train refuses


def train(refuse, *words, preset=PRESET):
    """The line with which a preset is refused; the run would go to a new folder."""
    Path("small.toml").write_text(preset)
    return refuse("train", "small.toml", *words)


def test_what_is_said_of_data_is_not_said_of_other_things(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("fromnoise.train.run.train", lambda config, folder, **_: asked.append(config))
    monkeypatch.chdir(tmp_path)
    for words in (["--data.things", "emoji"], ["--data.source", "a/b"], ["--train.steps", "5"]):
        assert main(["train", "mini-sd-unet", *words]) == 0
    assert [bool(config.expect) for config in asked] == [False, False, True]
    assert [config.data.licence.split(" by ")[0] for config in asked] == ["", "", "MNIST"]
    assert asked[0].description == "Trained with the settings of mini-sd-unet, on scenes of emoji."


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "which preset? There are PRESETS; or give a .toml file"),
        (["--train.steps", "3"], "which preset? There are PRESETS; or give a .toml file"),
        (["nonsense"], "unknown preset 'nonsense': there are PRESETS; or give a .toml file"),
        ([""], "unknown preset '': there are PRESETS; or give a .toml file"),
        (["none.toml"], "none.toml is missing"),
        (["folder.toml"], "cannot read folder.toml: Is a directory"),
    ],
)
def test_unknown_presets(words, expected, refuse):
    Path("folder.toml").mkdir()
    assert refuse("train", *words) == expected.replace("PRESETS", ", ".join(preset_names()))


@pytest.mark.parametrize(
    ("preset", "named"),
    [
        ("steps = = 3", "not valid TOML"),
        ("x = '\udcff'", "small.toml"),
        ("[train]\nstepz = 3", "stepz"),
        ("[train]\nsteps = true", "train.steps"),
    ],
)
def test_bad_presets(preset, named, refuse):
    Path("small.toml").write_text(preset, "utf-8", "surrogateescape")
    assert named in refuse("train", "small.toml")


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("--train.steps 0", "train.steps"),
        ("--train.learning-rate nan", "train.learning_rate"),
        ("--network.channels 0 0", "network.channels"),
        ("--network.channels 8", "network: 2 attention_levels for 1 levels of channels"),
        (f"--train.seed {2**64}", "train.seed"),
        (
            "--data.size 28 --data.resize none",
            "digits, train row 0 is 8x8, not 28x28: resize the images, set the size to",
        ),
    ],
)
def test_numbers_that_cannot_be(words, key, refuse):
    assert key in train(refuse, *words.split())


def test_training_on_a_device_that_is_not_there(refuse, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train(refuse, "--train.device", "cuda").startswith("no device 'cuda' here: there are auto, ")


def test_run_folders_that_cannot_be_used(refuse):
    Path("file").touch()
    Path("run").mkdir()
    Path("run/training.toml").touch()
    Path("full").mkdir()
    Path("full/thing").touch()
    Path("runs/small").mkdir(parents=True)
    Path("runs/small/training.toml").touch()
    assert train(refuse, "--out", "file") == "file is a file: give --out a folder"
    assert train(refuse, "--out", "file", "--resume") == "file is a file: give --out a folder"
    assert train(refuse, "--out", "full") == "full is not empty and holds no run: give another --out"
    already = "run already holds a run: give --resume to go on with it, or another --out"
    assert train(refuse, "--out", "run") == already
    assert train(refuse) == already.replace("run", "runs/small", 1), "the default folder"
    assert "Not a directory" in train(refuse, "--out", "file/run")
    assert "/proc/run cannot be written" in train(refuse, "--out", "/proc/run")


def save_image(path, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size).save(path)


def test_data_that_cannot_be_used(refuse):
    Path("empty").mkdir()
    Path("text").mkdir()
    Path("text/README.md").write_text("nothing")
    for i in range(4):
        save_image(Path(f"broken/{i}.png"))
        save_image(Path(f"sizes/{i}.png"))
    for i in range(3):
        Path(f"broken/{i}.png").write_bytes(b"nonsense")
    for i in range(3):
        save_image(Path(f"sizes/{i}.png"), (8, 9))
    for words, named in [
        ("--data empty", "empty holds no image: it may hold images (PNG, "),
        ("--data=", "--data is empty"),
        ("--data text", "text"),
        ("--data broken", ".png cannot be read as an image: replace or remove it"),
        (
            "--data sizes --data.resize none",
            ".png is 8x9, not 8x8: resize the images, set the size to theirs, or give --d",
        ),
        ("--data ./none", "there is no folder ./none"),
        ("--data nonsense", "unknown data 'nonsense': give digits, a hub id like ylecun/mnist, or a folder"),
        ("--data.source nonsense", "unknown data 'nonsense': give digits, a hub id like ylecun/mnist, or a folder"),
        ("--data sizes --data.conditional", "sizes has no column of classes"),
        ("--data sizes --data.image-column photo", "sizes has no image column 'photo'"),
    ]:
        line = train(refuse, *words.split())
        assert named in line
