"""For tests of code that uses holdfast: time that does not pass by itself, and dependencies that do what they are told."""

from holdfast.testing.clock import FakeClock, no_waits
from holdfast.testing.scripted import Scripted, Step

__all__ = ["FakeClock", "Scripted", "Step", "no_waits"]
