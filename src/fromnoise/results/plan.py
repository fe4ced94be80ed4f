"""What is measured, and what others report: ``results/plan.toml``."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from annotated_types import MaxLen, MinLen

from fromnoise.configs import Count, Made, load, read
from fromnoise.errors import UserError

Name = Annotated[str, Made(r"\w[\w.-]*", "the name of a file, without its ending")]


@dataclass(frozen=True)
class Curve:
    """Quality by the number of steps: the same options for each sampler and number."""

    options: str
    samplers: Annotated[list[str], MinLen(1)]
    steps: Annotated[list[Count], MinLen(1)]

    def measurements(self) -> dict[str, str]:
        """The options of each measurement, by its name."""
        pairs = [(sampler, steps) for sampler in self.samplers for steps in self.steps]
        return {f"{sampler}-{n}": f"{self.options} --sampler {sampler} --steps {n}" for sampler, n in pairs}


@dataclass(frozen=True)
class Published:
    """What others report."""

    model: str
    fid: str
    source: str
    bits: str = ""


@dataclass(frozen=True)
class Plan:
    """What is measured: options of ``fromnoise evaluate`` by the name of each measurement."""

    models: Annotated[dict[Name, str], MinLen(1)]
    likelihood: dict[Name, str]
    few_steps: Annotated[dict[Name, str], MinLen(2), MaxLen(2)]
    curve: Curve
    prompts: dict[Name, str] = field(default_factory=dict)
    book: dict[Name, str] = field(default_factory=dict)
    optional: dict[Name, str] = field(default_factory=dict)
    published: list[Published] = field(default_factory=list)

    @property
    def may_be_missing(self) -> dict[str, str]:
        """The measurements that are shown only where they have been made."""
        return self.prompts | self.optional

    def measurements(self) -> dict[str, list[str]]:
        """The arguments of each measurement, quick ones and those that others wait for first."""
        everything = (
            self.likelihood | self.models | self.curve.measurements() | self.few_steps | self.book | self.may_be_missing
        )
        return {name: shlex.split(options) for name, options in everything.items()}


def load_plan(folder: Path) -> Plan:
    """The plan of a results folder; a `UserError` if there is none, or it is not valid."""
    path = folder / "plan.toml"
    if not path.exists():
        raise UserError(f"{path} is missing: run this where fromnoise's README.md and results/ are")
    plan = read(Plan, {key.replace("-", "_"): value for key, value in load(path).items()}, str(path))
    try:
        plan.measurements()
    except ValueError as problem:  # quotes that are never closed
        raise UserError(f"{path}: the options of a measurement cannot be read: {problem}") from None
    return plan
