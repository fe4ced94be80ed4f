"""Datasets in the format of Arrow: parquet files, what ``save_to_disk`` wrote, and the Hugging Face hub's."""

import logging
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fromnoise.configs import load
from fromnoise.data.table import SPLITS, Column, Datasets, File, Splits, Table, assembled
from fromnoise.errors import UserError, told

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.dataset import Dataset, FileSystemDataset

SHARD_BYTES = 2**28
"""of a parquet file, so much is in memory at a time, as it is stored: several groups of rows, or one that is larger"""
Shard = tuple[int, "Dataset"]  # the number of its rows, and these


def read_saved(folder: Path) -> Splits:
    """What ``save_to_disk`` wrote into a folder; nothing if it did not."""
    with told(f"cannot read {folder} as a dataset"):
        if (folder / "dataset_dict.json").is_file():
            return {name: _saved(folder / name) for name in load(folder / "dataset_dict.json")["splits"]}
        one = all((folder / name).is_file() for name in ("state.json", "dataset_info.json"))
        return {"train": _saved(folder)} if one else {}


def _saved(folder: Path) -> Table:
    import pyarrow.dataset

    tables = []
    for part in load(folder / "state.json")["_data_files"]:
        path = folder / Path(part["filename"]).name
        if not path.is_file():  # opening a pipe would never end
            raise UserError(f"{path} is not a file")
        tables.append(pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))).read_all())
    return _mapped(pyarrow.concat_tables(tables), folder)


def read_parquet(files: Sequence[File]) -> tuple[Datasets, list[File]]:
    """The datasets of parquet files, each under the name of its folder, splits and ``data`` left out.

    A file belongs to the split that it, or else a folder of it, is named after, and otherwise to train.
    """

    def place(file: File) -> tuple[str, str]:
        folders = file.below.parent.parts
        name, parts = re.subn(r"-\d+-of-\d+$", "", file.below.stem.lower())
        words = [name, *map(str.lower, reversed(folders)), *reversed(re.split(r"[-_. ]", name))]
        split = next((SPLITS[word] for word in words if word in SPLITS), name if parts else "train")
        return "/".join(name for name in folders if name.lower() not in (*SPLITS, "data")), split

    def table(files: Sequence[File]) -> Table:
        import pyarrow.dataset

        with told(f"cannot read {files[0].path} as a dataset"):
            paths, local = [str(file.path) for file in files], pyarrow.fs.LocalFileSystem()
            dataset = pyarrow.dataset.dataset(paths, format="parquet", filesystem=local)
            return _table(dataset, files[0].path, [*_shards(dataset)])

    used = [file for file in files if file.below.suffix.lower() == ".parquet" and file.path.is_file()]  # in no zip
    return assembled(used, place, table), used


def _mapped(table: "pyarrow.Table", place: Path | str) -> Table:
    """A table in memory-mapped files, of which any row can be read by itself."""
    import pyarrow.dataset

    dataset = pyarrow.dataset.dataset(table)
    return _table(dataset, place, [(table.num_rows, dataset)])


def _shards(dataset: "FileSystemDataset") -> Iterator[Shard]:
    """The groups of rows of parquet files; of one file, small ones are one shard, as rows are shuffled within one."""
    for file in dataset.get_fragments():
        together: list[list[Any]] = [[]]
        for group in file.row_groups:
            if sum(one.total_byte_size for one in [*together[-1], group]) > SHARD_BYTES:
                together.append([])
            together[-1].append(group)
        for groups in filter(None, together):
            part = file.subset(row_group_ids=[group.id for group in groups])
            yield sum(group.num_rows for group in groups), type(dataset)([part], dataset.schema, dataset.format)


def _table(dataset: "Dataset", place: Path | str, shards: Sequence[Shard]) -> Table:
    """A table whose rows are read a few at a time; ``place`` names it in errors."""
    from datasets import Features

    def values(column: str) -> Iterator[Any]:
        with told(f"cannot read {place} as a dataset"):
            for batch in dataset.to_batches(columns=[column], batch_size=32, batch_readahead=1, fragment_readahead=1):
                yield from map(columns[column].named, batch.column(0).to_pylist())

    @lru_cache(maxsize=1)
    def shard(column: str, number: int) -> "pyarrow.ChunkedArray":
        with told(f"cannot read {place} as a dataset"):
            return shards[number][1].to_table(columns=[column]).column(0)

    def value(column: str, row: int) -> Any:
        number = bisect_right(starts, row) - 1
        return columns[column].named(shard(column, number)[row - starts[number]].as_py())

    sizes = tuple(rows for rows, _ in shards)
    starts = [0, *accumulate(sizes)]
    columns = {name: _column(feature) for name, feature in Features.from_arrow_schema(dataset.schema).items()}
    return Table(columns, dataset.count_rows(), values, value, sizes)


def _column(feature: Any) -> Column:
    from datasets import ClassLabel, Image, Value

    if isinstance(feature, Image) or (isinstance(feature, dict) and {"bytes", "path"} <= feature.keys()):
        return Column("images")
    if isinstance(feature, ClassLabel):
        return Column("text", tuple(feature.names))
    stored = feature.dtype if isinstance(feature, Value) else ""
    return Column("numbers" if "int" in stored else "text" if "string" in stored or stored == "bool" else "other")


def read_hub(source: str, configuration: str | None) -> Splits:
    """A dataset of the hub, without a word of ``datasets``; without a network, its copy in the cache."""
    from datasets import are_progress_bars_disabled, config, disable_progress_bars, enable_progress_bars, load_dataset
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub import constants, get_session

    with told(f"cannot load {source} from the hub"), ExitStack() as afterwards:
        afterwards.callback(logging.disable, logging.root.manager.disable)
        logging.disable()
        if not are_progress_bars_disabled():
            afterwards.callback(enable_progress_bars)
            disable_progress_bars()
        try:
            get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except Exception:  # of many classes; ``datasets`` would go on asking for a minute
            afterwards.callback(setattr, config, "HF_HUB_OFFLINE", config.HF_HUB_OFFLINE)
            config.HF_HUB_OFFLINE = True
        try:
            found = load_dataset(source, configuration)
        except ConnectionError as error:
            way = "connect, or pass --data DIR with a local copy"
            raise UserError(f"cannot reach the hub for {source}: {way}") from error
        except DatasetNotFoundError as error:
            raise UserError(
                f"there is no folder {source}, and no dataset of that name on the hub open to you"
            ) from error
        except ValueError as error:
            if several := re.search(r"available configs: \[([^\]]*)", str(error)):
                way = f"choose one with --data.configuration: {several[1].replace(chr(39), '')}"
                raise UserError(f"{source} has several datasets: {way}") from error
            raise
        return {name: _mapped(split.data.table, source) for name, split in found.items()}
