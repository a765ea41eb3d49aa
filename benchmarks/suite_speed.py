"""Speed of dm_control's tasks: python benchmarks/suite_speed.py --out FILE.csv."""

from rlsuite.bench.suite_speed import main

if __name__ == "__main__":
    main()
