"""Attention is recorded as it is, and recording it changes nothing."""

import pytest
import torch
import torch.nn.functional as F
from parity import randomise

from fromnoise.nn.attention import CrossAttention
from fromnoise.nn.attention_maps import AttentionMaps, attention_weights, by_word, recorded
from fromnoise.nn.unet import UNet, UNetConfig

CONFIG = UNetConfig(
    sample_size=8,
    channels=(8, 16),
    attention_levels=(True, False),
    layers_per_block=1,
    norm_groups=4,
    context_dim=6,
    heads=(2, 4),
)
LAYERS = {
    "down_blocks.0.attentions.0": (6, 5),
    "mid_block.attentions.0": (3, 3),
    "up_blocks.1.attentions.0": (6, 5),
    "up_blocks.1.attentions.1": (6, 5),
}


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return randomise(UNet(CONFIG)).eval()


def question(rows=3):
    """Latents of 6x5, their timesteps, and texts of 7 tokens."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((rows, 1, 6, 5), generator=generator)
    return x, torch.linspace(900, 10, rows), torch.randn((rows, 7, 6), generator=generator)


def ask(unet, x, timestep, context):
    with torch.no_grad():
        return unet(x, timestep, context=context)


def hooks(unet):
    return [hook for module in unet.modules() for hook in (*module._forward_pre_hooks, *module._forward_hooks)]


def test_the_answer_keeps_its_bits(unet):
    before = ask(unet, *question())
    with recorded(unet):
        assert torch.equal(ask(unet, *question()), before)
    assert hooks(unet) == []


def test_nothing_stays_after_an_error(unet):
    with pytest.raises(KeyError), recorded(unet):
        assert len(hooks(unet)) == 1 + 2 * len(LAYERS)
        raise KeyError
    assert hooks(unet) == []


def test_weights_are_those_of_the_layer():
    """In Eq. cross-attn, with the values replaced by the unit vectors, the heads say their weights."""
    generator = torch.Generator().manual_seed(2)
    layer = CrossAttention(8, 6, heads=2)
    tokens, context = torch.randn(3, 5, 8, generator=generator), torch.randn(3, 4, 6, generator=generator)
    q, k = (x.unflatten(-1, (2, 4)).transpose(1, 2) for x in (layer.to_q(tokens), layer.to_k(context)))
    unit = torch.eye(4).expand(3, 2, 4, 4)
    expected = F.scaled_dot_product_attention(q, k, unit).mean(1)
    torch.testing.assert_close(attention_weights(layer, tokens, context), expected, rtol=1e-5, atol=1e-6)


def test_every_layer_is_recorded(unet):
    """Of each call, in the order of the way down and up, at the layer's own size; each place's shares sum to 1."""
    with recorded(unet) as maps:
        ask(unet, *question(3))
        ask(unet, *question(2))
    assert maps.layers == list(LAYERS)
    for rows, call in zip((3, 2), maps.calls, strict=True):
        assert {name: tuple(x.shape) for name, x in call.items()} == {
            name: (rows, 7, *size) for name, size in LAYERS.items()
        }
        for x in call.values():
            assert (x.dtype, x.device.type) == (torch.float16, "cpu")
            torch.testing.assert_close(x.float().sum(1), torch.ones(rows, *x.shape[2:]), rtol=0, atol=2e-3)


def test_places_are_those_of_the_picture(unet):
    """A layer's map is what its hook sees: at row i and column j stands the token of that place."""
    seen = []
    layer = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    with recorded(unet) as maps:
        ask(unet, *question())
    handle.remove()
    weights = attention_weights(layer, *seen[0])  # (3, 9, 7)
    recorded_map = maps.calls[0]["mid_block.attentions.0"].float()
    for i in range(3):
        for j in range(3):
            torch.testing.assert_close(recorded_map[:, :, i, j], weights[:, 3 * i + j], rtol=0, atol=1e-3)


def test_by_token(unet):
    """One size for all layers, and their mean; or some layers alone."""
    with recorded(unet) as maps:
        for _ in range(2):
            ask(unet, *question())
    found = maps.by_token((12, 10))
    assert (found.shape, found.dtype) == ((2, 3, 7, 12, 10), torch.float32)
    torch.testing.assert_close(found.sum(2), torch.ones(2, 3, 12, 10), rtol=0, atol=2e-3)
    each = [maps.by_token((12, 10), layers=[name]) for name in LAYERS]
    torch.testing.assert_close(torch.stack(each).mean(0), found)
    same = maps.by_token((3, 3), layers=["mid_block.attentions.0"])
    torch.testing.assert_close(same[0], maps.calls[0]["mid_block.attentions.0"].float())


def test_questions_in_parts(unet):
    """The network is shown two rows at a time, the last ones filled up: five rows are three calls."""
    x, timestep, context = question(5)
    with recorded(unet) as whole:
        ask(unet, x, timestep, context)
    with recorded(unet) as parts:
        for _ in range(2):
            for rows in ([0, 1], [2, 3], [4, 0]):
                ask(unet, x[rows], timestep[rows], context[rows])
    found = parts.by_token((6, 5), rows=5)
    assert found.shape == (2, 5, 7, 6, 5)
    torch.testing.assert_close(found, whole.by_token((6, 5)).expand(2, -1, -1, -1, -1), rtol=0, atol=2e-3)
    filled = whole.by_token((6, 5), rows=4)
    torch.testing.assert_close(filled, whole.by_token((6, 5))[:, :4])


def test_what_cannot_be_joined_is_refused(unet):
    with pytest.raises(ValueError, match="no attention was recorded"):
        AttentionMaps().by_token((6, 5))
    with recorded(unet) as maps:
        for rows in (2, 2, 2):
            ask(unet, *question(rows))
        with pytest.raises(ValueError, match="3 calls of the U-Net do not make questions of 4 rows"):
            maps.by_token((6, 5), rows=4)
        ask(unet, *question(3))
        with pytest.raises(ValueError, match="4 calls"):
            maps.by_token((6, 5))


def test_a_network_without_text_has_none():
    unet = UNet(UNetConfig(sample_size=8, channels=(8,), attention_levels=(True,), norm_groups=4))
    with recorded(unet) as maps:
        ask(unet, *question()[:2], None)
    assert maps.layers == []
    with pytest.raises(ValueError, match="does not look at a text"):
        maps.by_token((6, 5))


def test_by_word():
    """A word of three tokens is one entry, their sum; tokens of no word are in none."""
    maps = torch.rand(2, 3, 7, 4, 5, generator=torch.Generator().manual_seed(0))
    found = by_word(maps, [("a", 1, 2), ("tabby", 2, 5)])
    torch.testing.assert_close(found, torch.stack([maps[:, :, 1], maps[:, :, 2] + maps[:, :, 3] + maps[:, :, 4]], 2))
    assert by_word(maps[0, 0], []).shape == (0, 4, 5)
