"""Cost of several seeds, in one run: python benchmarks/seeds.py --out FILE.csv."""

from rlsuite.bench.seeds import main

if __name__ == "__main__":
    main()
