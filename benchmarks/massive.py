"""Wall-clock curve of the massive regime: python benchmarks/massive.py --run runs/massive --out FOLDER."""

from rlsuite.bench.massive import main

if __name__ == "__main__":
    main()
