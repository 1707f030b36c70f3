"""The gated recurrent unit of the models of sessions, whose reset gate acts before the product.

    r, z     = sigmoid(W x + U h)
    c        = tanh(W_c x + U_c (r * h))
    h'       = (1 - z) h + z c

Keras' own has the reset after the product by default, and no step of its own to carry a state by.
"""

import tensorflow as tf


class GRU(tf.keras.layers.Layer):
    """One step of a GRU whose reset gate acts before the recurrent product.

    Maps ([B, 3 units] W x, [B, units] h) -> [B, units] h'.

    Gates in the order candidate, reset, update. W is not here: a one-hot input has a table for it.
    """

    def __init__(self, units: int, name: str):
        super().__init__(name=name)
        self.candidate = self.add_weight(
            "candidate", [units, units], initializer=uniform(units, units)
        )
        self.gates = self.add_weight("gates", [units, 2 * units], initializer=uniform(units, units))
        self.bias = self.add_weight("bias", [3 * units], initializer="zeros")

    def call(self, inputs):
        projected, state = inputs
        candidate, gates = tf.split(
            projected + self.bias, [state.shape[-1], 2 * state.shape[-1]], axis=-1
        )
        reset, update = tf.split(tf.sigmoid(gates + tf.matmul(state, self.gates)), 2, axis=-1)
        candidate = tf.tanh(candidate + tf.matmul(reset * state, self.candidate))
        return state + update * (candidate - state)


def uniform(inputs: int, outputs: int) -> tf.keras.initializers.Initializer:
    """U(-l, l) with l = sqrt(6 / (inputs + outputs)) of one matrix.

    It is not that of matrices laid side by side.
    """
    limit = (6.0 / (inputs + outputs)) ** 0.5
    return tf.keras.initializers.RandomUniform(-limit, limit)


def parameters(units: tuple[int, ...], width: int, projected: bool = False) -> int:
    """How many numbers are in what `layers` makes of the same arguments."""
    total = 0
    for number, size in enumerate(units):
        total += 0 if number == 0 and projected else width * 3 * size
        total, width = total + 3 * size**2 + 3 * size, size
    return total


def layers(
    units: tuple[int, ...], width: int, projected: bool = False
) -> tuple[list[tf.keras.layers.Layer], list[GRU]]:
    """Makes a stack of GRUs.

    Args:
        units: the widths of the layers.
        width: of the input.
        projected: the input is W x of the first layer already, [..., 3 units].

    Returns:
        The projections W of the layers, and the layers.
    """
    projections, stack = [], []
    for number, size in enumerate(units):
        if number == 0 and projected:
            projections.append(tf.keras.layers.Activation("linear", name="projection_0"))
        else:
            projections.append(
                tf.keras.layers.Dense(
                    3 * size,
                    use_bias=False,
                    kernel_initializer=uniform(units[number - 1] if number else width, size),
                    name=f"projection_{number}",
                )
            )
        stack.append(GRU(size, name=f"gru_{number}"))
    return projections, stack


def read(
    projections: list[tf.keras.layers.Layer],
    stack: list[GRU],
    hidden: tf.Tensor,
    present: tf.Tensor,
) -> tf.Tensor:
    """Reads sequences from the zero state on.

    Args:
        projections: of the layers.
        stack: the layers.
        hidden: [B, L, width] inputs.
        present: [B, L] bool: where there is none, the state stays as it is.

    Returns:
        [B, L, units] states of the last layer.
    """
    present = tf.transpose(present)[..., tf.newaxis]
    for projection, layer in zip(projections, stack, strict=True):
        zero = tf.zeros([tf.shape(hidden)[0], layer.candidate.shape[0]], hidden.dtype)
        steps = (tf.transpose(projection(hidden), [1, 0, 2]), present)
        states = tf.scan(
            lambda state, step, layer=layer: tf.where(step[1], layer((step[0], state)), state),
            steps,
            zero,
        )
        hidden = tf.transpose(states, [1, 0, 2])
    return hidden
