"""Fixtures for all rooms."""

import os
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of reference data: $RECSYS_SHARED, or `shared` beside the repository; the test is
    skipped without it."""
    folder = Path(os.environ.get("RECSYS_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not (folder / "data").is_dir():
        pytest.skip("needs the reference data: set RECSYS_SHARED")
    return folder


def write_toy_source(
    folder: Path, users: int = 60, items: int = 40, events: int = 12, seed: int = 7
) -> Path:
    """Writes a small data set in RecBole's layout whose next item can be learnt.

    Users and items fall into four groups; a user's events are items of the own group, walked in a
    ring, so that the item after `i` is the next one of its group. Group 0 holds the ids that are
    awkward: blanks, quotes, Unicode.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.RandomState(seed)
    names = [f"i{number}" for number in range(items)]
    names[0], names[4], names[8] = "é ü", "日本\"語'", "🎬 item"
    rings = [names[group::4] for group in range(4)]
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(users):
        ring = rings[user % 4]
        # No user goes round the ring: a target is never an item that was seen.
        count = min(events, len(ring) - 1)
        first = random.randint(len(ring))
        start = 900_000_000 + int(random.randint(1_000_000))
        for step in range(count):
            item = ring[(first + step) % len(ring)]
            lines.append(f"u{user}\t{item}\t{random.randint(3, 6)}\t{start + 3600 * step}")
    (folder / "toy.inter").write_text("\n".join(lines) + "\n", "utf-8")
    genres = ["Comedy", "Drama", "Action", "Comedy Drama"]
    rows = [
        f"{name}\tFilm {number}\t{1980 + number}\t{genres[number % 4]}"
        for number, name in enumerate(names)
    ]
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    (folder / "toy.item").write_text("\n".join([header, *rows]) + "\n", "utf-8")
    rows = [
        f"u{user}\t{20 + user % 40}\t{'MF'[user % 2]}\tjob{user % 4}\t{10_000 + user}"
        for user in range(users)
    ]
    header = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"
    (folder / "toy.user").write_text("\n".join([header, *rows]) + "\n", "utf-8")
    return folder


@pytest.fixture(scope="session")
def toy_source(tmp_path_factory) -> Path:
    """A small folder in RecBole's layout with a pattern to learn (see `write_toy_source`); read
    only."""
    return write_toy_source(tmp_path_factory.mktemp("toy"))
