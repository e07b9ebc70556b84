"""Where raters come from, and how they are sent back: Prolific, Mechanical Turk, invitations, or an open link.

Prolific puts PROLIFIC_PID, STUDY_ID and SESSION_ID into the study's address and takes people back at
https://app.prolific.com/submissions/complete?cc=CODE; the codes for finishing, for not passing the checks and for not
consenting are made in its own pages. Mechanical Turk shows an ExternalQuestion in a frame, with assignmentId, hitId,
workerId and turkSubmitTo in its address, and wants a form posted to turkSubmitTo + /mturk/externalSubmit.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode, urlsplit

from twistlm.errors import BadInput
from twistlm.files.text import read_text

Platform = Literal["invitations", "prolific", "mturk", "open"]
PREVIEW = "ASSIGNMENT_ID_NOT_AVAILABLE"
MOST_ID = 128  # characters of a number from outside
_PROLIFIC = "https://app.prolific.com/submissions/complete"


@dataclass(frozen=True, kw_only=True)
class Recruiting:
    """How raters come and go.

    Attributes:
        platform: where they come from.
        completion_code: shown or sent back when all is answered.
        screen_out_code: when the checks were not passed.
        no_consent_code: when somebody does not want to take part.
        invitations: the codes that let in; empty but for invitations.
    """

    platform: Platform
    completion_code: str = ""
    screen_out_code: str = ""
    no_consent_code: str = ""
    invitations: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.platform in ("prolific", "mturk") and not self.completion_code:
            raise BadInput(f"{self.platform} needs a completion code: --completion-code.")
        if self.platform == "prolific" and not (self.screen_out_code and self.no_consent_code):
            raise BadInput("prolific needs codes for those who cannot go on: --screen-out-code and --no-consent-code.")


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """Somebody who came.

    Attributes:
        participant: the number on the platform.
        study_ref, session_ref: what the platform calls the study and this visit.
        return_to: where a form is to be posted at the end; "" for none.
    """

    participant: str
    study_ref: str = ""
    session_ref: str = ""
    return_to: str = ""


@dataclass(frozen=True, kw_only=True)
class Departure:
    """How somebody is sent back.

    Attributes:
        url: a link to follow, "" for none.
        form: where `fields` are posted, "" for nowhere.
        fields: names and values of the form.
        code: shown for typing or keeping; "" for none.
    """

    url: str = ""
    form: str = ""
    fields: Mapping[str, str]
    code: str = ""


def arrival(recruiting: Recruiting, query: Mapping[str, str]) -> Arrival | None:
    """Return who came with these parameters; None for a mere preview on Mechanical Turk.

    Raises:
        BadInput: what the platform sends is missing or cannot be.
    """
    match recruiting.platform:
        case "prolific":
            return Arrival(
                participant=_id(query, "PROLIFIC_PID"),
                study_ref=_id(query, "STUDY_ID"),
                session_ref=_id(query, "SESSION_ID"),
            )
        case "mturk":
            if query.get("assignmentId", PREVIEW) == PREVIEW:
                return None
            return Arrival(
                participant=_id(query, "workerId"),
                study_ref=_id(query, "hitId"),
                session_ref=_id(query, "assignmentId"),
                return_to=_mturk(query.get("turkSubmitTo", "")),
            )
        case "invitations":
            code = _id(query, "invitation")
            if code not in recruiting.invitations:
                raise BadInput("this invitation is not known here. Check the link you were sent.")
            return Arrival(participant=code)
        case _:
            raise BadInput("come by the study's open link.")


def departure(recruiting: Recruiting, stage: str, *, platform: str, session_ref: str, return_to: str) -> Departure:
    """Return how somebody who ended at `stage` is sent back."""
    code = {
        "done": recruiting.completion_code,
        "screened_out": recruiting.screen_out_code,
        "declined": recruiting.no_consent_code,
    }.get(stage, "")
    if platform == "prolific":
        return Departure(url=f"{_PROLIFIC}?{urlencode({'cc': code})}" if code else "", fields={}, code=code)
    if platform == "mturk" and stage == "done" and return_to:
        fields = {"assignmentId": session_ref, "code": code}
        return Departure(form=f"{return_to}/mturk/externalSubmit", fields=fields, code=code)
    return Departure(fields={}, code=code)


def external_question(public_url: str, *, height: int = 800) -> str:
    """Return the ExternalQuestion of a HIT that shows the study at `public_url`, which has to be https.

    Raises:
        BadInput: another kind of address.
    """
    if not _https(public_url):
        raise BadInput(f"Mechanical Turk shows https pages only, not {public_url!r}: give --public-url https://….")
    space = "http://mechanicalturk.amazonaws.com/AWSMechanicalTurkDataSchemas/2006-07-14/ExternalQuestion.xsd"
    url = public_url.replace("&", "&amp;").replace("<", "&lt;")
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<ExternalQuestion xmlns="{space}">\n'
        f"  <ExternalURL>{url}</ExternalURL>\n"
        f"  <FrameHeight>{height}</FrameHeight>\n</ExternalQuestion>\n"
    )


def read_invitations(path: Path) -> frozenset[str]:
    """Return the codes of an invitations.csv.

    Raises:
        BadInput: there are none.
    """
    rows = list(csv.DictReader(read_text(path, "the invitations of a study").splitlines()))
    codes = frozenset(row.get("invitation") or "" for row in rows) - {""}
    if not codes:
        raise BadInput(f"{path}: no column `invitation` with codes in it. Plan the study again.")
    return codes


def _id(query: Mapping[str, str], name: str) -> str:
    value = query.get(name, "")
    if not value or len(value) > MOST_ID or not value.isascii() or not all(c.isalnum() or c in "-_" for c in value):
        raise BadInput(f"the link lacks a proper {name}. Open it as it was given to you.")
    return value


def _mturk(url: str) -> str:
    """Return where Mechanical Turk wants its form, if it is Mechanical Turk."""
    host = _https(url)
    if not re.fullmatch(r"(?:[a-z0-9-]+\.)*mturk\.com", host):
        raise BadInput("turkSubmitTo is not an address of Mechanical Turk.")
    return f"https://{host}"


def _https(url: str) -> str:
    """Return what stands for the host, with port and names, in an https address; "" in any other."""
    try:
        parts = urlsplit(url)
    except ValueError:  # "https://["
        return ""
    return parts.netloc if parts.scheme == "https" else ""
