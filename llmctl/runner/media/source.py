"""Where one image of a request comes from, in every shape that a protocol may say it in."""

from __future__ import annotations

from dataclasses import dataclass

from llmctl.domain import IMAGE
from llmctl.errors import RequestError

BASE64, URL, PATH = "base64", "url", "path"

TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
"""The formats that are taken. What a file is, its first bytes say; a declared type must only be one of these."""

URL_LENGTH = 2048
DATA_HEAD = 256  # a data URL's comma must come before this
LLMWS_KEYS = ("data_url", "base64", "data", "path", "url")


@dataclass(frozen=True)
class Source:
    """One image (sound, film) of a request. `at` names its field, `kind` is its modality, `how` what `value` is."""

    at: str
    kind: str
    how: str
    value: str


def of_url(at: str, url: object) -> Source:
    """A `data:` URL with base64 in it, or an http(s) one. RequestError 400 for anything else."""
    text = _text(at, url)
    scheme = text[:8].lower()
    if scheme.startswith("data:"):
        return _of_data_url(at, text)
    if not scheme.startswith(("http:", "https:")):
        raise _bad(at, "must be a data:, http: or https: URL")
    if len(text) > URL_LENGTH:
        raise _bad(at, f"is longer than {URL_LENGTH} characters")
    return Source(at, IMAGE, URL, text)


def of_base64(at: str, text: object, media_type: object = None) -> Source:
    """Base64 (RFC 4648, section 4) of a file, of a type that a client may declare."""
    if media_type is not None:
        _check_type(at, _text(at, media_type))
    return Source(at, IMAGE, BASE64, _text(at, text))


def of_path(at: str, path: object) -> Source:
    """The name of a file on the slot's machine."""
    return Source(at, IMAGE, PATH, _text(at, path))


def of_llmws(at: str, value: object) -> Source:
    """An image as llmws has it: a data URL or base64, or an object (maybe under `source`) with one of LLMWS_KEYS."""
    if isinstance(value, dict) and "source" in value:
        at, value = f"{at}.source", value["source"]
    if isinstance(value, str):
        return of_data(at, value)
    if not isinstance(value, dict):
        raise _bad(at, "must be a string or an object")
    given = [key for key in LLMWS_KEYS if value.get(key) is not None]
    if len(given) != 1:
        raise _bad(at, f"needs one of {', '.join(LLMWS_KEYS)}")
    at, found = f"{at}.{given[0]}", value[given[0]]
    if given[0] == "path":
        return of_path(at, found)
    if given[0] in ("url", "data_url"):
        return of_url(at, found)
    return of_data(at, found, value.get("media_type"))


def of_data(at: str, text: object, media_type: object = None) -> Source:
    """A data URL or base64."""
    if isinstance(text, str) and text[:5].lower() == "data:":
        return _of_data_url(at, text)
    return of_base64(at, text, media_type)


def _of_data_url(at: str, url: str) -> Source:
    """RFC 2397: data:[type][;parameter…];base64,DATA"""
    head, comma, _ = url[:DATA_HEAD].partition(",")
    media_type, *parameters = head[5:].lower().split(";")
    if not comma or "base64" not in parameters:
        raise _bad(at, "is not a data URL with base64 in it (data:image/png;base64,…)")
    _check_type(at, media_type)
    return Source(at, IMAGE, BASE64, url[len(head) + 1 :])


def _check_type(at: str, media_type: str) -> None:
    if media_type.lower().replace("image/jpg", "image/jpeg") not in TYPES:
        raise _bad(at, f"declares a type that is not taken; {', '.join(TYPES)} are")


def _text(at: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise _bad(at, "must be a string that is not empty")
    return value


def _bad(at: str, what: str) -> RequestError:
    return RequestError(f"{at}: {what}", param=at, code="invalid_image")
