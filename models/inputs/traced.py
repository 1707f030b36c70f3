"""How `models/` traces its functions."""

import functools

import tensorflow as tf

# `tf.function` without AutoGraph, which reads, rewrites and compiles the source of each function
# that it is given, whatever `leave_unconverted` says of those that are called by it. `tf.where`,
# `tf.cond` and `tf.while_loop` say what a Python `if` or `for` over tensors would.
traced = functools.partial(tf.function, autograph=False)
