"""What the engines of one TensorRT backend have in common."""

from dataclasses import dataclass

from glimpse_runtime.backends.cuda.memory import DeviceMemory
from glimpse_runtime.backends.trt.context import Workspace
from glimpse_runtime.backends.trt.in_flight import InFlight
from glimpse_runtime.engines.log import Messages


@dataclass(frozen=True)
class Shared:
    """What the engines of one backend have in common.

    Attributes:
        memory: device memory and the stream.
        workspace: scratch memory of all contexts.
        messages: what TensorRT said.
        in_flight: how far the host is ahead of the device.
    """

    memory: DeviceMemory
    workspace: Workspace
    messages: Messages
    in_flight: InFlight
