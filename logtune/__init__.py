"""logtune: makes a deployed language model better from its own user logs."""

__version__ = "0.1.0"
