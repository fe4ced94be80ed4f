"""Where the time of a training step goes, by kind of operation."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from fromnoise.nn.attention import AttentionBlock
from fromnoise.train.trainer import Trainer

STEP, ATTENTION = "whole step", "attention block"
KINDS = (  # the first whose word is in the name of an operation, or else of one that it is a part of
    ("normalisation, with SiLU", ("GroupNorm", "group_norm")),
    ("convolution", ("convolution", "Convolution", "conv2d")),
    ("attention", (ATTENTION,)),
    ("optimiser, clipping, average", ("Optimizer.", "_fused_adam", "_foreach_", "clip_grad", "linalg_vector_norm")),
    ("SiLU elsewhere", ("silu", "Silu")),
    ("linear layers (time, class)", ("linear", "addmm", "Addmm", "aten::mm", "embedding", "Embedding")),
    ("joining", ("aten::cat", "CatBackward", "Expand", "expand", "reshape", "Reshape", "View")),
)
REST, PYTHON = "other", "Python between operations"


def kind_of(names: list[str]) -> str:
    """The kind of an operation, given its name and those of what it is a part of, inmost first."""
    if names == [STEP]:
        return PYTHON
    for kind, words in KINDS:
        if any(word in name for name in names for word in words):
            return kind
    return REST


def time_by_kind(trainer: Trainer, steps: int) -> dict[str, float]:
    """The fraction of the time of ``steps`` steps that each kind of operation takes, largest first."""
    handles = [handle for block in _attention_blocks(trainer.network) for handle in _scoped(block)]
    trainer.take_step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            with record_function(STEP):
                trainer.take_step()
    for handle in handles:
        handle.remove()
    return _fractions(list(profiler.events() or []))


def _fractions(events: list[Any]) -> dict[str, float]:
    events.sort(key=lambda event: event.time_range.start)
    forward: dict[int, str] = {}  # a backward operation has the number of the forward one that it belongs to
    for event in events:
        names = list(_names(event))
        if event.sequence_nr >= 0 and not any("Backward" in name for name in names):
            forward[event.sequence_nr] = kind_of(names)
    times: Counter[str] = Counter()
    for event in events:
        names, numbers = list(_names(event)), list(_numbers(event))
        kind = kind_of(names)
        if any("Backward" in name for name in names) and any(forward.get(n) == "attention" for n in numbers):
            kind = "attention"
        if STEP in names:
            times[kind] += event.self_cpu_time_total
    total = sum(times.values())
    return {kind: time / total for kind, time in times.most_common()}


def _names(event: Any) -> Iterator[str]:
    while event is not None:
        yield event.name
        event = event.cpu_parent


def _numbers(event: Any) -> Iterator[int]:
    while event is not None:
        if "Backward" in event.name:
            yield event.sequence_nr
        event = event.cpu_parent


def _attention_blocks(network: nn.Module) -> list[AttentionBlock]:
    return [module for module in network.modules() if isinstance(module, AttentionBlock)]


def _scoped(block: nn.Module) -> list[Any]:
    """Gives the operations of a block a common parent."""
    scopes: list[Any] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        scopes.append(record_function(ATTENTION))
        scopes[-1].__enter__()

    def leave(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        scopes.pop().__exit__(None, None, None)

    return [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]
