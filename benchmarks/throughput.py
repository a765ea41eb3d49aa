"""Speed against peers in one run: python benchmarks/throughput.py --threads 2 --out FILE.csv."""

from rlsuite.bench.throughput import main

if __name__ == "__main__":
    main()
