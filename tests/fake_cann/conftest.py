"""The tests here run on the real torch_npu, in the process that tests/test_real_torch_npu.py starts for them."""

import os

collect_ignore_glob = [] if "FAKE_CANN_SOC" in os.environ else ["test_*.py"]
