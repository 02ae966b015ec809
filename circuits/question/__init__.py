"""What is asked: the model, the prompts, a metric, an ablation, and the positions that count."""
