"""`recsys export vectors`: what a pushed model knows of users and items, for other systems.

    items.parquet, users.parquet    `item_id` or `user_id`, and `vector`, a list of D float32
    items.npy, users.npy            [N, D] float32
    item_ids.npy, user_ids.npy      [N] texts, whose rows the vectors are
    item_tower/1                    a SavedModel of the signatures `item_vectors` and, where the
                                    model embeds items by features, `embed_items`, alone
    user_tower/1                    one of `embed`, and `embed_events` where the model has it

A score is the dot product of a user's and an item's vector; a user's is that of her stored history.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from components.tables.places import Remote, fetched, place, upload
from models.names.errors import ConfigError, RecsysError
from pipeline import batch, examples, local, servable

_ITEMS, _USERS = "item_vectors", "embed"
_TOWERS = {"item_tower": (_ITEMS, "embed_items"), "user_tower": (_USERS, "embed_events")}
_AT_ONCE = 4096


def run(
    folder: str, run_id: str, output: str, say: Callable[[str], None] = print
) -> dict[str, int]:
    """Writes the vectors and the towers, and returns how many vectors there are.

    Args:
        folder: where to; new or empty; a path, or a URI such as s3://bucket/folder.
        run_id: `latest` for the last run that pushed, or a run or pipeline.
        output: folder of runs.
        say: takes lines of progress.

    Raises:
        ConfigError: something lies in the folder.
        RecsysError: the run pushed nothing, or a model without vectors.
    """
    target = place(folder).absolute()
    if target.exists() and any(target.iterdir()):
        raise ConfigError(f"--to: required: a new or an empty folder; {folder} holds files")
    record = batch.pushed(run_id, output)
    below = Path(record.output).absolute()
    with contextlib.ExitStack() as stack:
        stack.enter_context(local.readable_errors())
        local.quiet()
        to = target
        if isinstance(target, Remote):
            to = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=below)))
        model = servable.load(stack.enter_context(fetched(record.pushed_path, below)))
        if _ITEMS not in model.signatures:
            raise RecsysError(
                f"{record.pushed_path}: the model has no vectors: it answers "
                f"{', '.join(sorted(model.signatures))}; required: a model whose score is a dot "
                "product, in a run of this version of the kit"
            )
        counts = {}
        for entity, embed in (("item", _items_of(model)), ("user", _users_of(model))):
            rows = Path(record.served_examples_uri) / f"Split-{entity}s"
            ids = (row[f"{entity}_id"][0] for row in examples.read_rows(rows))
            counts[f"{entity}s"] = _write(to, entity, ids, embed)
            say(f"{folder}: {counts[f'{entity}s']:,} vectors of {entity}s")
        for tower, names in _TOWERS.items():
            save_alone(
                model, [name for name in names if name in model.signatures], to / tower / "1"
            )
        say(f"{folder}: {' and '.join(_TOWERS)}, a SavedModel each")
        if isinstance(target, Remote):
            upload(to, target, "users.parquet")
    return counts


def _items_of(model: Any) -> Callable[[list[bytes]], tuple[Any, Any]]:
    def embed(ids: list[bytes]) -> tuple[Any, Any]:
        import tensorflow as tf

        answer = model.signatures[_ITEMS](item_id=tf.constant(ids))
        return answer["embedding"].numpy(), answer["known"].numpy()

    return embed


def _users_of(model: Any) -> Callable[[list[bytes]], tuple[Any, Any]]:
    def embed(ids: list[bytes]) -> tuple[Any, Any]:
        import tensorflow as tf

        nothing = tf.zeros([len(ids), 0], tf.string)
        found = model.signatures[_USERS](user_id=tf.constant(ids), history=nothing)["embedding"]
        # Of 0 is the vector of a user of whom a model of histories knows none.
        return found.numpy(), np.any(found.numpy() != 0, axis=1)

    return embed


def _write(
    folder: Path,
    entity: str,
    ids: Iterator[bytes],
    embed: Callable[[list[bytes]], tuple[Any, Any]],
) -> int:
    """Writes the vectors of those ids that have one, batch by batch; returns how many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    written, names, writer = 0, [], None
    # The number of rows stands in front of an .npy file, and is known when all are there.
    with tempfile.TemporaryFile(dir=folder) as raw:
        while part := list(islice(ids, _AT_ONCE)):
            vectors, known = embed(part)
            vectors = np.ascontiguousarray(vectors[known], np.float32)
            width = vectors.shape[1]
            texts = [examples.text(each) for each, there in zip(part, known) if there]
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width)
            table = pa.table({f"{entity}_id": pa.array(texts, pa.string()), "vector": column})
            writer = writer or pq.ParquetWriter(str(folder / f"{entity}s.parquet"), table.schema)
            writer.write_table(table)
            raw.write(vectors.tobytes())
            names += texts
            written += len(texts)
        if writer is None:
            raise RecsysError(f"the run has no {entity}s to write vectors of")
        writer.close()
        np.save(folder / f"{entity}_ids.npy", np.array(names, np.str_))
        raw.seek(0)
        shape = (written, width)
        mapped = np.lib.format.open_memmap(
            folder / f"{entity}s.npy", mode="w+", dtype=np.float32, shape=shape
        )
        for start in range(0, written, _AT_ONCE):
            rows = min(_AT_ONCE, written - start)
            part = np.frombuffer(raw.read(rows * width * 4), np.float32)
            mapped[start : start + rows] = part.reshape(rows, width)
        mapped.flush()
    return written


def save_alone(model: Any, names: list[str], folder: Path) -> None:
    """Writes a SavedModel of some signatures of a loaded one, with what they read and no more."""
    import tensorflow as tf

    from models.contract.requests import save

    chosen = {name: model.signatures[name] for name in names}
    read = {id(handle) for function in chosen.values() for handle in function.captured_inputs}
    alone = tf.Module()
    alone.parts = [part for handle, part in _resources(model) if id(handle) in read]
    save(alone, str(folder), chosen)


def _resources(model: Any) -> Iterator[tuple[Any, Any]]:
    """Every variable and table that a loaded model holds, once, behind its handle."""
    import tensorflow as tf

    left, met = [model], set()
    while left:
        one = left.pop()
        if id(one) in met:
            continue
        met.add(id(one))
        if isinstance(one, tf.Variable):
            yield one.handle, one
        elif isinstance(one, tf.saved_model.experimental.TrackableResource):
            yield one.resource_handle, one
        elif isinstance(one, list | tuple):
            left += one
        elif isinstance(one, dict):
            left += one.values()
        elif type(one).__module__.startswith("tensorflow") and hasattr(one, "__dict__"):
            left += vars(one).values()
