"""A model string or a chat model on one side, n samples on the other: `load.load_model`, `sampling.sample`."""
