"""The training loop: a model's steps, by the strategy that distributes them.

What is validated, kept and saved of them: `models.training.keeper`.
"""

import os
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from models.inputs.sampling import Batches, Share
from models.inputs.tensorflow_private import with_seeds
from models.inputs.token_layers import TokenEmbedding
from models.names.errors import ConfigError
from models.training.keeper import Keeper, Within
from models.training.optimizers import Adam, Divided, RowAdagrad
from models.training.progress import describe, say
from models.training.servers import ParameterServers


@dataclass
class TrainingLoop:
    """What a model's `learn` works with.

    Attributes:
        hyper_parameters: the model's.
        data: the training data.
        seed: of batches and negatives.
        evaluation: validation; None trains for all epochs.
        strategy: how steps are distributed.
        checkpoint_dir: where an interrupted training is resumed from; None keeps no checkpoint.
        log_dir: TensorBoard logs; None writes none.
        stage_epochs: stage -> epochs, where they were chosen before: to train again on all that
            there is to learn from.
        servers: where the tables of a sharded model lie; None: in the memory of this process.
        warm_started: every trainable variable and table of tokens of the model holds what an
            earlier one had learnt, so a procedure that would overwrite them is skipped.
        history: one dict an epoch and stage: epoch, stage, seconds, loss, examples_per_second,
            validation metrics.
        best_epochs: stage -> the epoch whose weights were kept.
    """

    hyper_parameters: Any
    data: Any
    seed: int = 0
    evaluation: Any = None
    strategy: tf.distribute.Strategy = field(default_factory=tf.distribute.get_strategy)
    checkpoint_dir: str | None = None
    log_dir: str | None = None
    stage_epochs: dict[str, int] = field(default_factory=dict)
    servers: ParameterServers | None = None
    warm_started: bool = False
    history: list[dict] = field(default_factory=list)
    best_epochs: dict[str, int] = field(default_factory=dict)

    def fit(
        self,
        model,
        stage: str = "model",
        optimizer=None,
        epochs: int | None = None,
        before_epoch=None,
        validate: bool = True,
    ) -> None:
        """Trains `model` by gradient until validation stops improving.

        Leaves it with the best of its averaged weights; see `models.training.keeper`.

        Args:
            model: has `batches(data, seed, first_epoch)` and a Keras `train_step`.
            stage: names this part of a procedure that trains several models; checkpoints and logs
                are kept apart by it.
            optimizer: default Adam with the learning rate of the hyper-parameters.
            epochs: default the hyper-parameters'.
            before_epoch: called before the steps of every epoch, for procedures that alternate with
                them.
            validate: false for a part that answers no query, such as an embedding that a later
                stage looks at: it is trained for all epochs, as where there is no validation.
        """
        hyper_parameters = self.hyper_parameters
        model.dropout_seed = self.seed
        epochs = self.stage_epochs.get(stage, epochs or hyper_parameters.epochs)
        together = self.strategy.num_replicas_in_sync > 1 or self.servers
        with self.strategy.scope():
            model.compile(
                optimizer=optimizer or self._optimizer(model),
                jit_compile=hyper_parameters.setting("jit_compile"),
                steps_per_execution=1 if together else 8,
            )
        keeper = Keeper(self, model, stage, epochs, before_epoch, validate)
        batches = model.batches(self.data, self.seed, keeper.first_epoch)
        if hyper_parameters.setting("jit_compile"):
            batches = batches.in_few_shapes()
        # There must be variables to restore, and those that the first step would make have it
        # traced a second time.
        self.build(model, batches)
        stepped = model
        if self.servers:
            stepped = self.servers.twin(
                model, self.data, next(iter(batches.dataset)), model.optimizer
            )
        keeper.prepare(stepped)
        keeper.restore()
        if not keeper.finished:
            keeper.rows, keeper.steps = batches.rows, batches.steps
            callbacks = [keeper]
            if keeper.saves_within:
                callbacks.append(Within(keeper))
            if self.log_dir:
                callbacks.append(
                    tf.keras.callbacks.TensorBoard(
                        os.path.join(self.log_dir, stage), write_graph=False
                    )
                )
            for first, end, begin in keeper.parts():
                rest = batches.after((first - keeper.first_epoch) * batches.steps + begin)
                stepped.fit(
                    self.servers.batches(stepped, self.data, self.seed, first)
                    if self.servers
                    else self._distributed(rest),
                    initial_epoch=first,
                    epochs=end,
                    steps_per_epoch=batches.steps - begin,
                    callbacks=callbacks,
                    verbose=0,
                )
        keeper.keep_best()

    def _optimizer(self, model) -> tf.keras.optimizers.Optimizer:
        """Adam or, of the tables of a model that asks for it, row-wise Adagrad.

        Raises:
            ConfigError: the tables lie on parameter servers, which are told of one optimiser.
        """
        hyper_parameters = self.hyper_parameters
        rate = hyper_parameters.learning_rate
        adam = Adam(rate, lazy=hyper_parameters.setting("lazy_adam"))
        if not hyper_parameters.setting("row_adagrad"):
            return adam
        if self.servers:
            raise ConfigError(
                "row_adagrad: on parameter servers one optimiser takes the steps; required: "
                "row_adagrad: false, or no cluster.parameter_servers"
            )
        tables = [each for each in model.submodules if isinstance(each, TokenEmbedding)]
        return Divided(
            [RowAdagrad(rate), adam],
            lambda variable: int(all(variable is not table.embeddings for table in tables)),
        )

    def build(self, model, batches=None) -> None:
        """Creates the variables of a model (and of its optimiser).

        So there is something to load weights into.

        Args:
            model: the model.
            batches: what it is given, where they are at hand.
        """
        batches = batches or model.batches(self.data, self.seed, 0)
        with self.strategy.scope():
            # Each replica its share, as in a step: a model may hold something for each of its rows.
            batch = next(iter(self._distributed(batches)))
            made = with_seeds(lambda rows: model.compute_loss(rows, training=False))
            self.strategy.run(made, args=(batch,))
            if getattr(model, "optimizer", None):
                model.optimizer.build(model.trainable_variables)

    def _distributed(self, batches: Batches) -> Any:
        """The batches as the strategy's replicas take them, endless.

        Each of several workers makes what its own replicas have of a batch. For the devices of one
        worker whole ones are cut.
        """
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.DATA
        )
        # As many threads as there are cores, and nobody who looks for a better number: that thread
        # may miss its end, and whoever drops the iterator waits for it, up to a minute.
        options.autotune.enabled = False
        strategy = self.strategy
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            whole = batches.dataset.prefetch(tf.data.AUTOTUNE).with_options(options)
            return strategy.experimental_distribute_dataset(whole)

        def own(context: tf.distribute.InputContext) -> tf.data.Dataset:
            replicas = context.num_replicas_in_sync
            here = replicas // context.num_input_pipelines
            first = context.input_pipeline_id * here
            shares = [batches.make(0, Share(first + number, replicas)) for number in range(here)]
            # A worker's replicas take their batches from it in turn.
            turns = tf.data.Dataset.range(here).repeat()
            in_turn = tf.data.Dataset.choose_from_datasets(shares, turns)
            return in_turn.prefetch(tf.data.AUTOTUNE).with_options(options)

        return strategy.distribute_datasets_from_function(own)

    def record(self, model, stage: str = "model", seconds: float = 0.0) -> None:
        """Notes a model that was fitted in closed form."""
        row = {
            "stage": stage,
            "epoch": 1,
            "seconds": seconds,
            "loss": None,
            "examples_per_second": None,
        }
        if self.evaluation:
            row.update(self.evaluation.of(model)())
        self.history.append(row)
        self.best_epochs[stage] = 1
        say(describe(row))
