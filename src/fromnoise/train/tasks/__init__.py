"""What can be trained: a module for each task, under the name that presets call it by."""

from collections.abc import Callable
from typing import Any

from fromnoise.train.config import TrainingConfig
from fromnoise.train.task import Task
from fromnoise.train.tasks.autoencoder import AutoencoderTask
from fromnoise.train.tasks.classifier import ClassifierTask
from fromnoise.train.tasks.clip import ClipTask
from fromnoise.train.tasks.denoising import DenoisingTask
from fromnoise.train.tasks.reader import ReaderTask

TASKS: dict[str, Callable[[TrainingConfig, str], Task[Any]]] = {
    "denoising": DenoisingTask,
    "classifier": ClassifierTask,
    "autoencoder": AutoencoderTask,
    "clip": ClipTask,
    "reader": ReaderTask,
}
"""each is made of a preset and the source of its data"""
