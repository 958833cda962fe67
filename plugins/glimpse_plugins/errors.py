"""What can go wrong with the plugin; it hangs in the runtime's tree of errors."""

from glimpse_runtime.errors import BackendError


class PluginError(BackendError):
    """The compaction plugin cannot be built, loaded or run."""
