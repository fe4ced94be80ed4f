"""A request becomes images."""

from collections.abc import Callable

import torch
from torch import Tensor

from fromnoise.data.images import to_pixels
from fromnoise.diffusion.process import noise_like
from fromnoise.diffusion.samplers import final
from fromnoise.errors import UserError
from fromnoise.models import Model
from fromnoise.sampling.editing import Canvas
from fromnoise.sampling.plan import Plan, plan
from fromnoise.sampling.request import Request


def generate(model: Model, request: Request) -> Tensor:
    """Draws the images of a request, uint8 ``(n, C, H, W)``.

    Raises:
        UserError: the request does not fit the model, or what it draws is not finite.
    """
    return draw(plan(model, request))


@torch.inference_mode()
def draw(plan: Plan, progress: Callable[[int], None] | None = None) -> Tensor:
    """Draws the images of a plan, uint8 ``(n, C, H, W)``.

    Image i draws everything it needs, its initial noise first, from a CPU generator seeded with ``seed + i``. It does
    not depend on the batch size or its neighbours, and on the device only by the rounding of its arithmetic.

    Args:
        progress: called with the number of evaluations of the network just begun, of ``n * plan.evaluations``.

    Raises:
        UserError: what is drawn is not finite.
    """
    model, request, edit, denoise = plan.model, plan.request, plan.edit, plan.denoiser(progress)
    if edit is not None and plan.steps == 0:
        return edit.picture.expand(plan.n, -1, -1, -1).clone()
    distinct = list(dict.fromkeys(plan.wishes))
    encoded = model.conditioner.encode(distinct)
    rows = torch.tensor([distinct.index(wish) for wish in plan.wishes], dtype=torch.long)
    canvas = None if edit is None else Canvas(edit, model.space, model.inpaints, plan.device)

    batches = []
    for indices in torch.arange(plan.n).split(request.batch_size):
        generators = [torch.Generator().manual_seed(request.seed + int(i)) for i in indices]
        condition = {name: value[rows[indices]].to(plan.device) for name, value in encoded.items()}
        noise = noise_like(torch.empty(len(indices), *plan.shape, device=plan.device), generators)  # (B, C, H, W)
        x, ask = plan.start_scale * noise, denoise
        if canvas is not None:
            condition |= {name: value.expand(len(indices), -1, -1, -1) for name, value in canvas.told.items()}
            x, ask = canvas.begin(denoise, x, noise, plan.times)
        x = final(plan.sampler(ask, x, plan.times, generators, **condition))  # (B, C, H, W)
        if not x.isfinite().all():
            clip = "" if model.space.limit is None else " keep them in range by --clip,"
            raise UserError(f"the images are not finite: lower --guidance,{clip} or use fp32")
        images = to_pixels(model.space.decode(x if canvas is None else canvas.end(x))).cpu()
        batches.append(images if edit is None else edit.paste(images))
    return torch.cat(batches)
