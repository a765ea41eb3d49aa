"""CVaR against the mean on risky tasks: python benchmarks/stock_risk.py --out FOLDER."""

from rlsuite.bench.stock_risk import main

if __name__ == "__main__":
    main()
