"""The ideal outcome of a world, and the differences to it."""
