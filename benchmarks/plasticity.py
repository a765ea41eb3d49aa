"""Neuron resets where labels change: python benchmarks/plasticity.py --out FOLDER."""

from rlsuite.bench.plasticity import main

if __name__ == "__main__":
    main()
