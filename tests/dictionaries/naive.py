"""Random dictionaries, and a slow twin of what is done with them: one prompt and one feature at a time, on TransformerLens' own hooks."""

from collections.abc import Mapping

import torch
from torch import Tensor

from circuits import Dictionary, Model, PromptPairs

READ = {"mlp_in": "mlp.hook_in", "mlp_normalized": "ln2.hook_normalized", "resid_mid": "ln2.hook_in"}
WRITE = {"mlp_out": "hook_mlp_out", "attn_out": "hook_attn_out", "hook_z": "attn.hook_z", "resid_pre": "hook_in"}


def random_dictionary(model: Model, site: str, n: int = 9, seed: int = 0, **options) -> Dictionary:
    """A dictionary with random weights; `skip=True`: with a skip."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    d = int(model.bridge.cfg.d_model)
    if "hook_z" in site:
        heads = model.architecture.blocks[0].output_projection.shape
        d = heads[0] * heads[1]
    if options.get("activation") == "jumprelu":
        options["threshold"] = draw(n).abs()
    if options.get("activation") == "gated":
        options |= {"r_mag": draw(n) / 2, "b_gate": draw(n)}
    skip = draw(d, d) / 5 if options.pop("skip", False) else None
    return Dictionary.from_weights(site, draw(d, n), draw(n), draw(n, d), draw(d), skip=skip, **options)


def activations(dictionary: Dictionary, x: Tensor) -> list[Tensor]:
    """Each feature's activation on an input [pos, d_in], one after the other."""
    kind, result = dictionary.activation, []
    for i in range(dictionary.n_features):
        linear = torch.stack([token @ dictionary.W_enc[:, i] for token in x])
        p = linear + dictionary.b_enc[i]
        if kind.name == "gated":
            p = linear * kind.r_mag[i].exp() + dictionary.b_enc[i]
            result.append(p.clamp(min=0) * (linear + kind.b_gate[i] > 0))
        elif kind.name in ("jumprelu", "batchtopk"):
            result.append(torch.where(p > kind.threshold[i if len(kind.threshold) > 1 else 0], p.clamp(min=0), 0 * p))
        else:
            result.append(p.clamp(min=0))
    if kind.name == "topk":
        for position in range(len(x)):
            strongest = sorted(range(len(result)), key=lambda i: -float(result[i][position]))[: kind.k]
            for i in range(len(result)):
                if i not in strongest:
                    result[i][position] = 0
    return result


def parts(dictionary: Dictionary, read: Tensor, value: Tensor) -> dict[str, Tensor]:
    """What each node of a dictionary holds for one prompt, by the end of its name: `f3` [pos], `e` and `s` [pos, d_out]."""
    features = activations(dictionary, read)
    skip = (
        torch.zeros_like(value) if dictionary.skip is None else torch.stack([dictionary.skip @ token for token in read])
    )
    explained = sum(f[:, None] * row for f, row in zip(features, dictionary.W_dec, strict=True))
    named = {f"f{i}": f for i, f in enumerate(features)}
    named["e"] = value - explained - skip
    return named if dictionary.skip is None else {**named, "s": skip}


class Naive:
    """Runs of one prompt with the parts of one dictionary replaced."""

    def __init__(self, model: Model, pairs: PromptPairs, dictionary: Dictionary) -> None:
        self.model, self.pairs, self.dictionary = model, pairs, dictionary
        site, layer = dictionary.site, dictionary.site.layer
        last = layer + 1 == len(model.architecture.blocks)
        after = "ln_final.hook_in" if last else f"blocks.{layer + 1}.hook_in"
        self.write = after if site.writes == "resid_post" else f"blocks.{layer}.{WRITE[site.writes]}"
        self.read = f"blocks.{layer}.{READ[site.reads]}" if site.is_transcoder else None

    def run(
        self, tokens: list[int], replaced: Mapping[str, Tensor] | None = None, **options
    ) -> tuple[float, dict[str, Tensor]]:
        """Logits at the last token, and the parts; `replaced`: new values of parts, by the end of their names."""
        seen: dict[str, Tensor] = {}

        def on_read(x, hook):
            seen["read"] = x[0].detach()

        def on_write(x, hook):
            value = x[0].reshape(x.shape[1], -1).detach()
            here = parts(self.dictionary, seen.get("read", value), value)
            seen.update(here, whole=value)
            new = value.clone()
            for name, target in (replaced or {}).items():
                if name[0] == "f":
                    new += (target - here[name])[:, None] * self.dictionary.W_dec[int(name[1:])]
                else:
                    new += target - here[name]
            changed = (x + 0 if options.get("connected") else x.detach()) if not replaced else new.reshape(x.shape)
            if options.get("held") is not None:
                changed = options["held"].reshape(x.shape)
            if options.get("gradient"):
                changed = seen["leaf"] = changed.detach().requires_grad_()
            return changed

        hooks = [(self.write, on_write)] if self.read is None else [(self.read, on_read), (self.write, on_write)]
        bridge = self.model.bridge
        logits = bridge.run_with_hooks(torch.tensor([tokens]), fwd_hooks=hooks, return_type="logits")[0, -1]
        return logits, seen

    def metric(self, i: int, logits: Tensor) -> Tensor:
        """The logit difference of pair i."""
        return logits[self.pairs.answers[i][0]] - logits[self.pairs.distractors[i][0]]

    def value(self, i: int, logits: Tensor) -> float:
        """The same as a number."""
        return float(self.metric(i, logits).detach())

    def gradient(self, i: int, held: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The gradient of the metric of pair i at what is decomposed, and the parts of that run."""
        logits, seen = self.run(self.pairs.clean[i], gradient=True, held=held)
        return torch.autograd.grad(self.metric(i, logits), seen["leaf"])[0].reshape(seen["whole"].shape), seen
