"""What all tests share."""

import os

from hypothesis import settings

# The same examples everywhere: a counterexample is looked for on purpose, with random ones
# (HYPOTHESIS=random), not by whoever happens to run the tests.
settings.register_profile("same", derandomize=True, database=None)
settings.register_profile("random", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS", "same"))
