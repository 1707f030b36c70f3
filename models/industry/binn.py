"""BINN: what a user is after now and what the user prefers, joined to predict the next item.

Cite: Li, Zhao, Liu, Huang, Mei, Chen: Learning from History and Present: Next-item Recommendation
via Discriminatively Exploiting User Behaviors, KDD 2018.

    v         = w-item2vec: skip-gram over a user's sequence, a positive times how often the
                sequence has its centre; frozen
    CLSTM     = LSTM whose gates read [ v_t ; one-hot of the type of the event ]
    session   = last state of a CLSTM over the latest `recent_length` events of any type
    preference = mean over the steps of a Bi-CLSTM over the preference events of the history
    p         = P [ session ; preference ; 1 if there is no preference event ] + c
    loss      = mean (p - v_next / |v_next|)^2
    score(i)  = cos(p, v_i)

A target is the first event of an item in its sequence, and what is read ends before it, so the
backward pass does not see it. Preference events (to collect, to put into the cart, to buy) are
taken out of the history, so others change nothing of their part; where there are none it is 0.

Deviations: of the equations the paper's abstract, figures and a reader's account were at hand. That
the count, over its mean in the sequence, multiplies the positive term; unit vectors as targets; the
linear P; Adam and the dropout of inputs are ours.
"""

from typing import ClassVar, Literal

import numpy as np
import pydantic
import tensorflow as tf

from models.contract.query import Query
from models.contract.recommender import weighed
from models.industry.item_vectors import VectorModel, VectorSettings
from models.industry.prefixes import Prefixes, targets
from models.industry.recurrent import read_through
from models.inputs import sampling
from models.inputs.columns import choose
from models.inputs.data import TrainingData
from models.inputs.dropout import Dropout
from models.inputs.preprocessing import FIRST_TOKEN
from models.names.errors import ConfigError
from models.names.hyper_parameters import Epochs, Gradient, Ranking, Xla
from models.names.sizes import ADDED, Parameters, Sizes, dense


class HyperParameters(Ranking, Epochs, Gradient, Xla, VectorSettings):
    """BINN's own.

    Attributes:
        preference_types: the types of events that tell what a user prefers; left out, all but the
            most frequent one of train, which is looking at an item.
        parts: what a prediction reads: both parts, or one of them.
        weighted: w-item2vec; false for item2vec, which counts an item once.
        recent_length: t_s, events of any type that are read, the latest.
        preference_length: preference events that are read, the latest.
        units: width of each LSTM.
        dropout: share of the inputs dropped in training.
    """

    REFUSALS: ClassVar[dict[str, str]] = {
        "mixed_precision": "its states are carried, and its vectors compared, in float32",
    }

    batch_size: int = 128
    preference_types: tuple[str, ...] | None = None
    parts: Literal["both", "session", "preference"] = "both"
    weighted: bool = True
    recent_length: int = pydantic.Field(10, ge=1)
    preference_length: int = pydantic.Field(50, ge=1)
    units: int = pydantic.Field(100, ge=1)
    dropout: float = pydantic.Field(0.2, ge=0, lt=1)

    def parameters(self, sizes: Sizes) -> Parameters:
        # A cell has four gates, and reads an item's vector and a one for the type of its event.
        inputs = self.embedding_dim + sizes.event_types + ADDED - 1
        cell = dense(inputs + self.units, 4 * self.units)
        cells, read = {"both": (3, 1), "session": (1, 0), "preference": (2, 1)}[self.parts]
        # With the preference goes a flag that there is none.
        learnt = cells * cell + dense(cells * self.units + read, self.embedding_dim)
        return Parameters(self.vector_parameters(sizes) + learnt)


class BINN(VectorModel[HyperParameters]):
    """Two LSTMs of events, one over the latest and one over those that tell a preference."""

    reads_history = ("event_types",)

    def __init__(self, hyper_parameters: HyperParameters, data: TrainingData):
        super().__init__(hyper_parameters, data, hyper_parameters.weighted)
        own = hyper_parameters
        self._types = len(data.event_types) + FIRST_TOKEN
        self._preferences = preference_index(own.preference_types, data.event_types)
        if own.parts != "preference":
            self.session = tf.keras.layers.LSTMCell(own.units)
        if own.parts != "session":
            self.forward = tf.keras.layers.LSTMCell(own.units)
            self.backward = tf.keras.layers.LSTMCell(own.units)
        self.projection = tf.keras.layers.Dense(own.embedding_dim)
        self._dropout = Dropout(own.dropout)

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> sampling.Batches:
        log, own = data.events, self.hyper_parameters
        prefers = np.isin(log.event_type, self._preferences)
        columns = {"item": log.item, "type": log.event_type}
        recent = Prefixes(log, columns, own.recent_length)
        preferred = Prefixes(log, columns, own.preference_length, prefers)

        def with_prefixes(batch):
            parts = {"recent": recent, "preference": preferred}
            read = {
                f"{part}_{name}": column
                for part, prefixes in parts.items()
                for name, column in prefixes.read(batch["position"]).items()
            }
            return {"target": batch["target"], **read}

        return sampling.shuffled_batches(targets(log), own.batch_size, seed, first_epoch).map(
            with_prefixes
        )

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        predicted = self.predict_vector(
            (inputs["recent_item"], inputs["recent_type"]),
            (inputs["preference_item"], inputs["preference_type"]),
            training,
        )
        error = tf.reduce_mean((predicted - self.unit(inputs["target"])) ** 2, axis=1)
        counted = tf.cast(self.has_vector(inputs["target"]), tf.float32)
        rows = weighed(inputs, counted * error)
        return tf.reduce_sum(rows) / tf.maximum(tf.reduce_sum(counted), 1.0)

    def predict_vector(
        self,
        recent: tuple[tf.Tensor, tf.Tensor],
        preference: tuple[tf.Tensor, tf.Tensor],
        training: bool = False,
    ) -> tf.Tensor:
        """Predicts the vector of the next item.

        Args:
            recent: the [B, L] item and type indices of the latest events, padded on the right with
                items of 0.
            preference: the same of the preference events.
            training: whether to drop inputs.

        Returns:
            [B, D] float32 p.
        """
        parts = []
        if self.hyper_parameters.parts != "preference":
            states, there = self._states(self.session, *recent, training)
            last = tf.reduce_sum(tf.cast(there, tf.int32), axis=1) - 1
            # All 0 where there is no event: the last is then at -1.
            chosen = tf.one_hot(last, tf.shape(there)[1])
            parts.append(tf.linalg.matvec(states, chosen, transpose_a=True))
        if self.hyper_parameters.parts != "session":
            parts += self._preference(*preference, training)
        return self.projection(tf.concat(parts, axis=1))

    def query_embedding(self, query: Query) -> tf.Tensor:
        own, history = self.hyper_parameters, query.history
        types = tf.zeros_like(history) if query.event_types is None else query.event_types
        prefers = tf.reduce_any(
            types.flat_values[:, tf.newaxis] == tf.constant(self._preferences, tf.int64), axis=1
        )
        chosen = history.with_flat_values(prefers)

        predicted = self.predict_vector(
            tuple(column[:, -own.recent_length :].to_tensor() for column in (history, types)),
            tuple(
                choose(column, chosen)[:, -own.preference_length :].to_tensor()
                for column in (history, types)
            ),
        )
        return tf.math.l2_normalize(predicted, axis=1)

    def _preference(self, items, types, training):
        """[B, L] preference events -> the [B, 2 units] mean state; [B, 1]: 1 if there is none."""
        ahead, there = self._states(self.forward, items, types, training)
        count = tf.reduce_sum(tf.cast(there, tf.int32), axis=1)
        turned = (tf.reverse_sequence(column, count, seq_axis=1) for column in (items, types))
        back, _ = self._states(self.backward, *turned, training)
        # A mean over the steps does not ask for their order, so `back` is not turned again.
        states = tf.concat([ahead, back], axis=2) * tf.cast(there, tf.float32)[..., tf.newaxis]
        size = tf.cast(count, tf.float32)[:, tf.newaxis]
        mean = tf.reduce_sum(states, axis=1) / tf.maximum(size, 1.0)
        return [mean, tf.cast(size == 0, tf.float32)]

    def _states(self, cell, items, types, training):
        """[B, L] events -> [B, L, units] states of a CLSTM, and the [B, L] steps that there are."""
        there = items > 0
        behaviour = tf.one_hot(types - 1, self._types - 1)  # all 0 where nobody tells the type
        inputs = tf.concat([self.unit(items), behaviour], axis=2)
        return read_through(cell, self._dropout(inputs, training=training), there), there


def preference_index(wanted: tuple[str, ...] | None, event_types: list[bytes]) -> list[int]:
    """The indices of the event types that tell a preference.

    Args:
        wanted: their names, or None for all but the first.
        event_types: the types of train, most frequent first.

    Raises:
        ConfigError: the log has types, and none of that name.
    """
    names = [name.decode("utf-8", "backslashreplace") for name in event_types]
    chosen = set(names[1:] if wanted is None else wanted)
    missing = chosen - set(names)
    if missing and names:
        raise ConfigError(
            f"binn: preference_types: required: event types of train ({', '.join(names)}); "
            f"received {', '.join(sorted(missing))}"
        )
    return [number for number, name in enumerate(names, start=FIRST_TOKEN) if name in chosen]


Model = BINN
