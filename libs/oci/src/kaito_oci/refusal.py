"""A registry's error answer as one of our errors (distribution spec, "Error Codes")."""

from __future__ import annotations

import msgspec
import requests
import urllib3.exceptions

from kaito_oci.errors import Denied, NotFound, OciError, TooLarge, Unauthorized, Unavailable, UploadRefused

_MAX_BODY = 16 * 1024
_MAX_WORDS = 300


class _Error(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Errors(msgspec.Struct):
    errors: list[_Error] = []


def describe(response: requests.Response) -> str:
    """The status, and the registry's own words where it has some (bounded; nothing of the request is repeated)."""
    return _described(response, _errors(response))


def error(response: requests.Response, what: str) -> OciError:
    """The error that a status means, with `what` was asked for."""
    status = response.status_code
    errors = _errors(response)
    said = _described(response, errors)
    ours = any(one.code for one in errors) or (status == 401 and "WWW-Authenticate" in response.headers)
    if status == 401:
        return Unauthorized(f"{what}: the registry wants other credentials: {said}", by_registry=ours)
    if status == 403:
        return Denied(f"{what}: the registry denies access: {said}", by_registry=ours)
    if status == 404:
        return NotFound(f"{what}: the registry does not have it: {said}", by_registry=ours)
    if status == 413:
        return TooLarge(f"{what}: the registry finds it too large: {said}")
    if status >= 500 or status in {408, 429}:
        return Unavailable(f"{what}: the registry answers {said}")
    return UploadRefused(f"{what}: the registry answers {said}")


def _errors(response: requests.Response) -> list[_Error]:
    """What the body says, [] where it is no error document; it can be read once."""
    try:
        body = response.raw.read1(_MAX_BODY, decode_content=False) if not response.raw.closed else b""
        return msgspec.json.decode(body, type=_Errors).errors
    except (msgspec.MsgspecError, urllib3.exceptions.HTTPError, OSError, ValueError):
        return []


def _described(response: requests.Response, errors: list[_Error]) -> str:
    words = "; ".join(f"{one.code} {one.message}".strip() for one in errors)
    clean = "".join(letter if letter.isprintable() else " " for letter in words)[:_MAX_WORDS]
    return f"{response.status_code} ({clean})" if clean else str(response.status_code)
