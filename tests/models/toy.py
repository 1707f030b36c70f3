"""Data whose right answer is known by construction, built with the production components."""

import random
from dataclasses import dataclass
from pathlib import Path

from components import local
from models import registry
from models.data import TrainingData
from models.features import read_schema

BLOCKS, USERS_A_BLOCK, ITEMS_A_BLOCK, EVENTS_A_USER = 4, 30, 15, 9


def write_log(folder: Path, randomness: float, seed: int = 7) -> Path:
    """Writes atomic files: users of a block have items of their block, or with `randomness` any item at all.

    Within a block every item is equally likely, so popularity knows nothing and the block is all there is to learn.
    """
    generator = random.Random(seed)
    items = [f"item {number} \u00e9\u4e16" for number in range(BLOCKS * ITEMS_A_BLOCK)]
    events, users = [], []
    for number in range(BLOCKS * USERS_A_BLOCK):
        block = number % BLOCKS
        own = items[block * ITEMS_A_BLOCK : (block + 1) * ITEMS_A_BLOCK]
        users.append(f"user {number}\t{20 + number % 40}\t{'MF'[number % 2]}")
        taken = generator.sample(own, EVENTS_A_USER)
        for position, item in enumerate(taken):
            if generator.random() < randomness:
                item = generator.choice([other for other in items if other not in taken])
                taken[position] = item
            events.append(f"user {number}\t{item}\t{generator.randint(1, 5)}\t{1_000_000 + 100 * position + number % 7}")
    folder.mkdir(parents=True, exist_ok=True)
    titles = [f"{item}\tThe {'red blue green grey'.split()[n // ITEMS_A_BLOCK]} one\t{1980 + n % 20}\tDrama Comedy" for n, item in enumerate(items)]
    _write(folder / "toy.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float", events)
    _write(folder / "toy.item", "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq", titles)
    _write(folder / "toy.user", "user_id:token\tage:token\tgender:token", users)
    return folder


@dataclass
class ToyData:
    """Built examples and transform graph of one toy log."""

    folder: Path

    @property
    def graph(self) -> str:
        return str(self.folder / "graph")

    @property
    def schema(self) -> str:
        return str(self.folder / "schema" / "schema.pbtxt")

    @property
    def splits(self) -> dict[str, str]:
        names = ("train", "valid", "test", "items", "users")
        return {name: str(self.folder / "examples" / f"Split-{name}" / "*") for name in names}

    def load(self, model: str) -> TrainingData:
        """The training data as the Trainer would load it for `model`."""
        return TrainingData(self.graph, self.schema, self.splits, registry.load(model).Model.cold_items)


def build(folder: Path, randomness: float, kind: str, split: dict | None = None) -> ToyData:
    """Log -> tables -> examples -> transform graph."""
    source = write_log(folder / "source", randomness)
    local.read_tables(str(source), output=str(folder / "tables"))
    local.build_examples(str(folder / "tables"), str(folder), "retrieve", kind, split or {"name": "leave_one_out"})
    text = [column.name for column in read_schema(str(folder / "schema" / "schema.pbtxt")).feature if column.HasField("natural_language_domain")]
    local.transform(str(folder / "examples"), str(folder / "schema" / "schema.pbtxt"), str(folder / "graph"), {"text": text})
    return ToyData(folder)


def _write(path: Path, header: str, lines: list[str]) -> None:
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
