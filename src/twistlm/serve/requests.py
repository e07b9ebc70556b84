"""The body of a request: read within bounds, into memory alone."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from twistlm.serve.limits import Limits

Asked = TypeVar("Asked", bound=BaseModel)


class _InMemory(MultiPartParser):
    spool_max_size = 2**62  # a form's file stays in memory: its size is bounded by the body's


async def body_of(request: Request, limits: Limits) -> bytes:
    """Return the body of a request.

    Raises:
        HTTPException: 413, it is larger than allowed; 408, it did not come in time; 400, there is none, or not all of
            it came.
    """
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limits.upload_bytes:
        raise _too_large(limits)
    held = io.BytesIO()
    try:
        async with asyncio.timeout(limits.upload_seconds):
            async for chunk in request.stream():
                if held.tell() + len(chunk) > limits.upload_bytes:
                    raise _too_large(limits)
                held.write(chunk)
    except ClientDisconnect:
        raise HTTPException(400, "the body was not whole.") from None  # said to nobody, and no traceback in the log
    except TimeoutError:
        raise HTTPException(408, f"the body did not come in {limits.upload_seconds:g} s.") from None
    if not held.tell():
        raise HTTPException(400, "the body is empty: send a sound file, whole.")
    return held.getvalue()


async def sound_of(request: Request, limits: Limits) -> tuple[bytes, dict[str, str]]:
    """Return the sound file of a request, and the other fields of its form.

    The body is the file, or a form (multipart/form-data) with a field `file`, as OpenAI's API has it.

    Raises:
        HTTPException: as `body_of`; 400, a broken form or one without a file.
    """
    body = await body_of(request, limits)
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return body, {}

    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        parser = _InMemory(request.headers, whole(), max_files=1, max_fields=20, max_part_size=10_000)
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeDecodeError) as error:
        raise HTTPException(400, f"the form cannot be read: {error}.") from error
    try:
        file = form.get("file")
        if file is None or isinstance(file, str):
            raise HTTPException(400, "the form has no file in its field 'file'.")
        return await file.read(), {key: value for key, value in form.items() if isinstance(value, str)}
    finally:
        await form.close()


def with_form(asked: Asked, form: dict[str, str]) -> Asked:
    """Return what was asked in the address, changed by what the form says.

    Raises:
        RequestValidationError: an unknown field, or one out of range.
    """
    if not form:
        return asked
    given: dict[str, Any] = {**asked.model_dump(exclude_unset=True), **form}
    try:
        return type(asked).model_validate(given)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_context=False)) from error


def _too_large(limits: Limits) -> HTTPException:
    return HTTPException(413, f"more than {limits.upload_bytes} bytes. Send a shorter or a compressed recording.")
