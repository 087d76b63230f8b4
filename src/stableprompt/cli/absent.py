"""Options that were not given are passed on as they are.

Typer converts those, too, and loads pydantic for it: more than help or a listing takes otherwise.
"""

from typing import Any

from typer.core import TyperCommand, TyperGroup

# Both are click's, which typer carries in itself or takes from outside, depending on its version.
Context = Any
Parameter = Any


class Command(TyperCommand):
    """A command whose absent options are not converted."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Read the command line."""
        _leave_absent_values(self.get_params(ctx))
        return super().parse_args(ctx, args)


class Group(TyperGroup):
    """A group whose absent options are not converted."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Read the command line up to the command."""
        _leave_absent_values(self.get_params(ctx))
        return super().parse_args(ctx, args)


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
