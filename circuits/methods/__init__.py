"""The methods, one per file: a function of a `Question` that returns scores or a circuit. Methods are independent of each other."""
