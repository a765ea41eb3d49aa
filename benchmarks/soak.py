"""A run stopped and resumed for half an hour: python benchmarks/soak.py --minutes 30 --out FILE.csv."""

import sys

from rlsuite.bench.soak import main

if __name__ == "__main__":
    sys.exit(main())
