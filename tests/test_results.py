"""The table of results is made of stored measurements alone, and remeasuring goes on where it was stopped."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fromnoise import results
from fromnoise.cli import main
from fromnoise.errors import UserError
from fromnoise.results import page

ROOT = Path(__file__).parents[1]
PLAN = """
[models]
a = "one --n 10000"
data-mix = "one --n 10000 --data-mix"
b = "two --n 10000"
[likelihood]
a-nll = "one --metrics nll"
[few-steps]
default = "one --n 5000"
ancestral = "one --n 5000 --steps 250"
[book]
strong = "one --n 1000 --guidance 3"
[curve]
options = "one --n 1000"
samplers = ["ddim", "heun"]
steps = [6, 12]
[prompts]
scenes = "mini --n 2000 --metrics prompts,reconstruction,clip"
few = "mini --n 2000 --steps 5 --metrics prompts"
glyphs = "things --n 1000 --metrics prompts,sharpness,reconstruction"
folder = "things --n 1000 --steps 5 --metrics prompts"
[optional]
theirs = "google/other"
[[published]]
model = "Theirs"
fid = "3.17"
bits = "3.75"
source = "a paper"
"""


def record(arguments, value=0.25):
    """What `fromnoise evaluate` would write."""
    data_mix, words = "--data-mix" in arguments, [word for word in arguments if word != "--data-mix"]
    options = dict(zip(words[1::2], words[2::2], strict=True))
    if arguments[0] in SCENES:
        metrics = prompts_metrics(arguments[0], options["--metrics"], value)
    elif options.get("--metrics") == "nll":
        nll = {"value": 1.5, "details": {"standard_error": 0.125}}
        metrics = {"vlb": nll, "ode": nll | {"value": 1.25}}
    else:
        details = {"halves": [0.125, 0.375], "ratio": 2.5, "real": {"value": 0.1}}
        details |= {"real_of_these_classes": 0.2} if arguments[0] == "one" and not data_mix else {}
        metrics = {name: {"value": value, "details": details} for name in ("accuracy", "fd", "precision", "recall")}
    if arguments[0] == "two":
        del metrics["accuracy"]
    return {
        "command": f"fromnoise evaluate {' '.join(arguments)}",
        "model": arguments[0],
        "n": int(options.get("--n", 100)),
        "classes": None,
        "data_mix": data_mix,
        "sampler": options.get("--sampler", "ddpm"),
        "steps": int(options.get("--steps", 10)),
        "evaluations": int(options.get("--steps", 10)) + 2,
        "guidance": 1.5 if arguments[0] == "one" else 1,
        "guidance_interval": [0.5, 5.0] if arguments[0] == "one" else None,
        "reference": EMOJI if arguments[0] == "things" else MNIST,
        "metrics": metrics,
    }


MNIST = {"name": "mnist", "split": "test", "size": 10000}
EMOJI = {"name": "emoji", "split": "train", "size": 2784}
SCENES = {"mini": ("digit", "colour"), "things": ("thing", "tone")}
"""what the prompts of models of scenes name"""


def prompts_metrics(model, names, value):
    """What it would write of a model of scenes; of things that have no tones there are no prompts to compose."""

    def measurement(value, error, **details):
        return {"value": value, "details": {"standard_error": error, **details}}

    metrics = {
        f"prompts_{kind}": measurement(
            value,
            0.015625,
            attributes=dict.fromkeys(SCENES[model], value) | {"place": 0.996},
            true={"together": true, "standard_error": 0.5},
        )
        for kind, true in (("seen", 0.9921875), ("unseen", 0.984375), ("composed", 0.90625), ("two", 0.96875))
        if kind != "composed" or model == "things" and "sharpness" in names
    }
    if "sharpness" in names:
        metrics["sharpness"] = measurement(0.9375, 0.0625)
    if "reconstruction" in names:
        metrics |= {"reconstruction": measurement(0.9375, 0.03125), "psnr": measurement(30.25, 0.125)}
    if "clip" in names:
        metrics["clip"] = measurement(80.5, 0.25, true=81.75, shuffled=12.5)
    return metrics


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "plan.toml").write_text(PLAN)
    (tmp_path / "README.md").write_text(f"# Title\n\nBefore.\n\n{results.BEGIN}\nold\n{results.END}\n\nAfter.\n")
    return tmp_path / "results"


class Evaluate:
    """Stands for the command; fails when it is told to."""

    def __init__(self, fail_at=()):
        self.seen, self.fail_at = [], fail_at

    def __call__(self, arguments):
        *arguments, option, path = arguments
        assert option == "--json"
        if arguments[0] in self.fail_at or Path(path).stem in self.fail_at:
            raise UserError("it cannot be")
        self.seen.append(Path(path).stem)
        Path(path).write_text(json.dumps(record(arguments)))


ALL = ["a-nll", "a", "data-mix", "b", "ddim-6", "ddim-12", "heun-6", "heun-12", "default", "ancestral", "strong"]
ALL += ["scenes", "few", "glyphs", "folder", "theirs"]


def test_everything_in_the_plan_is_measured(folder):
    evaluate = Evaluate()
    assert results.remeasure(results.load_plan(folder), folder, evaluate) == []
    assert evaluate.seen == ALL
    assert not (folder / results.DONE).exists()


def test_remeasuring_goes_on_where_it_stopped(folder):
    plan = results.load_plan(folder)
    with pytest.raises(UserError, match="cannot be"):
        results.remeasure(plan, folder, Evaluate(fail_at=["ddim-12"]))
    again = Evaluate()
    results.remeasure(plan, folder, again)
    assert again.seen == ALL[5:]
    results.remeasure(plan, folder, full := Evaluate())
    assert full.seen == ALL, "a finished remeasuring is begun anew"


def test_some_are_measured_again(folder):
    plan, evaluate = results.load_plan(folder), Evaluate()
    results.remeasure(plan, folder, evaluate, only=["b"])
    assert evaluate.seen == ["b"]
    with pytest.raises(UserError, match="no measurement c in the plan: there are a-nll, a, data-mix, b"):
        results.remeasure(plan, folder, evaluate, only=["c"])


def test_what_is_optional_may_be_missing(folder):
    said = []
    plan = results.load_plan(folder)
    assert results.remeasure(plan, folder, Evaluate(fail_at=["google/other"]), say=said.append) == ["theirs"]
    assert said[-1] == "theirs is left out: it cannot be"
    results.rewrite(plan, folder, folder.parent / "README.md")
    assert "google/other" not in (folder / results.PAGE).read_text()


def written(folder, fail_at=("google/other",), remeasured=True):
    """The README and the page with everything, after measuring."""
    plan, readme = results.load_plan(folder), folder.parent / "README.md"
    if remeasured:
        results.remeasure(plan, folder, Evaluate(fail_at), say=lambda line: None)
    results.rewrite(plan, folder, readme)
    return readme.read_text(), (folder / results.PAGE).read_text()


def test_models_of_scenes_have_tables_of_their_own(folder):
    """One of digits and one of things, each under what it says of them; what was not measured leaves its cell empty.

    A column with nothing in it is left out: of digits, nobody has measured the sharpness.
    """
    readme, page = written(folder)
    own = "| 25.00% ± 1.56% (99.22%) | 25.00% ± 1.56% (98.44%) | 25.00% ± 1.56% (96.88%) |"
    others = "93.75% ± 3.12% | 30.25 ± 0.12 dB | 80.50 ± 0.25 (81.75 and 12.50) |"
    assert f"| `mini` | ddpm, 10 steps | 12 {own} {others}" in page
    assert f"| `mini` | ddpm, 5 steps | 7 {own}  |  |  |" in page
    composed = own.replace("(98.44%) |", "(98.44%) | 25.00% ± 1.56% (90.62%) |")
    assert f"| `things` | ddpm, 10 steps | 12 {composed} 0.938 ± 0.062 | 93.75% ± 3.12% | 30.25 ± 0.12 dB |\n" in page
    without = own.replace("(98.44%) |", "(98.44%) |  |")
    assert f"| `things` | ddpm, 5 steps | 7 {without}  |  |  |\n" in page
    digits, things = page.partition("Scenes of things: ")[::2]
    digits = digits.partition("Scenes of digits: ")[2]
    assert "2,000 prompts of each kind" in digits and "made of the 10,000 test images of mnist" in digits
    assert "1,000 prompts of each kind" in things and "made of the same 2,784\npictures of emoji" in things
    assert digits.count("`mini`") == 2 and "`things`" not in digits, "each in its own table"
    assert "| digits that the autoencoder keeps | PSNR | CLIP score |\n" in digits
    assert "| things that the autoencoder keeps | PSNR |\n" in things
    assert "`fromnoise evaluate mini --n 2000 --metrics prompts,reconstruction,clip`" in page
    assert "`fromnoise evaluate things --n 1000 --metrics prompts,sharpness,reconstruction`" in page


def test_the_readme_tells_of_scenes_in_short(folder):
    readme, _ = written(folder)
    share = "25.0% ± 1.6%"
    assert f"| `mini` | ddpm, 10 steps | 12 | {share} | {share} | {share} |\n" in readme
    assert f"| `things` | ddpm, 10 steps | 12 | {share} | {share} | {share} | {share} | 0.94 ± 0.06 |\n" in readme
    assert f"| `things` | ddpm, 5 steps | 7 | {share} | {share} |  | {share} |  |\n" in readme
    assert "Each by itself, for one digit (`mini`): digit 25.0%, colour 25.0%, place 99.6%." in readme
    assert (
        "Each by itself, for one thing (`things`): thing 25.0%, tone 25.0% where one is named, place 99.6%." in readme
    )
    assert "Scenes of digits: how often is *everything* right" in readme
    assert "Scenes of things, made of 2,784 pictures of emoji: how often is *everything* right" in readme
    for table in readme.split("\n\n"):
        if table.startswith("| model"):
            assert len({line.count("|") for line in table.splitlines()}) == 1, "each row has all columns of its table"


def test_models_of_scenes_may_be_missing(folder):
    """Those that are there stand in the tables; without any there is none."""
    readme, page = written(folder, ["scenes", "glyphs", "google/other"])
    assert "ddpm, 5 steps" in readme and "ddpm, 5 steps" in page and "dB" not in page
    (folder / "folder.json").unlink()
    readme, page = written(folder, remeasured=False)
    assert "Scenes of digits" in readme and "Scenes of things" not in readme + page
    (folder / "few.json").unlink()
    readme, page = written(folder, remeasured=False)
    assert "mini" not in readme + page and "CLIP" not in page and "autoencoder" not in page


def test_the_readme_is_rewritten_between_the_markers(folder):
    written(folder)
    readme, page = written(folder, remeasured=False)  # the second time nothing changes
    assert readme.startswith(f"# Title\n\nBefore.\n\n{results.BEGIN}\n")
    assert readme.endswith(f"{results.END}\n\nAfter.\n") and "old" not in readme
    how = "ddpm, 10 steps, guidance 1.5 between 0.5 and 5, each digit equally often"
    assert f"| `one` | {how} | 12 | 25.00% | 0.2500 |" in readme
    assert f"| `one` | {how.replace(', each digit equally often', '')} | 12 | 25.00% | 0.2500 |" in readme, "data's mix"
    assert "| `two` | ddpm, 10 steps | 12 |  | 0.2500 |" in readme
    assert "from the test images of mnist (training images: 0.100; with each digit equally often: 0.200)" in readme
    row = f"| `one` | {how} | 12 | 25.00% | 0.2500 | 2.50 (1.25) | 0.250 | 0.250"
    assert f"{row} | 1.25 ± 0.12 | 1.50 ± 0.12 |" in page
    assert row.replace(", each digit equally often", "").replace("2.50 (1.25)", "2.50") in page, "in the data's mix"
    assert "| `two` | ddpm, 10 steps | 12 |  | 0.2500 | 2.50 | 0.250 | 0.250 |  |  |" in page
    assert "| Theirs | 3.17 | 3.75 | a paper |" in page
    assert "as published and not measured here" in page
    assert "in\n252 evaluations, it is 0.2500 (0.1250 and 0.3750), and\n25.00% (12.50% and 37.50%) are." in page
    assert "`fromnoise evaluate one --n 10000`" in page and "`fromnoise evaluate one --n 1000 --guidance 3`" in page
    assert (folder / "quality.png").read_bytes().startswith(b"\x89PNG")
    assert "(quality.png)" in page


def test_the_plot_has_every_sampler(folder, monkeypatch):
    names = [f"sampler-{i}" for i in range(9)]
    plan = results.load_plan(folder)
    plan = replace(plan, curve=replace(plan.curve, samplers=names))
    measured = {name: record(words) for name, words in plan.measurements().items()}
    closed = []
    monkeypatch.setattr("matplotlib.pyplot.close", closed.append)
    page.draw(plan, measured, folder / "plot.png")
    (figure,) = closed
    assert [line.get_label() for line in figure.axes[1].lines] == names


def test_figures_come_from_the_files(folder):
    written(folder)
    (folder / "a.json").write_text(json.dumps(record(["one"], value=0.9375)))
    assert all("93.75% | 0.9375" in text for text in written(folder, remeasured=False))


def spoil_all(folder, name, *keys):
    """Puts a word where a record has something else."""
    content = json.loads((folder / f"{name}.json").read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = "nonsense"
    (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda folder: (folder / "b.json").unlink(), "b.json is missing: fromnoise results --remeasure --only b"),
        (lambda folder: (folder / "b.json").write_text("{"), "b.json is damaged"),
        (lambda folder: (folder / "b.json").write_text("[" * 100_000), "b.json is damaged"),
        (lambda folder: (folder / "b.json").write_bytes(b"\xff"), "b.json is damaged"),
        (
            lambda folder: (folder / "ancestral.json").write_text("{}"),
            "ancestral.json is damaged .*: fromnoise ",
        ),
        (lambda folder: spoil_all(folder, "heun-6", "metrics"), "heun-6.json is damaged"),
        (lambda folder: spoil_all(folder, "a-nll", "metrics", "ode", "details"), "a-nll.json is damaged"),
        (lambda folder: spoil_all(folder, "a", "reference", "size"), "a.json is damaged"),
        (lambda folder: spoil_all(folder, "default", "n"), "default.json is damaged"),
        (lambda folder: spoil_all(folder, "few", "metrics", "prompts_two", "details", "true"), "few.json is damaged"),
        (lambda folder: spoil_all(folder, "scenes", "metrics", "psnr", "value"), "scenes.json is damaged"),
        (lambda folder: spoil_all(folder, "glyphs", "metrics", "sharpness", "value"), "glyphs.json is damaged"),
        (lambda folder: spoil_all(folder, "glyphs", "reference", "size"), "glyphs.json is damaged"),
        (
            lambda folder: spoil_all(folder, "glyphs", "metrics", "prompts_seen", "details", "attributes"),
            "glyphs.json is damaged",
        ),
        (lambda folder: (folder.parent / "README.md").write_text("# Title"), "has no place for the results"),
        (lambda folder: (folder.parent / "README.md").unlink(), "README.md is missing"),
        (lambda folder: (folder.parent / "README.md").write_bytes(b"\xff"), "cannot read .*README.md"),
    ],
)
def test_what_is_missing_is_said_and_nothing_is_lost(folder, spoil, complaint):
    plan, readme = results.load_plan(folder), folder.parent / "README.md"
    results.remeasure(plan, folder, Evaluate(fail_at=["google/other"]))
    spoil(folder)
    before = readme.read_bytes() if readme.exists() else None
    with pytest.raises(UserError, match=complaint):
        results.rewrite(plan, folder, readme)
    assert before == (readme.read_bytes() if readme.exists() else None)


@pytest.mark.parametrize(
    ("was", "becomes", "named"),
    [
        ('a = "one --n 10000"', 'a = "one \'"', "No closing quotation"),
        ('a = "one --n 10000"', '"../a" = "one"', "models.../a"),
        ("[likelihood]", "[nonsense]", "likelihood|nonsense"),
        ('ancestral = "one --n 5000 --steps 250"', "", "few_steps"),
        ("steps = [6, 12]", "steps = []", "curve.steps"),
        ('fid = "3.17"', "fid = 3.17", "published.0.fid"),
        ("[models]", "[models", "not valid TOML"),
    ],
)
def test_a_damaged_plan_is_named(folder, was, becomes, named):
    assert was in PLAN
    (folder / "plan.toml").write_text(PLAN.replace(was, becomes))
    with pytest.raises(UserError, match=f"plan.toml.*({named})"):
        results.load_plan(folder)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "run this where fromnoise's README.md and results/ are"),
        (["--only", "mnist"], "give --remeasure, too"),
    ],
)
def test_what_the_command_refuses(options, complaint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["results", *options]) == 2
    assert complaint in capsys.readouterr().err


def test_the_pages_say_what_was_measured():
    """The committed README and page of results are what the committed measurements make of them."""
    folder = ROOT / "results"
    plan = results.load_plan(folder)
    measured = results.read_measured(plan, folder)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{results.BEGIN}\n\n{page.short(plan, measured)}\n{results.END}" in text
    assert (folder / results.PAGE).read_text(encoding="utf-8") == page.whole(plan, measured, results.PLOT)
    assert (folder / results.PLOT).exists()


def test_commands_are_those_of_the_plan():
    """No measurement was made with other options than the plan has now."""
    folder = ROOT / "results"
    plan = results.load_plan(folder)
    for name, found in results.read_measured(plan, folder).items():
        words = ["fromnoise", "evaluate", *plan.measurements()[name], "--json", f"results/{name}.json"]
        assert found["command"].replace("'", "") == " ".join(words).replace("'", "")
