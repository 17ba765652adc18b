"""Profiles, and the text, queries and judgements that they name."""
