"""The training of a model: the Trainer's `run_fn`, the loop, optimisers, the warm start."""
