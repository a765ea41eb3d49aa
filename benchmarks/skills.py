"""Pictures of LDCQ's skills: python benchmarks/skills.py --runs runs/ldcq-... --out FOLDER."""

import sys

from rlsuite.bench.skills import main

if __name__ == "__main__":
    main(sys.argv[1:])
