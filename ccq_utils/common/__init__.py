"""What everything else stands on: errors, paths, progress, the cache."""
