"""The training of a model: the Trainer's `run_fn`, the session, optimisers, the warm start."""
