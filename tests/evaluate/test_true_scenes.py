"""The evaluation of a model of scenes as a whole: what is drawn, what is recorded, and what is refused before."""

import json
from dataclasses import replace

import pytest
import torch
from small_scenes import prompts
from small_sd import save_pipeline
from stand_ins import untrained

from fromnoise.cli import main
from fromnoise.devices import rows_at_a_time
from fromnoise.errors import UserError
from fromnoise.evaluate import report, true_scenes
from fromnoise.evaluate.reference import reference_of
from fromnoise.evaluate.report import prepare
from fromnoise.evaluate.true_scenes import scenes_of
from fromnoise.interop.vocabulary import learn_vocabulary
from fromnoise.models import open_model
from fromnoise.models.clip import save_clip
from fromnoise.nn.clip import Clip, ClipConfig
from fromnoise.nn.image_encoder import ImageEncoderConfig
from fromnoise.nn.text_encoder import TextEncoderConfig
from fromnoise.sampling.generate import draw, generate
from fromnoise.sampling.request import Request
from fromnoise.train.config import DataConfig, TrainingConfig, dump_config

DATA = DataConfig(source="scenes", digits="digits", channels=3, size=32)
ALL = ["prompts_seen", "prompts_unseen", "prompts_two", "sharpness", "reconstruction", "psnr", "clip"]
N = 3


def save_untrained_clip(folder, size=32, length=24):
    vocabulary = learn_vocabulary([scene.caption for scene in prompts("two", 50, seed=0)], 600, length)
    shared = {"width": 16, "mlp_width": 32, "layers": 1, "heads": 2}
    text = TextEncoderConfig(vocabulary=len(vocabulary.tokens), max_length=length, **shared)
    torch.manual_seed(0)
    image = ImageEncoderConfig(size=size, patch_size=8, **shared)
    save_clip(Clip(ClipConfig(text, image, 8, len(vocabulary.tokens) - 1)), vocabulary, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pipeline with random weights, 32x32, that says it was trained on scenes; a CLIP lies beside it."""
    folder = save_pipeline(tmp_path_factory.mktemp("scenes") / "sd")
    (folder / "training.toml").write_text(dump_config(TrainingConfig(name="mini", data=DATA)))
    save_untrained_clip(folder.parent / "parts")
    (folder.parent / "parts" / "clip").rename(folder / "clip")
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return open_model(folder)


@pytest.fixture(scope="module")
def source(folder):
    return scenes_of(str(folder))


def test_what_is_drawn_is_what_the_prompts_ask_for(model, source, monkeypatch):
    """A model that draws true scenes has the figures of true scenes; and one that draws nothing has no prompt right."""
    plans = []

    def true_scenes(plan, progress):
        plans.append(plan)
        sets = [prompts(kind, N, plan.request.seed) for kind in ("seen", "unseen", "two")]
        assert plan.wishes == [scene.caption for told in sets for scene in told]
        return torch.cat([source.painted(told, plan.request.seed) for told in sets])

    monkeypatch.setattr(report, "draw", true_scenes)
    found = prepare(model, Request(n=N, seed=5), None, scenes=source).run().record["metrics"]
    assert list(found) == ALL
    for name in ALL[:3]:
        assert found[name]["value"] == found[name]["details"]["true"]["together"]
    assert max(found[name]["value"] for name in ALL[:3]) > 0
    assert found["sharpness"]["value"] == 1
    assert found["clip"]["value"] == pytest.approx(found["clip"]["details"]["true"])
    assert found["clip"]["value"] != pytest.approx(found["clip"]["details"]["shuffled"])

    monkeypatch.setattr(report, "draw", lambda plan, progress: 0 * true_scenes(plan, progress))
    nothing = prepare(model, Request(n=N, seed=5), ["prompts", "sharpness"], scenes=source).run().record["metrics"]
    assert nothing["sharpness"]["value"] == 0
    assert [nothing[name]["value"] for name in ALL[:3]] == [0, 0, 0]
    assert nothing["prompts_seen"]["details"]["true"] == found["prompts_seen"]["details"]["true"]


def test_the_pictures_are_the_requests_own(model, source, monkeypatch):
    """Those that the same prompts become by themselves, by the same sampler, guidance and seeds."""
    request, seen = Request(n=2, steps=2, guidance=3.0, sampler="ddim", seed=7, batch_size=4), []
    measure = true_scenes.measure_prompts
    monkeypatch.setattr(true_scenes, "measure_prompts", lambda read, sets: seen.append(sets) or measure(read, sets))
    prepare(model, request, ["prompts"], scenes=source).run()
    captions = tuple(scene.caption for kind in ("seen", "unseen", "two") for scene in prompts(kind, 2, 7))
    expected = generate(model, replace(request, n=6, prompts=captions))
    assert torch.equal(torch.cat([asked.drawn for asked in seen[0].values()]), expected)


def test_many_prompts_are_shown_to_the_network_together(model, source, monkeypatch):
    """16 rows at a time on the CPU, where ``sample`` shows 2; the pictures are the same up to rounding."""
    monkeypatch.setattr("fromnoise.sampling.plan.rows_at_a_time", rows_at_a_time)  # as it is
    shown, drawn = set(), []
    monkeypatch.setattr(report, "draw", lambda *asked: drawn.append(draw(*asked)) or drawn[-1])
    hook = model.unet.register_forward_pre_hook(lambda network, arguments: shown.add(len(arguments[0])))
    try:
        request = Request(n=2, steps=3, guidance=3.0, seed=7)
        prepare(model, request, ["sharpness"], scenes=source).run()
        assert shown == {16}
        shown.clear()
        captions = tuple(scene.caption for kind in ("seen", "unseen", "two") for scene in prompts(kind, 2, 7))
        alone = generate(model, replace(request, n=6, prompts=captions))
        assert shown == {2}
    finally:
        hook.remove()
    assert (drawn[0].int() - alone.int()).abs().max() <= 1
    assert alone.float().std() > 10, "there is something in them"


def test_the_record_repeats_the_figures(model, source):
    prepared, done = prepare(model, Request(n=2, steps=1), ["prompts", "clip"], scenes=source), []
    first = prepared.run(done.append)
    assert sum(done) == prepared.total == 3 * 2 * 2, "a guided evaluation counts twice"
    record = json.loads(json.dumps(first.record))
    assert (record["n"], record["evaluations"], record["steps"], record["guidance"]) == (2, 2, 1, 7.5)
    assert record["request"]["prompts"] == [] and record["request"]["n"] == 2
    assert record["reference"] | {"checksum": 0} == {
        "name": "digits",
        "split": "test",
        "size": 297,
        "shape": [1, 8, 8],
        "checksum": 0,
    }
    assert first.title.startswith("2 images of each kind of prompt by dpmpp-2m, 1 steps")
    assert first.title.endswith("; beside scenes of 297 test images of digits")
    again = prepare(model, Request(**record["request"]), ["prompts", "clip"], scenes=source).run()
    assert json.loads(json.dumps(again.record)) == record


def test_reconstruction_draws_nothing(model, source, monkeypatch):
    monkeypatch.setattr(report, "draw", None)
    prepared = prepare(model, Request(n=4), ["reconstruction"], scenes=source)
    found = prepared.run()
    assert prepared.total == 0
    assert list(found.lines) == ["reconstruction", "psnr"]
    assert found.title == "4 scenes of test images of digits"
    assert found.record["metrics"]["reconstruction"]["value"] < 0.5, "the autoencoder has learned nothing"
    assert found.record["metrics"]["psnr"]["value"] < 15


def test_what_is_measured_unless_told_otherwise(model, source, tmp_path, monkeypatch):
    monkeypatch.setattr(true_scenes, "EACH", 5)
    assert prepare(model, Request(), scenes=source).scenes.metrics == ("prompts", "sharpness", "reconstruction", "clip")
    assert prepare(model, Request(), scenes=source).plan.n == 3 * 5
    without = prepare(model, Request(), scenes=replace(source, folder=tmp_path))
    assert without.scenes.metrics == ("prompts", "sharpness", "reconstruction")


def test_which_models_are_measured_by_scenes(model, folder, tmp_path):
    assert scenes_of(str(folder)).config == DATA
    assert scenes_of(str(folder), "elsewhere").config == replace(DATA, digits="elsewhere")
    assert scenes_of("mnist") is None and scenes_of(str(tmp_path)) is None
    assert reference_of(model, str(folder)) is None, "there is no split of scenes"
    assert reference_of(model, str(folder), "photographs").source == "photographs"


def test_what_is_missing_is_given_by_the_option_that_there_is(source):
    font = replace(source, config=replace(DATA, things="emoji", font="nowhere.ttf"))
    with pytest.raises(UserError, match=r"there is no font nowhere.ttf: give --data the file"):
        _ = font.held_out


@pytest.mark.parametrize(
    ("options", "metrics", "more", "complaint"),
    [
        ({"prompts": ("a red seven",)}, ["prompts"], {}, "leave --prompt out"),
        ({"n": 1}, ["prompts"], {}, "must be from 2 to 333333, not 1"),
        ({"n": 10**30}, ["clip"], {}, "must be from 2 to 333333, not 10000"),
        ({"height": 64}, ["prompts"], {}, "leave --init-image, --height and --width out"),
        ({"sampler": "abacus"}, ["prompts"], {}, "unknown sampler"),
        ({}, ["prompts", "beauty"], {}, "unknown metric 'beauty': there are accuracy.*prompts"),
        ({}, ["fid", "clip"], {}, "clip goes by scenes, and fid by other images"),
        ({}, ["prompts"], {"data_mix": True}, "takes --data-mix: leave it out"),
        ({}, ["prompts"], {"features": "inception"}, "takes --features: leave it out"),
        ({}, ["fid"], {}, "give --prompt TEXT"),
        ({"prompts": ("seven",)}, ["fid"], {}, "which real images"),
        ({"prompts": ("seven",)}, ["accuracy"], {}, "accuracy uses a classifier of MNIST's 1x28x28 digits"),
        ({"prompts": ("seven",)}, ["nll"], {}, "which real images"),
    ],
)
def test_what_is_refused(model, source, options, metrics, more, complaint):
    with pytest.raises(UserError, match=complaint):
        prepare(model, Request(**{"n": 2} | options), metrics, scenes=source, **more)


def test_models_that_the_metrics_do_not_fit(model, source, digits):
    """Those of digits, without an autoencoder, or of pictures of another size; and digits that are not there."""
    for metric in ("prompts", "sharpness", "reconstruction", "clip"):
        with pytest.raises(UserError, match=f"{metric} is for a model of prompts that was trained on scenes"):
            prepare(digits, Request(n=2), [metric])
        with pytest.raises(UserError, match="trained on scenes"):
            prepare(digits, Request(n=2), [metric], scenes=source)
        with pytest.raises(UserError, match="trained on scenes"):
            prepare(model, Request(n=2), [metric])
    without = replace(model, space=untrained((3, 32, 32)).space)
    with pytest.raises(UserError, match="this model has none"):
        prepare(without, Request(n=2), ["reconstruction"], scenes=source)
    with pytest.raises(UserError, match="draws 3x32x32, and its training.toml says scenes of 64"):
        prepare(model, Request(n=2), ["prompts"], scenes=replace(source, config=replace(DATA, size=64)))
    with pytest.raises(UserError, match="no folder"):
        prepare(model, Request(n=2), ["prompts"], scenes=replace(source, config=replace(DATA, digits="./nowhere")))


def test_a_clip_that_is_missing_or_of_other_pictures(model, source, tmp_path):
    with pytest.raises(UserError, match="clip is not there: leave clip out"):
        prepare(model, Request(n=2), ["clip"], scenes=replace(source, folder=tmp_path))
    save_untrained_clip(tmp_path, size=16)
    with pytest.raises(UserError, match="takes other pictures or tokens"):
        prepare(model, Request(n=2), ["clip"], scenes=replace(source, folder=tmp_path))


def test_the_command(folder, tmp_path, capsys):
    out, asked = (
        tmp_path / "figures.json",
        ["--metrics", "prompts,sharpness,reconstruction,clip", "--n", "2", "--steps", "1"],
    )
    words = ["evaluate", str(folder), *asked, "--data", "digits", "--json", str(out)]
    assert main(words) == 0
    printed, record = capsys.readouterr().out, json.loads(out.read_text())
    assert list(record["metrics"]) == ALL
    assert record["command"] == "fromnoise " + " ".join(words)
    for name in ALL:
        assert f"\n{name:14}  " in printed
