"""`circuits transfer`: the circuit of a run in another model."""

from circuits.errors import InputError
from circuits.evaluation.transfer import Transfer, transfer
from circuits.model import Model
from circuits.progress import StageProgress, silent
from circuits.prompts.pairs import PromptPairs
from circuits.prompts.source import find_pairs
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.runs.again import asked_about, own_result, what_was_asked
from circuits.runs.read import Run


def transfer_run(
    run: Run, model_a: Model, model_b: Model, *, n_random: int = 5, level: float = 0.95, seed: int = 0,
    batch_size: int | None = None, stage: StageProgress = silent,
) -> Transfer:  # fmt: skip
    """Tests a run's circuit in another model; scores that model by the run's method, to compare edges.

    Args:
        run: from `circuits.runs.read.read_run`.
        model_a: the run's model.
        model_b: the other model. With the same vocabulary it gets the run's pairs, token by token; otherwise the run's task draws
            them again, with the same seed.
        n_random, level, seed, batch_size: see `circuits.transfer`.
        stage: progress reporting.

    Raises:
        InputError: the run has no circuit, `model_a` is not its model, or its pairs cannot be made for the other model.
    """
    circuit = next(iter(run.circuits.values()), None)
    if circuit is None:
        raise InputError(f"{run.path} holds scores of nodes and no circuit; give a run of a method for edges")
    if model_a.weights_hash != run.provenance.get("weights_sha256"):
        raise InputError(f"{model_a.name} is not the model of {run.path}: its weights differ")
    metric, ablation = asked_about(run)
    pairs_a = PromptPairs.from_jsonl(run.path / "pairs.jsonl", model_a, trust_ids=True)
    pairs_b = _pairs(run, pairs_a, model_a, model_b)
    own = own_result(run)
    before = own if isinstance(own, EdgeScores) and own.per_prompt is not None else None
    after = None
    if before is not None and model_a.graph == model_b.graph:
        with stage(f"scoring {model_b.name}"):
            after = _scores(run, model_b, pairs_b, batch_size)
    with stage("testing the circuit") as progress:
        return transfer(
            circuit, model_b, pairs_b, model_a=model_a, pairs_a=pairs_a, scores_a=before, scores_b=after, metric=metric,
            ablation=ablation, n_random=n_random, level=level, seed=seed, batch_size=batch_size, progress=progress,
        )  # fmt: skip


def _scores(run: Run, model: Model, pairs: PromptPairs, batch_size: int | None) -> EdgeScores | None:
    """The scores of the run's method in another model."""
    scores = what_was_asked(run).again(model, pairs, batch_size=batch_size)
    return None if isinstance(scores, Circuit) or not isinstance(scores, EdgeScores) else scores


def _pairs(run: Run, pairs: PromptPairs, model_a: Model, model_b: Model) -> PromptPairs:
    """The run's pairs for the other model."""
    vocabularies = [None if m.tokenizer is None else m.tokenizer.get_vocab() for m in (model_a, model_b)]
    if model_a.d_vocab == model_b.d_vocab and vocabularies[0] == vocabularies[1]:
        return pairs
    task = str(run.provenance.get("task"))
    try:
        return find_pairs(task)(model_b, len(pairs), pairs.seed or 0)
    except InputError as problem:
        raise InputError(
            f"{model_b.name} has other tokens than {model_a.name}, and the pairs of {run.path} cannot be made for it: {problem}"
        ) from None
