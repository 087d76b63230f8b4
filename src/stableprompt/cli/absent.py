"""What all commands have in common: ``--verbose``, and options that were not given.

Those are passed on as they are. Typer converts them, too, and loads pydantic for it: more than help
or a listing takes otherwise.
"""

from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from stableprompt.cli.terminal import say_trace
from stableprompt.errors import RunStopped

_VERBOSE: Final = "stableprompt.verbose"

# Both are click's, which typer carries in itself or takes from outside, depending on its version.
Context = Any
Parameter = Any


class Command(TyperCommand):
    """A command with ``--verbose``, whose absent options are not converted."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.params.append(verbose_option())

    def invoke(self, ctx: Context) -> Any:
        """Run it; with ``--verbose`` errors leave their trace on stderr."""
        try:
            return super().invoke(ctx)
        except Exception as error:  # nothing is swallowed
            found = error.__cause__ if isinstance(error, typer.Exit | typer.Abort) else error
            if found is None or isinstance(found, RunStopped | KeyboardInterrupt):
                raise  # nothing went wrong
            if ctx.meta.get(_VERBOSE):
                say_trace(found)
            raise

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Read the command line."""
        parameters = self.get_params(ctx)
        _name_no_type_of_flags(parameters)
        _leave_absent_values(parameters)
        return super().parse_args(ctx, args)


class Group(TyperGroup):
    """A group with ``--verbose``, whose absent options are not converted."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.params.append(verbose_option())

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Read the command line up to the command."""
        parameters = self.get_params(ctx)
        _name_no_type_of_flags(parameters)
        _leave_absent_values(parameters)
        return super().parse_args(ctx, args)


def verbose_option() -> Parameter:
    """``-v``, before a command and behind it."""
    carrier = typer.Typer(add_completion=False)  # how an option is made depends on the version

    @carrier.command()
    def _(
        verbose: bool = typer.Option(
            False,
            "--verbose",
            "-v",
            callback=_note_verbose,
            expose_value=False,
            help="Show the Python trace of errors.",
        ),
    ) -> None: ...

    [option] = typer.main.get_command(carrier).params
    return option


def _note_verbose(ctx: typer.Context, wanted: bool) -> None:
    ctx.meta[_VERBOSE] = wanted or ctx.meta.get(_VERBOSE, False)


def _name_no_type_of_flags(parameters: list[Parameter]) -> None:
    """``--quiet``, not ``--quiet <bool>``, as some versions of typer have it: it takes no value."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""


def _leave_absent_values(parameters: list[Parameter]) -> None:
    for parameter in parameters:
        if not parameter.required:
            parameter.process_value = _unless_absent(parameter)


def _unless_absent(parameter: Parameter) -> Any:
    convert = parameter.process_value

    def process_value(ctx: Context, value: Any) -> Any:
        if value is not None:
            return convert(ctx, value)
        nothing = () if parameter.multiple or parameter.nargs == -1 else None
        return parameter.callback(ctx, parameter, nothing) if parameter.callback else nothing

    return process_value
