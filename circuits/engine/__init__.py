"""Forward and backward passes that the methods share: writers' outputs, readers' gradients, logits under ablation.

The engine knows no method. It uses live hooks only: TransformerLens' flags (`use_split_qkv_input`, `use_attn_result`,
`use_hook_mlp_in`) cost time and have no effect on several architectures.
"""
