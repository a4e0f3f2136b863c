"""The package's version, read by the build backend without importing anything else."""

__version__ = "0.1.0"
