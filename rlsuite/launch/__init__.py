"""Where runs are carried out: processes of this machine, a Ray cluster, Slurm."""
