"""Where each word of a prompt is looked at while its picture is drawn."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fromnoise.errors import UserError
from fromnoise.models.conditioning import Prompts
from fromnoise.nn.attention_maps import by_word, recorded
from fromnoise.sampling.generate import draw
from fromnoise.sampling.plan import Plan


@dataclass(frozen=True)
class WordMaps:
    """The attention to the words of one prompt, while one picture is drawn."""

    words: tuple[str, ...]
    layers: dict[str, Tensor]  # by name, (steps, words, h, w) float32: the share of each word at each place

    def mean(self) -> Tensor:
        """Over steps and layers, at the size of the largest: ``(words, H, W)``."""
        maps = [layer.mean(0) for layer in self.layers.values()]  # (words, h, w) each
        size = max((x.shape[1:] for x in maps), key=lambda shape: shape.numel())
        return torch.stack([F.interpolate(x[None], size=size, mode="bilinear")[0] for x in maps]).mean(0)


def draw_with_maps(plan: Plan, progress: Callable[[int], None] | None = None) -> tuple[Tensor, list[WordMaps]]:
    """The images of `draw`, bit for bit, and the attention to the words of each image's prompt.

    Images are drawn one after the other. Of a guided step, the half that is told the prompt is kept.

    Raises:
        UserError: the model is asked for no prompt, a prompt has no words, or nothing looks at it; and as `draw`.
    """
    conditioner, images, maps = plan.model.conditioner, list[Tensor](), list[WordMaps]()
    if not isinstance(conditioner, Prompts):
        raise UserError("this model looks at no words: leave --attention-maps out")
    if not plan.steps:
        raise UserError("at this strength the picture stays as it is, and no word is looked at: give more --strength")
    if plan.request.guidance == 0:
        raise UserError("guidance 0 does not look at the prompt: give more, or leave --attention-maps out")
    for wish in plan.wishes:
        if not conditioner.tokenizer(str(wish)).words:
            raise UserError(f"the prompt {str(wish)!r} has no words: give some, or leave --attention-maps out")
    for i, wish in enumerate(plan.wishes):
        request = replace(plan.request, seed=plan.request.seed + i)
        with recorded(plan.model.unet) as attention:
            images.append(draw(replace(plan, request=request, n=1, wishes=[wish]), progress))
        words = conditioner.tokenizer(str(wish)).words
        row = 0 if plan.null is None else 1  # guidance puts the prompt after what it leads away from
        layers = {
            name: by_word(torch.stack([call[name][row].float() for call in attention.calls]), words)
            for name in attention.layers
        }
        maps.append(WordMaps(tuple(word for word, _, _ in words), layers))
    return torch.cat(images), maps
