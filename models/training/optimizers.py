"""Optimisers as papers define them.

Keras' own of the same name is another algorithm or a slow one.
"""

from collections.abc import Callable

import tensorflow as tf

from models.inputs import tensorflow_private


class Adam(tf.keras.optimizers.Adam):
    """Adam (Kingma, Ba, ICLR 2015) as Keras has it, each variable in one fused step.

    Keras' own reads and writes a table of embeddings ten times a step.

        m <- beta_1 m + (1 - beta_1) g,   v <- beta_2 v + (1 - beta_2) g^2
        p <- p - learning_rate sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon)

    Args:
        learning_rate: step size, or a schedule of the steps taken.
        lazy: of a table of embeddings move only the rows that a step has gradients of, their m and
            v included. The time of a step then does not grow with the table; m and v of the other
            rows wait where Adam lets them decay.
        l2: share of every weight that is added to its gradient, as that of a penalty l2 / 2 |p|^2
            in the loss would be; it is not AdamW's decay. With `lazy`, of the rows that move.
        epsilon: keeps the division finite. Where gradients are as small, as those of a softmax over
            many items are, it is a setting of the paper.
    """

    def __init__(
        self,
        learning_rate: float | tf.keras.optimizers.schedules.LearningRateSchedule = 1e-3,
        lazy: bool = False,
        l2: float = 0.0,
        epsilon: float = 1e-7,
        name: str = "Adam",
    ):
        super().__init__(learning_rate, epsilon=epsilon, name=name)
        self.lazy, self.l2 = lazy, l2

    def apply_gradients(self, grads_and_vars, **kwargs):
        """Adds up the gradients of rows at once, where a table moves whole.

        Keras makes rows distinct first, which the table would have to add up again. Not with l2,
        whose own gradient is as large as the table, and takes the rows; nor under a strategy: what
        goes to another device is better a few rows than a table.
        """
        if self.lazy or self.l2 or tf.distribute.has_strategy():
            return super().apply_gradients(grads_and_vars, **kwargs)
        pairs = [
            (tf.convert_to_tensor(gradient) if gradient is not None else None, variable)
            for gradient, variable in grads_and_vars
        ]
        return super().apply_gradients(pairs, **kwargs)

    def update_step(self, gradient, variable):
        """Updates one variable, whole or, where `lazy`, by rows."""
        m, v = tensorflow_private.adam_moments(self, variable)
        numbers = (self.learning_rate, self.beta_1, self.beta_2, self.epsilon)
        rate, beta_1, beta_2, epsilon = (tf.cast(number, variable.dtype) for number in numbers)
        step = tf.cast(self.iterations + 1, variable.dtype)
        power_1, power_2 = beta_1**step, beta_2**step
        if self.lazy and isinstance(gradient, tf.IndexedSlices):
            rows, values = (
                gradient.indices,
                gradient.values,
            )  # each row once: Keras has added them up
            if self.l2:
                values += self.l2 * tf.gather(variable, rows)
            new_m = beta_1 * tf.gather(m, rows) + (1 - beta_1) * values
            new_v = beta_2 * tf.gather(v, rows) + (1 - beta_2) * values**2
            m.scatter_update(tf.IndexedSlices(new_m, rows))
            v.scatter_update(tf.IndexedSlices(new_v, rows))
            rate = rate * tf.sqrt(1 - power_2) / (1 - power_1)
            variable.scatter_sub(tf.IndexedSlices(rate * new_m / (tf.sqrt(new_v) + epsilon), rows))
        else:
            if self.l2:
                gradient = _added(gradient, self.l2 * variable)
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=m.handle,
                v=v.handle,
                beta1_power=power_1,
                beta2_power=power_2,
                lr=rate,
                beta1=beta_1,
                beta2=beta_2,
                epsilon=epsilon,
                grad=tf.convert_to_tensor(gradient),
            )

    def get_config(self):
        """The constructor's arguments."""
        return {
            "learning_rate": tensorflow_private.learning_rate_config(self),
            "lazy": self.lazy,
            "l2": self.l2,
            "epsilon": self.epsilon,
            "name": self.name,
        }


def _added(gradient, dense: tf.Tensor) -> tf.Tensor:
    """The sum of a gradient, dense or of rows, and a whole one, which is not copied."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.tensor_scatter_nd_add(dense, gradient.indices[:, tf.newaxis], gradient.values)
    return gradient + dense


class Adagrad(tf.keras.optimizers.Optimizer):
    """Adagrad that starts from an empty accumulator, with momentum after the scaling.

        acc <- acc + g^2,   v <- momentum v - learning_rate g / sqrt(acc + epsilon),   p <- p + v

    Keras' own starts its accumulator at 0.1, has epsilon outside the root and no momentum. Rows of
    a table that a step does not touch stay as they are, their velocity included; gradients of a row
    that a step touches several times are summed first.

    Args:
        learning_rate: step size.
        momentum: share of the last step that is taken again; 0 keeps no velocity.
        epsilon: added to the accumulator under the root.
    """

    def __init__(
        self,
        learning_rate: float = 0.05,
        momentum: float = 0.0,
        epsilon: float = 1e-6,
        name: str = "Adagrad",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        tensorflow_private.set_learning_rate(self, learning_rate)
        self.momentum = momentum
        self.epsilon = epsilon

    def build(self, var_list):
        """Creates the accumulators, and the velocities where there is momentum."""
        super().build(var_list)
        if not tensorflow_private.builds_now(self):
            return
        # What is under the root is acc + epsilon, so the sum starts there.
        self._accumulators = [
            self.add_variable_from_reference(
                variable, "accumulator", initial_value=tf.fill(variable.shape, self.epsilon)
            )
            for variable in var_list
        ]
        self._velocities = (
            [self.add_variable_from_reference(variable, "velocity") for variable in var_list]
            if self.momentum
            else []
        )

    def update_step(self, gradient, variable):
        """Updates one variable, dense or by rows."""
        rate = tf.cast(self.learning_rate, variable.dtype)
        place = tensorflow_private.place_of(self, variable)
        accumulator = self._accumulators[place]
        velocity = self._velocities[place] if self.momentum else None
        if isinstance(gradient, tf.IndexedSlices):
            rows, values = gradient.indices, gradient.values
            accumulator.scatter_add(tf.IndexedSlices(values**2, rows))
            step = -rate * values * tf.math.rsqrt(tf.gather(accumulator, rows))
            if velocity is not None:
                step += self.momentum * tf.gather(velocity, rows)
                velocity.scatter_update(tf.IndexedSlices(step, rows))
            variable.scatter_add(tf.IndexedSlices(step, rows))
        elif velocity is not None:
            accumulator.assign_add(gradient**2)
            step = -rate * gradient * tf.math.rsqrt(accumulator)
            step += self.momentum * velocity
            velocity.assign(step)
            variable.assign_add(step)
        else:
            tf.raw_ops.ResourceApplyAdagrad(
                var=variable.handle, accum=accumulator.handle, lr=rate, grad=gradient
            )

    def get_config(self):
        """The constructor's arguments."""
        config = super().get_config()
        config.update(
            learning_rate=tensorflow_private.learning_rate_config(self),
            momentum=self.momentum,
            epsilon=self.epsilon,
        )
        return config


class RowAdagrad(tf.keras.optimizers.Optimizer):
    """Adagrad with one accumulator a row, by which a table's state is as small as a column of it.

    Cite: Mudigere et al.: Software-Hardware Co-design for Fast and Scalable Training of Deep
    Learning Recommendation Models, ISCA 2022 (row-wise Adagrad).

        acc_r <- acc_r + mean_d g_rd^2,   p_r <- p_r - learning_rate g_r / (sqrt(acc_r) + epsilon)

    Rows that a step does not touch stay as they are.

    Args:
        learning_rate: step size.
        epsilon: keeps the division finite.
    """

    def __init__(
        self,
        learning_rate: float = 0.05,
        epsilon: float = 1e-8,
        name: str = "RowAdagrad",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        tensorflow_private.set_learning_rate(self, learning_rate)
        self.epsilon = epsilon

    def build(self, var_list):
        """Creates the accumulators, [rows] of a variable [rows, ...]."""
        super().build(var_list)
        if not tensorflow_private.builds_now(self):
            return
        self._accumulators = [
            self.add_variable_from_reference(variable, "accumulator", shape=variable.shape[:1])
            for variable in var_list
        ]

    def update_step(self, gradient, variable):
        """Updates one variable, dense or by rows."""
        rate = tf.cast(self.learning_rate, variable.dtype)
        accumulator = self._accumulators[tensorflow_private.place_of(self, variable)]
        sparse = isinstance(gradient, tf.IndexedSlices)
        values = gradient.values if sparse else tf.convert_to_tensor(gradient)
        squares = tf.reduce_mean(tf.reshape(values**2, [tf.shape(values)[0], -1]), axis=1)
        if sparse:
            accumulator.scatter_add(tf.IndexedSlices(squares, gradient.indices))
            of_rows = tf.gather(accumulator, gradient.indices)
        else:
            of_rows = accumulator.assign_add(squares)
        scale = rate / (tf.sqrt(of_rows) + self.epsilon)
        scale = tf.reshape(scale, tf.concat([[-1], tf.ones_like(tf.shape(values)[1:])], axis=0))
        if sparse:
            variable.scatter_sub(tf.IndexedSlices(scale * values, gradient.indices))
        else:
            variable.assign_sub(scale * values)

    def get_config(self):
        """The constructor's arguments."""
        config = super().get_config()
        rate = tensorflow_private.learning_rate_config(self)
        config.update(learning_rate=rate, epsilon=self.epsilon)
        return config


class Ftrl(tf.keras.optimizers.Optimizer):
    """FTRL-Proximal (McMahan et al., KDD 2013).

    A weight is exactly zero until its gradients outweigh `l1`.

        n_new = n + g^2,   z <- z + g - (sqrt(n_new) - sqrt(n)) / learning_rate * w
        w <- 0 if |z| <= l1, else -(z - sign(z) l1) / ((beta + sqrt(n_new)) / learning_rate + l2)

    Keras' own starts n at 0.1, has beta at 0 and computes whole tables where a step touches a few
    rows. The paper adds up the gradients of examples where a loss here is the mean of a batch:
    dividing beta, l1 and l2 by `rows` makes the two the same.

    A weight is made of n and z alone, so z starts where it stands for the weight that is there,

        z_0 = -((beta / learning_rate + l2) w + l1 sign w)

    and one that a warm start has loaded moves from its value rather than from zero. n starts at 0
    all the same: the first steps are as long as those of a new weight.

    Args:
        learning_rate: alpha of the paper.
        rows: examples that a gradient is the mean of.
        beta: smooths the first steps.
        l1: the more, the more weights are exactly zero.
        l2: shrinks the others.
    """

    def __init__(
        self,
        learning_rate: float = 0.05,
        rows: int = 1,
        beta: float = 1.0,
        l1: float = 0.0,
        l2: float = 0.0,
        name: str = "Ftrl",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        tensorflow_private.set_learning_rate(self, learning_rate)
        self.rows, self.beta, self.l1, self.l2 = rows, beta, l1, l2

    def build(self, var_list):
        """Creates the two sums of every weight."""
        super().build(var_list)
        if not tensorflow_private.builds_now(self):
            return
        self._squares = [
            self.add_variable_from_reference(variable, "squares") for variable in var_list
        ]
        self._linear = [
            self.add_variable_from_reference(
                variable, "linear", initial_value=self._linear_of(variable)
            )
            for variable in var_list
        ]

    def update_step(self, gradient, variable):
        """Updates one variable, dense or by rows."""
        place = tensorflow_private.place_of(self, variable)
        squares, linear = self._squares[place], self._linear[place]
        if isinstance(gradient, tf.IndexedSlices):
            rows = gradient.indices
            values = self._step(
                gradient.values, *(tf.gather(each, rows) for each in (squares, linear, variable))
            )
            for each, value in zip((squares, linear, variable), values, strict=True):
                each.scatter_update(tf.IndexedSlices(value, rows))
        else:
            values = self._step(gradient, squares, linear, variable)
            for each, value in zip((squares, linear, variable), values, strict=True):
                each.assign(value)

    def _linear_of(self, variable):
        """The z that, with n at 0, stands for the weights that `variable` holds."""
        weight = tf.convert_to_tensor(variable)
        rate = tf.cast(self.learning_rate, weight.dtype)
        l1, l2, beta = self._of_a_row()
        linear = -((beta / rate + l2) * weight + l1 * tf.sign(weight))
        return tf.where(weight == 0, tf.zeros_like(linear), linear)  # 0, not -0

    def _of_a_row(self):
        return self.l1 / self.rows, self.l2 / self.rows, self.beta / self.rows

    def _step(self, gradient, squares, linear, weight):
        rate = tf.cast(self.learning_rate, gradient.dtype)
        new_squares = squares + gradient**2
        new_linear = linear + gradient - (tf.sqrt(new_squares) - tf.sqrt(squares)) / rate * weight
        l1, l2, beta = self._of_a_row()
        beyond = new_linear - tf.clip_by_value(new_linear, -l1, l1)
        return new_squares, new_linear, -beyond / ((beta + tf.sqrt(new_squares)) / rate + l2)

    def get_config(self):
        """The constructor's arguments."""
        config = super().get_config()
        rate = tensorflow_private.learning_rate_config(self)
        config.update(learning_rate=rate, rows=self.rows, beta=self.beta, l1=self.l1, l2=self.l2)
        return config


class Divided(tf.keras.optimizers.Optimizer):
    """Several optimisers for the parts of one model, in one step of one loss.

    Args:
        optimizers: for the parts.
        part: variable -> the number of its optimiser.
    """

    def __init__(
        self,
        optimizers: list[tf.keras.optimizers.Optimizer],
        part: Callable[[tf.Variable], int],
        name: str = "Divided",
    ):
        super().__init__(name=name)
        self.optimizers = optimizers
        self._part = part
        tensorflow_private.share_learning_rate(self, optimizers[0])

    def build(self, var_list):
        """Creates what each optimiser keeps of its own variables."""
        super().build(var_list)
        for number, optimizer in enumerate(self.optimizers):
            optimizer.build([variable for variable in var_list if self._part(variable) == number])

    def apply_gradients(self, grads_and_vars, **kwargs):
        """Hands every gradient to the optimiser of its variable."""
        pairs = list(grads_and_vars)
        for number, optimizer in enumerate(self.optimizers):
            optimizer.apply_gradients(
                [pair for pair in pairs if self._part(pair[1]) == number], **kwargs
            )
        return self.iterations.assign_add(1)
