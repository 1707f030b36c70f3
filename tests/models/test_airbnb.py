"""Airbnb's embeddings: what is a context of what, and what stands in for what is missing."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from models.contract.query import Query
from models.industry.airbnb import Airbnb, HyperParameters, Types
from models.industry.listing_types import nearest_listings, types_of
from models.industry.windows import Windows, window_loss
from models.inputs.data import Entities
from models.inputs.event_log import EventLog
from models.names.errors import ConfigError, DataError
from tests.models.contract import RetrieveContract


class TestAirbnb(RetrieveContract):
    name = "airbnb"
    hyper_parameters = {"epochs": 12, "learning_rate": 0.02, "batch_size": 128, "window": 8}


# Listings 2..6 are trained and 7..9 are not; listings 2, 3, 4 and the cold 7, 8 are in the first
# market. Their kinds and prices are those that follow.
MARKET = [0, 0, 2, 2, 2, 3, 3, 2, 2, 3]
KIND = [0, 0, 2, 3, 2, 2, 3, 2, 3, 2]
PRICE = [0, 0, 4, 5, 6, 4, 4, 6, 4, 4]


def entities(count, trained, **features):
    return Entities(
        np.array([b"%d" % number for number in range(count)], object),
        trained,
        {name: tf.constant(values, tf.int64) for name, values in features.items()},
        dict.fromkeys(features, 10),
        {name: [b"x", b"y", b"z"] for name in features},
    )


ITEMS = entities(8, 5, item_city=MARKET, item_kind=KIND, item_price=PRICE)
USERS = entities(3, 3, user_from=[0, 0, 2, 3, 0])


def log_of(item, user=None, session=None, event_type=None):
    """Events in the order given, of one user in one session and of no type unless told."""
    count = len(item)
    return EventLog(
        user=np.full(count, 2) if user is None else np.array(user),
        item=np.array(item),
        timestamp=np.arange(count),
        rating=np.full(count, np.nan, np.float32),
        row=np.arange(count),
        session=np.zeros(count, np.int64) if session is None else np.array(session),
        label=np.full(count, np.nan, np.float32),
        event_type=np.zeros(count, np.int64) if event_type is None else np.array(event_type),
    )


def rows(batch):
    return {name: value.numpy().tolist() for name, value in batch.items()}


def test_the_booked_listing_is_the_context_of_every_click_of_its_session():
    """Session 0 clicks 2, 3, 4 and books 6: its clicks are centres twice; 1 books nothing."""
    windows = Windows([2, 3, 4, 5, 2], np.array([0, 0, 0, 1, 1]), 1, np.array([6, 0]), 2)
    batches = windows.batches(7, 3, None, 100, seed=0, first_epoch=0)
    assert (batches.rows, batches.steps) == (8, 1)
    batch = rows(next(iter(batches.dataset)))
    found = sorted(zip(batch["centre"], map(tuple, batch["positive"])))
    assert found == sorted(
        2 * [(2, (0, 3, 6)), (3, (2, 4, 6)), (4, (3, 0, 6))] + [(5, (0, 2, 0)), (2, (5, 0, 0))]
    )
    for centre, positive, negative in zip(*(batch[n] for n in ("centre", "positive", "negative"))):
        assert not {centre, *positive} - {0} & set(negative)
        assert {*negative} <= {0, *range(2, 7)}


def test_negatives_of_the_market_and_of_rejections():
    group = np.array([0, 0, 1, 1, 1, 2, 2])
    windows = Windows([2, 3, 5, 6], np.array([0, 0, 1, 1]), 1)
    enemies = (np.array([[2, 5], [2, 6], [5, 3]]), 8)
    near, refused = [], {}
    for batch in windows.batches(7, 1, (group, 4), 100, 0, 0, enemies).dataset.take(30):
        for centre, negative in zip(batch["centre"].numpy(), batch["negative"].numpy()):
            near += [(group[centre], group[one]) for one in negative[1:5] if one]
            refused.setdefault(centre, set()).update(negative[5:])
    assert near and all(own == other for own, other in near)
    # 3 and 6 refused nobody, 5 refuses 3.
    assert refused == {2: {5, 6}, 3: {0}, 5: {3}, 6: {0}}


def test_the_loss_by_hand():
    """By hand: v.c = 1, v.goal = -1, v.n = 2: softplus of -1, 1 and 2."""
    vectors, contexts = (tf.keras.layers.Embedding(5, 1) for _ in range(2))
    for table, values in ((vectors, [9, 9, 1, 9, 9]), (contexts, [9, 9, 1, -1, 2])):
        table.build(None)
        table.embeddings.assign(np.array(values, np.float32)[:, np.newaxis])
    inputs = {
        "centre": tf.constant([2]),
        "positive": tf.constant([[0, 2, 3]]),
        "negative": tf.constant([[4, 0]]),
    }
    expected = np.log1p(np.exp([-1.0, 1.0, 2.0])).sum()
    assert float(window_loss(vectors, contexts, inputs)) == pytest.approx(expected, rel=1e-6)


def test_a_cold_listing_is_the_mean_of_the_three_nearest_of_its_market():
    """Listing 7 (city 2, kind 2, price 6) is most like 4, then 2, then 3; city 3 has but two."""
    every = np.ones(7, bool)
    found = nearest_listings(ITEMS, np.array(MARKET), every)
    assert found.tolist() == [[2, 0, 1], [0, 1, 2], [-1, -1, -1]]
    # Without a vector of 2 the market has but two.
    assert (nearest_listings(ITEMS, np.array(MARKET), every & (np.arange(7) != 2)) == -1).all()
    log = log_of([2, 3, 4, 5, 6])
    data = SimpleNamespace(items=ITEMS, users=USERS, events=log, event_types=[])
    model = Airbnb(HyperParameters(embedding_dim=2, market="item_city"), data)
    unit = np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [0.6, 0.8]], np.float32)
    model.listings.embeddings.assign(np.concatenate([np.zeros((2, 2)), 3 * unit]))
    vectors = model.item_embeddings().numpy()
    np.testing.assert_allclose(vectors[:5], unit, rtol=1e-6)
    np.testing.assert_allclose(vectors[5], [0, 1], atol=1e-6)  # of (-1, 0), (1, 0), (0, 1)
    np.testing.assert_array_equal(vectors[7], [0, 0])
    _, penalty = model.catalogue()
    assert penalty.numpy().tolist() == [0] * 7 + [float("-inf")]


def test_types_are_what_the_features_say_together():
    index, called = types_of(ITEMS, "item", ["item_city", "item_kind"])
    assert called[index[2] - 2] == b"item item_city=x item_kind=x" and index[2] == index[4]
    assert len({int(one) for one in index[2:7]}) == 4 and index[0] == index[1] == 0
    everybody, _ = types_of(USERS, "user", None)
    assert everybody[4] == 0  # nobody knows where from
    with pytest.raises(ConfigError, match="features of one value, which are item_city.*'item_kin'"):
        types_of(ITEMS, "item", ["item_kin"])


def test_types_learn_from_bookings_and_answer_who_has_not_clicked():
    """Users from x book kind x, those from y kind y; hosts of kind y refuse users from x."""
    tokens = [b"booking", b"rejection"]
    user = np.repeat([2, 3], 40)
    own, other = np.resize([2, 4, 5], 40), np.tile([3, 6], 20)  # kinds x and y
    item = np.concatenate([own, other])
    item[::10][:4] = 3  # four of the first user's are requests that were refused
    event_type = np.full(80, 2)
    event_type[::10][:4] = 3
    log = EventLog(
        user=user,
        item=item,
        timestamp=np.arange(80),
        rating=np.full(80, np.nan, np.float32),
        row=np.arange(80),
        session=np.zeros(80, np.int64),
        label=np.full(80, np.nan, np.float32),
        event_type=event_type,
    )
    data = SimpleNamespace(items=ITEMS, users=USERS, events=log, event_types=tokens)
    own_settings = HyperParameters(
        embedding_dim=8, user_type=["user_from"], listing_type=["item_kind"], batch_size=32
    )
    model = Airbnb(own_settings, data)
    rows = model.types.input_dim
    types = Types(own_settings, data, model._user_type, model._listing_type, rows)
    assert types.booked
    types.compile(optimizer=tf.keras.optimizers.legacy.Adam(0.05))
    types.fit(types.batches(data, 1, 0).dataset, steps_per_epoch=150, verbose=0)
    model.types.embeddings.assign(types.learnt())
    query = Query(
        tf.constant([2, 3, 4], tf.int64),
        tf.constant([True, True, True]),
        tf.RaggedTensor.from_row_lengths(tf.zeros([0], tf.int64), [0, 0, 0]),
    )
    assert model.answers(query).numpy().tolist() == [True, True, False]
    scores = model.score_items(query, model.catalogue()).numpy()[:, :5]
    kind = np.array(KIND[2:7])
    assert scores[0, kind == 2].min() > scores[0, kind == 3].max()
    assert scores[1, kind == 3].min() > scores[1, kind == 2].max()


def test_types_are_in_sequences_of_one_user_whoever_booked_first():
    """User 3 booked before user 2 did, in a session of each event: their bookings stay apart."""
    log = EventLog(
        user=np.array([2, 2, 3, 3]),
        item=np.array([2, 4, 3, 6]),
        timestamp=np.array([50, 70, 10, 60]),
        rating=np.full(4, np.nan, np.float32),
        row=np.arange(4),
        session=np.arange(4),
        label=np.full(4, np.nan, np.float32),
        event_type=np.full(4, 2),
    )
    data = SimpleNamespace(items=ITEMS, users=USERS, events=log, event_types=[b"booking"])
    own = HyperParameters(
        embedding_dim=2, user_type=["user_from"], listing_type=["item_kind"], batch_size=32
    )
    model = Airbnb(own, data)
    types = Types(own, data, model._user_type, model._listing_type, model.types.input_dim)
    batch = next(iter(types.batches(data, 0, 0).dataset))
    user, listing = (table.numpy() for table in (model._user_type, model._listing_type))
    # Kind x (items 2, 4) is what user 2 booked, kind y (3, 6) what user 3 did.
    kinds = {int(user[2]): {int(listing[2])}, int(user[3]): {int(listing[3])}}
    for centre, positive in zip(batch["centre"].numpy(), batch["positive"].numpy(), strict=True):
        if int(centre) in kinds:
            assert set(positive.tolist()) - {0} == kinds[int(centre)]


def test_bookings_that_no_feature_describes_teach_no_type():
    """They had one type, which no table had a row for; the listings alone are learnt."""
    log = EventLog(
        user=np.repeat([2, 3], 4),
        item=np.array([2, 4, 3, 6, 5, 2, 4, 3]),
        timestamp=np.arange(8),
        rating=np.full(8, np.nan, np.float32),
        row=np.arange(8),
        session=np.repeat([0, 1], 4),
        label=np.full(8, np.nan, np.float32),
        event_type=np.tile([3, 3, 3, 2], 2),
    )
    plain = {"items": entities(8, 5), "users": entities(3, 3)}
    data = SimpleNamespace(**plain, events=log, event_types=[b"booking", b"view"])
    model = Airbnb(HyperParameters(embedding_dim=2, batch_size=8), data)
    stages = []
    loop = SimpleNamespace(
        data=data,
        strategy=tf.distribute.get_strategy(),
        fit=lambda _, stage, *given, **more: stages.append(stage),
    )
    model.learn(loop)
    assert stages == ["model"] and not model.types.embeddings.numpy().any()


def test_only_clicks_ask():
    """Types 2 click, 3 impression, 4 rejection, 5 booking; 1 is none that train has, 0 not told."""
    kinds = [b"click", b"impression", b"rejection", b"booking"]
    log = log_of([2, 3, 4, 5, 6], event_type=[2, 2, 2, 2, 3])
    data = SimpleNamespace(items=ITEMS, users=USERS, events=log, event_types=kinds)
    model = Airbnb(HyperParameters(embedding_dim=2), data)

    def query(items, types):
        columns = [items, [6]], [types, [5]]
        told = (tf.ragged.constant(column, tf.int64) for column in columns)
        return Query(tf.constant([2, 2], tf.int64), tf.constant([True, True]), *told)

    asked = query([2, 3, 4, 5, 3, 4], [2, 3, 4, 5, 0, 1])
    clicks = query([2, 3, 4], [2, 2, 2])
    np.testing.assert_array_equal(model.query_embedding(asked), model.query_embedding(clicks))
    assert model.answers(asked).numpy().tolist() == [True, False]
    catalogue = model.catalogue()
    items, position = tf.constant([[2, 3, 5], [6, 0, 0]], tf.int64), tf.constant([[0], [0]])
    carried = model.contributions(asked, items, position, catalogue).numpy()
    assert carried[0, 0, :2].all() and not carried[0, 0, 2] and not carried[1].any()
    # Where train has nothing but bookings they are the clicks, in requests as in training.
    data.events = log_of([2, 3, 4], event_type=[5, 5, 5])
    model = Airbnb(HyperParameters(embedding_dim=2), data)
    assert model.answers(query([2, 3], [5, 5])).numpy().tolist() == [True, False]


def test_rare_listings_are_neither_clicks_nor_booked():
    """7 is rarer than `features.min_count` and has no row: 2 and 3 are neighbours across it."""
    log = log_of([2, 7, 3, 7], event_type=[2, 2, 2, 3])
    data = SimpleNamespace(items=ITEMS, users=USERS, events=log, event_types=[b"click", b"booking"])
    model = Airbnb(HyperParameters(embedding_dim=2, window=1), data)
    batch = rows(next(iter(model.batches(data, 0, 0).dataset)))
    found = sorted(zip(batch["centre"], map(tuple, batch["positive"])))
    assert found == [(2, (0, 3, 0)), (3, (2, 0, 0))]
    assert np.shape(batch["negative"]) == (2, 5)  # without markets none of the market


def test_a_listing_that_was_never_a_centre_has_no_vector():
    """5 is alone in its session, and 6 was only booked."""
    log = log_of([2, 3, 4, 6, 5], session=[0, 0, 0, 0, 1], event_type=[2, 2, 2, 3, 2])
    data = SimpleNamespace(items=ITEMS, users=USERS, events=log, event_types=[b"click", b"booking"])
    model = Airbnb(HyperParameters(embedding_dim=2, batch_size=3), data)
    model.compile(optimizer=tf.keras.optimizers.legacy.Adam(0.05))
    model.fit(model.batches(data, 1, 0).dataset, steps_per_epoch=3, verbose=0)
    there = model.listings.embeddings.numpy().any(axis=1)
    assert there.tolist() == [False, False, True, True, True, False, False]
    _, penalty = model.catalogue()
    assert np.isinf(penalty[:5]).tolist() == [False, False, False, True, True]


def test_nothing_to_learn_from_is_said():
    with pytest.raises(DataError, match="no session of the train split has two clicks"):
        Windows([2, 3], np.array([0, 1]), 1)
