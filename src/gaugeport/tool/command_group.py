"""The group of commands that refuses an option where the value of another is expected."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup, TyperOption


class CommandGroup(TyperGroup):
    """Commands whose options never take the name of an option for their value.

    Without this, ``--out --json`` writes to a file named ``--json``.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that is named, its name and its arguments.

        Raises:
            typer.BadParameter: If an option stands where the value of another is expected.
        """
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            given = [p for p in command.params if isinstance(p, TyperOption)]
            options = {name: p for p in given for name in (*p.opts, *p.secondary_opts)}
            check_values(ctx, rest, options, {*options, *command.get_help_option_names(ctx)})
        return name, command, rest


def check_values(ctx: Any, args: list[str], options: dict[str, TyperOption], names: set[str]) -> None:
    """Raise ``typer.BadParameter`` if an option stands where the value of another is expected.

    Args:
        ctx: The context of the group.
        args: What follows the name of a command.
        options: Name -> option of the command.
        names: All names of options, ``--help`` among them.
    """
    left = iter(args)
    for arg in left:
        if arg == "--":  # what follows are no options
            return
        option = options.get(arg)
        if option is None or option.is_flag:
            continue
        for _ in range(option.nargs):
            value = next(left, None)
            if value is not None and value.partition("=")[0] in names:
                raise typer.BadParameter(
                    f"expected a value, got the option {value}; a path of that name is given as ./{value}",
                    ctx,
                    option,
                )
