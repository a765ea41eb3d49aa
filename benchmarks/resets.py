"""Agents with and without a plug-in: python benchmarks/resets.py grama|redo|least --out FOLDER."""

import sys

from rlsuite.bench.resets import main

if __name__ == "__main__":
    sys.exit(main())
