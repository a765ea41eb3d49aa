"""Return distributions as the objective: utilities of stock and return, and exact dynamic programming."""
