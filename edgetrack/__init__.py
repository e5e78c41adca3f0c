"""edgetrack."""
