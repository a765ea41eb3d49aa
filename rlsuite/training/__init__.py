"""The training loops and what a run needs around them: streams, checkpoints, records, signals."""
