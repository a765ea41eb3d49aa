"""Curves of runs as CSV and picture: python benchmarks/curves.py runs/A runs/B --out FOLDER."""

from rlsuite.bench.curves import main

if __name__ == "__main__":
    main()
