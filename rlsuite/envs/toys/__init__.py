"""Environments of our own without a physics engine, one file each, found by their docstrings."""
