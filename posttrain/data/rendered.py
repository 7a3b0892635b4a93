"""The documents of a task's conversations, made once and kept in the cache folder: tokenising is done once a data set.

A file of the cache is named by the content of the conversations and by what renders them, so it is never stale.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.data.messages import digest_of
from posttrain.errors import UserError
from posttrain.types import Conversation, Document, EncodedImage, IntArray
from posttrain.vision import ImageGeometry, num_tokens

FORMAT = 2
"""Part of the files' names: raise it when what is written, or how conversations are rendered, changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedRows:
    """The documents of R conversations: D in all, one behind the other in a stream of N tokens.

    token_ids: int32 (N,). is_trained: bool (N,). document_ends: int64 (D + 1,), document d ends at document_ends[d + 1] and
    begins at document_ends[d]; row_ends: int64 (R + 1,), in the same way the documents of each row. A row that cannot be
    rendered has none, and says why in `problems`, without its place. num_images: int64 (D,), of each document; images: of each row,
    those of its conversation, with which each of its documents begins. They are not in the cache.
    """

    key: str
    token_ids: NDArray[np.int32]
    is_trained: NDArray[np.bool_]
    document_ends: IntArray
    row_ends: IntArray
    num_images: IntArray
    problems: dict[int, str]
    images: list[list[EncodedImage]]

    def documents(self, row: int) -> list[Document]:
        """The documents of a row."""
        first, last = self.row_ends[row : row + 2]
        return [
            Document(
                token_ids=self.token_ids[start:stop].astype(np.int64),
                is_trained=self.is_trained[start:stop],
                images=self.images[row][:shown],
            )
            for (start, stop), shown in zip(pairwise(self.document_ends[first : last + 1]), self.num_images[first:last], strict=True)
        ]

    def lengths(self, geometry: ImageGeometry | None = None) -> tuple[IntArray, IntArray]:
        """Tokens of each row as the model reads it, and of its longest document; 0 where it has none; int64 (R,)."""
        of_document = np.diff(self.document_ends)
        for row in (row for row, images in enumerate(self.images) if images):
            for document in range(self.row_ends[row], self.row_ends[row + 1]):
                of_document[document] = num_tokens(of_document[document], self.images[row][: self.num_images[document]], geometry)
        parts = [of_document[start:stop] for start, stop in pairwise(self.row_ends)]
        return np.array([part.sum() for part in parts], np.int64), np.array([part.max(initial=0) for part in parts], np.int64)


def render_rows(
    conversations: Sequence[Conversation], render: Callable[[Conversation], list[Document]], rendered_by: Any, cache: Path
) -> RenderedRows:
    """The documents of all conversations, from the folder `cache` if they are there.

    rendered_by: JSON-able, all that `render` depends on. A UserError of `render` becomes a problem of its row.
    """
    contents = [[c.messages, c.tools, [image.digest for image in c.images], *_written(c)] for c in conversations]
    key = digest_of([FORMAT, rendered_by, [digest_of(content).hex() for content in contents]]).hex()
    path = cache / f"{key}.npz"
    if path.exists():
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        problems = dict(json.loads(arrays.pop("problems").tobytes()))
        return RenderedRows(key=key, problems=problems, images=[conversation.images for conversation in conversations], **arrays)
    rows = _render(conversations, render, key)
    _store(path, rows)
    return rows


def _written(conversation: Conversation) -> list[str]:
    """What a row follows from beside its texts, where there is such a thing: its soft targets."""
    targets = conversation.soft_targets
    if targets is None:
        return []
    arrays = (targets.token_ids, targets.logprobs, targets.top_ids, targets.top_logprobs)
    return [hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()]


def tokenizer_digest(tokenizer: Any) -> str:
    """Follows from a tokenizer's vocabulary, merges and chat template."""
    return hashlib.sha256(f"{tokenizer.backend_tokenizer.to_str()}\n{tokenizer.chat_template}".encode()).hexdigest()


def _render(conversations: Sequence[Conversation], render: Callable[[Conversation], list[Document]], key: str) -> RenderedRows:
    documents: list[Document] = []
    row_ends, problems = [0], {}
    for row, conversation in enumerate(conversations):
        try:
            documents += render(conversation)
        except UserError as error:
            problems[row] = str(error).removeprefix(conversation.where)
        row_ends.append(len(documents))
    return RenderedRows(
        key=key,
        token_ids=np.concatenate([np.zeros(0, np.int32), *(document.token_ids.astype(np.int32) for document in documents)]),
        is_trained=np.concatenate([np.zeros(0, np.bool_), *(document.is_trained for document in documents)]),
        document_ends=np.cumsum([0, *(len(document.token_ids) for document in documents)]),
        row_ends=np.array(row_ends),
        num_images=np.array([len(document.images) for document in documents], np.int64),
        problems=problems,
        images=[conversation.images for conversation in conversations],
    )


def _store(path: Path, rows: RenderedRows) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=f".{path.stem[:8]}-", dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        np.savez(
            file,
            token_ids=rows.token_ids,
            is_trained=rows.is_trained,
            document_ends=rows.document_ends,
            row_ends=rows.row_ends,
            num_images=rows.num_images,
            problems=np.frombuffer(json.dumps([*rows.problems.items()]).encode(), np.uint8),
        )
    Path(draft).replace(path)
