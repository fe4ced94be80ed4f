"""The one reader of config files: a frozen dataclass says which keys there are, their types and their limits.

A limit stands beside the field, as ``Annotated[int, Gt(0)]``. Nothing is converted, except that a whole number may
stand where a float is wanted: true is not 1, and 1.0 is not a whole number. No float may be infinite or NaN.
"""

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, MinLen

from fromnoise.errors import UserError, shortened
from fromnoise.files import read_bytes

T = TypeVar("T")

MAX_BYTES = 2**20  # of a config file
MAX_DEPTH = 32  # of tables and lists in one another
MAX_DOTS = 200  # in a line of TOML, whose reader takes the square of a dotted key's length
MAX_BITS = 1024  # of a whole number

Count = Annotated[int, Gt(0)]
Counts = Annotated[tuple[Count, ...], MinLen(1)]
Positive = Annotated[float, Gt(0)]
Fraction = Annotated[float, Ge(0), Le(1)]


@dataclass(frozen=True)
class Made:
    """A limit of a text: what it is made of, as a pattern and in words."""

    pattern: str
    words: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import PydanticCustomError, core_schema

        def check(text: str) -> str:
            if not re.fullmatch(self.pattern, text):
                raise PydanticCustomError("made", "Input should be {words}", {"words": self.words})
            return text

        return core_schema.no_info_after_validator_function(check, handler(source))


def load(path: Path, limit: int = MAX_BYTES) -> dict[str, Any]:
    """The content of a ``.toml`` file, or of a JSON file, of at most ``limit`` bytes.

    Raises:
        UserError: it cannot be read.
    """
    try:
        text = read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise UserError(f"cannot read {path}: {problem}") from None
    return parse(text, "TOML" if path.suffix == ".toml" else "JSON", str(path))


def parse(text: str, language: Literal["TOML", "JSON"], origin: str) -> dict[str, Any]:
    """The table that a text describes; ``origin`` names the text in errors.

    Raises:
        UserError: the text is not valid, says a key twice, or is nested without end.
    """
    try:
        if language == "TOML" and any(line.count(".") > MAX_DOTS for line in text.splitlines()):
            raise ValueError(f"more than {MAX_DOTS} dots in a line")
        content = tomllib.loads(text) if language == "TOML" else json.loads(text, object_pairs_hook=_table)
        _check_depth(content)
    except (ValueError, RecursionError) as problem:
        raise UserError(f"{origin} is not valid {language}: {problem}") from None
    if not isinstance(content, dict):
        raise UserError(f"{origin} is not a {language} object")
    return content


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, as json.loads makes it; no key may be there twice."""
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"the key {key} is there twice")
        table[key] = value
    return table


def _check_depth(content: Any) -> None:
    """Refuses with a ValueError what would take the stack, or a number that takes forever to print."""
    layer = [content]
    for _ in range(MAX_DEPTH):
        if any(isinstance(item, int) and item.bit_length() > MAX_BITS for item in layer):
            raise ValueError(f"a whole number of more than {MAX_BITS} bits")
        tables = [list(item.values()) if isinstance(item, dict) else item for item in layer]
        layer = [item for table in tables if isinstance(table, list) for item in table]
    if layer:
        raise ValueError(f"more than {MAX_DEPTH} tables and lists in one another")


def read(kind: type[T], values: Mapping[str, Any], origin: str) -> T:
    """The dataclass ``kind`` with these values; a key that is left out takes the field's default.

    Args:
        values: strings, numbers, flags, lists, tables and None, as a TOML or JSON file has them.
        origin: names the file in errors.

    Raises:
        UserError: a key is unknown or missing, or its value is not supported; the message names the key.
    """
    from pydantic import ValidationError  # here, so that ``--help`` is quick

    text = json.dumps(values, default=lambda value: {type(value).__name__: str(value)})
    try:
        config: T = _adapter(kind).validate_json(text)  # type: ignore[arg-type]
    except ValidationError as problem:
        raise _explained(problem.errors(include_url=False), json.loads(text), origin) from None
    for key, found, taken in _converted(json.loads(text), config):  # pydantic takes true for Literal[1]
        raise refused(origin, key, found, f"it should be {taken!r}")
    return config


def refused(origin: str, key: str, found: Any, reason: str) -> UserError:
    """The one line that names the file and the key, what was found, and what would do instead."""
    return UserError(f"{origin}: {shortened(key, 90)}: {shortened(json.dumps(found), 90)} is not supported: {reason}")


@lru_cache
def _adapter(kind: type[Any]) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    union: Any = kind | None  # because a dataclass alone would not take these settings
    return TypeAdapter(union, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))


def _explained(errors: list[Any], values: Any, origin: str) -> UserError:
    """The first of pydantic's errors, together with what else it says about the same key."""
    path, found = [], values
    for step in errors[0]["loc"]:
        try:
            found = found[step]
        except (LookupError, TypeError):  # a missing key, or the name of one of a union's types
            break
        path.append(step)
    key, kind = ".".join(map(str, path)), errors[0]["type"]
    if kind == "unexpected_keyword_argument":
        return UserError(f"{origin}: unknown key {shortened(key, 90)}")
    if kind == "missing":
        return UserError(f"{origin}: {'.'.join(map(str, errors[0]['loc']))} is missing")
    if not key:  # the whole text, which has half of a surrogate pair in it, say
        return UserError(f"{origin}: {errors[0]['msg']}")
    same = [error["msg"] for error in errors if list(error["loc"][: len(path)]) == path]
    reason = " or ".join(dict.fromkeys(message.replace("Input should", "it should", 1) for message in same))
    return refused(origin, key, found, reason)


def _converted(found: Any, taken: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The keys whose value has become another type, with the value before and after."""
    if isinstance(found, dict):
        for name, value in found.items():
            inner = taken[name] if isinstance(taken, dict) else getattr(taken, name)
            yield from _converted(value, inner, f"{key}.{name}" if key else name)
    elif isinstance(found, list):
        for i, (value, inner) in enumerate(zip(found, taken, strict=True)):
            yield from _converted(value, inner, f"{key}.{i}")
    elif type(found) is not type(taken) and (type(found), type(taken)) != (int, float):
        yield key, found, taken
