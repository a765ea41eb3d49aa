"""What plug-ins cost: python benchmarks/plugin_cost.py --out FILE.csv."""

from rlsuite.bench.plugin_cost import main

if __name__ == "__main__":
    main()
