"""Running, checking and publishing the notebooks."""
