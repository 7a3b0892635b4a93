"""Datasets of the datasets library, by folder or hub name. It takes a second to import and is loaded only for them."""

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from posttrain.errors import UserError

SPLIT = "train"
BATCH_ROWS = 1000


def dataset_rows(path: str, columns: Collection[str], check: Callable[[str, Iterable[str]], None]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of the `train` split; images stay the bytes they are stored as.

    path: a folder that `save_to_disk` wrote, or a hub name. `check` is asked about the columns before the first row.

    Raises UserError: nothing that the library can load.
    """
    from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

    folder = Path(path).expanduser()
    try:
        loaded = load_from_disk(str(folder)) if folder.is_dir() else load_dataset(path)
    except (OSError, ValueError) as error:
        what = "folder" if folder.is_dir() else "missing folder or unknown hub name"
        raise UserError(f"task.path={path} ({what}) cannot be loaded as a dataset: {' '.join(str(error).split())}") from error
    if isinstance(loaded, DatasetDict):
        if SPLIT not in loaded:
            raise UserError(f"task.path={path}: the dataset has no split {SPLIT}; there is: {', '.join(loaded)}")
        loaded = loaded[SPLIT]
    assert isinstance(loaded, Dataset)
    check(path, loaded.column_names)
    # Arrow, because the library would decode images while rows are read, and one that is broken would end the reading.
    batches = loaded.select_columns([name for name in loaded.column_names if name in columns]).with_format("arrow").iter(BATCH_ROWS)
    for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), start=1):
        yield f"{path} row {number}", row
