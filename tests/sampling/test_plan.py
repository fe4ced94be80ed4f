"""What a request comes down to for a model: settled values, what it costs, and what is refused."""

from dataclasses import replace

import pytest
from small_sd import save_pipeline

from fromnoise.diffusion.noise import NoiseConfig
from fromnoise.errors import UserError
from fromnoise.models import Model, open_model
from fromnoise.nn.unet import UNet, UNetConfig
from fromnoise.sampling.generate import draw
from fromnoise.sampling.methods import SAMPLERS
from fromnoise.sampling.plan import plan
from fromnoise.sampling.request import Request


def test_wishes(conditional, unconditional):
    model = open_model(conditional)
    assert plan(model, Request(n=7)).wishes == [0, 1, 2, 0, 1, 2, 0]
    assert plan(model, Request(n=5, classes=(2, 0))).wishes == [2, 0, 2, 0, 2]
    assert plan(model, Request(n=1, classes=(2, 0))).wishes == [2]
    assert plan(open_model(unconditional), Request(n=5)).wishes == []


def test_how_many(conditional, unconditional):
    assert plan(open_model(conditional), Request()).n == 24  # 8 of each class
    assert plan(open_model(conditional), Request(classes=(1, 2))).n == 16
    assert plan(open_model(unconditional), Request()).n == 64


GUIDANCES = [
    {},
    {"guidance": 2.0},
    {"guidance": 0.0},
    {"guidance": 0.0, "guidance_rescale": 0.5},
    {"guidance": 2.0, "guidance_interval": (0.3, 2.0)},
    {"guidance": 2.0, "guide": True},
    {"guidance": 0.0, "guide": True},
    {"guidance": 2.0, "guide": True, "guidance_interval": (0.3, 2.0)},
]


@pytest.mark.parametrize("sampler", ["heun", "dpmpp-2m-sde"])
@pytest.mark.parametrize("guidance", GUIDANCES, ids=str)
def test_evaluations_are_what_the_networks_are_asked(sampler, guidance, conditional):
    """Counted at the networks themselves, by rows that differ, and by what the progress says."""
    model, seen, told = open_model(conditional), [], []
    if "guide" in guidance:
        guidance = guidance | {"guide": str(conditional)}
    planned = plan(model, Request(n=1, steps=6, sampler=sampler, **guidance))
    for of in filter(None, (model, planned.guide)):
        of.unet.register_forward_pre_hook(
            lambda network, given, named: seen.append(rows_that_differ(given[0], **named)), with_kwargs=True
        )
    draw(planned, told.append)
    assert sum(seen) == sum(told) == planned.evaluations


def rows_that_differ(x, class_labels):
    """How many images a batch shows, apart from those that only fill it up."""
    return len({(image.tobytes(), label) for image, label in zip(x.numpy(), class_labels.tolist(), strict=True)})


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 7, 8])
def test_steps_are_network_evaluations(sampler, steps, unconditional):
    """Never more than are asked for; Heun, which takes an odd number, takes one less than an even one."""
    planned = plan(open_model(unconditional), Request(n=1, sampler=sampler, steps=steps))
    assert planned.evaluations == (steps - (steps + 1) % 2 if sampler == "heun" else steps)


@pytest.mark.parametrize("total", [20, 4000])
def test_default_steps(total, unconditional):
    model = open_model(unconditional)
    model.noise = replace(model.noise, num_train_timesteps=total)
    usual = min(30, total)
    expected = {"ddpm": usual, "ddim": usual, "euler": usual, "heun": usual // 2, "dpmpp-2m": 11, "dpmpp-2m-sde": 11}
    assert {name: plan(model, Request(sampler=name)).steps for name in SAMPLERS} == expected


def test_what_the_readme_says_of_the_default():
    model = open_model("mnist-conditional")
    assert plan(model, Request()).evaluations == 11
    assert plan(model, Request(guidance=2.0)).evaluations == 22


def test_a_settled_request_leaves_nothing_open(conditional):
    """Planned again it is the same, and what only one sampler has is there for that one alone."""
    model = open_model(conditional)
    planned = plan(model, Request(sampler="ddpm"))
    assert (planned.request.spacing, planned.request.variance, planned.request.clip) == (
        "trailing",
        "fixed_small",
        True,
    )
    assert plan(model, planned.request) == planned
    assert plan(model, Request(sampler="heun")).request.variance is None
    assert plan(model, Request(sampler="heun")).request.spacing == "karras"


def test_a_guide_is_opened_once(unconditional, monkeypatch):
    from fromnoise.sampling import plan as module

    opened = []
    monkeypatch.setattr(module, "open_model", lambda name: opened.append(name) or open_model(name))
    planned = plan(open_model(unconditional), Request(n=2, steps=2, guidance=2.0, guide=str(unconditional)))
    draw(planned)
    assert planned.evaluations == 4
    assert opened == [str(unconditional)]


def test_what_is_no_guide(unconditional, conditional, without_null_class):
    model = open_model(unconditional)
    with pytest.raises(UserError, match="guide changes the guidance, and there is none at 1: leave --guide out"):
        plan(model, Request(guide=str(unconditional)))
    with pytest.raises(UserError, match="differs in its images, classes, words or noise"):
        plan(model, Request(guidance=2.0, guide=str(conditional)))
    with pytest.raises(UserError, match="nowhere"):
        plan(model, Request(guidance=2.0, guide="nowhere"))
    labelled = open_model(without_null_class)
    assert plan(labelled, Request(steps=1, guidance=2.0, guide=str(without_null_class))).evaluations == 2


@pytest.mark.parametrize("other", ["words", "width", "inpaints"])
def test_a_guide_of_a_text_is_told_the_same(other, tmp_path, monkeypatch):
    from fromnoise.sampling import plan as module

    save_pipeline(tmp_path / "sd"), save_pipeline(tmp_path / "inpaints", in_channels=9)
    guide = open_model(tmp_path / ("inpaints" if other == "inpaints" else "sd"))
    monkeypatch.setattr(module, "open_model", lambda name: guide)
    asked = Request(prompts=("a cat",), steps=1, guidance=2.0, guide="guide")
    if other != "inpaints":
        assert plan(open_model(tmp_path / "sd"), asked).evaluations == 2
    if other == "words":
        tokenizer = guide.conditioner.tokenizer
        vocabulary = tokenizer.vocabulary | {"new": len(tokenizer.vocabulary)}
        told = type(tokenizer)(vocabulary, tokenizer.merges, tokenizer.file)
        guide.conditioner = replace(guide.conditioner, tokenizer=told, _encoded={})
    if other == "width":
        guide.unet.config = replace(guide.unet.config, context_dim=24)
    with pytest.raises(UserError, match="guide guide differs in its images, classes, words or noise"):
        plan(open_model(tmp_path / "sd"), asked)
    with pytest.raises(UserError, match="the guide or from the negative prompt: leave one"):
        plan(open_model(tmp_path / "sd"), replace(asked, negative_prompt="hello"))


def test_guidance_needs_something_to_lead_away_from(unconditional, without_null_class):
    for path in (unconditional, without_null_class):
        with pytest.raises(UserError, match="leave --guidance out, or give --guide"):
            plan(open_model(path), Request(guidance=2.0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n": 0}, "n must be at least 1, not 0"),
        ({"batch_size": 0}, "batch-size must be at least 1, not 0"),
        ({"n": 10**12}, "n must be at most 1000000, not 1000000000000"),
        ({"guidance": 1e308}, "guidance must be between -1000 and 1000, not 1e.308"),
        ({"seed": 2**63}, "seed must be below 2.63"),
        ({"steps": 21}, "steps must be between 1 and 20, .*, not 21"),
        ({"eta": float("nan")}, "eta must be between 0 and 1, not nan"),
        ({"guidance": float("-inf")}, "guidance must be between -1000 and 1000, not -inf"),
        ({"classes": (0, 3)}, "there is no class 3: this model knows 0 to 2"),
        ({"guidance_rescale": float("nan")}, "guidance-rescale must be between 0 and 1, not nan"),
        ({"guidance_interval": (0.0, float("nan"))}, "guidance-interval takes two noise levels, .*, not 0.0 nan"),
        ({"sampler": "nonsense"}, "unknown sampler 'nonsense': there are ddpm, "),
        ({"spacing": "nonsense"}, "unknown spacing 'nonsense': there are leading, "),
        ({"eta": 0.5}, "eta belongs to the ddim sampler; dpmpp-2m-sde has none"),
        ({"variance": "fixed_large"}, "variance belongs to the ddpm sampler"),
        ({"guidance_rescale": 0.5}, "leave --guidance-rescale out"),
        ({"device": "nonsense"}, "no device 'nonsense' here"),
        ({"dtype": "fp8"}, "unknown dtype 'fp8': there are fp32, bf16"),
    ],
)
def test_refusals(wrong, message, conditional):
    with pytest.raises(UserError, match=message):
        plan(open_model(conditional), Request(**wrong))


def test_an_unconditional_model_is_asked_for_nothing(unconditional):
    with pytest.raises(UserError, match="unconditional: leave --classes and --prompt out"):
        plan(open_model(unconditional), Request(classes=(0,)))


@pytest.mark.parametrize("channels", [(2, 2), (3, 6)])
def test_a_network_that_draws_no_pictures(channels):
    config = UNetConfig(*channels, sample_size=8, channels=(8,), attention_levels=(False,), norm_groups=4)
    with pytest.raises(UserError, match=f"takes {channels[0]} and predicts {channels[1]}"):
        plan(Model.of_pixels(UNet(config), NoiseConfig()), Request(n=1, steps=1))
