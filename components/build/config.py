"""What to build: the task, the kind of the train rows, the split, the label and the walks.

Light: a run file nests these classes.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import pydantic

from models.names.errors import nearest
from models.names.features import HISTORY_COLUMNS
from models.names.label import Label
from models.names.settings import Settings, Share

EXAMPLE_SPLITS = ("train", "valid", "test", "items", "users")
WALKS = "walks"
SOURCE = "source"
SCHEMA_FILE = "schema.pbtxt"


class Split(NamedTuple):
    """One way to split the log; `components.build.splits` has the function of its name.

    Attributes:
        columns: what the events must have beside their user, item and row.
        sessions: whether it parts whole sessions, so that every position of a held-out one is a
            query: `always`, `asked` (with sequence_by: session) or `never`.
        has_border: whether train is what lies before a border in the log (a time, or the source's
            word), so that filters count what lies there.
        leaks: how events later than a target come to train, as a run and its report say it; empty
            where they do not.
        by_order: whether a log without times is parted by the order of its rows in their place.
    """

    columns: tuple[str, ...] = ()
    sessions: Literal["always", "asked", "never"] = "never"
    has_border: bool = False
    leaks: str = ""
    by_order: bool = False

    @property
    def untimed(self) -> str:
        """How a log without times is parted, where the order of events counts; else empty."""
        return (
            "the log has no times: the order of its rows is taken for it" if self.by_order else ""
        )


SPLITS = {
    "leave_one_out": Split(
        leaks="events of other users that are later than a target are in train", by_order=True
    ),
    "temporal": Split(("timestamp",), has_border=True),
    "ratio": Split(leaks="events are parted at random, so that later ones than a target train"),
    "user_holdout": Split(
        leaks="all events of the other users train, later ones than a target too"
    ),
    "given": Split(
        leaks="events of other users that are later than a target are in train", by_order=True
    ),
    "last_days": Split(("session_id", "timestamp"), "always", has_border=True),
    "predefined": Split(
        ("split",),
        "asked",
        has_border=True,
        leaks="the files say what is test; whether later events train is not looked at",
        by_order=True,
    ),
    "cross_domain": Split(("domain",), leaks="later events than a target of those held out train"),
}
"""Every split by its name. A new one is a line here, and its function."""


class SplitConfig(Settings):
    """How the log is split.

    Attributes:
        name: `leave_one_out` (of each user the last event is test, the one before it validation),
            `temporal` (the newest share of all events), `ratio` (a share at random), `user_holdout`
            (whole users), `given` (a file of test events), `last_days` (the sessions of the last
            days), `predefined` (the parts that the files are in), `cross_domain` (what the target
            has of whom two domains share). Where the log has no times, the order of its rows is
            taken for it; temporal and last_days refuse such a log.
        seed: of every random choice.
        valid_fraction: share of the events (of the users for user_holdout, of the shared users or
            items for cross_domain) for validation; 0 for no validation.
        test_fraction: the same for test; leave_one_out and given take no notice of its size.
        query_history: what a test query may know: `all` (train and validation events) or `train`,
            for comparison with papers (the validation events are then only excluded).
        drop_repeats: leave targets out that are in the history already; false goes with the
            hyper-parameter filter_seen: false, which leaves them in the ranking.
        candidates: `ncf99` for 99 sampled negatives a query, or None.
        input_share: user_holdout: share of a held-out user's events that the query knows; the
            targets, which are the rest, are rounded down.
        sequence_by: kinds sequence and walk: a row is a `user` or a `session`; last_days and
            predefined: a `session` is parted whole, and every position of it is a query (last_days:
            always).
        days: of last_days, for test and again for validation; see `session_splits`.
        file: given: the TSV file with user_id, item_id and optionally candidates.
        max_missing_share: given: of the events that the file names, which the log may lack.
        source: cross_domain: the domain that is learnt from besides, as the events' column `domain`
            names it; see `components.build.domains`.
        target: cross_domain: the domain whose items are recommended.
        shared: cross_domain: whether an id is the same one in both domains for `users` or `items`;
            all that the target has of a share of those who are in both is held out.
    """

    SECTION: ClassVar[str] = "split"
    QUERIES_ONLY: ClassVar[frozenset[str]] = frozenset(
        ("query_history", "drop_repeats", "candidates", "max_missing_share")
    )
    CHOICE = "name"
    READ_BY = {
        "input_share": ("user_holdout",),
        "days": ("last_days", "predefined"),
        "file": ("given",),
        "max_missing_share": ("given",),
        "source": ("cross_domain",),
        "target": ("cross_domain",),
        "shared": ("cross_domain",),
    }

    name: Literal[tuple(SPLITS)] = "leave_one_out"  # type: ignore[valid-type]
    seed: int = 42
    valid_fraction: float = pydantic.Field(0.1, ge=0, lt=1)
    test_fraction: float = pydantic.Field(0.1, gt=0, lt=1)
    query_history: Literal["all", "train"] = "all"
    drop_repeats: bool = True
    candidates: Literal["ncf99"] | None = None
    input_share: float = pydantic.Field(0.8, gt=0, lt=1)
    sequence_by: Literal["user", "session"] = "user"
    days: float = pydantic.Field(1.0, gt=0)
    file: str | None = pydantic.Field(None, examples=["test_items.tsv"])
    max_missing_share: Share = 0.0
    source: str = "source"
    target: str = "target"
    shared: Literal["users", "items"] = "users"

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> "SplitConfig":
        if self.source == self.target:
            raise ValueError(f"source and target must be two domains; received {self.source!r}")
        if round(self.valid_fraction + self.test_fraction, 9) >= 1:
            raise ValueError(
                "valid_fraction and split.test_fraction must leave something to train on; "
                f"received {self.valid_fraction} + {self.test_fraction}"
            )
        if self.candidates and self.asks_sessions:
            raise ValueError(f"candidates is for one query a user, not for {self.name!r}")
        if self.name == "given" and not self.file:
            raise ValueError(
                "file is required by the split 'given': a TSV file with user_id and item_id"
            )
        return self

    @property
    def has_source(self) -> bool:
        """Whether there is a second domain, in a split of its own."""
        return bool(self.name == "cross_domain")

    @property
    def by_session(self) -> bool:
        """Whether a row of the kinds sequence and walk is a session."""
        return self.sequence_by == "session" or SPLITS[self.name].sessions == "always"

    @property
    def asks_sessions(self) -> bool:
        """Whether every position of a held-out session is a query."""
        return self.by_session and SPLITS[self.name].sessions != "never"

    @property
    def leakage(self) -> str:
        """One line on what train knows of the time after a target; empty where that is nothing."""
        leaks = SPLITS[self.name].leaks
        return leaks and (
            f"split {self.name}: {leaks}; what is measured may be more than the model would do "
            "in use, which split temporal shows"
        )

    def caveat(self, timed: bool = True) -> str:
        """One line on what the split makes of time; empty where there is nothing to say.

        Args:
            timed: whether the events have times; `leakage` speaks of those that do.
        """
        if timed:
            return self.leakage
        untimed = SPLITS[self.name].untimed
        return untimed and f"split {self.name}: {untimed}"

    @property
    def border(self) -> dict[str, Any]:
        """All that decides which event is in which split.

        What is left out only decides what the queries know and ask.
        `sequence_by` decides it where whole sessions are parted; elsewhere a row's length only.
        """
        values = self.model_dump(exclude=set(self.QUERIES_ONLY))
        return {**values, "sequence_by": "session" if self.asks_sessions else "user"}


def _weights(given: Any) -> Any:
    """One value, several, or value -> weight; a value is text, whatever YAML takes it for."""
    if isinstance(given, Mapping):
        return {_word(value): weight for value, weight in given.items()}
    values = given if isinstance(given, list | tuple) else [given]
    return {_word(value): 1.0 for value in values}


def _word(value: Any) -> str:
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _words(given: Any) -> Any:
    values = given if isinstance(given, list | tuple) else [given]
    return tuple(_word(value) for value in values)


class Positives(Settings):
    """Which events count, where the log has several types of them.

    The others are left out before the split, so that nothing sees them: neither the split, the
    queries and histories, popularity, training nor evaluation.

    Attributes:
        column: of the events, such as `event_type` or `rating`.
        values: its values that count, each with what an event weighs: in popularity, in training
            and, of a `score` model, in evaluation too; a list of values for weights of 1. They
            decide neither which events count nor which are asked for. Some models cannot weigh, and
            refuse other weights than 1.
        from_value: in place of values, called `from`: numbers from it on count.
        targets: which of the values validation and test ask for; left out, all. Events of the
            others are history.
        collapse: of a user's events with one item keep one: a target before what is none, then the
            one of the largest weight, then the first.
    """

    SECTION: ClassVar[str] = "positives"

    column: str = pydantic.Field(min_length=1, examples=["event_type"])
    values: Annotated[
        dict[str, Annotated[float, pydantic.Field(gt=0)]] | None,
        pydantic.BeforeValidator(lambda given: given if given is None else _weights(given)),
    ] = pydantic.Field(None, examples=[["purchase", "cart"]])
    from_value: float | None = pydantic.Field(None, alias="from", examples=[4])
    targets: Annotated[tuple[str, ...], pydantic.BeforeValidator(_words)] = pydantic.Field(
        (), examples=[["purchase"]]
    )
    collapse: bool = False

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> "Positives":
        if (not self.values) == (self.from_value is None):
            raise ValueError(
                "values or positives.from is required, and not both, such as values: {purchase: 1} "
                f"or from: 4; received {self.values} and {self.from_value}"
            )
        for value in self.targets:
            if value not in (self.values or {}):
                raise ValueError(
                    f"targets: required: of positives.values; received {value!r}"
                    f"{nearest(value, self.values or {})}"
                )
        return self

    @property
    def weighted(self) -> bool:
        """Whether an event weighs other than another."""
        return any(weight != 1 for weight in (self.values or {}).values())

    @property
    def title(self) -> str:
        """What is asked for, in a few words."""
        if self.from_value is not None:
            return f"{self.column}-from-{self.from_value:g}"
        return "-".join((self.column, *(self.targets or self.values or ())))


class Sessions(Settings):
    """Sessions of a log that has none: a user's events without a long gap between two of them.

    Attributes:
        gap_minutes: an event that comes later after the one before it begins a session.
    """

    SECTION: ClassVar[str] = "sessions"

    gap_minutes: float = pydantic.Field(gt=0, examples=[30])


class Filters(Settings):
    """Which users, items and sessions have too few events to be learnt from.

    They are left out before the split, again and again until all that are left have enough (the
    k-core). Where the split is by time, or the source's own, events of train alone count for users
    and items; a session counts its own, wherever it lies.

    Attributes:
        min_item_events: an item has at least; 0 for any.
        min_user_events: a user has at least; 0 for any.
        min_session_events: a session has at least; 0 for any.
        known_targets_only: validation and test ask for no item that train does not have.
    """

    SECTION: ClassVar[str] = "filters"

    min_item_events: int = pydantic.Field(0, ge=0)
    min_user_events: int = pydantic.Field(0, ge=0)
    min_session_events: int = pydantic.Field(0, ge=0)
    known_targets_only: bool = False

    @property
    def support(self) -> bool:
        """Whether anything has to have a number of events."""
        return bool(self.min_item_events or self.min_user_events or self.min_session_events)


class WalkConfig(Settings):
    """What the rows of the kind `walk` are.

    Attributes:
        kind: `baskets` (the train items of a user or session, no graph), `deepwalk` or `node2vec`.
        directed: an edge leads from an item to the one after it only.
        weighted: steps are drawn by how often the edge occurs, else all edges are alike.
        within: an edge leads to the next item at most so many seconds later; None: however much
            later.
        walks_per_node: walks that start at each item.
        walk_length: items a walk has at most; it ends early where no edge leads on.
        p: node2vec: return parameter; a small one leads back.
        q: node2vec: in-out parameter; a large one stays near.
        seed: of every random choice.
    """

    SECTION: ClassVar[str] = "walks"
    CHOICE = "kind"
    READ_BY = {"p": ("node2vec",), "q": ("node2vec",)}

    kind: Literal["baskets", "deepwalk", "node2vec"] = "baskets"
    directed: bool = False
    weighted: bool = True
    within: int | None = pydantic.Field(None, ge=0, examples=[3600])
    walks_per_node: int = pydantic.Field(10, ge=1)
    walk_length: int = pydantic.Field(40, ge=2)
    p: float = pydantic.Field(1.0, gt=0)
    q: float = pydantic.Field(1.0, gt=0)
    seed: int = pydantic.Field(42, ge=0)

    @property
    def on_graph(self) -> bool:
        """Whether there are walks to be made, in a split of their own."""
        return self.kind != "baskets"


POINT_IN_TIME = {
    "user_events_before": "how many events the user had before this one",
    "user_item_events_before": "how many of them were with this item",
    "seconds_since_user_event": "since the user's event before this one",
    "seconds_since_user_item": "since the user's last event with this item",
}
"""Columns that ExampleBuilder computes of the log before each event, and what they hold."""

_TIMED = ("seconds_since_user_event", "seconds_since_user_item")


class BuildConfig(Settings):
    """What to build.

    Attributes:
        task: `retrieve` or `score`.
        kind: of the train rows: `event`, `profile`, `sequence` or `walk`.
        split: see `SplitConfig`.
        label: what the column `label` of the rows is made of; None leaves it out. The task
            `retrieve` has none, whatever is given.
        walks: the kind `walk`: see `WalkConfig`.
        most_items: a larger catalogue is refused; None takes any.
        min_count: items with fewer train events are not in the catalogue.
        history: what the histories of queries and users carry beside the items, of
            `models.names.features.HISTORY_COLUMNS`; what the events lack is left out.
        context: columns of the events that a query has, of its first target: what a request may
            tell of the moment it is made in.
        item_features: rows that are lists carry the features of their items too, one list a
            feature, so that Transform can fit their vocabularies; rows of events always do.
        point_in_time: columns of `POINT_IN_TIME` that the rows of a `score` model get, null where
            there was no such event; a request tells them as it tells any context.
        row_history: the rows of a `score` model carry the user's last so many events before them
            (before their list, where they are in one), and beside them what `history` names.
        positives: see `Positives`; None: every event counts.
        filters: see `Filters`.
        sessions: see `Sessions`; None: the log's own, where it has any.
        everything: every event that counts trains, whatever the split would hold out, and nothing
            is asked: for a model that has been measured. Of two domains, all that the target has.
    """

    task: Literal["retrieve", "score"]
    kind: Literal["event", "profile", "sequence", "walk"]
    split: SplitConfig = SplitConfig()
    label: Label | None = None
    walks: WalkConfig = WalkConfig()
    most_items: int | None = None
    min_count: int = 1
    history: tuple[Literal[tuple(HISTORY_COLUMNS)], ...] = ()  # type: ignore[valid-type]
    context: tuple[str, ...] = ()
    item_features: bool = False
    point_in_time: tuple[Literal[tuple(POINT_IN_TIME)], ...] = ()  # type: ignore[valid-type]
    row_history: int = 0
    positives: Positives | None = None
    filters: Filters = Filters()
    sessions: Sessions | None = None
    everything: bool = False

    @pydantic.model_validator(mode="before")
    @classmethod
    def _only_scores_have_a_label(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        return values if values.get("task") == "score" else {**values, "label": None}

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> "BuildConfig":
        if self.task == "score" and self.kind not in ("event", "profile"):
            raise ValueError(
                "kind: the task 'score' is trained on rows of the kind 'event' or 'profile'; "
                f"received {self.kind!r}"
            )
        if self.point_in_time and (self.task, self.kind) != ("score", "event"):
            raise ValueError(
                "point_in_time: for the task 'score' on rows of the kind 'event'; received "
                f"{self.task!r} and {self.kind!r}"
            )
        if self.walks.on_graph and self.kind != "walk":
            raise ValueError(
                f"walks.kind {self.walks.kind!r} is for models that train on rows of the kind "
                f"'walk'; this one's are of the kind {self.kind!r}"
            )
        return self

    @property
    def selects(self) -> bool:
        """Whether the events are changed, or some of them left out, before they are split."""
        return bool(self.positives or self.sessions or self.filters.support)

    @property
    def weighs(self) -> bool:
        """Whether the rows say what they weigh, in the column `example_weight`."""
        by_label = self.label is not None and self.label.weight is not None
        return by_label or (self.positives is not None and self.positives.weighted)

    @property
    def timed(self) -> bool:
        """Whether a column of `point_in_time` needs the times of the events."""
        return any(name in _TIMED for name in self.point_in_time)
