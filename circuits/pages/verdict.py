"""The verdict of an evaluation: for each claim supported, not supported or not tested, with the number and the test.

It only reads what was measured (`evaluation.json`); all limits are in this file and named in the column of the test.
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
    """

    claim: str
    verdict: str
    number: str
    test: str


def verdicts(measured: Mapping[str, Any]) -> list[Verdict]:
    """All claims, in the order of the tests; `measured` is `Evaluation.to_dict`."""
    made = []
    for claim, test, find in _CLAIMS:
        result = find(measured)
        if result is None:
            made.append(Verdict(claim, NOT_TESTED, "", test))
        else:
            holds, number = result
            made.append(Verdict(claim, SUPPORTED if holds else NOT_SUPPORTED, number, test))
    return made


def verdict_rows(measured: Mapping[str, Any]) -> list[list[str]]:
    """The verdicts as rows of text."""
    return [[one.claim, one.verdict, one.number or "–", one.test] for one in verdicts(measured)]


HEADINGS = ("claim", "verdict", "number", "test")

Finding = tuple[bool, str] | None
"""Whether the claim holds, and the number; None: not tested."""


def _accuracy(measured: Mapping[str, Any]) -> Finding:
    value = (measured.get("answers") or {}).get("accuracy")
    return None if value is None else (value >= ACCURACY, f"accuracy {value:.2f}")


def _own(measured: Mapping[str, Any]) -> Mapping[str, Any]:
    return measured.get("faithfulness", {}).get(measured.get("ablation")) or {}


def _random(part: Mapping[str, Any]) -> Finding:
    if part.get("p") is None or part.get("ratio_of_means") is None:
        return None
    beside = "–" if part.get("random_faithfulness") is None else f"{part['random_faithfulness']:.2f}"
    return part[
        "p"
    ] < LEVEL, f"faithfulness {part['ratio_of_means']:.2f}, random circuits {beside}, p = {part['p']:.2g}"


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


_CLAIMS: tuple[tuple[str, str, Callable[[Mapping[str, Any]], Finding]], ...] = (
    ("the model does the task", f"accuracy of at least {ACCURACY:g}", _accuracy),
    ("the circuit does more than random circuits", f"p < {LEVEL:g} against random circuits of equal size", lambda m: _random(_own(m))),
    ("it does more than circuits of the same layers", f"p < {LEVEL:g}, heads of each layer exchanged", lambda m: _random(m.get("same_layers") or {})),
    ("this holds under other ablations", f"p < {LEVEL:g} under each ablation", _every_ablation),
    ("it does what the model does", "equivalence is not rejected", _hypothesis("equivalence")),
    ("nothing outside of it matters", "independence is not rejected", _hypothesis("independence")),
    ("each of its edges is needed", "minimality is not rejected for any edge", _hypothesis("minimality")),
    ("it is sufficient", "sufficiency: the null hypothesis is rejected", _hypothesis("sufficiency")),
    ("it is needed", "partial necessity: the null hypothesis is rejected", _hypothesis("partial necessity")),
    ("its edges do not hang on a few prompts", f"{CERTIFIED:.0%} of its edges stay in, whichever prompt is deleted", _certificate),
    ("other pairs give the same circuit", f"Jaccard overlap of at least {ALIKE:g}", _stability),
    ("it is one circuit", "no two families of prompts are found", _families),
    ("it serves this task only", "more is lost of its own task than of any other, by intervals", _specificity),
    ("scores depend on the weights", f"rank correlation below {SHUFFLED:g} with all layers shuffled", _randomisation),
)  # fmt: skip
