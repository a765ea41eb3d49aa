"""From the arguments of a command line to the configuration of a run."""
