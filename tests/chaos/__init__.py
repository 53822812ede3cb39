"""The soak and chaos program: workers are killed, Redis is wiped, the store goes away, and no job may be lost.

`python -m tests.chaos --help`; `make chaos` runs the long one. Not part of the default test run, but for a short one in
tests/integration/test_chaos.py.
"""
