"""Speed of the vectorised solver: python benchmarks/tabular_speed.py --out FILE."""

from rlsuite.bench.tabular_speed import main

if __name__ == "__main__":
    main()
