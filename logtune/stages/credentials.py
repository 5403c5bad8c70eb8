"""text -> secrets in it: keys of vendors' shapes, tokens, private keys, passwords, and what the text calls a secret.

Every pattern is linear in the text: runs are possessive, and a run is entered at its first character alone.
"""

import re
from collections.abc import Iterator, Mapping

Spans = Iterator[tuple[int, int]]

# Prefixes that vendors give their keys so that scanners find them, each with what follows it. The first is our own.
VENDORS: Mapping[str, str] = {
    "lt-": r"[0-9a-f]{12}-[\w-]{20,}+", "sk-": r"(?=[\w-]*\d)[\w-]{20,}+", "sk_live_": r"\w{16,}+",
    "sk_test_": r"\w{16,}+", "rk_live_": r"\w{16,}+", "rk_test_": r"\w{16,}+", "whsec_": r"\w{24,}+",
    "ghp_": r"\w{30,}+", "gho_": r"\w{30,}+", "ghu_": r"\w{30,}+", "ghs_": r"\w{30,}+", "ghr_": r"\w{30,}+",
    "github_pat_": r"\w{22,}+", "glpat-": r"[\w-]{20,}+", "AKIA": r"[A-Z0-9]{16}(?!\w)", "ASIA": r"[A-Z0-9]{16}(?!\w)",
    "AIza": r"[\w-]{35}", "ya29.": r"[\w-]{20,}+", "xapp-": r"[\w-]{20,}+", "hf_": r"[A-Za-z0-9]{30,}+",
    "npm_": r"[A-Za-z0-9]{36}", "pypi-": r"[\w-]{50,}+", "dop_v1_": r"[0-9a-f]{64}", "doo_v1_": r"[0-9a-f]{64}",
    "SG.": r"[\w-]{16,}+\.[\w-]{16,}+", "shpat_": r"[0-9a-fA-F]{32}", "shpss_": r"[0-9a-fA-F]{32}",
    "gsk_": r"\w{40,}+", "r8_": r"\w{30,}+", "nvapi-": r"[\w-]{40,}+", "pplx-": r"\w{40,}+", "tvly-": r"[\w-]{20,}+",
    "lin_api_": r"\w{30,}+", "AGE-SECRET-KEY-1": r"[A-Z0-9]{40,}+", "eyJ": r"[\w-]{8,}+\.eyJ[\w-]{8,}+(?:\.[\w-]*+)?",
    **{f"xox{kind}-": r"[\w-]{10,}+" for kind in "abceoprs"},
}  # fmt: skip
SHAPES: Mapping[str, re.Pattern[str]] = {
    # The prefix stands first, so that the search for it is fast; then that nothing stands before it.
    **{start: re.compile(rf"{re.escape(start)}(?<![\w-]{re.escape(start)}){rest}") for start, rest in VENDORS.items()},
    "hooks.slack.com/services/": re.compile(r"hooks\.slack\.com/services/[\w/]{20,}+"),
    ":AA": re.compile(r"(?<!\d)\d{8,10}:AA[\w-]{33}"),  # bots
}
LEAST = 15  # characters of the shortest of these
BEGIN = "-----BEGIN "
PEM = re.compile(
    r"-----BEGIN [^-\n]{0,40}PRIVATE KEY[^-\n]{0,20}-----(?:[^-]|-(?!----))*+(?:-----END [^-\n]{0,60}-----)?"
)
LOGIN = re.compile(r"://([^\s/:@]{0,64}:[^\s/@]{1,128})@")  # user:password in an address

# Words after which a secret may stand, and what must stand between.
WORDS = ("pass", "pwd", "secret", "token", "credential", "key", "authoriz", "bearer")
WORD = r"(?P<name>pass(?:word|wd|phrase|code)|pwd|secret|token|credentials?|key|authorization|bearer(?=\s))"
BEFORE_KEY = re.compile(r"(?:api|access|private|account|signing|encryption|secret)[_ -]?$", re.IGNORECASE)
NAME = re.compile(
    r"(?:(?P<name>pass(?:word|wd|phrase|code)|pwd|secret|token|credentials?|authorization)"
    r"|(?:api|access|private|account|signing|encryption|secret)[_ -]?(?P<key>key))$",
    re.IGNORECASE,
)
# name = "value", "name": "value", NAME=value, the name is value, Authorization: Bearer value
ASSIGNED = re.compile(
    rf"{WORD}(?:\\?[\"'])?(?:\s{{0,3}}(?:[:=]{{1,2}}>?|is(?:\s|:)|(?<=bearer)\s)\s{{0,3}})"
    r"(?:\\?[\"'`](?:bearer |basic |token )?(?P<quoted>[^\s\"'`\\]{4,}+)[\\\"'`]"
    r"|(?:bearer |basic |token )?(?P<bare>[^\s\"'`,;<>(){}\[\]\\]{6,}+))",
    re.IGNORECASE,
)
# What stands where a secret would: a variable, a path, a type, a word of documentation.
NO_SECRET = re.compile(
    r"[<\[{$%*.]|[/~]|[x*.-]+$|(?:your|my|the|some|new|old|example|string|none|null|true|false|optional|required)(?![a-z])"
    r"|https?:",
    re.IGNORECASE,
)
EXPRESSION = re.compile(r"[a-z_]\w*(?:\.[a-z_]\w*)+$", re.IGNORECASE)


def credentials(text: str) -> Spans:
    """(start, end) of each secret in `text`; they may overlap."""
    yield from _shaped(text)
    if BEGIN in text:
        yield from (match.span() for match in PEM.finditer(text))
    if "://" in text and "@" in text:
        yield from (match.span(1) for match in LOGIN.finditer(text))
    yield from named(text)


def is_secret(name: str, value: str) -> bool:
    """True when a field with this name holds a secret with this value."""
    found = NAME.search(name)
    return found is not None and _plausible(found["name"] or found["key"], value, quoted=True)


def _shaped(text: str) -> Spans:
    """Most texts hold no long word, and what looks for keys in the long words alone is fast."""
    long = " ".join([word for word in text.split() if len(word) >= LEAST])
    for prefix in filter(long.__contains__, SHAPES) if long else ():
        yield from (match.span() for match in SHAPES[prefix].finditer(text))


def named(text: str) -> Spans:
    """(start, end) of what the text itself calls a secret."""
    lower = text.lower()
    if len(lower) != len(text):  # some letters have a longer lower form
        lower = text
    for word in filter(lower.__contains__, WORDS):
        at = lower.find(word)
        while at >= 0:
            match = ASSIGNED.match(text, at) if word != "key" or BEFORE_KEY.search(text, max(0, at - 12), at) else None
            if match:
                yield from _value(match)
            at = lower.find(word, match.end() if match else at + len(word))


def _value(match: re.Match[str]) -> Spans:
    text, group = match.string, "quoted" if match["quoted"] else "bare"
    value, start = match[group].rstrip("."), match.start(group)
    if text[start - 1] == "=":  # in an address another field may follow
        value = value.partition("&")[0]
    called = text[match.end() : match.end() + 1] in ("(", "[")  # the value is an expression
    if not called and _plausible(match["name"], value, quoted=group == "quoted"):
        yield start, start + len(value)


def _plausible(name: str, value: str, *, quoted: bool) -> bool:
    """Passwords may be short words where they are quoted; everything else has a digit, or is long."""
    if len(value) < 4 or any(map(str.isspace, value)) or NO_SECRET.match(value) or value.lower() == name.lower():
        return False
    digit = any(map(str.isdigit, value))
    if name.lower() in ("authorization", "bearer"):
        return len(value) >= 8 and (digit or not (value.islower() or value.istitle() or value.isupper()))
    if EXPRESSION.match(value):
        return False
    if name.lower().startswith(("pass", "pwd")):
        return quoted or digit or not value.replace("_", "").isalnum()
    return (digit and len(value) >= 8 and not value.isdigit()) or (len(value) >= 20 and value.isascii())
