"""Online and offline algorithms: one file each (config, losses, loss module, agent)."""
