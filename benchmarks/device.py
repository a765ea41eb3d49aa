"""Speed and memory of engine warp: python benchmarks/device.py --device cuda --out FILE.csv."""

from rlsuite.bench.device import main

if __name__ == "__main__":
    main()
