"""The verdict of an evaluation: for each claim supported, not supported or not tested, with the number and the test.

It only reads what was measured: `evaluation.json`, and for the first two claims the numbers of the run itself (`run.json`), if it was not
evaluated. All limits are in this file and named in the column of the test.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

LEVEL = 0.05
ACCURACY, CERTIFIED, ALIKE, SHUFFLED = 0.8, 0.9, 0.5, 0.5
"""Limits: of the model's accuracy; of the share of edges that are certified; of the overlap over other pairs; of the rank correlation
with all layers shuffled."""
SUPPORTED, NOT_SUPPORTED, NOT_TESTED = "supported", "not supported", "not tested"


@dataclass(frozen=True)
class Verdict:
    """One claim.

    Attributes:
        claim: the claim, in words.
        verdict: `supported`, `not supported` or `not tested`.
        number: what was measured; empty if it was not.
        test: what the claim was held against.
        part: the part of `circuits evaluate` that tests it.
    """

    claim: str
    verdict: str
    number: str
    test: str
    part: str


def verdicts(measured: Mapping[str, Any], summary: Mapping[str, Any] | None = None) -> list[Verdict]:
    """All claims, in the order of the tests.

    Args:
        measured: `Evaluation.to_dict`; empty if the run was not evaluated.
        summary: of `run.json`, for what the evaluation did not measure.
    """
    known = {**_measured_by_run(summary or {}), **{name: part for name, part in measured.items() if part}}
    made = []
    for claim, test, part, find in _CLAIMS:
        result = find(known)
        if result is None:
            made.append(Verdict(claim, NOT_TESTED, "", test, part))
        else:
            holds, number = result
            made.append(Verdict(claim, _WORDS[holds], number, test, part))
    return made


def verdict_rows(measured: Mapping[str, Any], summary: Mapping[str, Any] | None = None) -> list[list[str]]:
    """The verdicts as rows of text: claims with a number first, then one row for all others, with the command that tests them."""
    made = verdicts(measured, summary)
    rows = [[one.claim, one.verdict, one.number, one.test] for one in made if one.number]
    rest = [one for one in made if not one.number]
    if rest:
        parts = ",".join(dict.fromkeys(one.part for one in rest))
        claims = "; ".join(one.claim for one in rest)
        rows.append([claims, NOT_TESTED, "–", f"circuits evaluate RUN --parts {parts}"])
    return rows


def _measured_by_run(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's own summary has, in the form of an evaluation."""
    known: dict[str, Any] = {"answers": {"accuracy": summary.get("accuracy")}, "ablation": summary.get("ablation")}
    value, random = summary.get("faithfulness"), summary.get("random_circuits") or ()
    if value is not None and random:
        distance = abs(summary["circuit"] - summary["clean"])
        at_least = sum(abs(one - summary["clean"]) <= distance for one in random)
        known["faithfulness"] = {
            summary.get("ablation"): {
                "p": (1 + at_least) / (1 + len(random)), "ratio_of_means": value,
                "random_faithfulness": summary.get("random_faithfulness"), "random": random,
            }
        }  # fmt: skip
    return known


HEADINGS = ("claim", "verdict", "number", "test")

Finding = tuple[bool | None, str] | None
"""Whether the claim holds (None: the test cannot decide), and the number; None: not tested."""
_WORDS = {True: SUPPORTED, False: NOT_SUPPORTED, None: NOT_TESTED}


def _accuracy(measured: Mapping[str, Any]) -> Finding:
    value = (measured.get("answers") or {}).get("accuracy")
    return None if value is None else (value >= ACCURACY, f"accuracy {value:.2f}")


def _own(measured: Mapping[str, Any]) -> Mapping[str, Any]:
    return measured.get("faithfulness", {}).get(measured.get("ablation")) or {}


def _random(part: Mapping[str, Any]) -> Finding:
    if part.get("p") is None or part.get("ratio_of_means") is None:
        return None
    beside = "–" if part.get("random_faithfulness") is None else f"{part['random_faithfulness']:.2f}"
    number = f"faithfulness {part['ratio_of_means']:.2f}, random circuits {beside}, p = {part['p']:.2g}"
    drawn = len(part.get("random") or ())
    if drawn and 1 / (1 + drawn) >= LEVEL:
        return None, f"{number} ({drawn} random circuits are too few)"
    return part["p"] < LEVEL, number


def _every_ablation(measured: Mapping[str, Any]) -> Finding:
    known = {name: part["p"] for name, part in measured.get("faithfulness", {}).items() if part.get("p") is not None}
    if len(known) < 2:
        return None
    worst = max(known, key=lambda name: known[name])
    return known[
        worst
    ] < LEVEL, f"{sum(p < LEVEL for p in known.values())} of {len(known)}; largest p = {known[worst]:.2g} ({worst})"


def _hypothesis(name: str) -> Callable[[Mapping[str, Any]], Finding]:
    def find(measured: Mapping[str, Any]) -> Finding:
        for test in measured.get("hypothesis", {}).get("tests", ()):
            if test["name"] == name and test["supports"] is not None:
                return bool(test["supports"]), "–" if test["corrected"] is None else f"p = {test['corrected']:.2g}"
        return None

    return find


def _certificate(measured: Mapping[str, Any]) -> Finding:
    part = measured.get("certificate")
    if part is None or not part["circuit"]:
        return None
    share = part["certified"] / part["circuit"]
    return share >= CERTIFIED, f"{part['certified']} of {part['circuit']} edges, at {part['confidence']:.0%} confidence"


def _families(measured: Mapping[str, Any]) -> Finding:
    part = measured.get("families")
    if part is None:
        return None
    p = "" if part["p"] is None else f", p = {part['p']:.2g}"
    return part["k"] == 1, f"{part['k']} famil{'y' if part['k'] == 1 else 'ies'}{p}"


def _specificity(measured: Mapping[str, Any]) -> Finding:
    part = measured.get("specificity")
    if part is None or part["specific"] is None:
        return None
    other = max(part["others"], key=lambda row: row["effect"])
    return part[
        "specific"
    ], f"loses {part['own']['effect']:.2f} of its task, at most {other['effect']:.2f} of another ({other['task']})"


def _stability(measured: Mapping[str, Any]) -> Finding:
    part = measured.get("stability", {}).get("by", {}).get("pairs")
    return None if part is None else (part["jaccard"] >= ALIKE, f"Jaccard {part['jaccard']:.2f}")


def _randomisation(measured: Mapping[str, Any]) -> Finding:
    part = measured.get("randomisation")
    values = [] if part is None else [*part["rank"], *(part["jaccard"] or ())][: len(part["rank"])]
    known = [value for value in values if value is not None]
    return None if not known else (abs(known[-1]) < SHUFFLED, f"rank correlation {known[-1]:.2f}")


_CLAIMS: tuple[tuple[str, str, str, Callable[[Mapping[str, Any]], Finding]], ...] = (
    ("the model does the task", f"accuracy of at least {ACCURACY:g}", "faithfulness", _accuracy),
    ("the circuit does more than random circuits", f"p < {LEVEL:g} against random circuits of equal size", "faithfulness", lambda m: _random(_own(m))),
    ("it does more than circuits of the same layers", f"p < {LEVEL:g}, heads of each layer exchanged", "faithfulness", lambda m: _random(m.get("same_layers") or {})),
    ("this holds under other ablations", f"p < {LEVEL:g} under each ablation", "faithfulness", _every_ablation),
    ("it does what the model does", "equivalence is not rejected", "hypothesis", _hypothesis("equivalence")),
    ("nothing outside of it matters", "independence is not rejected", "hypothesis", _hypothesis("independence")),
    ("each of its edges is needed", "minimality is not rejected for any edge", "hypothesis", _hypothesis("minimality")),
    ("it is sufficient", "sufficiency: the null hypothesis is rejected", "hypothesis", _hypothesis("sufficiency")),
    ("it is needed", "partial necessity: the null hypothesis is rejected", "hypothesis", _hypothesis("partial necessity")),
    ("its edges do not hang on a few prompts", f"{CERTIFIED:.0%} of its edges stay in, whichever prompt is deleted", "certificate", _certificate),
    ("other pairs give the same circuit", f"Jaccard overlap of at least {ALIKE:g}", "stability", _stability),
    ("it is one circuit", "no two families of prompts are found", "families", _families),
    ("it serves this task only", "more is lost of its own task than of any other, by intervals", "specificity", _specificity),
    ("scores depend on the weights", f"rank correlation below {SHUFFLED:g} with all layers shuffled", "randomisation", _randomisation),
)  # fmt: skip
