"""Presets as TOML, one file per agent: only what differs from the defaults."""
