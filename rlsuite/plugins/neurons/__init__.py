"""Parts of neuron resets: a network's chains of units, the trace that finds them, the reset."""
