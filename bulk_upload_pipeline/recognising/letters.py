"""Which encoding of one byte a character makes words of a text: what its letters tell that no single byte can.

In all of these encodings nearly every byte is some letter, but not one that stands beside the others in any language:
`Dvoøák` is Czech that was taken for Western. Words are looked at one by one, since customers are of many countries.
"""

from __future__ import annotations

import re
from itertools import islice, pairwise
from typing import NamedTuple

WESTERN = "cp1252"

_WORD = re.compile(rb"[A-Za-z\x80-\xff]*[\x80-\xff][A-Za-z\x80-\xff]*")
_BETWEEN_LETTERS = re.compile("[’‘–—…·×µ\xa0\xad]+|õ(?=es?\\b)|Õ(?=ES?\\b)")
"""What may stand within a word of any language, or a measure, and the only place of an õ in Portuguese."""
_SIGNS = frozenset(sign.encode(WESTERN) for sign in "™®•¢§±°¶†")
"""What Western texts write next to letters. As the only bytes that another encoding makes letters of, `Tea•Set` say,
they are what they are."""
_BEFORE_LETTERS, _BEHIND_LETTERS = "¿¡£¥€½«»“„‚‹›•§°±", "®™©°ºª¹²³½¼¾€£¥»«”“‹›´"
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")

_OF_THE_WEST = (
    *(
        "äöüßéàèç",
        "àâæçéèêëîïôœùûüÿ",
        "áéíñóúü",
        "àçèéíïòóúüñ",
        "áâãàçéêíóôúü",
        "àèéìíîòóùúâ",
        "áéèêëïíóöüûç",
    ),
    *("æøåéèêóòâôüöä", "åäöéüàè", "äöšž", "áéíóú", "àèìòù"),
)
"""Letters of German, French, Spanish, Catalan, Portuguese, Italian, Dutch, Danish and Norwegian, Swedish, Finnish,
Irish and Gaelic."""
_ONLY_BESIDE = (("áðéíóúýþæö", "áí"), ("äõöüšž", "ä"))
"""Those of Icelandic and Estonian, whose rarer ones are Turkish and Hungarian elsewhere, and those without which there
is no text in them."""
_OF_CENTRAL_EUROPE = (
    *("áäčďéěíĺľňóôöŕřšťúůüýžß", "ąćęłńóśźżäöüßé", "áéíóöőúüű", "ăâîşţáéóöüő", "čćđšžäöüß"),
)
"""Letters of Czech and Slovak, Polish, Hungarian, Romanian, Croatian and Slovene, with those of their neighbours."""
_TURKISH = ("çğıöşüâîûé\u0307",)

_OTHERS = (
    ("cp1250", _OF_CENTRAL_EUROPE),
    ("iso8859-2", _OF_CENTRAL_EUROPE),
    ("cp1254", _TURKISH),
    ("cp850", _OF_THE_WEST),
    ("cp852", _OF_CENTRAL_EUROPE),
    ("mac-roman", _OF_THE_WEST),
)
_FEWEST_WORDS, _MOST_WORDS = 3, 500
_LEAST_GAIN = 0.25
_LEAST_FIT = 0.9
_MOST_BEYOND_ASCII = 0.35


class Told(NamedTuple):
    """What letters tell.

    Attributes:
        codec: Which encoding they speak for.
        fit: Share of the words beyond ASCII that it makes words of some language.
        is_sure: Whether these are so many that it cannot be by chance, or each is Latin by all but a letter or sign.
    """

    codec: str
    fit: float
    is_sure: bool


class _Reading(NamedTuple):
    """What a codec makes of words: which fit some language, and how many at most fit the same one."""

    fitting: set[bytes]
    of_one_language: int

    @property
    def worth(self) -> tuple[int, int]:
        return len(self.fitting), self.of_one_language


def told_by(sample: bytes) -> Told:
    """Return which encoding the words of a text speak for: `WESTERN`, unless they evidently speak against it."""
    words = set(islice(dict.fromkeys(_WORD.findall(sample)), _MOST_WORDS))
    western = _read(words, WESTERN, _western(sample))
    best, codec = western, WESTERN
    for other, languages in _OTHERS if len(western.fitting) < len(words) else ():
        found = _read(words, other, languages)
        if found.worth > best.worth and _mends(words, western, found, other):
            best, codec = found, other
    fit = len(best.fitting) / len(words) if words else 1.0
    are_many = len(best.fitting) >= _FEWEST_WORDS and fit >= _LEAST_FIT
    return Told(codec, round(fit, 2), are_many or (western.fitting == words and all(map(_is_latin, words))))


def _is_latin(word: bytes) -> bool:
    """Return whether hardly a letter of a word is beyond ASCII, so that it is of no other script; or it is a sign."""
    bare = _BETWEEN_LETTERS.sub("", _bare(word.decode(WESTERN, "replace")))
    return len(_BEYOND_ASCII.findall(bare)) <= _MOST_BEYOND_ASCII * len(bare)


def _western(sample: bytes) -> tuple[str, ...]:
    text = sample.decode(WESTERN, "replace").lower()
    return _OF_THE_WEST + tuple(letters for letters, beside in _ONLY_BESIDE if set(beside) <= set(text))


def _mends(words: set[bytes], western: _Reading, found: _Reading, codec: str) -> bool:
    """Return whether a codec mends so many words that it is not by chance, and leaves hardly any that are none."""
    disputed = sum(word.decode(WESTERN, "replace") != word.decode(codec, "replace") for word in words)
    gain = len(found.fitting) - len(western.fitting)
    is_by_chance = gain < max(_FEWEST_WORDS, _LEAST_GAIN * disputed)
    leaves_few = len(found.fitting) >= _LEAST_FIT * len(words)
    return not is_by_chance and leaves_few and not _are_signs(found.fitting - western.fitting, codec)


def _are_signs(mended: set[bytes], codec: str) -> bool:
    """Return whether the bytes of words that a codec takes for other characters are all signs in Western texts."""
    bytes_of = {bytes((byte,)) for byte in set(b"".join(mended))}
    other = {one for one in bytes_of if one.decode(WESTERN, "replace") != one.decode(codec, "replace")}
    return bool(other) and other <= _SIGNS


def _read(words: set[bytes], codec: str, languages: tuple[str, ...]) -> _Reading:
    texts = {word: word.decode(codec, "replace") for word in words}
    by_language = [{word for word in words if _fits(texts[word], frozenset(each))} for each in languages]
    return _Reading(set().union(*by_language), max(map(len, by_language)))


def _fits(word: str, alphabet: frozenset[str]) -> bool:
    """Return whether a word, or each of two that a sign joins, has the letters of a language only."""
    bare = _bare(word)
    return not _turns(bare) and all(
        alphabet.issuperset(_BEYOND_ASCII.findall(part.lower())) for part in _BETWEEN_LETTERS.split(bare)
    )


def _bare(word: str) -> str:
    return word.lstrip(_BEFORE_LETTERS).rstrip(_BEHIND_LETTERS)


def _turns(word: str) -> bool:
    """Return whether a capital beyond ASCII stands behind a small letter, as none does in any language."""
    return any(a.islower() and b.isupper() and not b.isascii() for a, b in pairwise(word))
