"""The layouts of MovieLens: 100K (`u.data`), 1M and 10M (`.dat`), and the later ones (`.csv`)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.read.layouts import parts
from components.read.sources import FileField, Source
from components.tables.columns import BYTES, BYTES_LIST

_GENRES_100K = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)


def _named(table: str, file: Path, names: list[str], options, **more) -> Source:
    """A file without a header: the layout says what each position holds.

    An empty name is passed over.
    """
    fields = [
        parts.field(name, name, index, options, table) for index, name in enumerate(names) if name
    ]
    return parts.make_source(table, [file], fields, options, header=False, width=len(names), **more)


def ratings_100k(path: Path, options: Mapping[str, Any]) -> list[Source]:
    """MovieLens-100K: `u.data`, and `u.item`, `u.user` where they are there."""
    events = _named(
        "events", path / "u.data", ["user_id", "item_id", "rating", "timestamp"], options
    )
    items, users = Source("items"), Source("users")
    if (path / "u.item").is_file():
        genres = _GENRES_100K
        if (path / "u.genre").is_file():
            lines = (path / "u.genre").read_text("latin-1").split("\n")
            genres = tuple(line.split("|")[0] for line in lines if "|" in line)
        fields = [
            parts.field("item_id", "movie id", 0, options, "items"),
            FileField("title", BYTES, 1, "movie title", year="year"),
            FileField("genres", BYTES_LIST, 5, "genres", flags=genres),
        ]
        items = parts.make_source(
            "items",
            [path / "u.item"],
            fields,
            options,
            delimiter="|",
            width=5 + len(genres),
            header=False,
            encoding="latin-1",
        )
    if (path / "u.user").is_file():
        names = ["user_id", "age", "gender", "occupation", "zip_code"]
        users = _named("users", path / "u.user", names, options, delimiter="|")
    return [events, items, users]


def ratings_dat(path: Path, options: Mapping[str, Any]) -> list[Source]:
    """MovieLens-1M and 10M: `ratings.dat`, and `movies.dat`, `users.dat` where they are there."""
    names = ["user_id", "item_id", "rating", "timestamp"]
    events = _named("events", path / "ratings.dat", names, options, delimiter="::")
    items, users = Source("items"), Source("users")
    if (path / "movies.dat").is_file():
        fields = [
            parts.field("item_id", "MovieID", 0, options, "items"),
            FileField("title", BYTES, 1, "Title", year="year"),
            FileField("genres", BYTES_LIST, 2, "Genres"),
        ]
        # The 1M set is Latin-1, the 10M set UTF-8, under the same file names.
        encoding = None if _is_utf8(path / "movies.dat") else "latin-1"
        items = parts.make_source(
            "items",
            [path / "movies.dat"],
            fields,
            options,
            delimiter="::",
            width=3,
            header=False,
            encoding=encoding,
        )
    if (path / "users.dat").is_file():
        names = ["user_id", "gender", "age", "occupation", "zip_code"]
        users = _named("users", path / "users.dat", names, options, delimiter="::")
    return [events, items, users]


def _is_utf8(path: Path) -> bool:
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def ratings_csv(path: Path, options: Mapping[str, Any]) -> list[Source]:
    """MovieLens-20M and later: `ratings.csv`, and `movies.csv` where it is there."""
    names = {"userId": "user_id", "movieId": "item_id"}
    events = parts.headed("events", [path / "ratings.csv"], options, names)
    items = Source("items")
    if (path / "movies.csv").is_file():
        items = parts.headed("items", [path / "movies.csv"], options, names)
        fields = tuple(
            replace(field, year="year") if field.name == "title" else field
            for field in items.fields
        )
        items = replace(items, fields=fields)
    return [events, items, Source("users")]
