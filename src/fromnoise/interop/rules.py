"""How any config file of the ecosystem is read: by a frozen dataclass whose fields are the file's keys.

A field's type is what is accepted, and its default is that of the class which the file names. A key that would change
the computation accepts only the value at which it does not (``Literal[False]``), and an unknown key is refused. So a
network that opens here computes what diffusers computes.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor

from fromnoise.configs import read
from fromnoise.errors import UserError

T = TypeVar("T")

DIFFUSERS_VERSION = "0.42.1"  # the release whose files these are

LEGACY_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""parts of the names of attention's weights as older releases of diffusers wrote them, and as they are today"""


def read_public(kind: type[T], content: Mapping[str, Any], origin: str) -> T:
    """The file's keys without the private ones, which begin with an underscore.

    Raises:
        UserError: a key is unknown, or its value is not supported; the message names ``origin`` and the key.
    """
    return read(kind, {key: value for key, value in content.items() if not key.startswith("_")}, origin)


def headed(class_name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a file: these keys below the name of diffusers' class."""
    return {"_class_name": class_name, "_diffusers_version": DIFFUSERS_VERSION, **values}


def modern_attention_name(key: str) -> str:
    """The name that a weight has today, by the name that some release of diffusers gave it."""
    for legacy, modern in LEGACY_NAMES.items():
        key = key.replace(legacy, modern)
    return key


def renamed(state: Mapping[str, Tensor], name: Callable[[str], str]) -> dict[str, Tensor]:
    """The weights by their names of today.

    Raises:
        UserError: two of them have the same one.
    """
    result: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if name(key) in result:
            raise UserError(f"the weights have {name(key)} twice, by its old and its new name")
        result[name(key)] = tensor
    return result
