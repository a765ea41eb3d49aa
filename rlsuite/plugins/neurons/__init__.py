"""What neuron resets are made of: a network's chains of units, the trace that finds them, the reset."""
