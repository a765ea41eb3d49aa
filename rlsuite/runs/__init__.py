"""A run on disk: its folder, configuration, metrics and checkpoints."""
