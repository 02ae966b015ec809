"""Dictionaries by name, as the command line and run directories have them: SITE=PATH."""

from circuits.dictionaries.site import parse_site
from circuits.errors import InputError
from circuits.files.untrusted import shown


def check_named(text: object) -> tuple[str, str]:
    """The site and the path (or id of the hub) of `SITE=PATH`.

    Raises:
        InputError: it has another form, or there is no such site.

    >>> check_named("mlp_out.3=saes/layer3")
    ('mlp_out.3', 'saes/layer3')
    """
    site, sign, path = text.partition("=") if isinstance(text, str) else ("", "", "")
    if not (sign and site.strip() and path.strip()):
        raise InputError(f"a dictionary is given as SITE=PATH, such as mlp_out.3=FOLDER; got {shown(text)}")
    parse_site(site.strip())
    return site.strip(), path.strip()
