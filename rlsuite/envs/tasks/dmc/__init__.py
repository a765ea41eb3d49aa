"""dm_control's suite as batched tasks: one file per domain."""
