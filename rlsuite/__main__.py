"""`python -m rlsuite` is the command `rlsuite`."""

from rlsuite.cli.main import main

if __name__ == "__main__":
    main()
