"""The log of a made-up shop: what the notebooks and their tests read where nobody brings another.

Small, but like the logs that people bring: column names of its own, a few bad rows, a clock that
was wrong once, repeats, sessions, and a few articles that have most of the events.
"""

import datetime
from pathlib import Path

import numpy as np

COLUMNS = {"user_id": "customer", "item_id": "article", "timestamp": "at"}
"""`data.columns` of it: what the files call the columns."""

_AISLES = ("tea", "coffee", "cocoa", "spices")
_START = datetime.datetime(2024, 3, 1, tzinfo=datetime.timezone.utc)
_DAYS = 60


def write(folder: str | Path, customers: int = 240, articles: int = 120, seed: int = 5) -> Path:
    """Writes `events.csv` and `items.csv` and returns the folder.

    A customer likes one aisle and looks into the others now and then; within an aisle the first
    articles are wanted most. Each visit is a session: a few articles a few minutes apart, of which
    some are bought. Beside about a dozen events a customer, events.csv holds on purpose

    - two rows that cannot be read: one without an article, one whose time is none,
    - three events twice,
    - four events on an article that items.csv does not have,
    - one event in the year 2190.

    Args:
        folder: where to; it is made.
        customers: how many.
        articles: how many, a quarter of them an aisle.
        seed: of every random choice.
    """
    random = np.random.RandomState(seed)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    aisles = np.array_split(np.arange(articles), len(_AISLES))
    items = ["article,title,aisle,price"]
    for aisle, members in zip(_AISLES, aisles, strict=True):
        items += [
            f"a{number:03},{aisle.capitalize()} No. {place},{aisle},{random.uniform(2, 40):.2f}"
            for place, number in enumerate(members, 1)
        ]
    events = []
    for customer in range(customers):
        liked = customer % len(_AISLES)
        for _ in range(random.randint(2, 6)):
            at = _START + datetime.timedelta(minutes=int(random.randint(_DAYS * 24 * 60)))
            device = random.choice(["phone", "desktop"], p=[0.7, 0.3])
            for _ in range(random.randint(2, 6)):
                aisle = liked if random.uniform() < 0.8 else random.randint(len(_AISLES))
                members = aisles[aisle]
                wanted = 1 / np.arange(1, len(members) + 1)
                article = random.choice(members, p=wanted / wanted.sum())
                action = "purchase" if random.uniform() < 0.25 else "view"
                events.append(
                    f"c{customer:03},a{article:03},{action},{at:%Y-%m-%dT%H:%M:%SZ},{device}"
                )
                at += datetime.timedelta(seconds=int(random.randint(20, 400)))
    events += events[10:13]
    day = f"{_START + datetime.timedelta(days=_DAYS):%Y-%m-%d}"
    events += [f"c00{number},a999,view,{day}T12:00:00Z,phone" for number in range(4)]
    events += [
        f"c010,,view,{day}T12:00:00Z,phone",
        "c011,a001,view,yesterday,phone",
        "c012,a002,view,2190-01-01T00:00:00Z,desktop",
    ]
    for name, lines in (
        ("items", items),
        ("events", ["customer,article,action,at,device", *events]),
    ):
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", "utf-8")
    return folder
