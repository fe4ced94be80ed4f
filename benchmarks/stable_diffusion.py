"""Stable Diffusion 1.x at full size on this CPU, side by side with diffusers, on the same random weights.

python benchmarks/stable_diffusion.py            # 3 rounds, in a few minutes; into benchmarks/results
python benchmarks/stable_diffusion.py --quick    # does it run at all? a small network; the numbers mean nothing

A step is one guided question to the U-Net: two rows of 64x64 latents, and a text of 77 tokens for each. A decode makes
512x512 pixels of 64x64 latents. Both run as each library draws: ours by its denoiser, which has the channels last, and
with the large pages that `fromnoise sample` asks for; diffusers' by its modules as ``from_pretrained`` gives them. The
memory is the most that a process held to open the pipeline and to take its steps, files that are mapped among it.

Where ``stable-diffusion-cpp-python`` is installed, it stands beside them, with the same weights. It opens all parts at
once and draws whole pictures: a step is the time between two reports of its progress, and a decode is what follows the
last of them. It keeps the weights of convolutions in fp16.
"""

import argparse
import importlib.util
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from measure import PEAK_SHAPES, Case, OwnProcess, interleaved, machine, peak_convolution, peak_memory, ratios, summary

RESULTS = Path(__file__).parent / "results"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LIBRARIES = ("fromnoise", "diffusers")
HAS_CPP = importlib.util.find_spec("stable_diffusion_cpp") is not None
STEP = 1.61e12  # operations of a guided step
SMALL: dict[str, Any] = {"block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 768}
SMALL |= {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
SMALL |= {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
CODER: dict[str, Any] = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}


def save_weights(folder: Path, quick: bool) -> None:
    """The U-Net and the autoencoder of Stable Diffusion 1 with random weights, as diffusers saves them."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig, CLIPTextModel

    full = {"cross_attention_dim": 768, "sample_size": 64}
    unet: Any = UNet2DConditionModel(**(SMALL | {"sample_size": 64} if quick else full))
    unet.save_pretrained(folder / "unet")
    widths = (32, 32, 32, 32) if quick else (128, 256, 512, 512)
    coder: Any = AutoencoderKL(block_out_channels=widths, layers_per_block=2, sample_size=512, **CODER)
    coder.save_pretrained(folder / "vae")
    if HAS_CPP and not quick:
        config: Any = {"hidden_size": 768, "intermediate_size": 3072}
        config |= {"num_hidden_layers": 12, "num_attention_heads": 12}
        text_encoder = CLIPTextModel(CLIPTextConfig(**config))
        weights = {f"text_model.{name}": value for name, value in text_encoder.state_dict().items()}
        (folder / "text_encoder").mkdir()
        save_file(weights, folder / "text_encoder" / "model.safetensors")  # by the names of the official files


def build(library: str, part: str, dtype: str, folder: str) -> tuple[Callable[[], object], dict[str, Any]]:
    """A step or a decode, and what it took to open its network."""
    if library == "fromnoise":  # this process has made no tensor yet
        os.environ["THP_MEM_ALLOC_ENABLE"] = "1"
    start = time.perf_counter()
    network = (_ours if library == "fromnoise" else _theirs)(part, Path(folder))
    about: dict[str, Any] = {"open seconds": time.perf_counter() - start, "open bytes": peak_memory()}
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2 if part == "unet" else 1, 4, 64, 64, generator=generator)
    context = torch.randn(2, 77, 768, generator=generator)
    call = torch.inference_mode()(_call(library, part, network, DTYPES[dtype], x, context))
    del network  # in another precision ours is a copy, beside which `fromnoise sample` keeps none
    first = call()
    return call, about | {"bytes": peak_memory(), "first": first.float().flatten()[:4096].tolist()}


def _ours(part: str, folder: Path) -> Any:
    from fromnoise.interop.autoencoder import autoencoder_config_from_diffusers, modern_autoencoder_state
    from fromnoise.interop.unet import unet_config_from_diffusers
    from fromnoise.models.store import open_network
    from fromnoise.nn.autoencoder import Autoencoder
    from fromnoise.nn.unet import UNet

    config = json.loads((folder / part / "config.json").read_text())
    if part == "vae":
        read = autoencoder_config_from_diffusers(config)
        return open_network(Autoencoder, read, folder / part, modern_autoencoder_state)
    return open_network(UNet, unet_config_from_diffusers(config), folder / part, lambda state: state)


def _theirs(part: str, folder: Path) -> Any:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    kind = UNet2DConditionModel if part == "unet" else AutoencoderKL
    return kind.from_pretrained(folder / part, local_files_only=True)


def _call(
    library: str, part: str, network: Any, dtype: torch.dtype, x: torch.Tensor, context: torch.Tensor
) -> Callable[[], torch.Tensor]:
    if library == "fromnoise":
        from fromnoise.models.placing import placed

        network = placed(network, "cpu", dtype)
    else:
        network = network.to(dtype)
    x, context, t = x.to(dtype), context.to(dtype), torch.tensor([500, 500])
    if part == "vae":
        return lambda: network.decode(x) if library == "fromnoise" else network.decode(x, return_dict=False)[0]
    if library == "fromnoise":
        return lambda: network(x, t, context=context)
    return lambda: network(x, t, encoder_hidden_states=context, return_dict=False)[0]


def draw_with_cpp(folder: str, threads: int, steps: int) -> tuple[Callable[[], object], dict[str, Any]]:
    """Draws a picture with stable-diffusion.cpp: what its steps and its decoding took, to be run in its own process."""
    from stable_diffusion_cpp import StableDiffusion

    start = time.perf_counter()
    model = StableDiffusion(model_path=folder, n_threads=threads, vae_decode_only=True, verbose=False)
    about: dict[str, Any] = {"open seconds": time.perf_counter() - start, "open bytes": peak_memory()}
    told: list[float] = []
    settings: Any = {"width": 512, "height": 512, "cfg_scale": 7.5, "sample_method": "euler", "sample_steps": steps}
    model.generate_image(
        prompt="a cat", progress_callback=lambda *progress: told.append(time.perf_counter()), **settings
    )
    about["decode"] = time.perf_counter() - told[-1]
    about["steps"] = [after - before for before, after in itertools.pairwise(told)][1:]  # the first one warms up
    return lambda: None, about | {"bytes": peak_memory()}


def measure_cpp(folder: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """The seconds and the memory of stable-diffusion.cpp, as `measure` gives them."""
    process = OwnProcess(draw_with_cpp, str(folder), torch.get_num_threads(), rounds + 1)
    about = process.about
    process.close()
    held = {key: about[key] for key in ("open seconds", "open bytes", "bytes")}
    seconds = {"guided step": about["steps"], "decode": [about["decode"]]}
    return {name: {"seconds": summary(values), **held} for name, values in seconds.items()}


def measure(folder: Path, part: str, dtype: str, rounds: int, quick: bool) -> dict[str, Any]:
    """Seconds of one call for each library, their ratio round by round, memory, and how equal they are.

    Each library runs in a process of its own. The processes of one precision are gone before those of the next begin:
    together they would fill a memory of 24 GiB, and the system would take its time to find large pages.
    """
    processes = {library: OwnProcess(build, library, part, dtype, str(folder)) for library in LIBRARIES}
    rates = interleaved({name: Case(process, 1, seconds=1.0) for name, process in processes.items()}, rounds, quick)
    result: dict[str, Any] = {}
    for library, process in processes.items():
        about = {key: value for key, value in process.about.items() if key != "first"}
        result[f"{library} {dtype}"] = {"seconds": summary([1 / rate for rate in rates[library]]), **about}
        process.close()
    here, there = (torch.tensor(processes[library].about["first"]) for library in LIBRARIES)
    result[f"time against diffusers, {dtype}"] = ratios(*(rates[name] for name in LIBRARIES[::-1]))
    result[f"largest difference, {dtype}"] = float((here - there).abs().max() / there.abs().max())
    return result


def measure_peak(dtype: str, quick: bool) -> float:
    """Of a large convolution, FLOP/s: the best of three turns."""
    run, operations = peak_convolution(*list(PEAK_SHAPES.values())[-1], dtype)
    return max(interleaved({"peak": Case(run, operations)}, 3, quick)["peak"])


def render(result: dict[str, Any]) -> str:
    """The page of a result."""
    lines = ["# Stable Diffusion 1.x at full size, beside diffusers", ""]
    lines += [
        f"{result['machine']['processor']}, {result['machine']['threads']} threads, {result['machine']['date']}.",
        "",
    ]
    lines += [
        "| | seconds, least to most | to open, seconds | GB, open | GB, at most |",
        "| --- | --- | --- | --- | --- |",
    ]
    apart = []
    for name in ("guided step", "decode"):
        for key, value in result[name].items():
            if isinstance(value, dict) and "seconds" in value:
                seconds = "{median:.1f}, {min:.1f} to {max:.1f}".format(**value["seconds"])
                opened = f"{value['open seconds']:.1f} | {value['open bytes'] / 1e9:.1f}"
                lines.append(f"| {name}, {key} | {seconds} | {opened} | {value['bytes'] / 1e9:.1f} |")
            elif isinstance(value, dict):
                apart.append("- {}, {}: {median:.2f}, {min:.2f} to {max:.2f}".format(name, key, **value))
            else:
                apart.append(f"- {name}, {key}: {value:.1e}")
    peaks, steps = result["peak of a convolution, FLOP/s"], result["guided step"]
    fastest = min(peaks, key=lambda dtype: steps[f"fromnoise {dtype}"]["seconds"]["median"])
    share = STEP / steps[f"fromnoise {fastest}"]["seconds"]["median"] / peaks[fastest]
    theirs = STEP / steps[f"diffusers {fastest}"]["seconds"]["median"] / peaks[fastest]
    lines += ["", *apart]
    lines += [
        f"- In {fastest} a convolution runs at up to {peaks[fastest] / 1e9:.0f} GFLOP/s. The guided step reaches "
        f"{share:.0%} of that, diffusers' {theirs:.0%}."
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--dtypes", default="fp32,bf16")
    given = options.parse_args()
    dtypes = given.dtypes.split(",")
    result: dict[str, Any] = {"machine": machine()}
    peaks = {dtype: measure_peak(dtype, given.quick) for dtype in dtypes}
    with tempfile.TemporaryDirectory() as folder:
        save_weights(Path(folder), given.quick)
        for part, name in (("unet", "guided step"), ("vae", "decode")):
            result[name] = {}
            for dtype in dtypes:
                result[name] |= measure(Path(folder), part, dtype, given.rounds, given.quick)
            print(json.dumps({name: result[name]}, indent=2), flush=True)
        for name, found in measure_cpp(Path(folder), given.rounds).items() if HAS_CPP and not given.quick else ():
            result[name]["stable-diffusion.cpp, all parts"] = found
            print(json.dumps({name: found}, indent=2), flush=True)
    after = {dtype: measure_peak(dtype, given.quick) for dtype in dtypes}  # a shared machine is not always as fast
    result["peak of a convolution, FLOP/s"] = {dtype: max(peaks[dtype], after[dtype]) for dtype in dtypes}
    if not given.quick:
        (RESULTS / "stable_diffusion.json").write_text(json.dumps(result, indent=2) + "\n")
        (RESULTS / "stable_diffusion.md").write_text(render(result))


if __name__ == "__main__":
    main()
