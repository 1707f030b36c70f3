"""Tan et al.: a recurrent network over whole sessions, with four ways to make more of them.

Cite: Tan, Xu, Liu: Improved Recurrent Neural Networks for Session-based Recommendations, DLRS 2016.

    h_t      = GRU(e_{x_t}, h_{t-1})                     e: 50 columns; back-propagated through time
    p_t      = softmax(W h_t + b)                        over all items
    loss_t   = - ln p_t[x_{t+1}]
    M1       every prefix x_1 .. x_t of a session is an example (`augmentation`), and of its clicks
             a share `click_dropout` is left out
    M2       M1 on all sessions, then on the newest share of them, `recent_share`
    M3       loss_t = - sum_i ((1 - l) 1[i = x_{t+1}] + l q_t[i]) ln p_t[i], l = `teacher_share`
             q_t: softmax(scores / `temperature`) of a teacher (`privileged`), the same network,
             which has read the clicks after the target, x_n .. x_{t+2}
    M4       loss_t = 1 - cos(A h_t + a, e_{x_{t+1}})    (`output: embedding`), e of the softmax
             network trained first, and fixed; ranked by the cosine

The GRU: models/rnn/gru.py. Adam. Constants are the paper's, as far as they are known.

Deviations: one pass over a session has all of its prefixes as targets, which is their loss and
gradient without the copies; the prefixes of a session are therefore in one batch, and share the
clicks that are left out. `batch_size` counts sessions (the paper's 512 prefixes are some 128 to
170). A session longer than `history_length` is cut into windows, elsewhere every epoch. A click
left out is a zero vector, the others are scaled. A target without clicks after it has no soft
label. The teacher is trained for all `epochs`: validation asks for the click after, and it learns
the one before. The tuning of M2 begins with an empty Adam, at `tuning_rate`. M4 begins with the GRU
of its softmax network, as well as with its embeddings. `embedding: constrained` (the output table
is the input table) and the other two dropouts are not the paper's, and off.
"""

import dataclasses
from typing import Literal

import numpy as np
import pydantic
import tensorflow as tf

from models.contract.loop import Loop
from models.contract.query import Query
from models.contract.recommender import weighed
from models.contract.retrieve import DotProductModel
from models.inputs.data import TrainingData
from models.inputs.dropout import Dropout
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.sampling import Batches
from models.inputs.token_layers import id_embedding
from models.names.hyper_parameters import Epochs, Gradient, MixedPrecision, Ranking, Xla
from models.names.sizes import Parameters, Sizes, dense
from models.rnn import gru, sessions
from models.training.optimizers import Adam


class HyperParameters(Ranking, Epochs, Gradient, MixedPrecision, Xla):
    """Tan's own; the defaults are M1.

    `units` are the widths of the GRU layers; `embedding` says whether the output table is the
    input table (constrained) or a second one (separate, of `embedding_dim`).

    Attributes:
        augmentation: M1: every prefix of a session is an example.
        click_dropout: share of an example's clicks that are left out.
        recent_share: M2: the newest share of the sessions that training ends on; 1: none.
        tuning_rate: step size on them.
        privileged: M3: a teacher that has read the later clicks gives soft labels.
        teacher_share: weight of those against the target.
        output: `softmax` over the items, or `embedding`: M4.
    """

    epochs: int = 20
    patience: int = 3
    batch_size: int = 128
    augmentation: bool = True
    click_dropout: float = pydantic.Field(0.25, ge=0, lt=1)
    recent_share: float = pydantic.Field(1.0, gt=0, le=1)
    tuning_rate: float = pydantic.Field(1e-4, gt=0)
    privileged: bool = False
    teacher_share: float = pydantic.Field(0.2, ge=0, le=1)
    temperature: float = pydantic.Field(1.0, gt=0)
    output: Literal["softmax", "embedding"] = "softmax"
    units: tuple[pydantic.PositiveInt, ...] = pydantic.Field((100,), min_length=1)
    embedding: Literal["separate", "constrained"] = "separate"
    embedding_dim: int = pydantic.Field(50, ge=1)
    dropout_embedding: float = pydantic.Field(0.0, ge=0, lt=1)
    dropout_hidden: float = pydantic.Field(0.0, ge=0, lt=1)
    history_length: int = pydantic.Field(19, ge=1)

    @pydantic.model_validator(mode="after")
    def _soft_labels(self):
        if self.privileged and not (self.augmentation and self.output == "softmax"):
            raise ValueError(
                "privileged is for the output 'softmax' with augmentation: the last click has none "
                f"after it; received {self.output!r} and augmentation {self.augmentation}"
            )
        return self

    def parameters(self, sizes: Sizes) -> Parameters:
        constrained = self.embedding == "constrained"
        width = self.units[-1] if constrained else self.embedding_dim
        learnt = sizes.table("item", width) + gru.parameters(self.units, width)
        if self.output == "embedding":
            learnt += dense(self.units[-1], width)
        else:
            learnt += sizes.table("item", 1)
            learnt += 0 if constrained else sizes.table("item", self.units[-1])
        # The teacher, with its optimiser.
        return Parameters(learnt, beside=3 * learnt if self.privileged else 0)


class Tan(DotProductModel[HyperParameters]):
    """A hidden state that reads items one by one and is matched with an output table.

    Args:
        hyper_parameters: the settings.
        data: what is trained on.
        backward: read sessions from their end, as the teacher does.
    """

    uses_user_id = False
    uses_history = True
    session_based = True

    def __init__(
        self, hyper_parameters: HyperParameters, data: TrainingData, backward: bool = False
    ):
        super().__init__(hyper_parameters, data)
        self.biased = hyper_parameters.output != "embedding"
        units, rows = hyper_parameters.units, data.items.embedding_rows
        constrained = hyper_parameters.embedding == "constrained"
        width = units[-1] if constrained else hyper_parameters.embedding_dim
        self.inputs = id_embedding(data.items, width, gru.uniform(rows, width), "inputs")
        self.projections, self.layers_ = gru.layers(units, width)
        if hyper_parameters.output == "embedding":
            self.inputs.trainable = False
            self.prediction = tf.keras.layers.Dense(width, name="prediction")
        else:
            self.items = self.inputs
            if not constrained:
                initial = gru.uniform(rows, units[-1])
                self.items = id_embedding(data.items, units[-1], initial, "items")
            self.biases = id_embedding(data.items, 1, "zeros", "biases")
        self._rows = tf.range(FIRST_TOKEN, rows, dtype=tf.int64)
        self._click_dropout = Dropout(hyper_parameters.click_dropout, whole_vectors=True)
        self._embedding_dropout = Dropout(hyper_parameters.dropout_embedding)
        self._hidden_dropout = Dropout(hyper_parameters.dropout_hidden)
        self._backward = backward
        self._share = 1.0
        # A method, since a model kept as an attribute would be a part of this one.
        self._soft_labels = None

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> Batches:
        hyper_parameters = self.hyper_parameters
        length = hyper_parameters.history_length
        (items, starts), weight = data.events.sequences(), data.events.sequence_weight
        starts = sessions.newest(starts, self._share)
        if not hyper_parameters.augmentation:
            kept, starts = sessions.last_events(starts, length + 1)
            items, weight = items[kept], None if weight is None else weight[kept]
        batches = sessions.window_batches(
            items, starts, length, hyper_parameters.batch_size, seed, first_epoch, weight
        )
        if not hyper_parameters.augmentation:
            targets = int((np.diff(starts) > 1).sum())
            batches = dataclasses.replace(batches.map(sessions.only_last_target), rows=targets)
        return batches.map(sessions.backward) if self._backward else batches

    def learn(self, loop: Loop) -> None:
        hyper_parameters = self.hyper_parameters
        if hyper_parameters.output == "embedding":
            self._learn_embeddings(loop)
        if hyper_parameters.privileged:
            with loop.strategy.scope():
                teacher = Tan(hyper_parameters, loop.data, backward=True)
            loop.fit(teacher, stage="teacher", validate=False)
            self._soft_labels = teacher.soft_labels
        tunes = hyper_parameters.recent_share < 1
        if not (tunes and loop.warm_started):
            loop.fit(self)
        if tunes:
            self._share = hyper_parameters.recent_share
            with loop.strategy.scope():
                optimizer = Adam(hyper_parameters.tuning_rate)
            loop.fit(self, stage="recent", optimizer=optimizer)
        self._soft_labels = None

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        valid = inputs["valid"]
        hidden = self._read(inputs["item"], training)[valid]
        hidden = self._hidden_dropout(hidden, training=training)
        of_targets = {name: column[valid] for name, column in inputs.items()}
        target = of_targets["target"]
        if self.hyper_parameters.output == "embedding":
            wanted = tf.cast(self.inputs(target), tf.float32)
            rows = 1.0 - tf.reduce_sum(self._direction(hidden) * unit(wanted), axis=1)
        else:
            scores = self._scores(hidden)
            labels = target - FIRST_TOKEN
            rows = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, scores)
            if self._soft_labels is not None:
                soft, has = self._soft_labels(inputs)
                share = self.hyper_parameters.teacher_share * tf.cast(has, tf.float32)
                taught = tf.nn.softmax_cross_entropy_with_logits(soft, scores)
                rows += share * (taught - rows)
        # Over the sequences, not the targets: a replica's share of a batch is counted in rows.
        return tf.reduce_sum(weighed(of_targets, rows)) / tf.cast(tf.shape(valid)[0], tf.float32)

    def soft_labels(self, inputs: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """What a backward network says of the targets from the clicks after them.

        Args:
            inputs: a batch of the network that reads forward.

        Returns:
            [V, N] float32 probabilities of the catalogue for the V valid targets; and [V] bool,
            whether there is a click after the target.
        """
        valid = inputs["valid"]
        states = self._read(sessions.backward(inputs)["item"])[:, ::-1]
        # At a place: what has read the target there and all after it; one further: without it.
        after = tf.pad(states[:, 1:], [[0, 0], [0, 1], [0, 0]])[valid]
        has = tf.pad(valid[:, 1:], [[0, 0], [0, 1]])[valid]
        scores = self._scores(after) / self.hyper_parameters.temperature
        return tf.stop_gradient(tf.nn.softmax(scores)), has

    def query_embedding(self, query: Query) -> tf.Tensor:
        history = query.history[:, -self.hyper_parameters.history_length :]
        # One place of padding more, so that there is something to scan when all histories are
        # empty.
        hidden = self._read(tf.pad(history.to_tensor(default_value=0), [[0, 0], [0, 1]]))[:, -1]
        if self.hyper_parameters.output == "embedding":
            return self._direction(hidden)
        return tf.concat([tf.cast(hidden, tf.float32), tf.ones([tf.shape(hidden)[0], 1])], axis=1)

    def item_embeddings(self) -> tf.Tensor:
        if self.hyper_parameters.output == "embedding":
            return unit(tf.cast(self.inputs(self._rows), tf.float32))
        both = tf.concat([self.items(self._rows), self.biases(self._rows)], axis=1)
        return tf.cast(both, tf.float32)

    def _learn_embeddings(self, loop: Loop) -> None:
        """Trains a softmax network, which begins where a warm start has left this one."""
        settings = self.hyper_parameters.model_copy(update={"output": "softmax"})
        with loop.strategy.scope():
            softmax = Tan(settings, loop.data)
        for model in (softmax, self):
            loop.build(model)
        if loop.warm_started:
            softmax._take(self)
        loop.fit(softmax, stage="softmax")
        self._take(softmax)

    def _take(self, other: "Tan") -> None:
        """Takes the weights of another network but those of the output."""
        for own, its in zip(
            [self.inputs, *self.projections, *self.layers_],
            [other.inputs, *other.projections, *other.layers_],
            strict=True,
        ):
            own.set_weights(its.get_weights())

    def _read(self, items, training=False):
        """[B, L] items, 0 where there is none -> [B, L, units] states from the zero state on."""
        hidden = self._embedding_dropout(self.inputs(items), training=training)
        hidden = self._click_dropout(hidden, training=training)
        return gru.read(self.projections, self.layers_, hidden, items > 0)

    def _scores(self, hidden):
        """[V, units] -> [V, N] float32, of the catalogue."""
        items = self.item_embeddings()
        hidden = tf.cast(hidden, tf.float32)
        return tf.matmul(hidden, items[:, :-1], transpose_b=True) + items[:, -1]

    def _direction(self, hidden):
        """[V, units] -> [V, width] float32 of length 1: where the embedding is looked for."""
        return unit(tf.cast(self.prediction(hidden), tf.float32))


def unit(vectors: tf.Tensor) -> tf.Tensor:
    """[..., D] -> [..., D] of length 1."""
    return tf.math.l2_normalize(vectors, axis=-1)


Model = Tan
