"""The networks, one file a concept."""
