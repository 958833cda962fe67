"""Found by optimum's command line, which reads every file of the namespace ``optimum.commands.register``."""

from optimum.commands.export.base import ExportCommand

from glimpse_export.cli.optimum_command import GlimpseExportCommand

REGISTER_COMMANDS = [(GlimpseExportCommand, ExportCommand)]
