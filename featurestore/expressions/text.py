"""Case of text, character by character as in SQL engines: the result has as many characters as the text.

Python's own mapping may give several characters (``"ß".upper() == "SS"``) and looks at neighbours (the final sigma).
"""

from __future__ import annotations


def upper(text: str) -> str:
    """Return the text in upper case.

    >>> upper("straße")
    'STRAẞE'
    """
    return text.upper() if text.isascii() else "".join(map(_upper, text))


def lower(text: str) -> str:
    """Return the text in lower case.

    >>> lower("STRAẞE")
    'straße'
    """
    return text.lower() if text.isascii() else "".join(map(_lower, text))


def _upper(character: str) -> str:
    if character == "ß":
        return "ẞ"
    return next((mapped for mapped in (character.upper(), character.title()) if len(mapped) == 1), character)


def _lower(character: str) -> str:
    return character.lower()[0]  # İ alone gives two, an i and a dot above
