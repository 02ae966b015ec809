"""Subject-verb agreement of SmolLM2-135M in features of trained transcoders: `python benchmarks/trained_features.py DIR`.

DIR is what `circuits dictionary train` wrote. Features and errors are scored by integrated gradients over activations; then the strongest
features are kept and all others of these MLPs ablated by interchange, with the errors kept and without. The rest of the model runs as it is.
"""

import sys
from pathlib import Path

import circuits
import tasks

PAIRS, STEPS, SIZES = 32, 5, (10, 30, 100, 300)


def main(directory: Path) -> None:
    model = circuits.load_model("smollm2-135m")
    pairs = tasks.load("subject-verb-agreement").pairs(model, n=PAIRS, seed=0)
    places = sorted(path for path in directory.iterdir() if path.name.startswith("transcoder."))
    dictionaries = [circuits.load_dictionary(path) for path in places]
    given = {"nodes": "features", "dictionaries": dictionaries, "gradient": "ig-activations", "steps": STEPS}
    scores = circuits.attribution_patching(model, pairs, **given)
    effects = scores.to_dict()
    for dictionary in dictionaries:
        place = dictionary.site.place
        parts = {node: effect for node, effect in effects.items() if node.split(":")[1].split(".")[0] == place}
        features = [effect for node, effect in parts.items() if node.startswith("f:")]
        print(
            f"{place}: {len(features)} active features, effects {sum(features):+.3f} in all (absolute: {sum(map(abs, features)):.3f}), "
            f"error {parts[f'e:{place}']:+.3f}"
        )
    print("strongest:", ", ".join(f"{node} {effect:+.3f}" for node, effect, *_ in scores.strongest(12)), flush=True)
    ranked = [node for node, *_ in scores.strongest(len(effects)) if node.startswith("f:")]
    for size in (*(one for one in SIZES if one < len(ranked)), len(ranked)):
        print(
            f"{size} features: {circuits.feature_faithfulness(model, pairs, ranked[:size], dictionaries=dictionaries)}",
            flush=True,
        )
    none = circuits.feature_faithfulness(model, pairs, [], dictionaries=dictionaries)
    print(
        f"no feature: {none}; metric {none.clean.mean():.3f} clean, {none.ablated.mean():.3f} with every part ablated"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
