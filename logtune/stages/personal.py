"""text -> personal data in it, by format: cards, accounts, identity numbers, e-mail, phone, addresses.

Numbers with check digits are checked (cards, IBAN); names of people are not looked for.
"""

import ipaddress
import re
from collections.abc import Sequence

EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{2,63}){1,4}")
DIGITS = re.compile(r"(?<![\w.])\d(?:[ -]?\d){11,18}(?!\w)")
ISSUED = (2, 3, 4, 5, 6)  # first digits of payment cards
CARD_WORD = re.compile(r"\b(?:card|cc|visa|mastercard|amex|account|iban|number|no)\b", re.IGNORECASE)
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]{4}){2,7}(?:[ ]?[A-Z0-9]{1,3})?\b")
SSN = re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])")
IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])")
IPV6 = re.compile(r"(?<![\w:])(?:[0-9a-fA-F]{1,4}:){3,7}[0-9a-fA-F:]{1,30}(?![\w:])")
PHONE = re.compile(
    r"(?<![\w.])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}|\(\d{3}\) ?\d{3}[ .-]\d{4}"
    r"|\d{3}[.-]\d{3}[.-]\d{4})(?!\w)"
)
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
    found = strong_identifiers(text)
    found["email"] = EMAIL.findall(text)
    found["phone"] = [match.group() for match in PHONE.finditer(text) if 9 <= _digits(match.group()) <= 15]
    found["ip"] = [item for item in IPV4.findall(text) + IPV6.findall(text) if _public(item)]
    found["address"] = [match.group() for match in ADDRESS.finditer(text)]
    return {kind: spans for kind, spans in found.items() if spans}


def strong_identifiers(text: str) -> dict[str, list[str]]:
    """Identifiers that are never small talk: card, iban, ssn and numbers that the text itself calls personal."""
    found = {
        "card": [match.group() for match in DIGITS.finditer(text) if _is_card(match, text)],
        "iban": [item for item in IBAN.findall(text) if _is_iban(item)],
        "ssn": SSN.findall(text),
        "identifier": NUMBERED.findall(text),
    }
    return {kind: spans for kind, spans in found.items() if spans}


def _digits(text: str) -> int:
    return sum(char.isdigit() for char in text)


def _is_card(match: re.Match[str], text: str) -> bool:
    digits = [int(char) for char in match.group() if char.isdigit()]
    if digits[0] not in ISSUED or len(set(digits)) == 1:
        return False
    return _luhn(digits) or CARD_WORD.search(text, max(0, match.start() - 30), match.start()) is not None


def _luhn(digits: Sequence[int]) -> bool:
    """The check digit of card numbers (ISO/IEC 7812-1)."""
    doubled = [digit * 2 - 9 if digit > 4 else digit * 2 for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_iban(text: str) -> bool:
    """The check digits of account numbers (ISO 13616): the rearranged number is 1 modulo 97."""
    plain = text.replace(" ", "")
    return 15 <= len(plain) <= 34 and int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1


def _public(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False
