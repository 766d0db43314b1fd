"""The decomposition information file: its format, and rebuilding a model from it."""
