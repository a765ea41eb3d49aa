"""What checkpoints and guards cost: python benchmarks/reliability_cost.py --out FILE.csv."""

from rlsuite.bench.reliability_cost import main

if __name__ == "__main__":
    main()
