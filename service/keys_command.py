"""`immunize keys`: makes, lists and revokes API keys, in the file that gateways read."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from service import keyfile
from service.apikeys import DEFAULT_SCOPES, SCOPES, TENANT, Scope, TenantLimits, new_key
from service.contracts.errors import BadField, InputError, shown
from service.contracts.settings import PREFIX

FILE = f"{PREFIX}API_KEYS_FILE"
SECONDS = {"s": 1, "m": 60, "h": 3600}
DAYS = {"h": 1 / 24, "d": 1.0, "w": 7.0}


def register(commands: Any) -> None:
    """Add the command to the parser."""
    keys = commands.add_parser("keys", help="API keys: create, list, revoke; limits of tenants")
    actions = keys.add_subparsers(metavar="ACTION", required=True)

    create = actions.add_parser("create", help="make a key and print it, this once")
    create.add_argument("--tenant", required=True, type=_tenant, help="whose it is: a-z, 0-9 and -, at most 32")
    create.add_argument(
        "--scopes",
        type=_scopes,
        default=DEFAULT_SCOPES,
        metavar="SCOPE,...",
        help=f"what it may do, of {', '.join(SCOPES)} (default {','.join(DEFAULT_SCOPES)})",
    )
    create.add_argument("--expires", type=_expires, metavar="WHEN", help="2027-01-31, or 12h, 90d, 4w from now")
    _limits(create)
    create.set_defaults(run=_create)

    limit = actions.add_parser("limit", help="change a tenant's limits; those that are not named become the settings'")
    limit.add_argument("tenant", type=_tenant, metavar="TENANT")
    _limits(limit)
    limit.set_defaults(run=_limit)

    listing = actions.add_parser("list", help="the keys, without their secrets")
    listing.add_argument("--json", action="store_true", help="as JSON")
    listing.set_defaults(run=_list)

    revoke = actions.add_parser("revoke", help="end a key; gateways refuse it within a second or so")
    revoke.add_argument("key", metavar="KEYID", help="its id: what stands between imz_ and the next _")
    revoke.set_defaults(run=_revoke)

    for action in (create, limit, listing, revoke):
        action.add_argument("--file", type=Path, help=f"the key file (default {FILE})")


def _limits(parser: argparse.ArgumentParser) -> None:
    own = parser.add_argument_group("limits of the tenant, all of its keys together (0: any number)")
    own.add_argument("--rate", type=_rate, metavar="N/s", help="requests: 50/s, 100/m or 500/h")
    own.add_argument("--daily", type=_count, metavar="N", help="pictures a day (UTC)")
    own.add_argument("--waiting", type=_count, metavar="N", help="jobs that wait")


def _create(options: argparse.Namespace) -> None:
    with keyfile.changed(_file(options)) as found:
        kept, key = new_key(options.tenant, options.scopes, _now(), options.expires)
        found.keys[kept.key] = kept
        own = {"rate": options.rate, "daily": options.daily, "waiting": options.waiting}
        given = {name: value for name, value in own.items() if value is not None}
        if given:
            before = found.limits.get(options.tenant, TenantLimits(tenant=options.tenant))
            found.limits[options.tenant] = before.model_copy(update=given)
    print(f"immunize: key {kept.key} of {kept.tenant}; what follows is shown only now", file=sys.stderr)
    print(key)


def _limit(options: argparse.Namespace) -> None:
    with keyfile.changed(_file(options)) as found:
        limits = TenantLimits(tenant=options.tenant, rate=options.rate, daily=options.daily, waiting=options.waiting)
        found.limits.pop(options.tenant, None)
        if limits.limits():
            found.limits[options.tenant] = limits


def _list(options: argparse.Namespace) -> None:
    try:
        found = keyfile.read(_file(options))[0]
    except OSError as error:
        raise BadField(f"the key file cannot be read ({error.strerror}); `immunize keys create` makes it") from None
    now = _now()
    keys = [
        each.model_dump(mode="json", exclude={"sha256"}) | {"state": each.state(now)} for each in found.keys.values()
    ]
    limits = {name: each.limits() for name, each in found.limits.items()}
    if options.json:
        print(json.dumps({"keys": keys, "limits": limits}, indent=2))
        return
    for each in keys:
        until = f"until {each['expires']}" if each["expires"] else "without end"
        print(f"{each['key']}  {each['state']:<8}{each['tenant']:<33}{','.join(each['scopes'])}  {until}")
    for name, own in limits.items():
        print(f"limits of {name}: " + ", ".join(f"{what} {value:g}" for what, value in own.items()))


def _revoke(options: argparse.Namespace) -> None:
    with keyfile.changed(_file(options)) as found:
        kept = found.keys.get(options.key)
        if kept is None:
            raise InputError(f"there is no key {shown(options.key)}; `immunize keys list` shows the ids")
        if kept.revoked is None:
            found.keys[kept.key] = kept.model_copy(update={"revoked": _now()})


def _file(options: argparse.Namespace) -> Path:
    if options.file is not None:
        return Path(options.file)
    if not os.environ.get(FILE):
        raise BadField(f"which key file? Set {FILE}, or name it with --file")
    return Path(os.environ[FILE])


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _tenant(text: str) -> str:
    if not TENANT.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a name of a-z, 0-9 and -, at most 32, the first no -")
    return text


def _scopes(text: str) -> tuple[Scope, ...]:
    asked = {part.strip() for part in text.split(",")}
    if not asked <= set(SCOPES):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a list of {', '.join(SCOPES)}, with commas between")
    return tuple(scope for scope in SCOPES if scope in asked)


def _expires(text: str) -> datetime:
    try:
        if re.fullmatch(r"[1-9]\d{0,4}[hdw]", text):
            return _now() + timedelta(days=int(text[:-1]) * DAYS[text[-1]])
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{shown(text)} is no date like 2027-01-31, and no time like 90d") from None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    if found <= _now():
        raise argparse.ArgumentTypeError(f"{shown(text)} has passed")
    return found


def _rate(text: str) -> float:
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)(?:/([smh]))?", text)
    rate = float(found[1]) / SECONDS[found[2] or "s"] if found else -1.0
    if not 0 <= rate <= 100_000:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a rate like 50/s, 100/m or 500/h, at most 100000/s")
    return rate


def _count(text: str) -> int:
    if not re.fullmatch(r"\d{1,12}", text):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a whole number from 0 on")
    return int(text)
