"""The command line: `immunize`. The engine's commands join through the entry-point group `immunize.commands`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import NoReturn

from service import keys_command
from service.contracts.errors import BadField, ImmunizeError, InputError
from service.contracts.settings import describe, load_settings


class Parser(argparse.ArgumentParser):
    """argparse, but a usage error is one line and status 2."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def build_parser() -> Parser:
    parser = Parser(prog="immunize", description="Immunizes images against AI editing.")
    parser.add_argument("--version", action="version", version=version("immunize"))
    parser.add_argument("--trace", action="store_true", help="show the trace of an internal error")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)

    serve = commands.add_parser("serve", help="everything on one machine: Redis, gateway, workers")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=_port, default=8000, help="0: a free one (default 8000)")
    serve.add_argument("--data", type=Path, default=Path("immunize-data"), metavar="DIR", help="where jobs live")
    serve.add_argument("--workers", type=_positive, default=1)
    serve.set_defaults(run=_serve)

    gateway = commands.add_parser(
        "gateway",
        help="the HTTP gateway alone, for production",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"settings (environment):\n{describe()}",
    )
    gateway.add_argument("--host", default="127.0.0.1")
    gateway.add_argument("--port", type=_port, default=8000)
    gateway.set_defaults(run=_gateway)

    secret = commands.add_parser("webhook-secret", help="what a tenant checks the signatures of its webhooks with")
    secret.add_argument("--tenant", default="public", metavar="NAME")
    secret.set_defaults(run=_webhook_secret)
    keys_command.register(commands)

    demo = commands.add_parser("demo", help="a photograph through the real service, and what it did, as pictures")
    demo.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR")
    demo.set_defaults(run=_demo)

    for point in entry_points(group="immunize.commands"):
        point.load()(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Status 0: done; 2: bad usage or bad input; 1: anything else. Errors are one line on stderr."""
    options = build_parser().parse_args(arguments)
    try:
        options.run(options)
    except InputError as error:
        return _failed(error.detail, 2)
    except ImmunizeError as error:
        return _failed(error.detail, 1)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read our output has gone
        return 1
    except ModuleNotFoundError as error:
        if options.trace:
            raise
        return _failed(f"{error.name} is not installed; install immunize[worker] for the engine's commands", 1)
    except Exception as error:  # the last line of defence: a person at a terminal gets a line, not a trace
        if options.trace:
            raise
        return _failed(f"internal error: {type(error).__name__}: {error} (immunize --trace shows where)", 1)
    return 0


def _failed(detail: str, status: int) -> int:
    print(f"immunize: {' '.join(detail.split())}", file=sys.stderr)
    return status


def _serve(options: argparse.Namespace) -> None:
    from service.serve import serve

    serve(options.host, options.port, options.data, options.workers)


def _gateway(options: argparse.Namespace) -> None:
    import uvicorn

    from service.app import create_app
    from service.auth import check_exposure
    from service.listen import listen

    settings = load_settings()
    warning = check_exposure(options.host, settings)
    with listen(options.host, options.port) as listener:
        config = uvicorn.Config(create_app(settings), log_level="info")
        if warning:
            print(f"immunize: {warning}", file=sys.stderr)
        uvicorn.Server(config).run(sockets=[listener])


def _webhook_secret(options: argparse.Namespace) -> None:
    from service.webhooks.signing import tenant_secret

    secrets = load_settings().webhook_secrets
    if not secrets:
        raise BadField("IMMUNIZE_WEBHOOK_SECRET is not set; make one with: openssl rand -hex 32")
    print(tenant_secret(secrets[0], options.tenant))


def _demo(options: argparse.Namespace) -> None:
    from service.demo import demo

    demo(options.out)


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
