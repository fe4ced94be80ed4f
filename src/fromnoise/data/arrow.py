"""Datasets in the format of Arrow: parquet files, what ``save_to_disk`` wrote, and the Hugging Face hub's."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fromnoise.configs import load
from fromnoise.data.listing import Configurations
from fromnoise.data.table import SPLITS, Column, File, Splits, Table
from fromnoise.errors import UserError

if TYPE_CHECKING:
    from datasets import Features
    from pyarrow.dataset import Dataset


def read_saved(folder: Path) -> Splits:
    """What ``save_to_disk`` wrote into a folder; nothing if it did not."""
    with _told(folder):
        if (folder / "dataset_dict.json").is_file():
            names = map(str, load(folder / "dataset_dict.json")["splits"])
            return {SPLITS.get(name.lower(), name): _saved(folder / name) for name in names}
        one = all((folder / name).is_file() for name in ("state.json", "dataset_info.json"))
        return {"train": _saved(folder)} if one else {}


def _saved(folder: Path) -> Table:
    import pyarrow.dataset

    names = [Path(part["filename"]).name for part in load(folder / "state.json")["_data_files"]]
    streams = [pyarrow.ipc.open_stream(pyarrow.memory_map(str(_regular(folder / name)))) for name in names]
    return _table(pyarrow.dataset.dataset(pyarrow.concat_tables([s.read_all() for s in streams])), folder)


def read_parquet(files: Sequence[File]) -> tuple[Configurations, list[File]]:
    """The datasets of parquet files, each under the name of its folder, splits and ``data`` left out.

    A file belongs to the split that it, or else a folder of it, is named after, and otherwise to train.
    """
    used = [file for file in files if file.suffix == ".parquet" and file.path.is_file()]
    paths: dict[str, dict[str, list[File]]] = {}
    for file in used:
        folders = [name for name in file.parts[:-1] if name.lower() not in (*SPLITS, "data")]
        paths.setdefault("/".join(folders), {}).setdefault(_split(file), []).append(file)
    return {name: {split: _open(parts) for split, parts in splits.items()} for name, splits in paths.items()}, used


def _split(file: File) -> str:
    name = re.sub(r"(-\d+-of-\d+)?\.parquet$", "", file.name.lower())
    words = [name, *reversed(file.parts[:-1]), *reversed(re.split(r"[-_. ]", name))]
    known = next((SPLITS[word.lower()] for word in words if word.lower() in SPLITS), None)
    return known or (name if re.search(r"-\d+-of-\d+\.parquet$", file.name) else "train")


def _open(files: Sequence[File]) -> Table:
    import pyarrow.dataset

    with _told(files[0].path):
        paths, local = [str(file.path) for file in files], pyarrow.fs.LocalFileSystem()
        return _table(pyarrow.dataset.dataset(paths, format="parquet", filesystem=local), files[0].path)


def read_hub(source: str, configuration: str | None) -> Splits:
    """A dataset of the hub; without a network, its copy in the cache."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        with _quiet(), _offline_if_unreachable():
            found = load_dataset(source, configuration)
        return {SPLITS.get(name.lower(), name): _of_datasets(dataset, source) for name, dataset in found.items()}
    except ConnectionError as error:
        raise UserError(f"cannot reach the hub for {source}: connect, or pass --data DIR with a local copy") from error
    except DatasetNotFoundError as error:
        raise UserError(f"there is no folder {source}, and no dataset of that name on the hub open to you") from error
    except Exception as error:
        several = re.search(r"available configs: \[([^\]]*)", str(error))
        if several:
            names = several[1].replace("'", "")
            raise UserError(f"{source} has several datasets: choose one with --data.configuration: {names}") from error
        raise UserError(f"cannot load {source} from the hub: {_reason(error)}") from error


def _of_datasets(dataset: Any, source: str) -> Table:
    import pyarrow.dataset

    dataset = dataset if dataset._indices is None else dataset.flatten_indices()
    return _table(pyarrow.dataset.dataset(dataset.data.table), source, dataset.features)


def _table(dataset: "Dataset", place: Path | str, features: "Features | None" = None) -> Table:
    """A table whose rows are read a few at a time; ``place`` names it in errors."""
    from datasets import Features

    def values(column: str) -> Iterator[Any]:
        with _told(place):
            for batch in dataset.to_batches(columns=[column], batch_size=32, batch_readahead=1, fragment_readahead=1):
                yield from batch.column(0).to_pylist()

    features = features or Features.from_arrow_schema(dataset.schema)
    return Table({name: _column(feature) for name, feature in features.items()}, dataset.count_rows(), values)


def _column(feature: Any) -> Column:
    from datasets import ClassLabel, Image, Value

    if isinstance(feature, Image) or (isinstance(feature, dict) and {"bytes", "path"} <= feature.keys()):
        return Column("images")
    if isinstance(feature, ClassLabel):
        return Column("numbers", tuple(feature.names))
    stored = feature.dtype if isinstance(feature, Value) else ""
    return Column("numbers" if "int" in stored else "text" if "string" in stored or stored == "bool" else "other")


def _regular(path: Path) -> Path:
    if not path.is_file():
        raise OSError(f"{path} is not a file")
    return path


@contextmanager
def _told(place: Path | str) -> Iterator[None]:
    """Makes one line of whatever goes wrong, for Arrow has errors of many kinds."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"cannot read {place} as a dataset: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The first line of what went wrong; ``datasets`` keeps it in the cause."""
    error = error.__cause__ if isinstance(error.__cause__, Exception) else error
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the messages and progress bars of ``datasets`` to itself, and restores them afterwards."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from datasets.utils import logging as datasets_logging
    from huggingface_hub.utils import logging as hub_logging

    loggers = {module: module.get_verbosity() for module in (datasets_logging, hub_logging)}
    had_bars = not are_progress_bars_disabled()
    for module in loggers:
        module.set_verbosity(logging.CRITICAL)
    disable_progress_bars()
    try:
        yield
    finally:
        for module, verbosity in loggers.items():
            module.set_verbosity(verbosity)
        if had_bars:
            enable_progress_bars()


@contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Asks the hub once, and has ``datasets`` read only its cache if there is no answer; it would ask for a minute."""
    from datasets import config
    from huggingface_hub import constants, get_session

    before = config.HF_HUB_OFFLINE
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception:  # the transport's own errors are of many classes
        config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before
