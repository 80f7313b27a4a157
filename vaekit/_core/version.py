"""Version of the package, which results, checkpoints and reports state."""

__version__ = "0.2.0.dev0"
