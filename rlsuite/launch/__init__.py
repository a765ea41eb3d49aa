"""Launchers that carry runs out: processes of this machine, a Ray cluster, Slurm."""
