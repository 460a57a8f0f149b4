"""For all tests: examples of property tests have no deadline of their own, since a busy machine is no fault;
a test that hangs is ended by pytest's timeout.
"""

from hypothesis import settings

settings.register_profile("metergate", deadline=None)
settings.load_profile("metergate")
