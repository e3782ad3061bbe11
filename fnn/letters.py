"""Letters that a terminal lacks, and what stands in for them.

fnn writes mathematics in its own letters: θ, ∂, ×. A terminal in Windows' cp1252 or in
the C locale lacks some of them, and `print` would end in a UnicodeEncodeError. What
fnn's objects print as (`str(report)`) therefore has stand-ins wherever the standard
output could not encode it: theta, d, x. A program can do the same for all it prints.
"""

import codecs
import io
import re
import sys
import unicodedata

__all__ = ["make_stdout_printable", "printable"]

_STAND_INS = {
    **{"×": "x", "·": "*", "⊙": "*", "−": "-", "–": "-", "—": "-", "±": "+-"},
    **{"…": "...", "→": "->", "↦": "->", "←": "<-", "↓": "v", "↑": "^"},
    **{"↘": "\\", "↙": "/"},
    **{"≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "∝": "~", "∂": "d", "∇": "grad "},
    **{"√": "sqrt ", "∞": "inf", "Σ": "sum", "‖": "||", "′": "'", "″": "''"},
    **{"\N{COMBINING CIRCUMFLEX ACCENT}": "_hat", "\N{COMBINING MACRON}": "_bar"},
    **{"⌊": "floor(", "⌋": ")", "⌈": "ceil(", "⌉": ")", "⟨": "<", "⟩": ">"},
    **{
        "∈": " in ",
        "⋆": "*",
        "⊕": "+",
        "⊗": "(x)",
        "∘": "*",
        "ø": "o",
        "\N{COMBINING TILDE}": "_tilde",
    },
    **{"°": " degrees", "▲": "^", "▼": "v", "⁄": "/", "“": '"', "”": '"', "’": "'"},
    **dict.fromkeys("─━═╌┄", "-"),
    **dict.fromkeys("│┃║", "|"),
}


def printable(text: str) -> str:
    """Return the text as the standard output can show it; mostly, that is as it is.

    Example:
        >>> from fnn.letters import printable
        >>> printable("∂L/∂θ₁")  # here, where the output is in UTF-8
        '∂L/∂θ₁'
    """
    encoding = getattr(sys.stdout, "encoding", None)
    if text.isascii() or not encoding or _has(encoding, text):
        return text

    def whole(exponent: re.Match[str]) -> str:  # of x⁽²⁾, cp1252 has the ² alone
        run = exponent[0]
        return run if _has(encoding, run) else _plain_exponent(run)

    _register()
    text = re.sub(f"[{_EXPONENTS}]+", whole, text)
    return text.encode(encoding, _HANDLER).decode(encoding)


def make_stdout_printable() -> None:
    """Let the standard output write stand-ins for letters that it lacks.

    For programs, which own their output: a library leaves it as it is.
    """
    _register()
    raising = ("strict", "surrogateescape")  # the second in the C locale
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in raising:
        sys.stdout.reconfigure(errors=_HANDLER)


def _has(encoding: str, text: str) -> bool:
    """Return whether an encoding has all letters; one that is unknown may have them."""
    try:
        text.encode(encoding)
    except LookupError:
        return True
    except UnicodeEncodeError:
        return False
    return True


_HANDLER = "fnn.letters"


def _register() -> None:
    codecs.register_error(_HANDLER, _replace)


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Replace the letters that an encoding lacks; `codecs` calls it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    start, end = error.start, error.end
    lacking, after = error.object[start:end], error.object[end : end + 1]
    lacking = re.sub(f"[{_EXPONENTS}]+", lambda run: _plain_exponent(run[0]), lacking)
    written = ""
    for i, letter in enumerate(lacking):
        following = lacking[i + 1 : i + 2] or after
        written += letter if letter.isascii() else _stand_in(letter, following)
    return written, end


_EXPONENTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ᵀᵗᵖⁿˣᶻ"


def _plain_exponent(letters: str) -> str:
    """Return one sign for all exponents in a row: 10⁻⁴ is 10^-4."""
    return f"^{_plain(letters)}"


def _stand_in(letter: str, following: str) -> str:
    """Return the stand-in for one letter; what follows a Greek name is kept apart."""
    if letter in _STAND_INS:
        return _STAND_INS[letter]
    script, _, name = unicodedata.name(letter, "").partition(" ")
    if script == "GREEK":
        spelt = name.rpartition(" ")[2].replace("LAMDA", "LAMBDA")
        spelt = spelt.title() if name.startswith("CAPITAL") else spelt.lower()
        return f"{spelt} " if following.isalpha() else spelt
    if script == "BOX":
        return "+"
    return _plain(letter) or "?"


def _plain(letters: str) -> str:
    """Return the ASCII letters that others are made of: é is e, ₁ is 1, ½ is 1/2."""
    parts = unicodedata.normalize("NFKD", letters)
    parts = "".join(_STAND_INS.get(part, part) for part in parts)
    return parts.encode("ascii", "ignore").decode()
