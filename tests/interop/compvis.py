"""State dicts under CompVis' names, counted through block by block as its own code builds the networks."""

import torch

UNET, AUTOENCODER = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."


class Names(dict):
    """Tensors by name, each drawn, or on the meta device, as it is asked for."""

    def __init__(self, device="cpu"):
        super().__init__()
        self.device, self.generator = device, torch.Generator().manual_seed(0)

    def put(self, name, *shape):
        draw = {"generator": self.generator} if self.device == "cpu" else {"device": self.device}
        self[name] = torch.randn(shape, **draw)

    def layer(self, name, *shape, bias=True):
        self.put(f"{name}.weight", *shape)
        if bias:
            self.put(f"{name}.bias", shape[0])


def single_file(
    device="cpu",
    *,
    in_channels=4,
    channels=(32, 64),
    attention=(True, False),
    layers=1,
    second=False,
    autoencoder=(32, 64),
    autoencoder_layers=1,
    text=(20, 16, 24, 2, 7),
    latent=4,
):
    """The tensors of one file; ``text`` is vocabulary, width, width of the MLP, layers and places."""
    names = Names(device)
    _unet(names, in_channels, latent, channels, attention, layers, text[1], second)
    _autoencoder(names, latent, autoencoder, autoencoder_layers)
    (_open_clip if second else _clip)(names, *text)
    return dict(names)


def _unet(names, in_channels, out_channels, channels, attention, layers, context, second):
    time, width, number, skips = 4 * channels[0], channels[0], 0, [channels[0]]
    names.layer(f"{UNET}time_embed.0", time, channels[0])
    names.layer(f"{UNET}time_embed.2", time, time)
    names.layer(f"{UNET}input_blocks.0.0", width, in_channels, 3, 3)
    for level, wide in enumerate(channels):
        for _ in range(layers):
            number += 1
            _residual(names, f"{UNET}input_blocks.{number}.0", width, wide, time)
            if attention[level]:
                _transformer(names, f"{UNET}input_blocks.{number}.1", wide, context, second)
            width = wide
            skips.append(width)
        if level < len(channels) - 1:
            number += 1
            names.layer(f"{UNET}input_blocks.{number}.0.op", width, width, 3, 3)
            skips.append(width)
    _residual(names, f"{UNET}middle_block.0", width, width, time)
    _transformer(names, f"{UNET}middle_block.1", width, context, second)
    _residual(names, f"{UNET}middle_block.2", width, width, time)
    number = 0
    for level, wide in reversed(list(enumerate(channels))):
        for layer in range(layers + 1):
            place = 1
            _residual(names, f"{UNET}output_blocks.{number}.0", width + skips.pop(), wide, time)
            if attention[level]:
                _transformer(names, f"{UNET}output_blocks.{number}.{place}", wide, context, second)
                place += 1
            if level > 0 and layer == layers:
                names.layer(f"{UNET}output_blocks.{number}.{place}.conv", wide, wide, 3, 3)
            width, number = wide, number + 1
    names.layer(f"{UNET}out.0", width)
    names.layer(f"{UNET}out.2", out_channels, width, 3, 3)


def _residual(names, at, width, wide, time):
    names.layer(f"{at}.in_layers.0", width)
    names.layer(f"{at}.in_layers.2", wide, width, 3, 3)
    names.layer(f"{at}.emb_layers.1", wide, time)
    names.layer(f"{at}.out_layers.0", wide)
    names.layer(f"{at}.out_layers.3", wide, wide, 3, 3)
    if width != wide:
        names.layer(f"{at}.skip_connection", wide, width, 1, 1)


def _transformer(names, at, width, context, second):
    block, square = f"{at}.transformer_blocks.0", (width, width) if second else (width, width, 1, 1)
    names.layer(f"{at}.norm", width)
    names.layer(f"{at}.proj_in", *square)
    for attention, seen in (("attn1", width), ("attn2", context)):
        names.layer(f"{block}.{attention}.to_q", width, width, bias=False)
        names.layer(f"{block}.{attention}.to_k", width, seen, bias=False)
        names.layer(f"{block}.{attention}.to_v", width, seen, bias=False)
        names.layer(f"{block}.{attention}.to_out.0", width, width)
    names.layer(f"{block}.ff.net.0.proj", 8 * width, width)
    names.layer(f"{block}.ff.net.2", width, 4 * width)
    for norm in ("norm1", "norm2", "norm3"):
        names.layer(f"{block}.{norm}", width)
    names.layer(f"{at}.proj_out", *square)


def _autoencoder(names, latent, channels, layers):
    last, below = len(channels) - 1, [channels[0], *channels]
    encoder, decoder = f"{AUTOENCODER}encoder", f"{AUTOENCODER}decoder"
    names.layer(f"{encoder}.conv_in", channels[0], 3, 3, 3)
    names.layer(f"{decoder}.conv_in", channels[-1], latent, 3, 3)
    for level, wide in enumerate(channels):
        for block in range(layers):
            _plain_residual(names, f"{encoder}.down.{level}.block.{block}", wide if block else below[level], wide)
        for block in range(layers + 1):
            above = channels[min(level + 1, last)]
            _plain_residual(names, f"{decoder}.up.{level}.block.{block}", wide if block else above, wide)
        if level < last:
            names.layer(f"{encoder}.down.{level}.downsample.conv", wide, wide, 3, 3)
        if level > 0:
            names.layer(f"{decoder}.up.{level}.upsample.conv", wide, wide, 3, 3)
    for side, inner, outer in ((encoder, channels[-1], 2 * latent), (decoder, channels[0], 3)):
        for block in ("block_1", "block_2"):
            _plain_residual(names, f"{side}.mid.{block}", channels[-1], channels[-1])
        names.layer(f"{side}.mid.attn_1.norm", channels[-1])
        for letter in ("q", "k", "v", "proj_out"):
            names.layer(f"{side}.mid.attn_1.{letter}", channels[-1], channels[-1], 1, 1)
        names.layer(f"{side}.norm_out", inner)
        names.layer(f"{side}.conv_out", outer, inner, 3, 3)
    names.layer(f"{AUTOENCODER}quant_conv", 2 * latent, 2 * latent, 1, 1)
    names.layer(f"{AUTOENCODER}post_quant_conv", latent, latent, 1, 1)


def _plain_residual(names, at, width, wide):
    names.layer(f"{at}.norm1", width)
    names.layer(f"{at}.conv1", wide, width, 3, 3)
    names.layer(f"{at}.norm2", wide)
    names.layer(f"{at}.conv2", wide, wide, 3, 3)
    if width != wide:
        names.layer(f"{at}.nin_shortcut", wide, width, 1, 1)


def _clip(names, vocabulary, width, middle, layers, places):
    names.put(f"{CLIP}embeddings.token_embedding.weight", vocabulary, width)
    names.put(f"{CLIP}embeddings.position_embedding.weight", places, width)
    for layer in range(layers):
        at = f"{CLIP}encoder.layers.{layer}"
        for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
            names.layer(f"{at}.self_attn.{projection}", width, width)
        names.layer(f"{at}.mlp.fc1", middle, width)
        names.layer(f"{at}.mlp.fc2", width, middle)
        names.layer(f"{at}.layer_norm1", width)
        names.layer(f"{at}.layer_norm2", width)
    names.layer(f"{CLIP}final_layer_norm", width)


def _open_clip(names, vocabulary, width, middle, layers, places):
    names.put(f"{OPEN_CLIP}positional_embedding", places, width)
    names.put(f"{OPEN_CLIP}token_embedding.weight", vocabulary, width)
    for layer in range(layers):
        at = f"{OPEN_CLIP}transformer.resblocks.{layer}"
        names.put(f"{at}.attn.in_proj_weight", 3 * width, width)
        names.put(f"{at}.attn.in_proj_bias", 3 * width)
        names.layer(f"{at}.attn.out_proj", width, width)
        names.layer(f"{at}.mlp.c_fc", middle, width)
        names.layer(f"{at}.mlp.c_proj", width, middle)
        names.layer(f"{at}.ln_1", width)
        names.layer(f"{at}.ln_2", width)
    names.layer(f"{OPEN_CLIP}ln_final", width)
    names.put(f"{OPEN_CLIP}text_projection", width, width)
    names.put(f"{OPEN_CLIP}logit_scale")
