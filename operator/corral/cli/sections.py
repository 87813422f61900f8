"""Help that lists the commands in groups, and options that may stand before the command."""

from typing import Any

from typer.core import TyperGroup

_BEFORE = ("-n", "--namespace", "--context", "--kubeconfig")


class Sections(TyperGroup):
    """A group whose commands are listed by the sections that they were registered under."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Takes ``-n demo get`` as ``get -n demo``, as kubectl does."""
        split = 0
        while split < len(args) and args[split].split("=")[0] in _BEFORE:
            split += 1 if args[split].startswith("--") and "=" in args[split] else 2
        before, behind = args[:split], args[split:]
        return super().parse_args(ctx, [*behind[:1], *before, *behind[1:]] if behind else args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes one list per section, names in one column."""
        sections: dict[str, list[Any]] = {}
        for command in self.commands.values():
            section = getattr(command, "rich_help_panel", None)
            if not command.hidden:
                title = section if isinstance(section, str) else "Other"
                sections.setdefault(title, []).append(command)
        names = max(len(name) for name in self.commands)
        limit = formatter.width - 6 - names
        for title, commands in sections.items():
            with formatter.section(title):
                formatter.write_dl(
                    [
                        ((command.name or "").ljust(names), command.get_short_help_str(limit))
                        for command in commands
                    ]
                )
