"""What LDCQ's plans and updates cost: python benchmarks/ldcq_speed.py --preset small --out FILE.csv."""

import sys

from rlsuite.bench.skill_speed import main

if __name__ == "__main__":
    main(sys.argv[1:])
