"""Network blocks shared by the agents; ensembles and seeds are leading axes."""
