"""Data whose right answer is known by construction, built with the production components."""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from components import standalone
from models.contract import tasks
from models.inputs.data import TrainingData
from models.inputs.schema import read_schema
from models.names import registry
from models.names.label import Label

BLOCKS, USERS_A_BLOCK, ITEMS_A_BLOCK, EVENTS_A_USER = 4, 30, 15, 9


def write_log(folder: Path, randomness: float, described: bool = True, seed: int = 7) -> Path:
    """Writes atomic files: users of a block have items of their block.

    With `randomness` they may have any item at all.

    Within a block every item is equally likely, so popularity knows nothing and the block is all
    there is to learn. Not `described`, there is no table of items.
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
            events.append(
                f"user {number}\t{item}\t{generator.randint(1, 5)}\t"
                f"{1_000_000 + 100 * position + number % 7}"
            )
    folder.mkdir(parents=True, exist_ok=True)
    _write(
        folder / "toy.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float", events
    )
    if described:
        titles = [
            f"{item}\tThe {'red blue green grey'.split()[n // ITEMS_A_BLOCK]} "
            f"one\t{1980 + n % 20}\tDrama Comedy"
            for n, item in enumerate(items)
        ]
        _write(
            folder / "toy.item",
            "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
            titles,
        )
    _write(folder / "toy.user", "user_id:token\tage:token\tgender:token", users)
    return folder


def write_two_domains(folder: Path, randomness: float, described: bool = True) -> Path:
    """Writes atomic files: `write_log`'s log is the domain `target`, with a `source` beside it.

    Every user has six of the ten items of its block in the source too, five users have nothing
    else (`source user N`), and user 119 has nothing there. Items of the two are called alike by
    chance.
    """
    write_log(folder, randomness, described)
    header, *target = (folder / "toy.inter").read_text("utf-8").splitlines()
    generator, source = random.Random(13), []
    people = [(f"user {number}", number % BLOCKS) for number in range(BLOCKS * USERS_A_BLOCK - 1)]
    people += [(f"source user {number}", number % BLOCKS) for number in range(5)]
    for user, block in people:
        if generator.random() < randomness:
            block = generator.randrange(BLOCKS)
        for item in generator.sample(range(10 * block, 10 * block + 10), 6):
            source.append(f"{user}\titem {item} \u00e9\u4e16\t5\t1000")
    events = [f"{line}\ttarget" for line in target] + [f"{line}\tsource" for line in source]
    _write(folder / "toy.inter", f"{header}\tdomain:token", events)
    return folder


def write_ratings(folder: Path, randomness: float, described: bool = True, seed: int = 11) -> Path:
    """Writes atomic files of ratings 1 to 5 that follow from user and item.

    With `randomness` they follow from nothing.

    A rating is 3, one more or less for a mild or a strict user, one more or less for a good or a
    bad item, and one more where the user's block is the item's, one less where it is not. Blocks
    stand in the features too (occupation, genre). Every tenth user and item is missing in the
    tables, every seventh user has no age. A review says what user and item are like, whatever the
    rating. Not `described`, there are neither tables nor reviews.
    """
    generator = random.Random(seed)
    users, items, events = range(90), range(40), []
    for user in users:
        for item in generator.sample(items, 24):
            rating = 3 + user // 2 % 3 - 1 + item // 2 % 3 - 1 + (1 if user % 2 == item % 2 else -1)
            if generator.random() < randomness:
                rating = generator.randint(1, 5)
            of_user = (
                f"{'Strict fair mild'.split()[user // 2 % 3]} {'redder bluish'.split()[user % 2]}"
            )
            of_item = f"{'poor plain fine'.split()[item // 2 % 3]} {'red blue'.split()[item % 2]}"
            review = f"{of_user} {generator.choice('I say thought'.split())}, {of_item}!"
            event = (
                f"user {user}\titem {item} é\t{min(5, max(1, rating))}\t{1_000_000 + len(events)}"
            )
            events.append(f"{event}\t{review}" if described else event)
    folder.mkdir(parents=True, exist_ok=True)
    columns = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    if not described:
        _write(folder / "toy.inter", columns, events)
        return folder
    titles = [
        f"item {n} é\tThe {'red blue'.split()[n % 2]} "
        f"one\t{1980 + n % 20}\t{'Drama Comedy'.split()[n % 2]} Film"
        for n in items
        if n % 10
    ]
    people = [
        f"user {n}\t{'' if n % 7 == 0 else 20 + n % 40}\t{'MF'[n // 2 % 2]}\tjob {n % 2}"
        for n in users
        if n % 10
    ]
    _write(folder / "toy.inter", f"{columns}\treview:token_seq", events)
    _write(
        folder / "toy.item",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
        titles,
    )
    _write(folder / "toy.user", "user_id:token\tage:token\tgender:token\toccupation:token", people)
    return folder


@dataclass
class ToyData:
    """Built examples and transform graph of one toy log."""

    folder: Path
    label: Label | None = None

    @property
    def graph(self) -> str:
        return str(self.folder / "graph")

    @property
    def schema(self) -> str:
        return str(self.folder / "schema" / "schema.pbtxt")

    @property
    def splits(self) -> dict[str, str]:
        names = ("train", "valid", "test", "items", "users", "walks", "source")
        return {name: str(self.folder / "examples" / f"Split-{name}" / "*") for name in names}

    def load(self, model: str) -> TrainingData:
        """The training data as the Trainer would load it for `model`."""
        return tasks.of(model, self.label).load(
            registry.load(model).Model, self.graph, self.schema, self.splits
        )

    def load_once(self, model: str) -> TrainingData:
        """The same, read once in a process for all models that read the same of it.

        So nobody changes it.
        """
        task, model_class = registry.get(model).task, registry.load(model).Model
        if task == "score" and self.label:
            model_class.check_label(self.label)
        told = (repr(getattr(model_class, name, None)) for name in _READ)
        key = (self.folder, repr(self.label), task, *told)
        if key not in _loaded:
            _loaded[key] = self.load(model)
        return _loaded[key]

    def with_newcomers(self) -> "ToyData":
        """The same data with a user and an item that stand in their tables and nowhere else."""
        return ToyData(self.folder / "newcomers", self.label)


# What a task asks of a model's class to load its data; of `reads`, which function it is.
_READ = ("cold_items", "reads", "reads_quantiles", "reads_history", "reads_context")
_loaded: dict[tuple, TrainingData] = {}

NEW_USER, NEW_ITEM = "new user", "new item"


def write_newcomers(toy: ToyData, folder: Path, **of_user: list) -> ToyData:
    """Writes the same data with a user and an item that stand in their tables and nowhere else.

    Args:
        toy: the data.
        folder: where they go.
        **of_user: features of the user, else none.
    """
    (folder / "examples").mkdir(parents=True)
    for name in ("graph", "schema"):
        (folder / name).symlink_to(toy.folder / name)
    newcomers = {
        "items": example(item_id=[NEW_ITEM]),
        "users": example(user_id=[NEW_USER], **of_user),
    }
    for split in (toy.folder / "examples").glob("Split-*"):
        target = folder / "examples" / split.name
        row = newcomers.get(split.name.removeprefix("Split-"))
        if row is None:
            target.symlink_to(split)
            continue
        target.mkdir()
        for file in split.iterdir():
            (target / file.name).symlink_to(file)
        with tf.io.TFRecordWriter(str(target / "newcomer.gz"), "GZIP") as file:
            file.write(row)
    return ToyData(folder, toy.label)


def example(**lists: list) -> bytes:
    """A serialized tf.Example of lists of strings, of whole numbers or of floats."""
    kinds = {
        int: ("int64_list", tf.train.Int64List),
        float: ("float_list", tf.train.FloatList),
        str: ("bytes_list", tf.train.BytesList),
    }
    feature = {}
    for name, values in lists.items():
        field, kind = kinds[type(values[0]) if values else str]
        coded = [value.encode() if isinstance(value, str) else value for value in values]
        feature[name] = tf.train.Feature(**{field: kind(value=coded)})
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def build(
    folder: Path,
    randomness: float,
    kind: str,
    split: dict | None = None,
    label: Label | None = None,
    write: Callable | None = None,
    same_rows: ToyData | None = None,
    carries: dict | None = None,
    walks: dict | None = None,
) -> ToyData:
    """Log -> tables -> examples -> transform graph; with a label, ratings to score.

    `write` makes another log than the usual one.

    Few models of other kinds than `event` read features of items: without `item_features` among
    what the rows carry, their logs have none to transform.
    `same_rows` was built of the same log by the same split, so that its transform graph is this
    one's too: to fit one takes longer than all the rest.
    """
    source = (write or (write_ratings if label else write_log))(
        folder / "source",
        randomness,
        described=kind == "event" or (carries or {}).get("item_features", False),
    )
    standalone.read_tables(str(source), output=str(folder / "tables"))
    split = split or {"name": "ratio" if label else "leave_one_out"}
    task, column = ("score", label.model_dump()) if label else ("retrieve", None)
    standalone.build_examples(
        str(folder / "tables"),
        str(folder),
        task,
        kind,
        split,
        label=column,
        carries=carries,
        walks=walks,
    )
    text = [
        column.name
        for column in read_schema(str(folder / "schema" / "schema.pbtxt")).feature
        if column.HasField("natural_language_domain")
    ]
    if same_rows:
        shutil.copytree(same_rows.graph, folder / "graph")
    else:
        standalone.transform(
            str(folder / "examples"),
            str(folder / "schema" / "schema.pbtxt"),
            str(folder / "graph"),
            {"text": text, "quantiles": bool(label)},
        )
    built = ToyData(folder, label)
    write_newcomers(built, built.with_newcomers().folder)
    return built


def _write(path: Path, header: str, lines: list[str]) -> None:
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
