"""Help that lists the commands in groups."""

from typing import Any

from typer.core import TyperGroup


class Sections(TyperGroup):
    """A group whose commands are listed by the sections that they were registered under."""

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
