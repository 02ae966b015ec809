"""What every method asks of a model: its writers' outputs, its readers' gradients, its logits under ablation.

The engine knows no method. It uses live hooks only: TransformerLens' flags (`use_split_qkv_input`, `use_attn_result`,
`use_hook_mlp_in`) cost time and do nothing on several architectures.
"""
