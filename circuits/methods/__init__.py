"""The methods, one a file: a `Question` -> scores or a circuit. No method knows another."""
