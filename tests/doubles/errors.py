"""What the simulation itself has to say."""


class SimulationError(AssertionError):
    """The code under test did what the platform forbids: a finding, whoever catches it.

    Production code may swallow it like any error, so whoever raises it also records it.
    """
