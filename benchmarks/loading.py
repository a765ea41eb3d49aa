"""Seconds and memory of reading a data set: python benchmarks/loading.py --out FILE.csv."""

from rlsuite.bench.loading import main

if __name__ == "__main__":
    main()
