"""The analyses of the notebooks, a file or two for each."""
