"""The simulation's own errors."""


class SimulationError(AssertionError):
    """The code under test did what the platform forbids: a finding, even where it is caught.

    Production code may catch it like any error, so the code that raises it also records it.
    """
