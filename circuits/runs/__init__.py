"""A run directory: made by `discover`, read, evaluated, compared."""
