"""GRU4Rec: a recurrent network over the events of a session, which ranks the next item.

It is trained on session-parallel mini-batches.

Cite: Hidasi, Karatzoglou, Baltrunas, Tikk: Session-based Recommendations with Recurrent Neural
Networks, ICLR 2016; Hidasi, Karatzoglou: Recurrent Neural Networks with Top-k Gains for
Session-based Recommendations, CIKM 2018 (additional samples, the -max losses, constrained
embeddings).

    h'       = GRU(x, h)
    score(i) = w_i . h' + b_i
    loss     = sum of the rows' losses / batch size, over the targets of the batch and
               `n_sample` items drawn with support^alpha

The state of a slot is carried from step to step, never propagated through, zeroed where a session
begins; what dropout leaves of it is what is carried. The GRU: models/rnn/gru.py. Losses:
models/rnn/losses.py. Optimiser: Adagrad with an empty accumulator and momentum after scaling.
Defaults: the papers' architecture, sampling and batch of 32; rates and dropout differ a set in the
papers, and are ours here.

Deviations: the batch keeps its size at the end of an epoch and masks the rows that have run out; a
row that a step touches several times gets one Adagrad update of the summed gradient; ranking uses
the scores before their activation, which is monotone but saturates; unknown items are skipped; at
serving only the last `history_length` items are read, from a zero state.
"""

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
from models.inputs.sampling import Batches, PopularitySamples
from models.inputs.token_layers import id_embedding
from models.names.errors import ConfigError
from models.names.hyper_parameters import Epochs, Gradient, LazyAdam, MixedPrecision, Ranking, Xla
from models.names.sizes import Parameters, Sizes
from models.rnn import gru, losses, sessions
from models.training.optimizers import Adagrad


class HyperParameters(Ranking, Epochs, Gradient, LazyAdam, MixedPrecision, Xla):
    """GRU4Rec's own.

    `units` are the widths of the GRU layers; `embedding` says what the input is: the output table
    (constrained), a table of its own of `embedding_dim` (separate) or nothing but the item
    (one_hot). `logq` (cross-entropy) and `bpreg` (BPR-max) as in the authors' later work;
    `score_activation` applies to all losses but cross-entropy.

    Attributes:
        n_sample: items drawn for a step, besides the batch's own targets.
        sample_alpha: they are drawn by their events to this power; 0: all alike.
        logq: cross-entropy: how much of the log of that share is taken off a score.
        bpreg: bpr_max: weight of the squared scores of negatives.
        score_activation: of the scores, in all losses but cross-entropy.
        elu_alpha: elu: where it levels off, below zero.
        momentum: of Adagrad, after its scaling.
    """

    epochs: int = 10
    patience: int = 3
    batch_size: int = 32
    learning_rate: float = 0.1
    loss: Literal["cross_entropy", "bpr", "top1", "bpr_max", "top1_max"] = "cross_entropy"
    n_sample: int = pydantic.Field(2048, ge=0)
    sample_alpha: float = pydantic.Field(0.5, ge=0)
    logq: float = pydantic.Field(0.0, ge=0)
    bpreg: float = pydantic.Field(1.0, ge=0)
    score_activation: Literal["linear", "tanh", "elu"] = "linear"
    elu_alpha: float = pydantic.Field(0.5, gt=0)
    units: tuple[pydantic.PositiveInt, ...] = pydantic.Field((100,), min_length=1)
    embedding: Literal["constrained", "separate", "one_hot"] = "constrained"
    embedding_dim: int = pydantic.Field(50, ge=1)
    dropout_embedding: float = pydantic.Field(0.0, ge=0, lt=1)
    dropout_hidden: float = pydantic.Field(0.0, ge=0, lt=1)
    optimizer: Literal["adagrad", "adam"] = "adagrad"
    momentum: float = pydantic.Field(0.0, ge=0, lt=1)
    history_length: int = pydantic.Field(50, ge=1)

    @pydantic.model_validator(mode="after")
    def _lazy_adam(self):
        if self.lazy_adam and self.optimizer != "adam":
            raise ValueError(f"lazy_adam is for the optimizer 'adam'; received {self.optimizer!r}")
        return self

    def parameters(self, sizes: Sizes) -> Parameters:
        one_hot = self.embedding == "one_hot"
        width = {
            "constrained": self.units[-1],
            "separate": self.embedding_dim,
            "one_hot": 3 * self.units[0],
        }[self.embedding]
        learnt = sizes.table("item", self.units[-1]) + sizes.table("item", 1)
        if self.embedding != "constrained":
            learnt += sizes.table("item", width)
        learnt += gru.parameters(self.units, width, projected=one_hot)
        states = self.batch_size * sum(self.units)
        slots = 1 + bool(self.momentum) if self.optimizer == "adagrad" else 2
        return Parameters(learnt, states, slots=slots)


class GRU4Rec(DotProductModel[HyperParameters]):
    """A hidden state that reads items one by one and is matched with an output table."""

    uses_user_id = False
    uses_history = True
    session_based = True
    biased = True

    def __init__(self, hyper_parameters: HyperParameters, data: TrainingData):
        super().__init__(hyper_parameters, data)
        units, rows = hyper_parameters.units, data.items.embedding_rows
        self._known = data.items.train_count

        def table(width, name, initializer):
            return id_embedding(data.items, width, initializer, name)

        self.items = table(units[-1], "items", gru.uniform(rows, units[-1]))
        self.biases = table(1, "biases", "zeros")
        width = {
            "constrained": units[-1],
            "separate": hyper_parameters.embedding_dim,
            "one_hot": 3 * units[0],
        }[hyper_parameters.embedding]
        self.inputs = self.items
        if hyper_parameters.embedding != "constrained":
            one_hot = hyper_parameters.embedding == "one_hot"
            self.inputs = table(width, "inputs", gru.uniform(rows, units[0] if one_hot else width))
        self.projections, self.layers_ = gru.layers(
            units, width, projected=hyper_parameters.embedding == "one_hot"
        )
        self._embedding_dropout = Dropout(hyper_parameters.dropout_embedding)
        self._hidden_dropout = Dropout(hyper_parameters.dropout_hidden)
        supports = np.maximum(data.item_counts, 1)
        self._log_support = tf.constant(
            np.log(np.concatenate([[1] * FIRST_TOKEN, supports])), tf.float32
        )
        self._replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self._states = [self._state(size, number) for number, size in enumerate(units)]

    def _state(self, size: int, number: int):
        """The carried state of the slots.

        Every replica has its own slots, and nothing is exchanged.
        """
        slots, rest = divmod(self.hyper_parameters.batch_size, self._replicas)
        if rest:
            raise ConfigError(
                f"gru4rec: batch_size must be a multiple of the {self._replicas} replicas; "
                f"received {slots * self._replicas + rest}"
            )
        return self.add_weight(
            f"state_{number}",
            [slots, size],
            dtype=tf.float32,
            initializer="zeros",
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> Batches:
        hyper_parameters = self.hyper_parameters
        items, starts = data.events.sequences()
        # A replica gets its share of whatever a batch holds, and needs n_sample for itself.
        count = hyper_parameters.n_sample * self._replicas
        samples = (
            PopularitySamples(
                data.item_counts[: data.items.train_count], hyper_parameters.sample_alpha, count
            )
            if count
            else None
        )
        return sessions.parallel_batches(
            items,
            starts,
            hyper_parameters.batch_size,
            samples,
            seed,
            first_epoch,
            data.events.sequence_weight,
        )

    def learn(self, loop: Loop) -> None:
        hyper_parameters = self.hyper_parameters
        with loop.strategy.scope():
            adagrad = (
                Adagrad(hyper_parameters.learning_rate, hyper_parameters.momentum)
                if hyper_parameters.optimizer == "adagrad"
                else None
            )
        loop.fit(self, optimizer=adagrad)

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        valid = inputs["valid"]
        hidden = self._embedding_dropout(self.inputs(inputs["item"]), training=training)
        for projection, layer, state in zip(
            self.projections, self.layers_, self._states, strict=True
        ):
            before = tf.where(inputs["fresh"][:, tf.newaxis], 0.0, state)
            hidden = self._hidden_dropout(layer((projection(hidden), before)), training=training)
            if training:
                state.assign(tf.where(valid[:, tf.newaxis], tf.cast(hidden, tf.float32), 0.0))
        sampled = inputs.get("sampled", tf.zeros([0], tf.int64))
        columns = tf.concat([inputs["target"], sampled], axis=0)
        counted = tf.concat([valid, tf.ones_like(sampled, tf.bool)], axis=0)
        scores = self._activate(self._scores(hidden, columns), inputs["target"], sampled)
        own = tf.range(tf.shape(valid)[0])
        rows = losses.row_losses(
            self.hyper_parameters.loss, scores, own, counted, self.hyper_parameters.bpreg
        )
        # Of all slots, also those that the end of an epoch leaves empty.
        return tf.reduce_mean(weighed(inputs, tf.where(valid, rows, 0.0)))

    def query_embedding(self, query: Query) -> tf.Tensor:
        history = query.history[:, -self.hyper_parameters.history_length :]
        # One place of padding more, so that there is something to scan when all histories are
        # empty.
        hidden = self._read(tf.pad(history.to_tensor(default_value=0), [[0, 0], [0, 1]]))[:, -1]
        return tf.concat([tf.cast(hidden, tf.float32), tf.ones([tf.shape(hidden)[0], 1])], axis=1)

    def item_embeddings(self) -> tf.Tensor:
        items = tf.range(FIRST_TOKEN, FIRST_TOKEN + self._known, dtype=tf.int64)
        return tf.cast(tf.concat([self.items(items), self.biases(items)], axis=1), tf.float32)

    def _read(self, items):
        """[B, L] items, 0 where there is none -> [B, L, units] states from the zero state on."""
        return gru.read(self.projections, self.layers_, self.inputs(items), items > 0)

    def _scores(self, hidden, columns):
        """[B, units], [C] item indices -> [B, C]."""
        return tf.matmul(hidden, self.items(columns), transpose_b=True) + self.biases(columns)[:, 0]

    def _activate(self, scores, target, sampled):
        hyper_parameters, scores = self.hyper_parameters, tf.cast(scores, tf.float32)
        if hyper_parameters.loss == "cross_entropy":
            if hyper_parameters.logq:
                expected = [
                    tf.gather(self._log_support, target),
                    hyper_parameters.sample_alpha * tf.gather(self._log_support, sampled),
                ]
                scores -= hyper_parameters.logq * tf.concat(expected, axis=0)
            return scores
        if hyper_parameters.score_activation == "elu":
            return tf.where(
                scores > 0,
                scores,
                hyper_parameters.elu_alpha * tf.math.expm1(tf.minimum(scores, 0.0)),
            )
        return tf.tanh(scores) if hyper_parameters.score_activation == "tanh" else scores


Model = GRU4Rec
