"""Physics engines behind the MuJoCo tasks."""
