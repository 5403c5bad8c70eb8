"""Pure functions, one file a stage, in pipeline order."""
