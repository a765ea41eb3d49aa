"""MuJoCo tasks, one file each: observation, reward, termination and reset as pure torch functions."""
