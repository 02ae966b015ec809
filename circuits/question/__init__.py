"""Questions: a model, prompts, a metric, an ablation, and the positions to score."""
