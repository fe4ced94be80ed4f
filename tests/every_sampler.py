"""Every sampler, with and without what makes it random."""

from functools import partial

from fromnoise.diffusion.samplers import ddim, ddpm
from fromnoise.diffusion.solvers import dpmpp_2m, dpmpp_2m_sde, euler, heun

SAMPLERS = {
    "ddpm": ddpm,
    "ddim": ddim,
    "ddim-eta": partial(ddim, eta=1.0),
    "euler": euler,
    "heun": heun,
    "heun-churn": partial(heun, churn=5.0),
    "dpmpp-2m": dpmpp_2m,
    "dpmpp-2m-sde": dpmpp_2m_sde,
}
