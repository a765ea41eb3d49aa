"""DSAC-T on Pendulum against the authors' run: python benchmarks/pendulum.py RUN --out FOLDER."""

from rlsuite.bench.pendulum import main

if __name__ == "__main__":
    main()
