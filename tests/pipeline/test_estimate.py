"""What a run will want, by hand; a run that does not fit is refused with the number."""

import re

import pytest

from models.names import declared
from models.names.errors import ConfigError
from models.names.hyper_parameters import resolve
from models.names.sizes import Parameters, Sizes
from pipeline import config, estimate, preflight, room
from pipeline.estimate import (
    A_MODEL,
    AN_EVENT,
    AN_ID,
    ANSWERED,
    EVALUATING,
    EXPORTED,
    EXPORTED_ID,
    GIB,
    ONE_OF_MANY,
    PAGED_ID,
    TRAINING,
)
from pipeline.room import Room
from tests.conftest import recsys_here
from tests.pipeline.test_preflight import ITEMS, log, write

LOG = log()  # 60 events of 6 users and 10 items, whose ids have 2 bytes each


def estimated(folder, model, reads=True, **overrides):
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    run = config.load(None, {"model": model, "data.source": str(folder), **keys})
    found, tables = preflight.look(run, lambda line: None)
    return estimate.estimate(run, found.hyper_parameters, tables, found.schemas, reads)


def moment(found, name):
    return next(need.bytes for need in found.memory if need.name == name)


def test_a_factorisation_by_hand(tmp_path):
    found = estimated(write(tmp_path, LOG), "bpr_mf", hyper_parameters__factors=4)
    assert found.rows == {"events": 60, "items": 0, "users": 0} and found.read == 1
    assert (found.sizes.users, found.sizes.items) == (6, 10)
    # Two rows more in every table: users of 4 numbers, items of 4 and a bias.
    assert found.parameters == Parameters(learnt=8 * 4 + 12 * 5)
    events, ids = 60 * (AN_EVENT + ANSWERED["retrieve"]), 16 * (AN_ID[0] + 2)
    # Each number with Adam's two, its average, the best average and its gradient.
    assert moment(found, "training") == TRAINING + events + ids + 4 * 92 * 6
    # As it is exported, here and in a server, and the last blessed one.
    model = 4 * 92 + 60 * EXPORTED + 16 * (AN_ID[1] + 2)
    assert moment(found, "evaluating") == EVALUATING + 3 * model
    assert found.temporary.bytes == 0


def test_columns_of_many_events_lie_in_temporary_files(tmp_path, monkeypatch):
    data = write(tmp_path, LOG)
    few = estimated(data, "bpr_mf")
    monkeypatch.setattr(estimate, "IN_MEMORY", 20)
    many = estimated(data, "bpr_mf")
    assert moment(few, "training") - moment(many, "training") == 40 * AN_EVENT
    assert many.temporary.bytes == 60 * AN_EVENT
    # On the disk of the runs they are wanted of that one, else of their own.
    runs = sum(need.bytes for need in many.disk)
    columns = many.temporary.bytes
    enough = Room(memory=2 * GIB, disk=runs + columns)
    assert room.lacks(many, enough) == []
    (said,) = room.lacks(many, Room(memory=2 * GIB, disk=runs + columns - 1))
    assert said.startswith("disk: ")
    assert room.lacks(many, Room(memory=2 * GIB, disk=runs, temporary=columns)) == []
    (said,) = room.lacks(many, Room(memory=2 * GIB, disk=runs, temporary=columns - 1))
    assert said.startswith("temporary files: columns while it trains")
    assert "TMPDIR=FOLDER" in said
    last = room.lines(many, Room(memory=2 * GIB, disk=runs, temporary=columns - 1))[-1]
    assert last[0].startswith("temporary files") and last[3].startswith("does not fit")


def test_the_disk_of_temporary_files_is_known_from_that_of_the_runs(tmp_path, monkeypatch):
    run = config.load(None, {"model": "bpr_mf", "output": str(tmp_path / "runs")})
    monkeypatch.setattr(room.tempfile, "tempdir", str(tmp_path))
    assert Room.of(run).temporary is None
    monkeypatch.setattr(room.tempfile, "tempdir", "/proc")  # a file system of its own
    assert Room.of(run).temporary is not None


def test_a_row_that_is_scored_has_its_columns_and_what_its_user_did(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "IN_MEMORY", 0)
    rows = log(click=lambda row: row % 2, page=lambda row: f"p{row % 3}", tags=lambda row: "a|b")
    own = {"data__columns": {"types": {"tags": "bytes_list"}}, "label__column": "click"}
    clicks = write(tmp_path, rows)
    # The label, two ids and the page, and a list.
    assert estimated(clicks, "lr", **own).temporary.bytes == 60 * (4 * 4 + 16)
    kinds = {"event_type": lambda row: "buy" if row % 6 < 2 else "view"}
    searches = log(click=lambda row: row % 2, search=lambda row: f"s{row // 5}", **kinds)
    lists = {"label__column": "click", "label__group": "search"}
    ranker = estimated(write(tmp_path, searches), "airbnb_ranker", **lists)
    columns = [column.name for column in ranker.sizes.columns]
    # Of the 10 events that a user has the items and their types besides.
    assert ranker.temporary.bytes == 60 * (4 * (1 + len(columns)) + 2 * 4 * 10)


def test_ids_are_counted_by_number_and_length(tmp_path, monkeypatch):
    data = write(tmp_path, LOG)
    short = estimated(data, "bpr_mf")
    monkeypatch.setattr(estimate, "FEW", 8)
    many = estimated(data, "bpr_mf")  # the 10 items are, the 6 users are not
    for name, place, times in (("training", 0, 1), ("evaluating", 1, 3)):
        # The text of many lies in a file.
        fewer = AN_ID[place] + 2 - ONE_OF_MANY[place]
        assert moment(short, name) - moment(many, name) == times * 10 * fewer
    assert many.temporary.bytes == 10 * (PAGED_ID + 2)
    # And pushed.
    fewer = EXPORTED_ID[0] - EXPORTED_ID[1]
    assert short.disk[1].bytes - many.disk[1].bytes == 2 * 10 * fewer
    longer = re.sub(r"([ui])(\d),", r"\1----\2,", LOG)
    longer = estimated(write(tmp_path, longer), "bpr_mf")
    assert moment(longer, "training") - moment(many, "training") == 6 * 4
    assert longer.temporary.bytes - many.temporary.bytes == 10 * 4


def test_ids_that_train_has_too_rarely_are_looked_up_all_the_same(tmp_path):
    # 6 users with 10 events each, 10 items with 6: no item is learnt.
    clicks = write(tmp_path, log(click=lambda row: row % 2))
    often = {"label__column": "click", "features__min_count": 7}
    held = estimated(clicks, "fm", **often)
    assert (held.sizes.users, held.sizes.items) == (6, 0)
    # Items are scored, learnt or not; to retrieve them they must be.
    model = 4 * held.parameters.learnt + 16 * (AN_ID[1] + 2)
    assert moment(held, "evaluating") == EVALUATING + 3 * model
    held = estimated(clicks, "bpr_mf", **often)
    model = 4 * held.parameters.learnt + 60 * EXPORTED + 6 * (AN_ID[1] + 2)
    assert moment(held, "evaluating") == EVALUATING + 3 * model


def test_what_is_held_of_the_data_is_what_the_models_hold():
    from components.tables import top_values
    from models.inputs import columns, ids

    assert 2 * top_values._HELD == estimate.COUNTED_AT_ONCE
    assert columns._HELD == 8 * estimate.IN_MEMORY  # times have 8 bytes
    assert ids.MANY == estimate.FEW


def test_features_have_their_vocabularies(tmp_path):
    users = "user_id,country,tags\n" + "".join(
        f"u{one},{'AB'[one % 2]},a|b|{one}\n" for one in range(6)
    )
    data = write(tmp_path, LOG, items=ITEMS, users=users)
    types = {"types": {"tags": "bytes_list"}}
    own = dict(embedding_dim=8, feature_dim=2, history_length=5)
    found = estimated(
        data,
        "two_tower",
        data__columns=types,
        **{f"hyper_parameters__{name}": value for name, value in own.items()},
    )
    values = {column.name: column.values for column in found.sizes.columns}
    # Prices are ten buckets; a, b and six numbers.
    assert values == {"item_price": 10, "user_country": 2, "user_tags": 8}
    users = 8 * 8 + (4 + 10) * 2  # ids, countries and tags
    items = 12 * 8 + 12 * 2  # ids, buckets
    # The user's tower reads an id, two features and an item of the history.
    towers = (8 + 4 + 8 + 2 + 1) * 8 + (8 + 2 + 1) * 8
    assert found.parameters.learnt == users + items + towers + 5


def test_values_that_share_rows_and_an_export_in_bytes(tmp_path):
    data = write(tmp_path, log(click=lambda row: row % 2, page=lambda row: f"p{row % 9}"))
    own = {"label__column": "click", "hyper_parameters__factors": 3}
    plain = estimated(data, "fm", **own)
    # 6 users, 10 items and 9 pages, two rows more of each and of all; a weight and 3 factors.
    assert plain.parameters.learnt == (2 + 8 + 12 + 11) * 4 + 1
    shared = {"hyper_parameters__hash_rows": {"page": 5, "item_id": 4, "user_id": 100}}
    found = estimated(data, "fm", **own, **shared)
    assert found.parameters.learnt == (2 + 8 + 6 + 7) * 4 + 1

    training = {"hyper_parameters__row_adagrad": True}
    by_row = estimated(data, "fm", **own, **training)
    assert by_row.parameters == Parameters(learnt=plain.parameters.learnt, slots=0)

    def model(of):
        return next(need.bytes for need in of.disk if need.name == "the model and its push")

    # In the SavedModel and in the weights (of bytes their scales alone), once more where it is
    # pushed.
    in_bytes = estimated(data, "fm", export__tables="int8", **own)
    assert model(plain) - model(in_bytes) == 2 * (8 - 1.25) * plain.parameters.learnt


def test_what_a_score_model_learns_is_no_field(tmp_path):
    data = write(tmp_path, log(click=lambda row: row % 2, page=lambda row: f"p{row % 3}"))
    found = estimated(data, "lr", label__column="click", hyper_parameters__batch_size=8)
    fields = [(column.name, column.values) for column in found.sizes.columns]
    assert fields == [("user_id", 6), ("item_id", 10), ("page", 3)]
    assert found.parameters.learnt == 2 + 8 + 12 + 5 + 1  # a weight a value, and the bias


def test_only_the_events_that_count_are_counted(tmp_path):
    kinds = log(event_type=lambda row: "buy" if row % 6 < 2 else "view")
    bought = estimated(
        write(tmp_path, kinds), "bpr_mf", positives={"column": "event_type", "values": ["buy"]}
    )
    assert (bought.rows["events"], bought.sizes.users, bought.sizes.items) == (20, 2, 10)


def test_two_domains_have_tables_of_their_own(tmp_path):
    domains = log(domain=lambda row: "books" if row % 10 < 7 else "films")
    found = estimated(
        write(tmp_path, domains),
        "emcdr",
        split={"name": "cross_domain", "source": "books", "target": "films"},
    )
    assert (found.sizes.items, found.sizes.source_items) == (3, 7)


def test_without_reading_every_event_is_of_another_user_and_item(tmp_path):
    found = estimated(write(tmp_path, LOG), "bpr_mf", reads=False)
    assert found.read == 0 and (found.sizes.users, found.sizes.items) == (60, 60)


def test_a_matrix_of_items_by_items_takes_16_bytes_an_entry():
    settings = resolve("ease", declared.hyper_parameters("ease"), {"max_items": 100})
    own = settings.parameters(Sizes(users=5, items=50))
    assert 4 * (own.held + own.beside) == 16 * 50**2


def test_an_alternation_holds_its_log_twice_and_the_vectors_that_it_solves_for():
    settings = resolve("ials", declared.hyper_parameters("ials"), {"factors": 2})

    def beside(**sizes):
        return 4 * settings.parameters(Sizes(**sizes)).beside

    # Of an event 16 bytes by user and by item, and as much again while they are made. Then the
    # items' vectors of 16 bytes, thrice, and the users'.
    assert beside(users=5, items=5, events=1000) == 1000 * 64
    assert beside(users=5, items=50, events=10) == 10 * 32 + (3 * 50 + 5) * 16
    assert beside(users=50, items=5, events=10) == 10 * 32 + 3 * 50 * 16


def test_what_a_run_lacks_is_said_with_the_numbers(tmp_path):
    found = estimated(write(tmp_path, LOG), "ease")
    (memory,) = room.lacks(found, Room(memory=1.25 * GIB, disk=GIB))
    assert memory == (
        "memory: evaluating will want about 1.80 GiB (the model, here and in a server, and the "
        "last blessed one); there are 1.25 GiB"
    )
    (disk,) = room.lacks(estimated(tmp_path, "popularity"), Room(memory=2 * GIB, disk=1000))
    assert disk.startswith("disk: the run will want about 0.01 GiB (of them 0.01 GiB for tables")


def test_a_row_on_disk_by_hand(tmp_path):
    found = estimated(write(tmp_path, LOG, items=ITEMS), "bpr_mf", hyper_parameters__factors=4)
    tables, model, kept = found.disk
    # 40 bytes an event, 6 for its time, its number and its item's price; 10 items of the table, and
    # 16 users and items of the log.
    assert tables.bytes == estimate.ALWAYS_ON_DISK + 60 * (40 + 3 * 6) + 26 * 100
    # 92 numbers as a SavedModel and for a warm start, with the ids, and the histories; and pushed.
    assert model.bytes == 2 * (A_MODEL + 92 * 8 + 60 * EXPORTED + 16 * (EXPORTED_ID[0] + 2 * 2))
    assert kept.bytes == 92 * 4 * 5  # weights newest and best, two of Adam's, the average


def test_a_run_that_does_not_fit_may_be_let_run(tmp_path):
    said = []
    keys = {"model": "popularity", "data.source": str(write(tmp_path, LOG)), "room.memory": "1Gi"}
    with pytest.raises(ConfigError, match="popularity does not fit this machine: memory: .* 1.80"):
        preflight.check(config.load(None, keys), said.append)
    preflight.check(config.load(None, {**keys, "room.refuse": False}), said.append)
    assert said[-1].startswith("  may not fit: memory: evaluating will want about 1.80 GiB")


def test_what_clearly_fits_is_not_read(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("the log is read")

    monkeypatch.setattr(estimate.counts, "count", refuse)
    keys = {"data.source": str(write(tmp_path, LOG)), "room.memory": "8Gi", "room.disk": "1Gi"}
    preflight.check(config.load(None, {"model": "bpr_mf", **keys}), lambda line: None)
    # A table of 60 x 60 is small; one of 10 million numbers an id is not.
    keys["hyper_parameters.factors"] = 10_000_000
    with pytest.raises(AssertionError, match="the log is read"):
        preflight.check(config.load(None, {"model": "bpr_mf", **keys}), lambda line: None)


def test_doctor_says_what_a_run_will_want(tmp_path):
    run = tmp_path / "run.yaml"
    data = write(tmp_path, LOG)
    run.write_text(f"model: bpr_mf\ndata: {{source: {data}}}\nroom: {{memory: 8Gi}}\n")
    done = recsys_here("doctor", run, "--set", "factors=4")
    assert done.exit_code == 0
    assert "│ parameters " in done.output and " 92 learnt " in done.output
    done = recsys_here("doctor", run, "--set", "factors=100000000")
    # 8 rows of users and 12 of items, 10^8 + 1 numbers each of the latter, 24 bytes a number.
    assert done.exit_code == 1
    assert "does not fit: memory: training will want about 45.85 GiB" in done.output
