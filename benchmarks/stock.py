"""DηN on the grid with known optima: python benchmarks/stock.py --out FOLDER."""

from rlsuite.bench.stock import main

if __name__ == "__main__":
    main()
