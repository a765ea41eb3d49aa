"""Paths of STAC around the danger disc: python benchmarks/risk.py --out FOLDER."""

from rlsuite.bench.risk import main

if __name__ == "__main__":
    main()
