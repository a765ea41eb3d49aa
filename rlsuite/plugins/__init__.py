"""Parts that are added to a training loop, ours or anybody's: neuron resets, early episode stopping."""
