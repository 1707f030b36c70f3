"""Test rows of a `score` model: what it says of each, and which fields carried that."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline import because, examples
from serving.client.messages import Outputs, feature_inputs

SIGNATURE = "score_explained"
HEADINGS = ("user", "item", "title", "label", "score", "why")


def ask(
    rows: Sequence[Mapping[str, list]],
    inputs: Mapping[str, Any],
    predict: Callable[[dict[str, Any]], Outputs],
    items_uri: str | None,
) -> tuple[list[dict[str, str]], str]:
    """Asks a model about rows.

    Args:
        rows: of `examples.read_rows`.
        inputs: of the signature `score_explained`, as a server's metadata describe them.
        predict: runs that.
        items_uri: the table of items, for the titles.

    Returns:
        A dict of `HEADINGS` a row; and what the numbers beside the fields are.
    """
    raw = [
        {
            name: row[name] if len(tensor["tensor_shape"]["dim"]) > 1 else row[name][0]
            for name, tensor in inputs.items()
            if row.get(name)
        }
        for row in rows
    ]
    outputs = predict(feature_inputs(raw, inputs))
    titles = examples.titles(items_uri, {_first(row, "item_id") for row in rows} - {""})
    told = []
    for number, row in enumerate(rows):
        item, label = _first(row, "item_id"), row.get("label")
        fields = zip(outputs["reason"][number], outputs["weight"][number], strict=True)
        values = (
            _first(row, "user_id"),
            item,
            titles.get(item, ""),
            f"{label[0]:g}" if label else "",
            f"{outputs['score'][number]:.4f}",
            because.moved(list(fields)),
        )
        told.append(dict(zip(HEADINGS, values, strict=True)))
    return told, because.meaning(outputs["basis"])


def _first(row: Mapping[str, list], name: str) -> str:
    return "".join(examples.text(value) for value in row.get(name, [])[:1])
