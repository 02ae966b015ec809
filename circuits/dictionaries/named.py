"""Dictionaries of runs: loaded by SITE=PATH, and found again by what a run recorded of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from circuits.dictionaries.dictionary import Dictionary
from circuits.dictionaries.insert import with_dictionaries
from circuits.dictionaries.load import load_dictionary
from circuits.dictionaries.names import check_named
from circuits.errors import InputError
from circuits.model import Model


def named_dictionaries(names: Sequence[str]) -> list[Dictionary]:
    """Loads dictionaries given as SITE=PATH.

    Raises:
        InputError: a name of another form, or see `circuits.load_dictionary`.
    """
    if isinstance(names, str):
        raise InputError('dictionary must be a list, such as ["mlp_out.3=FOLDER"]')
    return [_loaded(one) for one in names]


def _loaded(name: str) -> Dictionary:
    site, path = check_named(name)
    return load_dictionary(path, site)


def with_named(model: Model, names: Sequence[str], origin: Mapping[str, Any]) -> Model:
    """The model of a run with the dictionaries that the run was computed with.

    Args:
        model: the run's model.
        names: of the dictionaries, as SITE=PATH.
        origin: the provenance of the run.

    Raises:
        InputError: they cannot be loaded, or are others than those of the run.
    """
    inserted = with_dictionaries(model, named_dictionaries(names))
    own = {one["site"]: one for one in (i.coder.to_dict() for i in inserted.architecture.inserted.values())}
    recorded = origin.get("dictionaries")
    wanted = {str(one.get("site")): one.get("sha256") for one in recorded} if isinstance(recorded, list | tuple) else {}
    if sorted(own) != sorted(wanted):
        raise InputError(
            f"the run has dictionaries at {', '.join(wanted) or 'no site'}, and {', '.join(own) or 'none'} were given"
        )
    for site, one in own.items():
        if one["sha256"] != wanted[site]:
            raise InputError(f"the dictionary of {site} at {one['source']} is not that of the run: its weights differ")
    return inserted
