"""Writes the files beside it with SAELens 6.54, eai-sparsify 1.3 and circuit-tracer (its repository at 4bb8c0e), and what these libraries
compute with them. Run in an environment that has them.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
D, F = 6, 10
X = torch.randn(5, D, generator=torch.Generator().manual_seed(9)) * 2


def randomise(module: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(module.named_parameters()):
        values = torch.randn(parameter.shape, generator=generator) * 0.7
        parameter.data = values.abs() if name.endswith("threshold") else values


def expect(directory: Path, x: torch.Tensor, features: torch.Tensor, output: torch.Tensor) -> None:
    tensors = {"x": x, "features": features, "output": output}
    save_file(
        {name: tensor.detach().contiguous() for name, tensor in tensors.items()}, directory / "expected.safetensors"
    )


def saelens() -> None:
    from sae_lens.saes import sae as base
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig
    from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
    from sae_lens.saes.matryoshka_batchtopk_sae import (
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
    )
    from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
    from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig
    from sae_lens.saes.transcoder import (
        JumpReLUSkipTranscoder,
        JumpReLUSkipTranscoderConfig,
        SkipTranscoder,
        SkipTranscoderConfig,
        Transcoder,
        TranscoderConfig,
    )

    def metadata(hook: str, out: str | None = None) -> base.SAEMetadata:
        more = {} if out is None else {"hook_name_out": out}
        return base.SAEMetadata(model_name="tiny-random", hook_name=hook, **more)

    mlp = metadata("blocks.1.hook_mlp_out")
    both = metadata("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    made = {
        "standard": StandardSAE(StandardSAEConfig(D, F, metadata=mlp)),
        "standard_not_centred": StandardSAE(StandardSAEConfig(D, F, apply_b_dec_to_input=False, metadata=mlp)),
        "jumprelu": JumpReLUSAE(JumpReLUSAEConfig(D, F, metadata=metadata("blocks.0.hook_resid_post"))),
        "gated": GatedSAE(GatedSAEConfig(D, F, metadata=metadata("blocks.1.hook_attn_out"))),
        "topk": TopKSAE(TopKSAEConfig(D, F, k=3, metadata=metadata("blocks.0.hook_resid_pre"))),
        "topk_rescaled": TopKSAE(TopKSAEConfig(D, F, k=3, rescale_acts_by_decoder_norm=True, metadata=mlp)),
        "transcoder": Transcoder(TranscoderConfig(D, F, d_out=D, apply_b_dec_to_input=False, metadata=both)),
        "skip_transcoder": SkipTranscoder(SkipTranscoderConfig(D, F, d_out=D, apply_b_dec_to_input=False, metadata=both)),
        "jumprelu_skip_transcoder": JumpReLUSkipTranscoder(
            JumpReLUSkipTranscoderConfig(D, F, d_out=D, apply_b_dec_to_input=False, metadata=both)
        ),
    }  # fmt: skip
    for seed, (name, sae) in enumerate(made.items()):
        directory = HERE / f"saelens_{name}"
        randomise(sae, seed)
        sae.save_model(directory)
        sae = type(sae).load_from_disk(directory)
        features = sae.encode(X)
        features = features.to_dense() if features.is_sparse else features
        expect(directory, X, features, sae(X))
    trained = {
        "batchtopk": BatchTopKTrainingSAE(
            BatchTopKTrainingSAEConfig(D, F, k=3, rescale_acts_by_decoder_norm=True, metadata=mlp)
        ),
        "matryoshka": MatryoshkaBatchTopKTrainingSAE(
            MatryoshkaBatchTopKTrainingSAEConfig(D, F, k=3, matryoshka_widths=[5, F], metadata=mlp)
        ),
    }
    for seed, (name, sae) in enumerate(trained.items(), 50):
        directory = HERE / f"saelens_{name}"
        randomise(sae, seed)
        sae.topk_threshold = torch.tensor(0.8, dtype=torch.double)
        sae.save_inference_model(directory)
        loaded = base.SAE.load_from_disk(directory)
        expect(directory, X, loaded.encode(X), loaded(X))


def sparsify() -> None:
    from sparsify import SparseCoder, SparseCoderConfig

    made = {
        "layers.1": SparseCoder(D, SparseCoderConfig(num_latents=F, k=3)),
        "layers.1.mlp": SparseCoder(D, SparseCoderConfig(num_latents=F, k=3, transcode=True, skip_connection=True)),
    }
    for seed, (name, coder) in enumerate(made.items(), 20):
        directory = HERE / "sparsify" / name
        randomise(coder, seed)
        coder.save_to_disk(directory)
        coder = SparseCoder.load_from_disk(directory)
        values, indices, _ = coder.encode(X)
        expect(directory, X, torch.zeros(len(X), F).scatter(1, indices, values), coder(X).sae_out)


def circuit_tracer() -> None:
    from circuit_tracer.transcoder.activation_functions import JumpReLU, TopK
    from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, TranscoderSet, load_transcoder

    kinds = {
        "relu": lambda: torch.nn.functional.relu,
        "jumprelu": lambda: JumpReLU(torch.rand(F)),
        "topk": lambda: TopK(3),
    }
    for kind, function in kinds.items():
        directory = HERE / f"circuit_tracer_{kind}"
        options = {"device": torch.device("cpu"), "dtype": torch.float32, "skip_connection": kind != "topk"}
        layers = {i: SingleLayerTranscoder(D, F, function(), i, **options) for i in range(2)}
        for i, layer in layers.items():
            randomise(layer, 30 + i)
        hooks = ("mlp.hook_in", "mlp.hook_out")
        TranscoderSet(layers, *hooks, scan="tiny").to_safetensors(str(directory))
        stated = {"relu": 'activation: "relu"\n', "topk": "activation: topk\nk: 3\n"}.get(kind, "")
        (directory / "config.yaml").write_text(
            f'model_name: "org/tiny-random"\nmodel_kind: transcoder_set\nfeature_input_hook: "{hooks[0]}"\n'
            f'feature_output_hook: "{hooks[1]}"\n{stated}scan: tiny\n'
        )
        known = None if kind == "jumprelu" else function()
        eager = {"device": torch.device("cpu"), "lazy_encoder": False, "lazy_decoder": False}
        # circuit-tracer cannot load a topk transcoder that it wrote, with its tensor k.
        loaded = (
            layers[1] if kind == "topk" else load_transcoder(str(directory / "layer_1.safetensors"), 1, known, **eager)
        )
        expect(directory, X, loaded.encode(X), loaded(X))


def gemma_scope() -> None:
    """In Gemma Scope's own names and layout, read back by circuit-tracer's loader of it."""
    from circuit_tracer.transcoder.single_layer_transcoder import load_gemma_scope_transcoder

    directory = HERE / "gemma_scope"
    directory.mkdir(exist_ok=True)
    draw = np.random.default_rng(4)
    arrays = {"W_enc": (D, F), "W_dec": (F, D), "b_enc": (F,), "b_dec": (D,), "threshold": (F,)}
    values = {name: draw.normal(size=shape).astype(np.float32) for name, shape in arrays.items()}
    np.savez(directory / "params.npz", **values | {"threshold": np.abs(values["threshold"])})
    loaded = load_gemma_scope_transcoder(str(directory / "params.npz"), 0, device=torch.device("cpu"))
    expect(directory, X, loaded.encode(X), loaded(X))


if __name__ == "__main__":
    torch.manual_seed(0)
    saelens()
    sparsify()
    circuit_tracer()
    gemma_scope()
    print(json.dumps(sorted(path.name for path in HERE.iterdir())))
