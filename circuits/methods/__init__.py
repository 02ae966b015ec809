"""The methods, one a file: (model, pairs, metric, ablation, …) -> scores or a circuit. No method knows another."""
