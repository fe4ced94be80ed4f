"""A U-Net that is told a text computes what diffusers' ``UNet2DConditionModel`` computes, gradients included."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers import Transformer2DModel, UNet2DConditionModel
from parity import randomise, relative_error
from torch.utils._python_dispatch import TorchDispatchMode

from fromnoise.interop.unet import unet_config_from_diffusers, unet_config_to_diffusers
from fromnoise.nn.attention import FEW_SCORES, CrossAttention, attention
from fromnoise.nn.transformer import SpatialTransformer
from fromnoise.nn.unet import UNet, UNetConfig

SMALL = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
}

VARIANTS = {
    "convolutions": {},
    "linear": {"use_linear_projection": True},
    "heads_by_level": {"attention_head_dim": (2, 8)},
    "upcast": {"upcast_attention": True},
    "nine_channels": {"in_channels": 9},
    "classes_beside_the_text": {"num_class_embeds": 11},
    "scale_shift": {"resnet_time_scale_shift": "scale_shift"},
    "sine_first": {"flip_sin_to_cos": False, "freq_shift": 1},
    "large_epsilon": {"norm_eps": 1e-2},
    "two_layers_as_stable_diffusion_2": {
        "block_out_channels": (16, 32, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 2,
        "attention_head_dim": (2, 4, 8),
        "use_linear_projection": True,
        "upcast_attention": True,
    },
}

TINY = UNetConfig(
    sample_size=8,
    channels=(8, 8),
    attention_levels=(True, False),
    layers_per_block=1,
    norm_groups=4,
    context_dim=6,
    heads=(2, 4),
)


def pair(**options):
    """The same random network here and there."""
    there = randomise(UNet2DConditionModel(**SMALL | options))
    content = {"_class_name": "UNet2DConditionModel", **there.config}
    here = UNet(unet_config_from_diffusers(content))
    here.load_state_dict(there.state_dict(), strict=True)
    return here.eval(), there


def inputs(config, size=(8, 8), words=5):
    """Two latents at two timesteps, each with its text, and labels where the network takes them."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((2, config.in_channels, *size), generator=generator)
    context = torch.randn((2, words, config.context_dim), generator=generator)
    labels = None if config.num_class_embeds is None else torch.tensor([0, config.num_class_embeds - 1])
    return x, torch.tensor([17, 999]), labels, context


def theirs(unet, x, timestep, labels, context):
    return unet(x, timestep, context, class_labels=labels).sample


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_parity(variant):
    here, there = pair(**VARIANTS[variant])
    batch = inputs(here.config)
    expected = theirs(there, *batch)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        here.to(memory_format=memory_format)
        assert relative_error(here(batch[0].to(memory_format=memory_format), *batch[1:]), expected) < 1e-5

    back = UNet2DConditionModel.from_config(unet_config_to_diffusers(here.config))
    back.load_state_dict(here.state_dict(), strict=True)
    assert relative_error(theirs(back.eval(), *batch), expected) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("words", [1, 77])
@pytest.mark.parametrize("size", [(16, 8), (9, 12), (8, 11), (7, 5), (1, 3), (18, 18)], ids=str)
def test_any_size_and_any_number_of_words(size, words):
    """Odd at any level, of a single row, and (18, 18) of more positions than two matrix products are made for."""
    here, there = pair(**VARIANTS["two_layers_as_stable_diffusion_2"])
    batch = inputs(here.config, size, words)
    assert relative_error(here(*batch), theirs(there, *batch)) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(
    ("field", "value"),
    [("heads", (2, 8)), ("norm_groups", 4), ("norm_eps", 1e-3), ("flip_sin_to_cos", False), ("freq_shift", 1)],
)
def test_parity_would_notice_another_number(field, value):
    """Those fields that change no shape: the error of a wrong one is far above the tolerance."""
    right, _ = pair()
    wrong = UNet(replace(right.config, **{field: value}))
    wrong.load_state_dict(right.state_dict())
    assert relative_error(wrong(*inputs(right.config)), right(*inputs(right.config))) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("linear", [False, True])
def test_epsilons(linear):
    """A spatial transformer has its own, 1e-6 and 1e-5, which show where features and tokens are as small."""
    there = randomise(
        Transformer2DModel(2, 8, 16, cross_attention_dim=6, norm_num_groups=4, use_linear_projection=linear)
    )
    there.proj_in.weight *= 3e-3
    there.proj_in.bias *= 3e-3
    here = SpatialTransformer(16, 6, heads=2, groups=4, linear_projection=linear, upcast=False)
    here.load_state_dict(there.state_dict())
    x, context, _ = draw(1, 16, 6, 6)
    x, context = 1e-3 * x, context[:, :5, 0]
    assert relative_error(here(x, context), there(x, context).sample) < 1e-5


def test_gradients():
    """All parameters learn as they do there, through both ways of attending: (17, 16) positions, and a quarter."""
    here, there = pair()
    batch = inputs(here.config, (17, 16))
    target = torch.randn(batch[0].shape, generator=torch.Generator().manual_seed(2))
    for output in (here(*batch), theirs(there, *batch)):
        (output - target).square().mean().backward()
    expected = dict(there.named_parameters())
    for name, parameter in here.named_parameters():
        assert bool(parameter.grad.any()), name
        assert relative_error(parameter.grad, expected[name].grad) < 1e-4, name


def test_a_newborn_network_learns():
    """What starts at zero hides the text from the first step alone."""
    torch.manual_seed(0)
    unet = UNet(TINY)
    x, timestep, _, context = inputs(TINY)
    optimiser, losses = torch.optim.Adam(unet.parameters(), lr=0.02), []
    for _ in range(12):
        loss = (unet(x, timestep, context=context) - x.flip(0)).square().mean()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.8 * losses[0]
    told, otherwise = (unet(x, timestep, context=c) for c in (context, context.flip(0)))
    assert relative_error(told, otherwise) > 1e-3


def test_what_the_network_cannot_be_given():
    x, timestep, _, context = inputs(TINY)
    text, pixels = UNet(TINY), UNet(replace(TINY, context_dim=None, heads=None, downsample_padding=0))
    with pytest.raises(ValueError, match="context missing for a text-conditional network"):
        text(x, timestep)
    with pytest.raises(ValueError, match="context given for a network without text"):
        pixels(x, timestep, context=context)
    with pytest.raises(ValueError, match="8x7: height and width must be multiples of 2"):
        pixels(x[..., :7], timestep)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"heads": (2,)}, "1 heads for 2 levels"),
        ({"heads": (3, 4)}, "channels 8 is not a multiple of heads 3"),
        ({"heads": (2, 3)}, "channels 8 is not a multiple of heads 3"),  # of the middle
        ({"heads": None}, "with a context_dim there are heads"),
        ({"head_dim": 4}, "with a context_dim there are heads"),
        ({"middle_attention": False}, "with a context_dim there are heads"),
        ({"context_dim": None}, "need a context_dim"),
        ({"context_dim": None, "heads": None, "linear_projection": True}, "need a context_dim"),
        ({"context_dim": None, "heads": None, "upcast_attention": True}, "need a context_dim"),
    ],
)
def test_numbers_that_do_not_fit_together(changes, problem):
    with pytest.raises(ValueError, match=problem):
        replace(TINY, **changes)


class Largest(TorchDispatchMode):
    """Records how many elements the largest result of any operation has."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        results = result if isinstance(result, tuple) else (result,)
        self.elements = max(self.elements, *(x.numel() for x in results if isinstance(x, torch.Tensor)))
        return result


def draw(*shape, scale=1.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [(scale * torch.randn(shape, generator=generator)).to(dtype) for _ in range(3)]


def test_the_matrix_of_many_scores_is_never_there():
    """It would have 8 times as many elements as the values; with few scores it is there."""
    query, key, value = draw(1, 1, 512, 64)
    assert FEW_SCORES < 512 * 512
    with Largest() as many:
        attention(query, key, value)
    with Largest() as few:
        attention(query[..., :256, :], key[..., :256, :], value[..., :256, :])
    assert many.elements == 512 * 64
    assert few.elements == 256 * 256


def test_few_scores_keep_their_bits():
    """16x16 positions, the most that a preset trains at, are two matrix products to the last bit."""
    query, key, value = draw(2, 4, 256, 32)
    scale = 32**-0.25
    expected = torch.softmax((query * scale) @ (key * scale).transpose(-2, -1), dim=-1) @ value
    assert torch.equal(attention(query, key, value), expected)


@torch.no_grad()
@pytest.mark.parametrize("autocast", [False, True])
def test_upcast_keeps_scores_in_float32(autocast):
    """Scores of 140 have a precision of 1 in bf16, and here they differ by no more than that."""
    tokens, context, _ = (x.bfloat16() for x in draw(1, 16, 32))
    tokens, context = (5 + tokens, 5 + 0.2 * context)
    if autocast:
        tokens, context = tokens.float(), context.float()
    error = {}
    for upcast in (False, True):
        layer = CrossAttention(32, 32, heads=1, upcast=upcast).to(tokens.dtype)
        for projection in (layer.to_q, layer.to_k, layer.to_v, layer.to_out[0]):
            torch.nn.init.eye_(projection.weight)
        layer.to_v.weight -= 1 / 32  # values without the 5 that all have
        torch.nn.init.zeros_(layer.to_out[0].bias)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found, value = layer(tokens, context), layer.to_v(context)
        expected = F.scaled_dot_product_attention(tokens.double(), context.double(), value.double())
        error[upcast] = relative_error(found.double(), expected)
    assert error[True] < 0.02
    assert error[False] > 0.1


@pytest.mark.parametrize("upcast", [False, True])
def test_the_config_says_who_upcasts(upcast):
    layers = [layer for layer in UNet(replace(TINY, upcast_attention=upcast)).modules() if hasattr(layer, "upcast")]
    assert [layer.upcast for layer in layers] == [upcast] * 2 * 4  # of 3 transformers at a level, 1 in the middle
