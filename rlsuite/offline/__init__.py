"""Offline data sets: D4RL and Minari files to replay rows, their scores, and data of our own making."""
