"""IQL's updates against a plain program and TorchRL: python benchmarks/offline_speed.py --out FILE.csv."""

from rlsuite.bench.offline_speed import main

if __name__ == "__main__":
    main()
