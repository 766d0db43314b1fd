"""The tests here need the simulated device, in the process that tests/test_simulated_npu.py starts for them."""

import sys

collect_ignore_glob = [] if "tests.simulated_npu" in sys.modules else ["test_*.py"]
