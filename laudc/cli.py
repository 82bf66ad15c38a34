"""The command line: one command a file in laudc/commands, found by scanning.

Whatever happens, a person gets one line on stderr and a program gets an exit code:

    0      done                              70     a bug in laudc
    2      a value that cannot be used       130    interrupted
    1-7    as in laudc.errors                1      the reader of our output went away, said quietly

`--traceback`, anywhere on the line, adds the traceback.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence

import click

from laudc import __version__
from laudc.errors import LaudcError, StorageError, UnknownName
from laudc.plugins import Plugins

COMMANDS: Plugins[click.Command] = Plugins(package="laudc.commands", attribute="COMMAND", kind="command")

_BUG, _INTERRUPTED, _UNHEARD = 70, 130, 1
_STORAGE_STEPS = {
    errno.ENOSPC: "free some space there, or write to another folder",
    errno.EDQUOT: "free some of your quota, or write to another folder",
    errno.EACCES: "choose a place you are allowed to use, or change its permissions",
    errno.EPERM: "choose a place you are allowed to use, or change its permissions",
    errno.EROFS: "write to a folder that is not read-only",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return COMMANDS[cmd_name]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            raise UnknownName.among("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="laudc %(version)s")
@click.option("--traceback", is_flag=True, expose_value=False, help="Show the traceback of an error.")
@click.pass_context
def group(ctx: click.Context) -> None:
    """Make a network skip work, and compile it so that the skipped work costs nothing."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    wants_traceback = "--traceback" in arguments
    try:
        arguments = [argument for argument in arguments if argument != "--traceback"]
        result = group.main(arguments, prog_name="laudc", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _UNHEARD
    except (Exception, KeyboardInterrupt) as error:
        message, exit_code = _explain(error)
        if wants_traceback:
            traceback.print_exc()
        click.echo(f"error: {message}".replace("\n", " "), err=True)
        return exit_code
    return result if isinstance(result, int) else 0


def _explain(error: BaseException) -> tuple[str, int]:
    """One line for a person, and the exit code."""
    match error:
        case LaudcError():
            return str(error), error.exit_code
        case click.Abort() | KeyboardInterrupt():
            return "interrupted", _INTERRUPTED
        case click.ClickException():
            return _explain_usage(error), error.exit_code
        case OSError() if error.errno in _STORAGE_STEPS:
            return _explain(_storage_error(error, _STORAGE_STEPS[error.errno]))
        case _:
            said = f"{type(error).__name__}: {error}".removesuffix(": ").split("\n", maxsplit=1)[0]
            return f"this is a bug in laudc ({said}); run it again with --traceback and report what it shows", _BUG


def _explain_usage(error: click.ClickException) -> str:
    said = " ".join(error.format_message().split()).rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = context.command_path if context else "laudc"
    return f"{said[:1].lower()}{said[1:]}; see '{command} --help'"


def _storage_error(error: OSError, next_step: str) -> StorageError:
    where = f" {error.filename}" if error.filename else ""
    return StorageError(f"cannot use{where}: {(error.strerror or 'unknown reason').lower()}", next_step)
