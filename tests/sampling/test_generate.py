"""From a request to images: which noise, which classes, which settings, and that images do not know of each other."""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from fromnoise.data.images import to_pixels
from fromnoise.devices import rows_at_a_time
from fromnoise.diffusion import samplers
from fromnoise.diffusion.noise import NoiseConfig
from fromnoise.errors import UserError
from fromnoise.models import Model, open_model, save_model
from fromnoise.nn.unet import UNet, UNetConfig
from fromnoise.sampling import plan as module
from fromnoise.sampling.generate import generate
from fromnoise.sampling.plan import plan
from fromnoise.sampling.request import Request

CPU = torch.device("cpu")
SAMPLINGS = [{"sampler": "ddim"}, {"sampler": "ddim", "eta": 1.0}, {"sampler": "ddpm"}]
FAST_SAMPLINGS = [{"sampler": "heun"}, {"sampler": "dpmpp-2m-sde", "spacing": "karras", "guidance_rescale": 0.7}]


@pytest.fixture(scope="module")
def digits_network():
    """The network of the mnist-conditional preset, with random weights and biases."""
    torch.manual_seed(0)
    config = UNetConfig(channels=(32, 64, 128), attention_levels=(False, False, True), head_dim=32, num_class_embeds=11)
    unet = UNet(config).eval()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    scheduler = NoiseConfig(prediction_type="v_prediction", timestep_spacing="trailing")
    return Model.of_pixels(unet, scheduler, tuple("0123456789"))


@pytest.fixture
def one_thread():
    """Where three threads share the work, the last bit may depend on who did which part."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trace(monkeypatch, model, request):
    """The x at the start of every step, ``(steps, B, C, H, W)``, batch after batch, and the images."""
    seen = []

    def watched(sampler):
        def run(denoise, x, *arguments, **options):
            for moment in sampler.run(denoise, x, *arguments, **options):
                seen.append(x.clone())
                x = moment.x
                yield moment

        return replace(sampler, run=run)

    with monkeypatch.context() as patch:
        patch.setattr(module, "SAMPLERS", {name: watched(sampler) for name, sampler in module.SAMPLERS.items()})
        images = generate(model, request)
    return torch.stack(seen), images


# Noise


def test_initial_noise(unconditional, monkeypatch):
    """Others can reproduce it: ``torch.randn((1, C, H, W))`` from a CPU generator seeded with seed + i."""
    steps, _ = trace(monkeypatch, open_model(unconditional), Request(n=3, seed=40, steps=1))
    expected = [torch.randn((1, 1, 8, 8), generator=torch.Generator().manual_seed(40 + i)) for i in range(3)]
    assert torch.equal(steps[0], torch.cat(expected))


def test_later_noise_comes_from_the_same_generator(unconditional, monkeypatch):
    """Twice the same first steps; then the noise of image i, taken out, is its generator's second draw."""
    model = open_model(unconditional)
    noisy, _ = trace(monkeypatch, model, Request(n=2, seed=7, steps=4, sampler="ddim", eta=1.0))
    monkeypatch.setattr(samplers, "noise_like", lambda x, generator: torch.zeros_like(x))
    quiet, _ = trace(monkeypatch, model, Request(n=2, seed=7, steps=4, sampler="ddim", eta=1.0))
    difference = noisy[1] - quiet[1]
    for i in range(2):
        generator = torch.Generator().manual_seed(7 + i)
        torch.randn((1, 1, 8, 8), generator=generator)
        second = torch.randn((1, 8, 8), generator=generator)
        std = difference[i].norm() / second.norm()
        assert 0.01 < std < 1
        torch.testing.assert_close(difference[i], std * second, rtol=1e-4, atol=1e-6)


# Images do not know of each other


@pytest.mark.parametrize("sampling", SAMPLINGS + FAST_SAMPLINGS, ids=str)
def test_no_image_depends_on_the_batch_size_or_its_neighbours(sampling, conditional):
    """Bit for bit. Image j of the whole request is drawn again: alone, in other batches, beside other classes."""
    model = open_model(conditional)
    request = Request(n=34, guidance=2.0, seed=100, steps=5, **sampling)
    whole = generate(model, request)
    assert whole.flatten(1).unique(dim=0).shape[0] == 34
    for batch_size in (1, 3, 34):
        assert torch.equal(generate(model, replace(request, n=12, batch_size=batch_size)), whole[:12])
    for j in (0, 7, 33):  # class j % 3
        assert torch.equal(generate(model, replace(request, n=1, classes=(j % 3,), seed=100 + j))[0], whole[j])
    others = generate(model, replace(request, n=9, classes=(2, 2, 2, 2, 1, 0, 0, 0, 0), seed=100))
    assert torch.equal(others[[2, 4]], whole[[2, 4]])  # the same classes there
    assert not torch.equal(others[0], whole[0])


def test_nor_with_the_network_of_the_digits(digits_network, monkeypatch, one_thread):
    """Not even in the last bit of a float, before it becomes a pixel."""
    monkeypatch.setattr(module, "rows_at_a_time", lambda *_: 8)  # quicker than its 16
    request = Request(n=9, guidance=2.0, steps=3, sampler="ddim", eta=1.0)
    whole, whole_images = trace(monkeypatch, digits_network, request)
    for batch_size in (1, 2):
        part = replace(request, n=2, batch_size=batch_size, classes=(7, 8), seed=7)
        steps, images = trace(monkeypatch, digits_network, part)
        steps = torch.cat([steps[:3], steps[3:]], dim=1) if batch_size == 1 else steps
        assert torch.equal(steps, whole[:, 7:])
        assert torch.equal(images, whole_images[7:])


def test_the_network_always_sees_as_many_rows(conditional):
    """What makes it so: kernels choose how to round by the shape of what they get."""
    model = open_model(conditional)
    seen = set()
    model.unet.register_forward_pre_hook(lambda network, arguments: seen.add(arguments[0].shape))
    for n, batch_size in ((1, 1), (5, 3), (70, 70)):
        generate(model, Request(n=n, batch_size=batch_size, steps=1, guidance=2.0))
    assert seen == {(rows_at_a_time(model.unet.config, CPU), 1, 8, 8)}


# What is asked for


def test_the_images_are_those_of_the_plain_loop(conditional, monkeypatch):
    """A request is the sampler on the denoiser of the network, and nothing else."""
    model = open_model(conditional)
    steps, images = trace(monkeypatch, model, Request(n=4, sampler="ddim", steps=3, clip=False, guidance=3.0))
    schedule = model.noise.schedule()
    x = torch.cat([torch.randn((1, 1, 8, 8), generator=torch.Generator().manual_seed(i)) for i in range(4)])
    labels, times = torch.tensor([0, 1, 2, 0]), [20.0, 13.0, 7.0, 0.0]
    with torch.no_grad():
        for k, (t, u) in enumerate(pairwise(times)):
            torch.testing.assert_close(steps[k], x, rtol=1e-4, atol=1e-5)
            alpha, sigma = (f(torch.tensor([t])).float() for f in (schedule.alpha, schedule.sigma))
            v, v_null = (model.unet(x, torch.full((4,), t - 1), c) for c in (labels, torch.full((4,), 3)))
            v = v_null + 3 * (v - v_null)
            x0_hat, noise_hat = alpha * x - sigma * v, sigma * x + alpha * v
            alpha, sigma = (f(torch.tensor([u])).float() for f in (schedule.alpha, schedule.sigma))
            x = alpha * x0_hat + sigma * noise_hat
    assert (images.int() - to_pixels(x).int()).abs().max() <= 1


def test_the_label_matters_and_so_does_the_guidance(conditional):
    model = open_model(conditional)
    one, two = (generate(model, Request(n=1, classes=(label,), steps=3)) for label in (0, 1))
    assert not torch.equal(one, two)
    ignored = [generate(model, Request(n=1, classes=(label,), steps=3, guidance=0.0)) for label in (0, 1)]
    assert torch.equal(*ignored)
    assert not torch.equal(one, generate(model, Request(n=1, classes=(0,), steps=3, guidance=8.0)))


def test_the_interval_is_of_noise_levels(conditional, monkeypatch):
    """A step above the interval is not guided; one inside is."""
    model = open_model(conditional)
    schedule = model.noise.schedule()
    times = torch.tensor(samplers.sampling_times(schedule, 6, samplers.Spacing.TRAILING), dtype=torch.float64)
    high = schedule.noise_to_signal(times)[2].item() * 1.001
    plain, guided, late = (
        trace(monkeypatch, model, Request(n=2, sampler="ddim", steps=6, **options))[0]
        for options in ({"guidance": 1.0}, {"guidance": 4.0}, {"guidance": 4.0, "guidance_interval": (0.0, high)})
    )
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(late, plain, strict=True)]
    assert same == [True, True, True, False, False, False]
    assert not torch.allclose(guided[1], plain[1], atol=1e-3)


def test_a_guide(unconditional, tmp_path):
    """A model that guides itself changes nothing; another one leads away from what it would have drawn."""
    model, other = open_model(unconditional), open_model(unconditional)
    with torch.no_grad():
        for parameter in other.unet.parameters():
            parameter.mul_(0.9)
    save_model(other, tmp_path / "worse")
    itself, worse = str(unconditional), str(tmp_path / "worse")

    def drawn(**options):
        return generate(model, Request(n=3, steps=3, sampler="ddim", clip=False, **options))

    plain, theirs = drawn(), generate(other, Request(n=3, steps=3, sampler="ddim", clip=False))
    assert torch.equal(drawn(guidance=3.0, guide=itself), plain)
    assert torch.equal(drawn(guidance=0.0, guide=worse), theirs)
    assert not torch.equal(drawn(guidance=3.0, guide=worse), plain)
    assert torch.equal(drawn(guidance=3.0, guide=worse, guidance_interval=(1e6, 1e7)), plain)
    assert plan(model, Request(steps=3, guidance=3.0, guide=worse)).evaluations == 6


def test_settings_come_from_the_model_unless_given(unconditional):
    model = open_model(unconditional)
    for field, values, option in [
        ("timestep_spacing", ("leading", "linspace"), "spacing"),
        ("clip_sample", (True, False), "clip"),
        ("variance_type", ("fixed_small", "fixed_large"), "variance"),
    ]:
        asked = Request(n=2, steps=6, sampler="ddpm")
        images = []
        for value in values:
            model.noise = replace(open_model(unconditional).noise, **{field: value, "prediction_type": "epsilon"})
            images.append(generate(model, asked))
        assert not torch.equal(*images), field  # the setting matters
        given = generate(model, replace(asked, **{option: values[0]}))  # the model says values[1]
        assert torch.equal(given, images[0]), field


def test_heun_is_spaced_by_noise_level(unconditional):
    model = open_model(unconditional)
    ask = Request(n=2, steps=6, sampler="heun")
    karras, trailing = (generate(model, replace(ask, spacing=spacing)) for spacing in ("karras", "trailing"))
    assert torch.equal(generate(model, ask), karras)
    assert not torch.equal(karras, trailing)


def test_bf16(conditional):
    model = open_model(conditional)
    exact, coarse = (generate(model, Request(n=6, steps=5, dtype=dtype)).int() for dtype in ("fp32", "bf16"))
    assert 0 < (exact - coarse).abs().float().mean() < 4


def test_clip_sample_range(unconditional):
    model = open_model(unconditional)
    narrow = Model.of_pixels(model.unet, replace(model.noise, clip_sample_range=0.5))
    images = generate(narrow, Request(n=4, steps=3))
    assert images.min() >= 63
    assert images.max() <= 192


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_model_and_the_random_state_stay_as_they_were(dtype, conditional):
    model = open_model(conditional)
    before, state = copy.deepcopy(model.unet.state_dict()), torch.get_rng_state()
    generate(model, Request(n=1, steps=2, dtype=dtype))
    assert all(torch.equal(value, before[key]) for key, value in model.unet.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_network_is_not_copied_where_it_can_stay(conditional, monkeypatch):
    """A network of several gigabytes could not be."""
    model, copied = open_model(conditional), []
    monkeypatch.setattr(copy, "deepcopy", lambda network, *known: copied.append(network) or network)
    generate(model, Request(n=1, steps=1))
    assert copied == []
    generate(model, Request(n=1, steps=1, dtype="bf16"))
    assert copied == [model.unet]


def test_what_is_not_finite_is_no_image(unconditional):
    model = open_model(unconditional)
    for parameter in model.unet.parameters():
        parameter.data.fill_(1e30)
    with pytest.raises(UserError, match="the images are not finite: lower --guidance, keep them in range by --clip"):
        generate(model, Request(n=1, steps=2, clip=False))
