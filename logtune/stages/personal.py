"""text -> personal data in it, by format: e-mail, phone, card, IBAN and IP, and for the filter identity numbers too.

Numbers with check digits are checked, so that order numbers, times and versions stay. Every pattern is linear in the
text. Names of people are not looked for.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence

Spans = Iterator[tuple[int, int]]
Runs = Sequence[tuple[int, int]]  # (start, end) as number_runs gives them

# --- where to look ---

RUN = re.compile(r"\d[\d .\-/()\u00a0]{6,}")  # digits, and what stands between the groups of a number
NO_DIGITS = bytes(value for value in range(256) if not 48 <= value <= 57)
LEAST_DIGITS, LEAST_DOTS = 7, 3


def number_runs(text: str) -> list[tuple[int, int]]:
    """(start, end) of the runs of digits that may hold a phone number, card, IBAN or IP address."""
    if text.isascii() and len(text.encode().translate(None, NO_DIGITS)) < LEAST_DOTS:
        return []
    return [
        match.span() for match in RUN.finditer(text)
        if match.group().count(".") >= LEAST_DOTS or _digits(match.group()) >= LEAST_DIGITS
    ]  # fmt: skip


def _digits(text: str) -> int:
    return sum(map(str.isdecimal, text))


# --- e-mail ---

LETTER = r"A-Za-z0-9_\u00c0-\u024f\u0370-\u03ff\u0400-\u04ff"  # not Han or Kana, which stand beside without a space
EMAIL = re.compile(
    rf"(?<![{LETTER}.+'-])[{LETTER}.+'-]++(?:[@＠]|%40)(?:[{LETTER}-]{{1,63}}\.){{1,8}}"
    r"(?:[A-Za-z]{2,24}|xn--[a-z0-9-]{2,59}|[\u0400-\u04ff]{2,10})(?![A-Za-z0-9_-])"
)


def emails(text: str) -> Spans:
    """(start, end) of each e-mail address; the address of a repository (git@...) is none."""
    if "@" not in text and "＠" not in text and "%40" not in text:
        return
    for match in EMAIL.finditer(text):
        address = match.group().lstrip("'.-+")
        if not address.startswith(("git@", "@")):
            yield match.end() - len(address), match.end()


# --- cards ---

# Digits with single separators; a card is looked for at the groups inside.
GROUPS = re.compile(r"(?<![^\W_])(?<!\d\.)\d(?:[ \u00a0-]?\d){11,}+")
SEPARATED = re.compile(r"[ \u00a0-]")
# First digits -> lengths, by the issuers' tables (ISO/IEC 7812; Maestro from 12 digits on).
ISSUERS: Sequence[tuple[re.Pattern[str], tuple[int, ...]]] = tuple(
    (re.compile(start), lengths) for start, lengths in (
        (r"4", (16, 19, 13)), (r"5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)", (16,)), (r"3[47]", (15,)),
        (r"6(?:011|4[4-9]|5|2)", (16, 19, 18, 17)), (r"3(?:0[0-5]|[689])", (14, 16)), (r"35(?:2[89]|[3-8])", (16,)),
        (r"2131|1800", (15,)), (r"5[0678]|6", (16, 19, 18, 12, 13, 14, 15, 17)),
    )
)  # fmt: skip
DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)  # digit sum of twice the digit


LEAST_GROUP = 4  # digits of a card's first group
LENGTHS = range(12, 20)  # digits of a card
DECIMAL = re.compile(r"\.\d")
CARD_WORD = re.compile(r"\b(?:card|cc|visa|mastercard|amex|maestro|karte|carte|tarjeta)\b", re.IGNORECASE)


def cards(text: str, runs: Runs) -> Spans:
    """(start, end) of each payment card: its check digit is right, and its issuer known or it is called a card."""
    for first, last in runs:
        for match in GROUPS.finditer(text, first, last):
            yield from _cards(text, match.start(), match.end())


def _cards(text: str, start: int, end: int) -> Spans:
    groups = SEPARATED.split(text[start:end])
    if text[end : end + 1].isalnum() or DECIMAL.match(text, end):
        groups.pop()  # the rest of it is no number
    spelled = all(len(group) == 1 for group in groups)
    at, number = start, 0
    while number < len(groups):
        begins = len(groups[number]) >= LEAST_GROUP or (spelled and number == 0)
        taken = _card_groups(text, groups, number, at) if begins else 0
        size = sum(map(len, groups[number : number + max(taken, 1)])) + max(taken, 1) - 1
        if taken:
            yield at, at + size
        number, at = number + max(taken, 1), at + size + 1


def _card_groups(text: str, groups: Sequence[str], number: int, at: int) -> int:
    """How many groups make the card that begins with group `number`, at character `at`; 0: none begins there."""
    digits = ""
    for taken, group in enumerate(groups[number : number + LENGTHS[-1]], 1):
        digits += group
        if len(digits) > LENGTHS[-1]:
            return 0
        if len(digits) in LENGTHS and _luhn(digits):
            issued = any(start.match(digits) and len(digits) in lengths for start, lengths in ISSUERS)
            if issued or CARD_WORD.search(text, max(0, at - 30), at):
                return taken
    return 0


def _luhn(digits: str) -> bool:
    """The check digit of card numbers (ISO/IEC 7812-1); a number of one digit alone is none."""
    if len(set(digits)) == 1:
        return False
    return (sum(map(int, digits[-1::-2])) + sum(DOUBLED[int(digit)] for digit in digits[-2::-2])) % 10 == 0


# --- IBAN ---

IBAN = re.compile(r"(?<![^\W_])[A-Za-z]{2}\d{2}")
# Characters of each country's account numbers (ISO 13616 registry).
COUNTRIES = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20"
    " EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30"
    " KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24"
    " PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29"
    " VA22 VG24 XK20 YE30"
)
IBAN_LENGTHS: Mapping[str, int] = {item[:2]: int(item[2:]) for item in COUNTRIES.split()}
ACCOUNTS = {
    length: re.compile(rf"[A-Za-z]{{2}}\d\d(?:[ \u00a0-]?[A-Za-z0-9]){{{length - 4}}}(?![^\W_])")
    for length in set(IBAN_LENGTHS.values())
}


LONGEST_HEAD = 24  # characters from an account's first letter to its longest run of digits


def ibans(text: str, runs: Runs) -> Spans:
    """(start, end) of each IBAN: a known country's length, and the check digits are right."""
    for first, last in runs:
        for match in IBAN.finditer(text, max(0, first - LONGEST_HEAD), last):
            length = IBAN_LENGTHS.get(match.group()[:2].upper())
            account = ACCOUNTS[length].match(text, match.start()) if length else None
            if account and _checks(SEPARATED.sub("", account.group())):
                yield account.span()


def _checks(account: str) -> bool:
    """The check digits of account numbers (ISO 13616): the rearranged number is 1 modulo 97."""
    return int("".join(str(int(char, 36)) for char in account[4:] + account[:4])) % 97 == 1


# --- IP ---

IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}")
IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}:|::)(?:[0-9A-Fa-f]{0,4}:){1,7}+[0-9A-Fa-f]{0,4}(?![\w:])")
VERSION = re.compile(
    r"(?:\bv(?:er(?:sion)?)?|version|release|build|firmware|[=><~^]=?|§|section|chapter|[^\W\d_]/)\W{0,3}$", re.I
)
ADDRESSED = re.compile(r"(?:\bip\b|address|host|server|dns|ping|://|@|port|client|from|subnet)[^\n]{0,20}$", re.I)
NOBODYS = ("127.", "0.", "255.", "224.", "239.")  # loopback, any, masks, groups
HOME, ROUTERS = ("192.168.", "10."), frozenset({"0", "1", "254", "255"})  # everybody's router, network, broadcast


FOLLOWED = re.compile(r"\w|\.\d")
COLONS = re.compile(r":[0-9A-Fa-f]{0,4}:")


def ips(text: str, runs: Runs) -> Spans:
    """(start, end) of each IP address of some machine; versions and loopback are none."""
    for first, last in runs:
        for match in IPV4.finditer(text, first, last):
            before = text[max(0, match.start() - 40) : match.start()]
            if not FOLLOWED.match(text, match.end()) and _is_ipv4(match.group(), before):
                yield match.span()
    if text.count(":") >= 2 and COLONS.search(text):
        yield from (match.span() for match in IPV6.finditer(text) if _is_ipv6(match.group()))


def _is_ipv4(found: str, before: str) -> bool:
    octets = found.split(".")
    if any(int(octet) > 255 or (octet[0] == "0" and len(octet) > 1) for octet in octets):
        return False
    if found.startswith(NOBODYS) or (found.startswith(HOME) and octets[3] in ROUTERS):
        return False
    if all(len(octet) == 1 for octet in octets) and not ADDRESSED.search(before):
        return False  # the number of a section or a version
    return not VERSION.search(before)


def _is_ipv6(found: str) -> bool:
    """In its full form, or with a first group of four digits: `a::b` is code."""
    if found.startswith("::1:"):  # loopback and a port
        return False
    if found.count(":") < 3 and not re.match(r"[0-9A-Fa-f]{4}:", found):
        return False
    try:
        address = ipaddress.IPv6Address(found)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified) and any(map(str.isdigit, found))


# --- phone ---

GAP = r"[ \u00a0.\-/]"
DIGITS = r"\d(?:[ \u00a0.\-/()]{0,3}\d)"  # and so on: digits, and little between them
EXTENSION = r"(?: ?(?:x|ext\.?|#) ?\d{1,5})?"
AFTER = r"(?!\w|[-.:/]\d)"
PHONE = re.compile(
    # +46 (0)8 928 571 38, 001-518-640-0854
    rf"(?<![\w+.])(?:\+|00 ?)(?=[1-9]){DIGITS}{{6,14}}+{EXTENSION}{AFTER}"
    # (555) 010-4477, 555-010-4477, 1.555.010.4477
    rf"|(?<![\w.+-])(?:1[-. ])?(?:\(\d{{3}}\) ?|\d{{3}}[-.])\d{{3}}[-. ]\d{{4}}{EXTENSION}{AFTER}"
    # 07700 900 123, 03.93.92.16.85, (07) 123-456
    rf"|(?<![\w.+/:-])\(?0[1-9]\d{{0,3}}\)?(?:{GAP}\d{{2,4}}){{2,4}}{EXTENSION}{AFTER}"
)
NUMBER = re.compile(rf"\+?\(?{DIGITS}{{6,17}}+{EXTENSION}{AFTER}")
CALLED = re.compile(  # at the end of the words before it: they call a number a phone number, whatever its format
    r"(?:\b(?:(?:tele)?phone|tel|mobile|cell(?:phone)?|fax|whats ?app|sms|call(?:ed|ing)?|ring|dial|reach(?:ed)?"
    r"|answering|telefon|handy|mobil|t[ée]l[ée]phone|portable|tel[ée]fono|m[óo]vil|celular|cellulare|telefone"
    r"|registered|(?:desk|office)(?=[:. ]{0,3}$))|телефон|电话|手机|電話|携帯)"
    r"(?:[\s:.#=*_\"'-]|\b(?:number|no|nr|is|me|us|at|on|him|her|them|under|back|to|n[uú]mero|nummer)\b){0,12}$",
    re.IGNORECASE,
)
SIGNED = re.compile(r"\s?[-–(]?\s?(?:office|mobile|fax|cell|desk|home|work|tel)\b", re.IGNORECASE)  # the words after it
DATE = re.compile(r"(?<!\d)(?:\d{1,2}[./-]\d{1,2}[./-](?:19|20)\d\d|(?:19|20)\d\d[./-]\d{1,2}[./-]\d{1,2})(?!\d)")
SSN = re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])")
LONGEST_PHONE, LONGEST_NATIONAL = 15, 11  # digits, with the country's (ITU-T E.164) and without


def phones(text: str, runs: Runs) -> Spans:
    """(start, end) of each phone number; one without form is one where the words beside it say so."""
    for first, last in runs:
        while first > 0 and text[first - 1] in "+(":
            first -= 1
        for match in PHONE.finditer(text, first, last + MORE):
            if not (match.group().startswith("00") and match.group().isdecimal()):  # a padded number
                yield from _phone(match.group(), match.start(), least=8)
        if CALLED.search(text[max(0, first - 40) : first]):
            number = NUMBER.match(text, first)
            yield from _phone(number.group(), first) if number else ()
        end = first + len(text[first:last].rstrip(" .-/(\u00a0"))
        if SIGNED.match(text, end):
            yield from _signed(text[first:end], end)


MORE = 8  # characters of an extension


def _phone(found: str, start: int, *, least: int = LEAST_DIGITS) -> Spans:
    """A phone number at the beginning of `found`, which may hold its neighbours too."""
    number = re.split(r" ?[xe#]", found)[0]
    kept = number
    while _digits(kept) > _most(number) and " " in kept:
        kept = kept.rpartition(" ")[0].rstrip()
    if _is_phone(kept, number, least):
        yield start, start + len(found if kept == number else kept)


def _signed(found: str, end: int) -> Spans:
    """A phone number at the end of `found`, which may hold its neighbours too."""
    kept = found[-40:]
    while _digits(kept) > _most(kept) and " " in kept:
        kept = kept.partition(" ")[2].lstrip()
    if _is_phone(kept, kept, LEAST_DIGITS):
        yield end - len(kept), end


def _is_phone(kept: str, number: str, least: int) -> bool:
    return least <= _digits(kept) <= _most(number) and not DATE.search(kept) and not SSN.fullmatch(kept)


def _most(number: str) -> int:
    return LONGEST_PHONE if number.startswith(("+", "00")) else LONGEST_NATIONAL


# --- for the filter ---

NUMBERED = re.compile(
    r"\b(?:ssn|social security|passport|driver'?s? licen[cs]e|national id|tax id|account|sort code|routing|phone"
    r"|mobile|tel|fax|cell|iban|card|security code)"
    r"(?: number| no\.?| code)?\s*(?:is|:|#|=)?\s*:?\s*([A-Z]{0,3}\d[\d -]{5,26})\b",
    re.IGNORECASE,
)
STREET = (
    r"(?:st|str|street|rd|road|ave|avenue|blvd|boulevard|ln|lane|dr|drive|ct|court|pl|place|sq|square|way|terrace"
    r"|crescent|close|parkway|highway|hwy|greens?|mews|row|strasse|straße|laan|straat|weg|gade|vej|gatan|vägen)"
)
ADDRESS = re.compile(
    rf"\b\d{{1,6}}[a-z]?,?\s+(?:[A-ZÀ-Ž][\w'’.-]*\s+){{1,4}}(?i:{STREET})\b\.?"
    rf"|\b\d{{1,5}}\s+(?:rue|via|calle|avenue|av|piazza|rua|allée|chemin)\s+[A-Z]\w+"
    rf"|\b[A-Z]\w+(?i:{STREET})\s\d{{1,5}}\b|\b(?:Apt|APT|Suite|SUITE|Apartment)\.?\s*(?:#\s*)?\d{{1,4}}\b"
    rf"|(?i:\bp\.?\s?o\.? box \d+)"
)


def personal_data(text: str) -> dict[str, list[str]]:
    """Personal data in `text` by kind: strong identifiers and email, phone, ip, address."""
    found, runs = strong_identifiers(text), number_runs(text)
    spans = {"email": emails(text), "phone": phones(text, runs), "ip": _public(text, ips(text, runs))}
    found |= {kind: [text[start:end] for start, end in sorted(set(places))] for kind, places in spans.items()}
    found["address"] = [match.group() for match in ADDRESS.finditer(text)]
    return {kind: items for kind, items in found.items() if items}


def _public(text: str, places: Spans) -> Spans:
    return (place for place in places if ipaddress.ip_address(text[slice(*place)]).is_global)


def strong_identifiers(text: str) -> dict[str, list[str]]:
    """Identifiers that are never small talk: card, iban, ssn and numbers that the text itself calls personal."""
    runs = number_runs(text)
    found = {
        "card": [text[start:end] for start, end in cards(text, runs)],
        "iban": [text[start:end] for start, end in ibans(text, runs)],
        "ssn": SSN.findall(text),
        "identifier": NUMBERED.findall(text),
    }
    return {kind: items for kind, items in found.items() if items}
